"""Several small trainings side by side on one device, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Unpack

from jobflow import Job, Maker, job
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import TrainingError
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.training.documents import TrainingDocument
from phonosmith.training.jobs import Extras, FineTuneMaker, refuse_bad, run_training


class PackedTraining(Document):
    """What became of one of several trainings run side by side."""

    schema_version: int = Field(1, description="version of this document")
    document: TrainingDocument | None = Field(None, description="its result; none when it failed")
    error: str = Field("", description="why it failed")
    process: int = Field(description="identifier of the process it ran in")
    started: float = Field(description="start, s since the epoch")
    ended: float = Field(description="end, s since the epoch")


Inputs = tuple[PotentialRef, DatasetRef, DatasetRef]
"""Foundation, training and validation set."""


def _alone(maker: FineTuneMaker, inputs: Inputs, extras: Extras, at_once: int) -> PackedTraining:
    # a forked child cannot use CUDA
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    started = time.time()
    process = context.Process(target=_work, args=(sender, maker, inputs, extras, at_once))
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


def _work(sender: Connection, maker: FineTuneMaker, inputs: Inputs, extras: Extras, at_once: int) -> None:
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // at_once))
    try:
        document = run_training(maker, *inputs, **extras)
        if maker.refuse:
            refuse_bad(document)
        sender.send((document, ""))
    except Exception as error:  # noqa: BLE001 - one failure must not stop the others
        sender.send((None, f"{type(error).__name__}: {error}"))


@job
def train_models(
    makers: Sequence[FineTuneMaker],
    foundation: PotentialRef,
    train: DatasetRef,
    valid: DatasetRef,
    *,
    workers: int = 4,
    **extras: Unpack[Extras],
) -> list[PackedTraining]:
    """Run trainings in processes of their own (one CUDA context each), at most ``workers`` at a time.

    A training that fails, or whose process dies, leaves the others alone; results are in the order of the makers.

    Raises
    ------
    TrainingError
        When every one of them failed; one that failed among others is reported with its error.
    """
    at_once = max(1, min(workers, len(makers)))

    def alone(maker: FineTuneMaker) -> PackedTraining:
        own, spec = extras.copy(), maker.spec()
        if not spec.uses_replay:
            own["replay"] = None
        if not spec.uses_curvature:
            own["force_constants"] = None
        return _alone(maker, (foundation, train, valid), own, at_once)

    with ThreadPoolExecutor(max_workers=at_once) as pool:
        trainings = list(pool.map(alone, makers))
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
    """

    name: str = "train"
    makers: list[FineTuneMaker] = field(default_factory=list)
    workers: int = 4

    def make(self, foundation: PotentialRef, train: DatasetRef, valid: DatasetRef, **extras: Unpack[Extras]) -> Job:
        """Return the job, for :meth:`FineTuneMaker.make`'s arguments; it gives a list of :class:`PackedTraining`."""
        for maker in self.makers:
            maker.spec()  # impossible settings are explained here already
        made = train_models(self.makers, foundation, train, valid, workers=self.workers, **extras)
        made.name = " ".join(part for part in (self.name, extras.get("material", "").lower(), "pack") if part)
        return made
