"""From frames to labels: what to compute, and what a set of results amounts to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.formula import Formula

from phonosmith.core.artefacts import ArtefactRef, ArtefactStore, default_artefacts
from phonosmith.core.errors import ConfigurationError, InputError, LabelError
from phonosmith.reference.datasets.dataset import get_dataset, put_dataset
from phonosmith.reference.documents import Frame, LabelFailure, LabelReport, Reason, ReferenceRecord
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.structures.extxyz import parse_frames
from phonosmith.structures.labels import Labels, label_defects

INDEX = "frame"
"""``atoms.info`` key: number of the frame within its material."""


def job_name(material: str, index: int, total: int, stage: str = "label") -> str:
    """Return the name of one label job: unique within a material, lower case, stage first."""
    return f"{stage} {material.lower()} {index:0{max(2, len(str(total - 1)))}d}"


def as_frames(frames: Sequence[Atoms | Frame], split: str | None = None) -> list[Frame]:
    """Turn configurations into frames and refuse, naming it, what no engine can compute."""
    asked = [frame if isinstance(frame, Frame) else Frame.from_atoms(frame, split) for frame in frames]
    if not asked:
        raise InputError("There is no frame to label.", "Check what was sampled.")
    for index, frame in enumerate(asked):
        if not frame.symbols:
            raise InputError(f"Frame {index} holds no atoms.", "Remove it.")
        if not all(frame.pbc) or abs(np.linalg.det(frame.cell)) < 1e-3:
            raise InputError(f"Frame {index} is not a periodic crystal.", "Give it a cell and pbc in all directions.")
        if not np.all(np.isfinite([*frame.cell, *frame.positions])):
            raise InputError(f"Frame {index} holds NaN or infinity.", "Remove it.")
    return asked


def require_spin(frames: Sequence[Frame], engine: ReferenceEngine) -> None:
    """Refuse frames with magnetic moments where the reference calculates without spin and would drop them."""
    moments = [index for index, frame in enumerate(frames) if frame.magmoms is not None]
    if moments and engine.name != "forcefield" and not engine.protocol.spin_polarized:
        raise ConfigurationError(
            f"{len(moments)} frames carry initial magnetic moments (the first is frame {moments[0]}), the protocol"
            " calculates without spin.",
            "Set spin_polarized: true in the protocol, or remove the moments (initial_magmoms) from the frames.",
        )


def sampled_frames(sample: Mapping[str, Any] | Any, store: ArtefactStore | None = None) -> list[Frame]:
    """Read the training and validation frames of a sampling document (object or JSON) from the artefact store."""
    frames: list[Frame] = []
    for split in ("train", "valid"):
        ref = sample.get(split) if isinstance(sample, Mapping) else getattr(sample, split, None)
        if ref is not None:
            text = (store or default_artefacts()).get_bytes(ArtefactRef.model_validate(ref)).decode()
            frames += as_frames(parse_frames(text, f"sampled {split} frames"), split)
    if not frames:
        raise InputError("The sampling document names no frames.", "Sample first.")
    return frames


def require_minimum(report: LabelReport, minimum: Mapping[str, int], fraction: float, asked: Mapping[str, int]) -> None:
    """Raise, naming each split and every frame that failed, when a split has too few labels.

    ``minimum`` holds the fewest labels by split and overrides ``fraction`` of the number ``asked``.
    """
    fewest = {split: max(1, round(fraction * total)) if fraction > 0 else 0 for split, total in asked.items()}
    short = []
    for split, needed in sorted((fewest | dict(minimum)).items(), key=lambda item: (item[0] not in asked, item)):
        if (have := report.counts.get(split, 0)) < needed:
            asking = f"{have} of {asked[split]}" if split in asked else "none was asked"
            short.append(f"{split}: {asking}, at least {needed} needed")
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

    A result is None where the job left nothing. A repetition covers some frames only: ``indices`` are their numbers,
    and the labels of the ``previous`` report are kept.
    """
    total = len(frames) if previous is None else previous.n_frames
    earlier = [] if previous is None else previous.datasets.values()
    labels = {int(atoms.info[INDEX]): atoms for ref in earlier for atoms in get_dataset(ref, store=store)}
    failures, corrected = [], dict(previous.corrected) if previous else {}
    wall, cores = (previous.wall_seconds, previous.cores) if previous else (0.0, 1)
    for index, frame, result in zip(range(len(frames)) if indices is None else indices, frames, results, strict=True):
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
        labels[index] = record.to_atoms()
        labels[index].info |= {INDEX: index, "source": material}
    members: dict[str, list[Atoms]] = defaultdict(list)
    for _, atoms in sorted(labels.items()):
        members[str(atoms.info["split"])].append(atoms)
    return LabelReport(
        material=material,
        engine=engine.name,
        protocol_digest=engine.protocol.digest,
        rehearsal=engine.rehearsal is not None,
        n_frames=total,
        labelled=sorted(labels),
        counts={split: len(frames_of_split) for split, frames_of_split in members.items()},
        datasets={
            split: put_dataset(members[split], name=f"{material} {split}", store=store) for split in sorted(members)
        },
        failures=failures,
        corrected=corrected,
        wall_seconds=wall,
        cores=cores,
    )


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
    """Label frames with a loaded potential in batches, without jobs; the gate for potentials is applied to each.

    ``name`` and ``sha256`` are written beside the labels. A frame that failed is returned without calculator, its
    reasons in ``info["refused"]``.
    """
    configurations = [frame.to_atoms() for frame in frames]
    evaluations = potential.evaluate(configurations, stress=True, progress=progress)
    for index, (atoms, evaluation) in enumerate(zip(configurations, evaluations, strict=True)):
        atoms.info |= {"functional": name, "settings": sha256 or name, "engine": "forcefield", INDEX: index}
        labels = Labels(evaluation.energy, evaluation.forces, evaluation.stress)
        if defects := label_defects(labels, len(atoms), ("energy", "forces", "stress")):
            atoms.info["refused"] = "; ".join(defect.message for defect in defects)
        else:
            atoms.calc = SinglePointCalculator(atoms, free_energy=labels.energy, **vars(labels))
    return configurations


def material_name(frames: Sequence[Frame]) -> str:
    """Return a name for frames nobody named: the reduced formula of the first."""
    return str(Formula.from_list(frames[0].symbols).reduce()[0].format("abc")).lower()
