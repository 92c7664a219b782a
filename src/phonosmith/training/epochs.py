"""What every training loop does between its steps: epochs, best weights, records, checkpoints, ends.

The loops of both architectures (``loop.Fitter`` for MACE in torch, ``jax_loop.JaxFitter`` for Nequix in JAX) differ in
how a step is taken and how weights are kept; everything else is here.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from phonosmith.core.errors import TrainingError
from phonosmith.training.checkpoint import MetricsLog, load_checkpoint, save_checkpoint
from phonosmith.training.metrics import Errors
from phonosmith.training.spec import TrainSpec

CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints, s (one is always written when training ends or is interrupted)."""
Labelled = TypeVar("Labelled")


@dataclass
class EpochRecord:
    """One line of the metrics log.

    Attributes
    ----------
    monitor
        What decides about the best epoch: validation loss plus, with curvature, its weighted column MAE.
    """

    epoch: int
    lr: float
    train_loss: float | None
    valid_loss: float
    valid_mae_forces_mev_per_angstrom: float
    valid_mae_energy_mev_per_atom: float
    curvature_mae_ev_per_angstrom2: float | None
    monitor: float
    steps: int
    curvature_steps: int
    seconds: float
    curvature_seconds: float


@dataclass
class FitState:
    """Everything a training needs to go on: plain numbers and arrays of its library."""

    epoch: int = 0
    best_epoch: int = 0
    best_monitor: float = math.inf
    best: list[Any] = field(default_factory=list)
    ema: list[Any] = field(default_factory=list)
    steps: int = 0
    curvature_steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    reason: str = ""


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of structures in an epoch: a function of seed and epoch alone, so nothing has to be saved."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class EpochLoop(ABC, Generic[Labelled]):
    """Runs epochs until done, out of time or interrupted.

    Parameters
    ----------
    train
        Labelled graphs, replay included.
    spec
        Strategy.
    seed
        Of the order of structures.
    identity
        Digest of everything the outcome depends on; a checkpoint with another one is refused.
    workdir
        Where the metrics log and the checkpoint go; nothing is written without it.
    """

    def __init__(
        self, train: Sequence[Labelled], spec: TrainSpec, *, seed: int, identity: str, workdir: Path | None
    ) -> None:
        self.train, self.spec, self.seed = list(train), spec, seed
        self.identity, self.workdir = identity, workdir
        self.state = FitState()
        self.log = MetricsLog(workdir)
        self._curvature_seconds = 0.0

    # what a library does in its own way

    @property
    @abstractmethod
    def rate(self) -> float:
        """Learning rate now."""

    @property
    @abstractmethod
    def learns_curvature(self) -> bool:
        """Whether there are Hessian columns to learn."""

    @abstractmethod
    def _step(self, chosen: Sequence[Labelled], *, with_curvature: bool) -> float:
        """Take one step on labelled structures, the curvature term, or both; return its loss."""

    @abstractmethod
    def _measure(self) -> tuple[Errors, float | None]:
        """Return validation errors and column MAE (eV/Å²) of the weights that are judged."""

    @abstractmethod
    def _judged(self) -> list[Any]:
        """Return a copy of the weights that are judged: their moving average where asked for."""

    @abstractmethod
    def _lower_rate(self, monitor: float) -> None:
        """Tell the plateau scheduler about an epoch."""

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """Return the checkpoint: the state and what the library needs besides."""

    @abstractmethod
    def _restore(self, content: dict[str, Any]) -> None:
        """Take up the content of a checkpoint."""

    def _begin(self) -> None:
        """Prepare a training that starts from nothing."""

    def _finish(self) -> None:
        """Do what is left when training is done."""

    def _context(self) -> AbstractContextManager[Any]:
        """Return what the whole fit runs in."""
        return nullcontext()

    # what is the same

    def train_epoch(self) -> float:
        """Run one pass over the training set; return the mean loss of its steps."""
        order = epoch_order(self.seed, self.state.epoch + 1, len(self.train))
        joint = self.spec.curvature_mode == "joint" and self.learns_curvature
        self._curvature_seconds = 0.0
        losses = []
        for count, start in enumerate(range(0, len(order), self.spec.batch_size)):
            chosen = [self.train[index] for index in order[start : start + self.spec.batch_size]]
            if self.learns_curvature and not joint and count % self.spec.cotrain_steps == 0:
                self._step([], with_curvature=True)
            losses.append(self._step(chosen, with_curvature=joint))
        return float(np.mean(losses))

    def judge(self, epoch: int, train_loss: float | None, seconds: float) -> EpochRecord:
        """Validate the current (averaged) weights and keep them when they are the best so far."""
        found, column_mae = self._measure()
        monitor = found.loss + (self.spec.curvature_weight * column_mae if column_mae is not None else 0.0)
        if epoch == 0 or monitor < self.state.best_monitor:
            self.state.best_monitor, self.state.best_epoch = monitor, epoch
            self.state.best = self._judged()
        if not math.isfinite(monitor):
            raise TrainingError(
                f"The validation loss is not finite in epoch {epoch}.",
                "Training diverged: lower lr, or check the validation structures.",
            )
        return EpochRecord(
            epoch=epoch,
            lr=self.rate,
            train_loss=train_loss,
            valid_loss=found.loss,
            valid_mae_forces_mev_per_angstrom=found.mae_forces_mev_per_angstrom,
            valid_mae_energy_mev_per_atom=found.mae_energy_mev_per_atom,
            curvature_mae_ev_per_angstrom2=column_mae,
            monitor=monitor,
            steps=self.state.steps,
            curvature_steps=self.state.curvature_steps,
            seconds=seconds,
            curvature_seconds=self._curvature_seconds,
        )

    def run(
        self,
        *,
        walltime: float | None = None,
        since: float | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
    ) -> FitState:
        """Train; the best weights are in ``state.best`` when it returns.

        Parameters
        ----------
        walltime
            Seconds after which a checkpoint is written and an unfinished state is returned; one epoch at least is
            trained, so that a training in parts comes to its end.
        since
            ``time.perf_counter()`` from which they count; default: now.
        on_epoch
            Called after every epoch (progress bars); what it raises interrupts training after a checkpoint.
        """
        begin = time.perf_counter()
        since = begin if since is None else since
        with self._context():
            if not self._resume():
                self._begin()
                record = self.judge(0, None, 0.0)
                record.seconds = time.perf_counter() - begin
                self._record(record)
            saved = time.perf_counter()
            while not self.state.finished:
                start = time.perf_counter()
                train_loss = self.train_epoch()
                record = self.judge(self.state.epoch + 1, train_loss, time.perf_counter() - start)
                self._lower_rate(record.monitor)
                self.state.epoch = record.epoch
                self.state.seconds += time.perf_counter() - start
                self.state.reason = self._stop_reason(record)
                self.state.finished = bool(self.state.reason)
                self._record(record)
                now = time.perf_counter()
                late = walltime is not None and now - since + 1.2 * (now - start) > walltime
                if self.state.finished or late or now - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = now
                if on_epoch is not None:
                    try:
                        on_epoch(record)
                    except BaseException:
                        self._save()
                        raise
                if late and not self.state.finished:
                    self.state.reason = f"walltime of {walltime:g} s"
                    return self.state
            self._finish()
        return self.state

    def _stop_reason(self, record: EpochRecord) -> str:
        spec = self.spec
        target = spec.target_forces_mae
        if target is not None and record.valid_mae_forces_mev_per_angstrom <= 1000 * target:
            return f"validation force MAE reached {1000 * target:g} meV/Å"
        if record.epoch >= spec.epochs:
            return "all epochs done"
        if spec.patience is not None and record.epoch - self.state.best_epoch >= spec.patience:
            return f"no improvement for {spec.patience} epochs"
        return ""

    def _record(self, record: EpochRecord) -> None:
        line = asdict(record)
        self.state.history.append(line)
        self.log.append(line)

    def _save(self) -> None:
        if self.workdir is not None:
            save_checkpoint(self.workdir, self.identity, self._content())

    def _resume(self) -> bool:
        found = load_checkpoint(self.workdir, self.identity) if self.workdir is not None else None
        if found is None:
            return False
        self.state = FitState(**found["state"])
        self._restore(found)
        self.log.rewrite(self.state.history)
        return True
