"""What the jobs behind a report took, from what their documents recorded."""

from __future__ import annotations

from typing import Any

from phonosmith.analysis.documents import AuditedLabels, Cost
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.reference.documents import LabelReport
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.training.documents import TrainingDocument


def _cores(manifest: Manifest | None) -> int:
    return int((manifest.host.get("cores") if manifest is not None else None) or 1)


def _gpus(manifest: Manifest | None, default: int = 0) -> int:
    return int((manifest.host.get("gpus") if manifest is not None else None) or default)


def sampling_cost(name: str, sample: SamplingDoc) -> Cost:
    """Cost of the relaxations that sampled."""
    return Cost(
        stage="sample",
        name=name,
        wall_seconds=sample.manifest.wall_seconds,
        cores=_cores(sample.manifest),
        gpus=_gpus(sample.manifest),
        n_atoms=sample.supercell.n_atoms,
        n_calculations=len(sample.configurations),
    )


def label_cost(name: str, labels: AuditedLabels) -> Cost:
    """Cost of the reference calculations of the labels; their cores are what the label jobs saw."""
    n_frames = labels.train.n_frames + labels.valid.n_frames
    return Cost(
        stage="label",
        name=name,
        wall_seconds=labels.label_seconds,
        cores=labels.label_cores,
        n_atoms=round((labels.train.n_atoms + labels.valid.n_atoms) / n_frames),
        n_calculations=n_frames + labels.n_excluded,
    )


def check_cost(name: str, labels: LabelReport) -> Cost:
    """Cost of the displaced cells that the reference calculated."""
    frames, atoms = (sum(getattr(ref, what) for ref in labels.datasets.values()) for what in ("n_frames", "n_atoms"))
    return Cost(
        stage="label",
        name=name,
        wall_seconds=labels.wall_seconds,
        cores=labels.cores,
        n_atoms=round(atoms / frames) if frames else None,
        n_calculations=labels.n_frames,
    )


def training_cost(name: str, training: TrainingDocument, n_atoms: int | None) -> Cost:
    """Cost of one training."""
    on_gpu = "cuda" in str((training.manifest.host if training.manifest else {}).get("device", training.spec.device))
    return Cost(
        stage="train",
        name=name,
        wall_seconds=training.seconds,
        cores=_cores(training.manifest),
        gpus=_gpus(training.manifest, int(on_gpu)),
        n_atoms=n_atoms,
        n_calculations=training.epochs_run,
    )


def phonon_cost(name: str, phonons: PhononDoc) -> Cost:
    """Cost of the phonons of one potential (for a program: of the collection; its calculations are recorded apart)."""
    return Cost(
        stage="phonon",
        name=name,
        wall_seconds=phonons.manifest.wall_seconds,
        cores=_cores(phonons.manifest),
        gpus=_gpus(phonons.manifest),
        n_atoms=phonons.n_atoms_supercell,
        n_calculations=phonons.n_displacements,
    )


def mechanics_cost(stage: str, name: str, document: ElasticDoc | EosDoc) -> Cost:
    """Cost of elastic constants or of an equation of state."""
    if isinstance(document, ElasticDoc):
        n_atoms, count = None, document.fit.n_deformations
    else:
        n_atoms, count = document.n_atoms, len(document.volumes)
    return plain_cost(stage, name, document).model_copy(update={"n_atoms": n_atoms, "n_calculations": count})


def plain_cost(stage: str, name: str, document: Any) -> Cost:
    """Cost of any other document with a manifest."""
    return Cost(
        stage=stage,
        name=name,
        wall_seconds=document.manifest.wall_seconds,
        cores=_cores(document.manifest),
        gpus=_gpus(document.manifest),
    )
