"""atomate2 documents: VASP TaskDocs and our own reference records, from JSON files or a JobStore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from phonosmith.core.errors import ConfigurationError, LabelError
from phonosmith.reference.datasets.documents import Refusal
from phonosmith.reference.vasp.settings import VaspSettings
from phonosmith.reference.vasp.vasprun import IonicStep, Steps, VaspRun, frames_of

if TYPE_CHECKING:
    from jobflow import JobStore

OUTPUT_KEYS = ("output.calcs_reversed", "output.protocol_digest")


def task_documents(tree: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name, document) for every TaskDoc or reference record in a parsed JSON tree.

    A document of a JobStore (with ``uuid`` and ``output``) is unwrapped; lists are walked.
    """
    if isinstance(tree, list):
        for item in tree:
            yield from task_documents(item)
    elif isinstance(tree, Mapping):
        if is_task(tree):
            yield str(tree.get("task_label") or tree.get("dir_name") or "task"), tree
        elif isinstance(tree.get("output"), Mapping | list):
            name = " ".join(str(tree[key]) for key in ("name", "uuid") if tree.get(key))
            for inner, document in task_documents(tree["output"]):
                yield name or inner, document


def is_task(tree: Mapping[str, Any]) -> bool:
    """Tell whether a mapping is a VASP TaskDoc, a force-field document or one of our reference records."""
    return "calcs_reversed" in tree or "forcefield_name" in tree or {"protocol_digest", "symbols"} <= tree.keys()


def frames_of_task(
    document: Mapping[str, Any], name: str, *, steps: Steps = "all"
) -> tuple[list[Atoms], list[Refusal]]:
    """Return labelled frames of one document and the refusals."""
    if "protocol_digest" in document:
        return _frames_of_record(document, name)
    if "calcs_reversed" not in document:
        return [], [Refusal(where=name, reason=f"made by the force field {document.get('forcefield_name')}, not DFT")]
    if document.get("state") not in (None, "successful"):
        return [], [Refusal(where=name, reason=f"its state is {document['state']}")]
    frames: list[Atoms] = []
    refused: list[Refusal] = []
    for calculation in reversed(document.get("calcs_reversed") or []):
        try:
            taken, left = frames_of(_run_of(calculation), name, steps=steps)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            refused.append(Refusal(where=name, reason=f"it cannot be read: {type(error).__name__} {error}"))
            continue
        frames += taken
        refused += left
    return frames, refused


def _frames_of_record(document: Mapping[str, Any], name: str) -> tuple[list[Atoms], list[Refusal]]:
    from phonosmith.reference.documents import ReferenceRecord

    try:
        record = ReferenceRecord.model_validate(dict(document))
        frame = record.to_atoms()
    except (LabelError, ValueError) as error:
        return [], [Refusal(where=name, reason=str(error).splitlines()[0])]
    frame.info.setdefault("functional", record.functional)
    frame.info.setdefault("settings", record.protocol_digest[:12])
    frame.info["source"] = name
    return [frame], []


def _run_of(calculation: Mapping[str, Any]) -> VaspRun:
    inputs, output = calculation["input"], calculation["output"]
    titles = _titles(inputs)
    tags = {**(inputs.get("incar") or {}), **(inputs.get("parameters") or {})}
    for name in ("GGA", "METAGGA", "ALGO", "PREC", "NELM", "EDIFF"):
        # emmet flattens VASP's parameters, where a later section repeats NELM; the INCAR has what was asked
        if (inputs.get("incar") or {}).get(name) not in (None, "--"):
            tags[name] = inputs["incar"][name]
    steps = [_step(step) for step in output["ionic_steps"]]
    symbols = _symbols(output["ionic_steps"][-1]["structure"]) if steps else []
    settings = VaspSettings(
        str(calculation.get("vasp_version") or ""), tags, titles, *_mesh(inputs.get("kpoints") or {})
    )
    damage = None if calculation.get("has_vasp_completed") in (None, True, "successful") else "the run did not finish"
    return VaspRun(settings, symbols, steps, {k: str(v) for k, v in (inputs.get("incar") or {}).items()}, 0, damage)


def _titles(inputs: Mapping[str, Any]) -> dict[str, str]:
    titles = {}
    for spec in inputs.get("potcar_spec") or []:
        title = " ".join(str(spec.get("titel") or "").split())
        words = title.split()
        if len(words) > 1:
            titles[words[1].split("_")[0]] = title
    return titles


def _mesh(kpoints: Any) -> tuple[tuple[int, int, int] | None, bool]:
    plain = kpoints.as_dict() if hasattr(kpoints, "as_dict") else kpoints
    style = str(plain.get("generation_style", "")).lower()
    points = plain.get("kpoints") or []
    if style[:1] not in ("g", "m") or len(points) != 1:
        return None, False
    first, second, third = (int(value) for value in points[0])
    shift = plain.get("usershift") or plain.get("shift") or (0, 0, 0)
    even = any(value % 2 == 0 for value in (first, second, third))
    return (first, second, third), any(float(s) != 0 for s in shift) or (style.startswith("m") and even)


def _symbols(structure: Any) -> list[str]:
    plain = structure.as_dict() if hasattr(structure, "as_dict") else structure
    return [str(site["species"][0]["element"]) for site in plain["sites"]]


def _step(step: Mapping[str, Any]) -> IonicStep:
    structure = step["structure"]
    plain = structure.as_dict() if hasattr(structure, "as_dict") else structure
    electronic = step.get("electronic_steps") or []
    energy, zero = step.get("e_fr_energy"), step.get("e_0_energy")
    if electronic and energy is not None:
        last = electronic[-1]
        if last.get("e_0_energy") is not None and last.get("e_fr_energy") is not None:
            zero = energy + last["e_0_energy"] - last["e_fr_energy"]
    return IonicStep(
        cell=np.array(plain["lattice"]["matrix"], dtype=float),
        positions=np.array([site["abc"] for site in plain["sites"]], dtype=float),
        forces=None if step.get("forces") is None else np.array(step["forces"], dtype=float),
        stress=None if step.get("stress") is None else np.array(step["stress"], dtype=float),
        energy=None if energy is None else float(energy),
        energy_sigma0=None if zero is None else float(zero),
        scf=[float(item["e_fr_energy"]) for item in electronic if item.get("e_fr_energy") is not None],
    )


def read_jobstore(
    store: JobStore, query: Mapping[str, Any] | None = None, *, steps: Steps = "all"
) -> tuple[list[Atoms], list[Refusal]]:
    """Return the labelled frames of every reference calculation in a JobStore.

    Parameters
    ----------
    store
        jobflow's store.
    query
        Further conditions, e.g. ``{"name": {"$regex": "^label si"}}``.
    steps
        "all" or "last" ionic steps.
    """
    try:
        store.connect()
    except Exception as error:
        raise ConfigurationError(f"The job store cannot be reached: {error}.", "Check jobflow.yaml.") from error
    conditions = {"$or": [{key: {"$exists": True}} for key in OUTPUT_KEYS], **(query or {})}
    frames: list[Atoms] = []
    refused: list[Refusal] = []
    for document in store.query(conditions, load=True):
        for name, task in task_documents(document):
            taken, left = frames_of_task(task, name, steps=steps)
            frames += taken
            refused += left
    return frames, refused
