"""What the jobs behind a report took, from what their documents and the task documents of programs recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jobflow import CURRENT_JOB, JobConfig

from phonosmith.analysis.documents import AuditedLabels, Cost
from phonosmith.core.changing import job
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.reference.documents import LabelReport
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.training.documents import TrainingDocument

_NUMBER = re.compile(r" \d+/\d+$")
"""End of the names of equal calculations."""


def _machine(manifest: Manifest | None, gpus: int = 0) -> dict[str, int]:
    """Return the cores and GPUs of a run; ``gpus`` where nothing is known of them."""
    host = manifest.host if manifest is not None else {}
    return {"cores": int(host.get("cores") or 1), "gpus": int(host.get("gpus") or gpus)}


def plain_cost(stage: str, name: str, document: Any, n_atoms: int | None = None, n_calculations: int = 1) -> Cost:
    """Cost of any document with a manifest."""
    return Cost(
        stage=stage,
        name=name,
        wall_seconds=document.manifest.wall_seconds,
        **_machine(document.manifest),
        n_atoms=n_atoms,
        n_calculations=n_calculations,
    )


def sampling_cost(name: str, sample: SamplingDoc) -> Cost:
    """Cost of the relaxations that sampled."""
    return plain_cost("sample", name, sample, sample.supercell.n_atoms, len(sample.configurations))


def label_cost(name: str, labels: AuditedLabels) -> Cost:
    """Cost of the reference calculations of the labels; their cores are what the label jobs saw."""
    n_frames, n_atoms = (getattr(labels.train, what) + getattr(labels.valid, what) for what in ("n_frames", "n_atoms"))
    return Cost(
        stage="label",
        name=name,
        wall_seconds=labels.label_seconds,
        cores=labels.label_cores,
        n_atoms=round(n_atoms / n_frames),
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
    on_gpu = (training.device or training.spec.device).startswith("cuda")
    return Cost(
        stage="train",
        name=name,
        wall_seconds=training.seconds,
        **_machine(training.manifest, int(on_gpu)),
        n_atoms=n_atoms,
        n_calculations=training.epochs_run,
    )


def phonon_cost(name: str, phonons: PhononDoc) -> Cost:
    """Cost of the phonons of one potential (for a program: of the collection; its calculations are recorded apart)."""
    return plain_cost("phonon", name, phonons, phonons.n_atoms_supercell, phonons.n_displacements)


def mechanics_cost(stage: str, name: str, document: ElasticDoc | EosDoc) -> Cost:
    """Cost of elastic constants or of an equation of state."""
    if isinstance(document, ElasticDoc):
        return plain_cost(stage, name, document, None, document.fit.n_deformations)
    return plain_cost(stage, name, document, document.n_atoms, len(document.volumes))


def grouped_costs(stage: str, documents: Iterable[Mapping[str, Any]]) -> list[Cost]:
    """Sum what equal calculations (``displace si reference 1/3``, ``2/3``, ...) done for a stage took.

    Job-store documents that say nothing of it are no calculations of the program.
    """
    groups: dict[str, Cost] = {}
    for document in documents:
        output = document.get("output")
        took = _took(output) if isinstance(output, Mapping) else None
        if took is None:
            continue
        seconds, cores, n_atoms = took
        name = _NUMBER.sub("", document["name"])
        group = groups.setdefault(name, Cost(stage=stage, name=name, wall_seconds=0.0, n_calculations=0))
        group.wall_seconds += seconds
        group.cores = max(cores, group.cores)
        group.n_atoms = n_atoms
        group.n_calculations += 1
    return list(groups.values())


def _took(output: Mapping[str, Any]) -> tuple[float, int, int | None] | None:
    """Return seconds, cores and atoms of a task document or the record of one calculation; None of anything else."""
    if overall := (output.get("run_stats") or {}).get("overall"):
        return float(overall["elapsed_time"]), int(overall.get("cores") or 1), output.get("nsites")
    # an ASE calculator's: the time it took in one process
    plain = output.get("output")
    if isinstance(plain, Mapping) and plain.get("elapsed_time") is not None:
        return float(plain["elapsed_time"]), 1, output.get("nsites")
    if output.get("protocol_digest") and output.get("wall_seconds") is not None:
        return float(output["wall_seconds"]), int(output.get("cores") or 1), len(output.get("symbols") or ()) or None
    return None


@job(config=JobConfig(expose_store=True))
def collect_program_costs(stage: str, uuid: str, result: Any) -> list[Cost]:  # noqa: ARG001
    """Return the costs of all calculations in the flow that a job belongs to.

    ``result`` is the output of the flow's last job, so that this one runs after it.
    """
    store = CURRENT_JOB.store
    own = None if store is None else store.query_one({"uuid": uuid}, properties=["hosts"])
    if store is None or own is None or not own.get("hosts"):
        return []
    of_records = ("output.elapsed_time", "protocol_digest", "wall_seconds", "cores", "symbols")
    wanted = ["name", "output.run_stats", "output.nsites", *(f"output.{name}" for name in of_records)]
    return grouped_costs(stage, store.query({"hosts": own["hosts"][0]}, properties=wanted, load=False))
