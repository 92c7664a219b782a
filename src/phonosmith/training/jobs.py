"""Fine-tuning as jobs: one per material, strategy and training-set size."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from jobflow import CURRENT_JOB, Job, JobConfig, Maker, Response, job

from phonosmith.core.artefacts import ArtefactRef, default_artefacts, write_atomic
from phonosmith.core.attempts import left_behind
from phonosmith.core.errors import TrainingError
from phonosmith.core.hashing import digest_json
from phonosmith.core.reuse import reused
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.training.checkpoint import CHECKPOINT_NAME
from phonosmith.training.documents import TrainingDocument
from phonosmith.training.spec import TrainSpec, make_spec

if TYPE_CHECKING:
    from phonosmith.harmonic.curvature import CurvatureTarget


class Extras(TypedDict, total=False):
    """What a training takes beside its data; see :meth:`FineTuneMaker.make`."""

    material: str
    replay: DatasetRef | None
    force_constants: ArtefactRef | None


@dataclass
class FineTuneMaker(Maker):
    """Fine-tune a foundation on one dataset with one strategy.

    Attributes
    ----------
    name
        Job name; ``make`` completes it to ``train <material> <strategy>``.
    strategy, settings
        Preset (scratch, transfer, freeze1..freeze5, multihead, delta, lora, pft, delta+pft) and what to change of it.
    walltime
        Seconds of one job, from its start, after which training stops with a checkpoint; None: no limit.
    continuations
        How often a training stopped by its walltime goes on in a job that replaces the stopped one (on whatever
        machine: the checkpoint travels through the artefact store). After the last the best model so far is
        returned, marked unfinished.
    refuse
        Fail when the model did not become better, or when what was asked for did not happen.
    """

    name: str = "train"
    strategy: str = "delta"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    walltime: float | None = None
    continuations: int = 20
    refuse: bool = False

    def spec(self) -> TrainSpec:
        """Return the strategy with its settings; impossible ones are explained."""
        return make_spec(self.strategy, **self.settings)

    def make(
        self,
        foundation: PotentialRef,
        train: DatasetRef,
        valid: DatasetRef,
        *,
        material: str = "",
        replay: DatasetRef | None = None,
        force_constants: ArtefactRef | None = None,
    ) -> Job:
        """Return the training job; all arguments may be outputs of other jobs.

        Parameters
        ----------
        material
            Short name of the material, for the job's name.
        replay, force_constants
            Replay structures and phonopy file in the artefact store, where the strategy uses them.
        """
        made = train_model(
            self, foundation, train, valid, material=material, replay=replay, force_constants=force_constants
        )
        made.name = " ".join(part for part in (self.name, material.lower(), self.strategy) if part)
        return made


def _what_decides(
    maker: FineTuneMaker,
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    part: int = 1,  # noqa: ARG001
    checkpoint: ArtefactRef | None = None,  # noqa: ARG001
    **extras: Unpack[Extras],
) -> dict[str, Any]:
    """Return what the result of a training follows from; names and limits of time are no part of it."""
    maker = FineTuneMaker(**maker) if isinstance(maker, dict) else maker
    return {
        "spec": maker.spec().model_dump(mode="json"),
        "seed": maker.seed,
        "refuse": maker.refuse,
        "foundation": foundation,
        "train": train,
        "valid": valid,
        "replay": extras.get("replay"),
        "force_constants": extras.get("force_constants"),
    }


@job(output_schema=TrainingDocument, config=JobConfig(expose_store=True))
@reused(using=_what_decides)
def train_model(
    maker: FineTuneMaker,
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    part: int = 1,
    checkpoint: ArtefactRef | None = None,
    **extras: Unpack[Extras],
) -> TrainingDocument | Response[TrainingDocument]:
    """Fine-tune one model; stopped by its walltime, it goes on in a job that replaces this one.

    ``part`` says which job of one training this is, counted from one; ``checkpoint`` where the last one stopped.
    """
    document = run_training(maker, foundation, train, valid, checkpoint=checkpoint, **extras)
    if document.finished or part > maker.continuations:
        if maker.refuse:
            refuse_bad(document)
        return document
    following = train_model(maker, foundation, train, valid, part=part + 1, checkpoint=document.checkpoint, **extras)
    own_name = CURRENT_JOB.job.name if CURRENT_JOB.job is not None else "train"
    following.name = f"{own_name.removesuffix(f' part {part}')} part {part + 1}"
    return Response(replace=following)


def run_training(
    maker: FineTuneMaker,
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    material: str = "",
    replay: DatasetRef | None = None,
    force_constants: ArtefactRef | None = None,
    checkpoint: ArtefactRef | None = None,
    workdir: str = "training",
) -> TrainingDocument:
    """Fetch the inputs by identity, train, register the model; the work of one job.

    The checkpoint of a training stopped by its walltime goes into the artefact store beside the best model so far, so
    that it can go on in another folder or on another machine: there ``checkpoint`` says where it stopped. What an
    interrupted attempt of this job has left goes before it. ``workdir`` has a subfolder per training for both.
    """
    begin = time.perf_counter()
    from phonosmith.potentials.registry import load
    from phonosmith.reference.datasets.dataset import get_dataset
    from phonosmith.training.finetune import fine_tune

    spec, store = maker.spec(), default_artefacts()
    label = "-".join(part for part in (material.lower(), maker.strategy) if part)
    ending = f"{maker.seed}-{digest_json(spec.model_dump())[:8]}"
    folder = Path(workdir) / f"{label}-{foundation.short}-{train.short}-{ending}"
    here = folder / CHECKPOINT_NAME
    if not here.is_file():
        if (earlier := left_behind(here)) is not None:
            write_atomic(here, earlier.read_bytes())
        elif checkpoint is not None:
            write_atomic(here, store.get_bytes(checkpoint))
    result = fine_tune(
        load(foundation, dtype="float64", device="cpu"),
        get_dataset(train),
        get_dataset(valid),
        spec,
        replay=get_dataset(replay) if replay is not None else None,
        curvature=_curvature(force_constants) if force_constants is not None else None,
        seed=maker.seed,
        workdir=folder,
        walltime=maker.walltime,
        since=begin,
        name=label,
    )
    if not result.document.finished:
        result.document.checkpoint = store.put_bytes(here.read_bytes(), kind="checkpoint", suffix=".pt")
    return result.register(foundation)


def refuse_bad(document: TrainingDocument) -> None:
    """Raise TrainingError when a model is not better than its foundation or a check failed."""
    if not document.checks.passed:
        raise TrainingError(
            f"The training {document.name} is refused: {' '.join(document.checks.findings)}",
            "Label more structures, try another strategy or learning rate, or allow it with refuse=False.",
        )


def _curvature(ref: ArtefactRef) -> CurvatureTarget:
    from phonosmith.harmonic.curvature import curvature_target
    from phonosmith.harmonic.files import load_harmonic

    with tempfile.TemporaryDirectory() as folder:
        # the name tells the reader the format, an artefact's path has none
        path = Path(folder) / f"phonopy{ref.suffix or '.yaml'}"
        path.write_bytes(default_artefacts().get_bytes(ref))
        return curvature_target(load_harmonic(path).phonon, source=f"force constants {ref.sha256[:12]}")
