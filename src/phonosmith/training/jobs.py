"""Fine-tuning as jobs: one per material, strategy and training-set size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Job, Maker, job

from phonosmith.core.artefacts import ArtefactRef, default_artefacts
from phonosmith.core.errors import TrainingError
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.dataset_documents import DatasetRef
from phonosmith.training.documents import TrainingDocument


@dataclass
class FineTuneMaker(Maker):
    """Fine-tune a foundation on one dataset with one strategy.

    Attributes
    ----------
    name
        Job name; ``make`` completes it to ``train <material> <strategy>``.
    strategy
        Preset: scratch, transfer, freeze1..freeze5, multihead, delta, lora, pft, delta+pft.
    settings
        Settings of the strategy to change.
    seed
        Of every random draw.
    walltime
        Seconds after which the best model so far is returned, marked unfinished.
    refuse
        Fail when the model did not become better, or when what was asked for did not happen.
    """

    name: str = "train"
    strategy: str = "delta"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    walltime: float | None = None
    refuse: bool = False

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
        foundation
            Potential to start from.
        train, valid
            Labelled structures.
        material
            Short name of the material, for the job's name.
        replay
            Replay structures, where the strategy uses them.
        force_constants
            phonopy file in the artefact store, where the strategy uses it.
        """
        made = train_model(
            foundation,
            train,
            valid,
            strategy=self.strategy,
            settings=dict(self.settings),
            seed=self.seed,
            material=material,
            replay=replay,
            force_constants=force_constants,
            walltime=self.walltime,
            refuse=self.refuse,
        )
        made.name = " ".join(part for part in (self.name, material.lower(), self.strategy) if part)
        return made


@job(output_schema=TrainingDocument)
def train_model(foundation: PotentialRef, train: DatasetRef, valid: DatasetRef, **settings: Any) -> TrainingDocument:
    """Fine-tune one model; see :class:`FineTuneMaker` for the settings."""
    return run_training(foundation, train, valid, **settings)


@job
def train_models(tasks: Sequence[dict[str, Any]], workers: int = 4) -> list[TrainingDocument]:
    """Run several small trainings side by side on one device; the order of results is that of the tasks.

    Parameters
    ----------
    tasks
        Arguments of :func:`run_training`, one mapping per training.
    workers
        Trainings at a time; a small model leaves most of a GPU idle.
    """
    return pack(tasks, workers)


def pack(tasks: Sequence[dict[str, Any]], workers: int) -> list[TrainingDocument]:
    """Run trainings in processes of their own (one CUDA context each), at most ``workers`` at a time."""
    if workers == 1 or len(tasks) == 1:
        return [run_training(**task) for task in tasks]
    import multiprocessing

    # a forked child cannot use CUDA
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(workers, len(tasks)), mp_context=context) as pool:
        pending = [pool.submit(run_training, **task) for task in tasks]
        return [one.result() for one in pending]


def run_training(
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    strategy: str = "delta",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    material: str = "",
    replay: DatasetRef | None = None,
    force_constants: ArtefactRef | None = None,
    walltime: float | None = None,
    refuse: bool = False,
    workdir: str = "training",
) -> TrainingDocument:
    """Fetch the inputs by identity, train, register the model; the work of one job.

    Raises
    ------
    TrainingError
        With ``refuse``, when the model is not better than the foundation or a check failed.
    """
    from phonosmith.potentials.registry import load
    from phonosmith.reference.datasets import get_dataset
    from phonosmith.training.deliver import register
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    spec = make_spec(strategy, **(settings or {}))
    label = "-".join(part for part in (material.lower(), strategy) if part)
    result = fine_tune(
        load(foundation, dtype="float64", device="cpu"),
        get_dataset(train),
        get_dataset(valid),
        spec,
        replay=get_dataset(replay) if replay is not None else None,
        curvature=_phonon(force_constants) if force_constants is not None else None,
        seed=seed,
        workdir=Path(workdir) / f"{label}-{foundation.short}-{train.short}-{seed}",
        walltime=walltime,
        name=label,
    )
    document = register(result, foundation).document
    if refuse and not document.checks.passed:
        raise TrainingError(
            f"The training {label} is refused: {' '.join(document.checks.findings)}",
            "Label more structures, try another strategy or learning rate, or allow it with refuse=False.",
        )
    return document


def _phonon(ref: ArtefactRef) -> Any:
    import tempfile

    from phonosmith.reference.importers.phonopy_files import load_phonopy
    from phonosmith.training.curvature import curvature_target

    with tempfile.TemporaryDirectory() as folder:
        # the name tells the reader the format, an artefact's path has none
        path = Path(folder) / f"phonopy{ref.suffix or '.yaml'}"
        path.write_bytes(default_artefacts().get_bytes(ref))
        return curvature_target(load_phonopy(path), source=f"force constants {ref.sha256[:12]}")
