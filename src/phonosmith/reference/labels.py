"""From frames to labels: what to compute, and what a set of results amounts to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from phonosmith.core.artefacts import ArtefactRef, ArtefactStore, default_artefacts
from phonosmith.core.errors import InputError, LabelError
from phonosmith.reference.datasets.dataset import get_dataset, put_dataset
from phonosmith.reference.documents import Frame, LabelFailure, LabelReport, Reason, ReferenceRecord
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.structures.extxyz import parse_frames
from phonosmith.structures.labels import Labels, label_defects

INDEX = "frame"
"""``atoms.info`` key: number of the frame within its material."""


def job_name(material: str, index: int, total: int, stage: str = "label") -> str:
    """Return the name of one label job: unique within a material, lower case, stage first."""
    width = max(2, len(str(total - 1)))
    return f"{stage} {material.lower()} {index:0{width}d}"


def as_frames(frames: Sequence[Atoms | Frame], split: str | None = None) -> list[Frame]:
    """Turn configurations into frames and refuse what no engine can compute.

    Raises
    ------
    InputError
        Naming the frame: nothing to label, not periodic, no volume, no atoms.
    """
    asked = [frame if isinstance(frame, Frame) else Frame.from_atoms(frame, split) for frame in frames]
    if not asked:
        raise InputError("There is no frame to label.", "Check what was sampled.")
    for index, frame in enumerate(asked):
        cell = np.asarray(frame.cell, dtype=float)
        numbers = np.asarray(frame.positions, dtype=float)
        if not frame.symbols:
            raise InputError(f"Frame {index} holds no atoms.", "Remove it.")
        if not all(frame.pbc) or abs(np.linalg.det(cell)) < 1e-3:
            raise InputError(f"Frame {index} is not a periodic crystal.", "Give it a cell and pbc in all directions.")
        if not (np.all(np.isfinite(cell)) and np.all(np.isfinite(numbers))):
            raise InputError(f"Frame {index} holds NaN or infinity.", "Remove it.")
    return asked


def sampled_frames(sample: Mapping[str, Any] | Any, store: ArtefactStore | None = None) -> list[Frame]:
    """Read the training and validation frames of a sampling document (object or JSON) from the artefact store."""
    keeper = store or default_artefacts()
    frames: list[Frame] = []
    for split in ("train", "valid"):
        ref = sample.get(split) if isinstance(sample, Mapping) else getattr(sample, split, None)
        if ref is None:
            continue
        artefact = ref if isinstance(ref, ArtefactRef) else ArtefactRef.model_validate(ref)
        text = keeper.get_bytes(artefact).decode()
        frames += as_frames(parse_frames(text, f"sampled {split} frames"), split)
    if not frames:
        raise InputError("The sampling document names no frames.", "Sample first.")
    return frames


def require_minimum(report: LabelReport, minimum: Mapping[str, int], fraction: float, asked: Mapping[str, int]) -> None:
    """Raise when a split has too few labels.

    Parameters
    ----------
    report
        What was labelled.
    minimum
        Fewest labels by split; overrides ``fraction``.
    fraction
        Fewest labels as a part of what was asked.
    asked
        Frames by split.

    Raises
    ------
    LabelError
        Naming each split, and every frame that failed with its reasons.
    """
    short = []
    for split, total in sorted(asked.items()):
        needed = minimum.get(split, max(1, round(fraction * total)) if fraction > 0 else 0)
        if report.counts.get(split, 0) < needed:
            short.append(f"{split}: {report.counts.get(split, 0)} of {total}, at least {needed} needed")
    short += [
        f"{split}: none was asked, at least {n} needed"
        for split, n in sorted(minimum.items())
        if split not in asked and n
    ]
    if short:
        raise LabelError(
            f"Too few labels of {report.material} ({'; '.join(short)}).\n{report.explain()}\n",
            "Repair the cause and run the failed label jobs again; the others are kept.",
        )


def collect(
    results: Sequence[ReferenceRecord | Mapping[str, Any] | None],
    frames: Sequence[Frame],
    material: str,
    engine: ReferenceEngine,
    *,
    indices: Sequence[int] | None = None,
    previous: LabelReport | None = None,
    store: ArtefactStore | None = None,
) -> LabelReport:
    """Sort results into labels and failures, and keep the labels of each split as a dataset.

    Parameters
    ----------
    results
        One per frame: a record, or None where the job left nothing.
    frames
        What was asked.
    material
        Name.
    engine
        Who computed.
    indices
        Number of each frame; 0, 1, ... unless given (a repetition covers some frames only).
    previous
        Report whose labels are kept.
    store
        Artefact store; the process's own by default.
    """
    numbers = list(range(len(frames))) if indices is None else list(indices)
    total = len(frames) if previous is None else previous.n_frames
    labels: dict[int, Atoms] = _earlier(previous, store)
    failures, corrected = [], dict(previous.corrected) if previous else {}
    wall, cores = (previous.wall_seconds, previous.cores) if previous else (0.0, 1)
    for index, frame, result in zip(numbers, frames, results, strict=True):
        name = job_name(material, index, total)
        record = None if result is None else ReferenceRecord.model_validate(result)
        reasons = _refusals(record, frame, engine)
        wall += record.wall_seconds if record else 0.0
        cores = max(cores, record.cores if record else 1)
        if record and record.corrections:
            corrected[name] = [error for correction in record.corrections for error in correction.errors]
        if reasons or record is None:
            failures.append(LabelFailure(index=index, job=name, split=frame.split, reasons=reasons, frame=frame))
            continue
        atoms = record.to_atoms()
        atoms.info[INDEX] = index
        atoms.info["source"] = material
        labels[index] = atoms
    ordered = sorted(labels)
    splits = sorted({str(labels[index].info["split"]) for index in ordered})
    members = {split: [labels[i] for i in ordered if labels[i].info["split"] == split] for split in splits}
    return LabelReport(
        material=material,
        engine=engine.name,
        protocol_digest=engine.protocol.digest,
        rehearsal=engine.rehearsal is not None,
        n_frames=total,
        labelled=ordered,
        counts=dict(Counter(str(labels[index].info["split"]) for index in ordered)),
        datasets={
            split: put_dataset(atoms, name=f"{material} {split}", store=store) for split, atoms in members.items()
        },
        failures=failures,
        corrected=corrected,
        wall_seconds=wall,
        cores=cores,
    )


def _earlier(previous: LabelReport | None, store: ArtefactStore | None) -> dict[int, Atoms]:
    if previous is None:
        return {}
    return {
        int(atoms.info[INDEX]): atoms for ref in previous.datasets.values() for atoms in get_dataset(ref, store=store)
    }


def _refusals(record: ReferenceRecord | None, frame: Frame, engine: ReferenceEngine) -> list[Reason]:
    if record is None:
        return [Reason(code="no_result", message="the job left no result: see its own error", transient=True)]
    reasons = list(record.reasons)
    if record.protocol_digest != engine.protocol.digest:
        reasons.append(Reason(code="protocol", message="it was computed with another protocol"))
    if record.symbols != frame.symbols and not reasons:
        reasons.append(Reason(code="species", message="the result lists other species than the frame"))
    if record.rehearsal and engine.rehearsal is None:
        reasons.append(Reason(code="rehearsal", message="made by the VASP stand-in"))
    return reasons


def label_with_potential(
    potential: Any, frames: Sequence[Frame], *, name: str, sha256: str | None, progress: bool = False
) -> list[Atoms]:
    """Label frames with a potential in batches, without jobs; the gate for potentials is applied to each.

    Parameters
    ----------
    potential
        Loaded potential (``phonosmith.potentials.base.Potential``).
    frames
        What to label.
    name, sha256
        Name and identity written beside the labels.
    progress
        Show a bar on standard error.

    Returns
    -------
    list of Atoms
        One per frame; a frame that failed is returned without calculator, its reasons in ``info["refused"]``.
    """
    configurations = [frame.to_atoms() for frame in frames]
    evaluations = potential.evaluate(configurations, stress=True, progress=progress)
    for index, (atoms, evaluation) in enumerate(zip(configurations, evaluations, strict=True)):
        atoms.info |= {"functional": name, "settings": sha256 or name, INDEX: index}
        labels = Labels(evaluation.energy, evaluation.forces, evaluation.stress)
        if defects := label_defects(labels, len(atoms), ("energy", "forces", "stress")):
            atoms.info["refused"] = "; ".join(defect.message for defect in defects)
            continue
        atoms.calc = SinglePointCalculator(
            atoms, energy=labels.energy, free_energy=labels.energy, forces=labels.forces, stress=labels.stress
        )
    return configurations


def material_name(frames: Sequence[Frame]) -> str:
    """Return a name for frames nobody named: the reduced formula of the first."""
    counts = Counter(frames[0].symbols)
    divisor = math.gcd(*counts.values())
    return "".join(f"{symbol}{n // divisor if n > divisor else ''}" for symbol, n in sorted(counts.items())).lower()
