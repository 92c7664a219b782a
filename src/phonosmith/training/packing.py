"""Several small trainings side by side on one device, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from jobflow import Job, Maker, job
from pydantic import Field

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.document import Document
from phonosmith.core.errors import TrainingError
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.training.documents import TrainingDocument
from phonosmith.training.jobs import FineTuneMaker, refuse_bad, run_training


class PackedTraining(Document):
    """What became of one of several trainings run side by side."""

    schema_version: int = Field(1, description="version of this document")
    document: TrainingDocument | None = Field(None, description="its result; none when it failed")
    error: str = Field("", description="why it failed")
    process: int = Field(description="identifier of the process it ran in")
    started: float = Field(description="start, s since the epoch")
    ended: float = Field(description="end, s since the epoch")


def pack(tasks: Sequence[Mapping[str, Any]], workers: int) -> list[PackedTraining]:
    """Run trainings in processes of their own (one CUDA context each), at most ``workers`` at a time.

    A training that fails, or whose process dies, leaves the others alone; results are in the order of the tasks.

    Parameters
    ----------
    tasks
        Arguments of :func:`~phonosmith.training.jobs.run_training`, and ``refuse``.
    workers
        Trainings at a time.
    """
    at_once = max(1, min(workers, len(tasks)))
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        return list(pool.map(lambda task: _alone(task, at_once), tasks))


def _alone(task: Mapping[str, Any], at_once: int) -> PackedTraining:
    # a forked child cannot use CUDA
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    started = time.time()
    process = context.Process(target=_work, args=(sender, dict(task), at_once))
    process.start()
    sender.close()
    document, error = None, ""
    try:
        document, error = receiver.recv()
    except EOFError:
        process.join()
        error = f"its process died with exit code {process.exitcode} (out of memory?)"
    process.join()
    return PackedTraining(document=document, error=error, process=process.pid or 0, started=started, ended=time.time())


def _work(sender: Connection, task: dict[str, Any], at_once: int) -> None:
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // at_once))
    refuse = task.pop("refuse", False)
    try:
        document = run_training(**task)
        if refuse:
            refuse_bad(document)
    except Exception as error:  # noqa: BLE001 - one failure must not stop the others
        sender.send((None, f"{type(error).__name__}: {error}"))
    else:
        sender.send((document, ""))


@job
def train_models(tasks: Sequence[dict[str, Any]], workers: int = 4) -> list[PackedTraining]:
    """Run several small trainings side by side on one device; see :func:`pack`.

    Raises
    ------
    TrainingError
        When every one of them failed; one that failed among others is reported with its error.
    """
    trainings = pack(tasks, workers)
    if trainings and all(one.document is None for one in trainings):
        raise TrainingError(
            f"All {len(trainings)} trainings failed: {'; '.join(one.error for one in trainings)}.",
            "Correct the first error.",
        )
    return trainings


@dataclass
class PackMaker(Maker):
    """Fine-tune with several strategies, settings or seeds in one job on one device.

    A small model leaves most of a GPU idle: as many trainings run at a time as ``workers`` says.

    Attributes
    ----------
    name
        Job name; ``make`` completes it to ``train <material> pack``.
    makers
        The trainings. Their walltimes hold; none goes on in another job by itself (its document says unfinished and
        names the checkpoint).
    workers
        Trainings at a time.
    """

    name: str = "train"
    makers: list[FineTuneMaker] = field(default_factory=list)
    workers: int = 4

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
        """Return the job; its output is a list of :class:`PackedTraining` in the order of ``makers``."""
        tasks = []
        for maker in self.makers:
            spec = maker.spec()
            tasks.append(
                {
                    "foundation": foundation,
                    "train": train,
                    "valid": valid,
                    "strategy": maker.strategy,
                    "settings": dict(maker.settings),
                    "seed": maker.seed,
                    "material": material,
                    "replay": replay if spec.uses_replay else None,
                    "force_constants": force_constants if spec.uses_curvature else None,
                    "walltime": maker.walltime,
                    "refuse": maker.refuse,
                }
            )
        made = train_models(tasks, self.workers)
        made.name = " ".join(part for part in (self.name, material.lower(), "pack") if part)
        return made
