"""One record from every engine's own document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.accept import check_structure, is_rehearsal
from phonosmith.reference.documents import Correction, Frame, Reason, ReferenceRecord
from phonosmith.reference.protocol import Calculation, ReferenceProtocol


def voigt_from_kbar(stress: Any) -> tuple[float, ...] | None:
    """Turn a 3x3 stress in kbar with VASP's sign into Voigt order, eV/Å³, ASE's sign; None stays None."""
    if stress is None:
        return None
    matrix = np.asarray(stress, dtype=float)
    if matrix.shape != (3, 3):
        return tuple(float(value) for value in matrix.ravel())
    tension = 0.5 * (matrix + matrix.T) * EV_PER_A3_PER_VASP_KBAR
    return tuple(float(tension[i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)))


def read_corrections(custodian: Sequence[Any] | None) -> list[Correction]:
    """Read what custodian did from a task document (objects or plain dictionaries)."""
    found = []
    for run in custodian or []:
        corrections = run.get("corrections") if isinstance(run, Mapping) else getattr(run, "corrections", None)
        for item in corrections or []:
            entry = item if isinstance(item, Mapping) else item.model_dump()
            tags: set[str] = set()
            files: set[str] = set()
            for action in entry.get("actions") or []:
                if action.get("dict") == "INCAR":
                    for change in (action.get("action") or {}).values():
                        tags |= {str(key).upper() for key in change}
                else:
                    files.add(str(action.get("dict") or action.get("file")))
            found.append(
                Correction(
                    handler=_handler_name(entry.get("handler")),
                    errors=[str(text) for text in entry.get("errors") or []],
                    tags=sorted(tags),
                    files=sorted(files),
                )
            )
    return found


def _handler_name(handler: Any) -> str:
    if isinstance(handler, Mapping):
        return str(handler.get("@class", "unknown"))
    return handler if isinstance(handler, str) else type(handler).__name__


def _structure_parts(structure: Any) -> tuple[list[str], list[Any], list[Any]]:
    return (
        [site.specie.symbol for site in structure],
        [tuple(row) for row in structure.lattice.matrix.tolist()],
        [tuple(row) for row in structure.cart_coords.tolist()],
    )


def _mesh(kpoints: Any) -> tuple[int, int, int] | None:
    """Subdivisions of a regular mesh; an explicit list or line mode is none."""
    if kpoints is None:
        return None
    rows = kpoints.get("kpoints") if isinstance(kpoints, Mapping) else kpoints.kpts
    if not rows or len(rows) != 1 or len(rows[0]) != 3:
        return None
    return (int(rows[0][0]), int(rows[0][1]), int(rows[0][2]))


def record_from_task(task: Any, asked: Frame, protocol: ReferenceProtocol, calculation: Calculation) -> ReferenceRecord:
    """Build a record from an emmet ``TaskDoc``.

    The final structure is taken from the last ionic step of vasprun.xml, beside the energy and forces that belong to
    it; a CONTCAR that tells another story is a reason to refuse.
    """
    calc = task.calcs_reversed[0]
    steps = calc.output.ionic_steps or []
    last = steps[-1] if steps else None
    version = str(calc.vasp_version or "")
    titles = [str(spec.titel) for spec in calc.input.potcar_spec or []]
    reasons: list[Reason] = []
    symbols: list[str] = []
    cell = positions = None
    if last is not None and last.structure is not None:
        symbols, cell, positions = _structure_parts(last.structure)
    if task.structure is not None:
        own = _structure_parts(task.structure)
        final = Frame(symbols=symbols or asked.symbols, positions=positions or [], cell=cell or [])
        reasons += check_structure(final if cell else asked, *own, "static", where="CONTCAR")
    electronic = [step.e_fr_energy for step in (last.electronic_steps or [])] if last is not None else []
    known = [float(value) for value in electronic if value is not None]
    return ReferenceRecord(
        engine="vasp",
        engine_version=version,
        calculation=calculation,
        protocol_digest=protocol.digest,
        functional=protocol.functional,
        rehearsal=is_rehearsal(version, titles),
        symbols=symbols,
        cell=cell,
        positions=positions,
        energy=None if last is None or last.e_fr_energy is None else float(last.e_fr_energy),
        energy_sigma0=None if task.output.energy is None else float(task.output.energy),
        forces=None
        if last is None or last.forces is None
        else [tuple(row) for row in np.asarray(last.forces).tolist()],
        stress=None if last is None else voigt_from_kbar(last.stress),
        electronic_steps=len(electronic) or None,
        last_de=abs(known[-1] - known[-2]) if len(known) > 1 else None,
        ionic_steps=len(steps),
        incar={str(key): value for key, value in dict(calc.input.incar or {}).items()},
        kpoints=_mesh(calc.input.kpoints),
        potcar_titles=titles,
        corrections=read_corrections(task.custodian),
        reasons=reasons,
        directory=Path(str(task.dir_name or "").split(":")[-1]).name,
        split=asked.split,
        info=dict(asked.info),
    )


def record_from_ase(
    document: Any,
    asked: Frame,
    protocol: ReferenceProtocol,
    calculation: Calculation,
    engine: str,
    *,
    version: str = "",
    functional: str = "",
    potential: str | None = None,
) -> ReferenceRecord:
    """Build a record from an atomate2 ASE or force-field document (same stress convention as VASP's)."""
    symbols, cell, positions = _structure_parts(document.structure)
    output = document.output
    reasons = []
    # in a strained cell the gate's own look at the forces decides; here the cell must have come to rest as well
    if calculation == "relax" and document.is_force_converged is False:
        reasons.append(Reason(code="not_relaxed", message="the optimiser stopped before the forces were small enough"))
    return ReferenceRecord(
        engine=engine,
        engine_version=version,
        calculation=calculation,
        protocol_digest=protocol.digest,
        functional=functional,
        potential=potential,
        symbols=symbols,
        cell=cell,
        positions=positions,
        energy=None if output.energy is None else float(output.energy),
        forces=None if output.forces is None else [tuple(row) for row in np.asarray(output.forces).tolist()],
        stress=voigt_from_kbar(output.stress),
        ionic_steps=output.n_steps,
        reasons=reasons,
        split=asked.split,
        info=dict(asked.info),
    )


def refused(
    asked: Frame,
    protocol: ReferenceProtocol,
    calculation: Calculation,
    engine: str,
    reason: Reason,
    **known: Any,
) -> ReferenceRecord:
    """Return the record of a calculation that left nothing to read."""
    return ReferenceRecord(
        engine=engine,
        calculation=calculation,
        protocol_digest=protocol.digest,
        symbols=list(asked.symbols),
        reasons=[reason],
        split=asked.split,
        info=dict(asked.info),
        **known,
    )
