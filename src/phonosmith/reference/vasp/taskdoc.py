"""Reader of the VASP TaskDocs of atomate2 and emmet, as objects or as the JSON a store keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from phonosmith.reference.documents import Correction
from phonosmith.reference.vasp.run import IonicStep, VaspRun, Witness, regular_mesh
from phonosmith.reference.vasp.settings import VaspSettings

_ASKED = ("GGA", "METAGGA", "ALGO", "PREC", "NELM", "EDIFF")


def read_calculation(calculation: Any, custodian: Sequence[Any] | None = None) -> VaspRun:
    """Return the record of one entry of ``calcs_reversed`` and of what the document says custodian did."""
    plain = _plain(calculation)
    inputs, output = _plain(plain["input"]), _plain(plain["output"])
    incar = dict(inputs.get("incar") or {})
    # emmet flattens VASP's parameters, where a later section repeats NELM; the INCAR has what was asked
    asked = {name: incar[name] for name in _ASKED if incar.get(name) not in (None, "--")}
    tags = incar | (inputs.get("parameters") or {}) | asked
    ionic = [_plain(step) for step in output.get("ionic_steps") or []]
    potcars = [" ".join(str(_plain(spec).get("titel") or "").split()) for spec in inputs.get("potcar_spec") or []]
    settings = VaspSettings(str(plain.get("vasp_version") or ""), tags, potcars, *_mesh(inputs.get("kpoints")))
    completed = plain.get("has_vasp_completed")
    completed = getattr(completed, "value", completed)
    return VaspRun(
        settings=settings,
        symbols=_symbols(ionic),
        steps=[_step(step) for step in ionic],
        incar=incar,
        damage=None if completed in (None, True, "successful") else "the run did not finish",
        corrections=[_correction(_plain(c)) for done in custodian or [] for c in _plain(done).get("corrections") or []],
        # NELM is the one a later section repeats
        used={key: value for key, value in (inputs.get("parameters") or {}).items() if key != "NELM"},
        witnesses=_witnesses(output),
    )


def _witnesses(output: Mapping[str, Any]) -> list[Witness]:
    """Return what emmet kept of the OUTCAR."""
    known = _plain(output.get("outcar") or {})
    drifts = known.get("drift") or []
    drift = _array(drifts[-1]) if drifts else None
    sites = [item.get("tot") for item in known.get("magnetization") or []]
    collinear = bool(sites) and all(isinstance(moment, int | float) for moment in sites)
    fermi = [float(value) for value in (output.get("efermi"), known.get("efermi")) if value is not None]
    moment = known.get("total_magnetization")
    return [
        Witness(
            "OUTCAR",
            drift=drift,
            fermi=next((value for value in fermi if not np.isfinite(value)), fermi[0] if fermi else None),
            moment=None if moment is None else float(moment),
            site_moments=_array(sites) if collinear else None,
        )
    ]


def _plain(thing: Any) -> Mapping[str, Any]:
    """Return JSON, a pydantic model or a pymatgen object as a mapping."""
    if isinstance(thing, Mapping):
        return thing
    mapping: Mapping[str, Any] = dict(thing) if isinstance(thing, BaseModel) else thing.as_dict()
    return mapping


def _mesh(kpoints: Any) -> tuple[tuple[int, int, int] | None, bool]:
    plain = _plain(kpoints or {})
    style = str(plain.get("generation_style", "")).lower()
    points = plain.get("kpoints") or []
    if len(points) != 1:
        return None, False
    if style[:1] in ("g", "m"):
        return regular_mesh(style, points[0], plain.get("usershift") or plain.get("shift") or (0, 0, 0))
    return (None if np.any(points[0]) else (1, 1, 1)), False


def _symbols(ionic: Sequence[Mapping[str, Any]]) -> list[str]:
    structure = ionic[-1]["structure"] if ionic else None
    return [] if structure is None else [str(site["species"][0]["element"]) for site in _plain(structure)["sites"]]


def _step(step: Mapping[str, Any]) -> IonicStep:
    structure = None if step["structure"] is None else _plain(step["structure"])
    electronic = [_plain(item) for item in step.get("electronic_steps") or []]
    energy, zero = step.get("e_fr_energy"), step.get("e_0_energy")
    last = electronic[-1] if electronic else {}
    if None not in (energy, last.get("e_0_energy"), last.get("e_fr_energy")):
        # VASP writes a wrong e_0_energy into the summary; the difference in the last electronic step is right
        zero = energy + last["e_0_energy"] - last["e_fr_energy"]
    without, free = last.get("e_wo_entrp"), last.get("e_fr_energy")
    entropy = None if without is None or free is None else float(without) - float(free)
    return IonicStep(
        cell=None if structure is None else _array(structure["lattice"]["matrix"]),
        positions=None if structure is None else _array([site["abc"] for site in structure["sites"]]),
        forces=_array(step.get("forces")),
        stress=_array(step.get("stress")),
        energy=None if energy is None else float(energy),
        energy_sigma0=None if zero is None else float(zero),
        entropy=entropy,
        scf=[float(item["e_fr_energy"]) for item in electronic if item.get("e_fr_energy") is not None],
    )


def _array(numbers: Any) -> NDArray[np.float64] | None:
    return None if numbers is None else np.array(numbers, dtype=float)


def _correction(entry: Mapping[str, Any]) -> Correction:
    """Read one thing custodian did."""
    tags: set[str] = set()
    files: set[str] = set()
    for action in entry.get("actions") or []:
        if action.get("dict") == "INCAR":
            tags |= {str(key).upper() for change in (action.get("action") or {}).values() for key in change}
        else:
            files.add(str(action.get("dict") or action.get("file")))
    handler = entry.get("handler")
    if isinstance(handler, Mapping):
        handler = handler.get("@class", "unknown")
    return Correction(
        handler=handler if isinstance(handler, str) else type(handler).__name__,
        errors=[str(text) for text in entry.get("errors") or []],
        tags=sorted(tags),
        files=sorted(files),
    )
