"""The training loop: steps, epochs, best weights, records, checkpoints, ends; the same for every architecture."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import TrainingError
from phonosmith.potentials.backend import Backend
from phonosmith.potentials.device import ordered_sums
from phonosmith.training.checkpoint import METRICS_NAME, load_checkpoint, log_epoch, metrics_lines, save_checkpoint
from phonosmith.training.curvature import CurvatureTerm
from phonosmith.training.graphs import LabelledGraph, in_batches, labelled_batch
from phonosmith.training.losses import efs_loss, errors
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import attach_pull

P, T = ParamSpec("P"), TypeVar("T")
CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints, s (one is always written when training ends or is interrupted)."""


@dataclass
class EpochRecord:
    """One line of the metrics log; ``monitor`` (validation loss, plus weighted column MAE) decides the best epoch."""

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


@contextmanager
def epoch_reporter(spec: TrainSpec, title: str, *, show: bool) -> Iterator[Callable[[EpochRecord], None]]:
    """Yield a callback that shows a bar with validation errors and learning rate on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeElapsedColumn

    count, status = "{task.completed}/{task.total}", "{task.fields[status]}"
    columns = ("{task.description}", BarColumn(), count, TimeElapsedColumn(), status)
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task(f"train {title}", total=spec.epochs, status="")

        def report(record: EpochRecord) -> None:
            status = (
                f"F {record.valid_mae_forces_mev_per_angstrom:.1f} meV/Å, "
                f"E {record.valid_mae_energy_mev_per_atom:.2f} meV/atom, lr {record.lr:.1e}"
            )
            bar.update(task, completed=record.epoch, status=status)

        yield report


@dataclass
class FitState:
    """Everything a training needs to go on, besides weights and optimizer; ``best`` and ``ema`` are weights."""

    epoch: int = 0
    best_epoch: int = 0
    best_monitor: float = math.inf
    best: list[torch.Tensor] = field(default_factory=list)
    ema: list[torch.Tensor] = field(default_factory=list)
    steps: int = 0
    curvature_steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    reason: str = ""


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of structures in an epoch: a function of seed and epoch alone, so nothing has to be saved."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _in_order(method: Callable[Concatenate[Fitter, P], T]) -> Callable[Concatenate[Fitter, P], T]:
    """Let a method of a fitter take its sums in a fixed order, where its training is to be repeatable on a GPU."""

    @functools.wraps(method)
    def ordered(fitter: Fitter, *args: P.args, **kwargs: P.kwargs) -> T:
        with ordered_sums(fitter.spec.deterministic and fitter.device.type != "cpu"):
            return method(fitter, *args, **kwargs)

    return ordered


class Fitter:
    """Fits the trainable parameters of one model in place.

    Parameters
    ----------
    model
        Torch module, already in its training precision and on its device.
    parameters
        (name, parameter) pairs that may change; a pull is to their values now.
    train, valid
        Graphs of both splits (train includes replay).
    seed
        Of the order of structures.
    curvature, judged
        Curvature term, where the strategy has one, and another to choose the best epoch by (default: the same).
    identity
        Digest of everything the outcome depends on; a checkpoint with another one is refused.
    workdir
        Where the metrics log and the checkpoint go; nothing is written without it.
    """

    def __init__(
        self,
        backend: Backend,
        model: torch.nn.Module,
        parameters: Sequence[tuple[str, torch.nn.Parameter]],
        train: Sequence[LabelledGraph],
        valid: Sequence[LabelledGraph],
        spec: TrainSpec,
        *,
        seed: int = 0,
        curvature: CurvatureTerm | None = None,
        judged: CurvatureTerm | None = None,
        identity: str = "",
        workdir: Path | None = None,
    ) -> None:
        self.backend, self.model, self.spec, self.seed = backend, model, spec, seed
        self.parameters = [parameter for _, parameter in parameters]
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device
        self.train = list(train)
        self.valid = in_batches(valid, 2 * spec.batch_size, self.dtype, self.device)
        self.curvature, self.judged = curvature, judged or curvature
        groups = [
            {"params": some, "weight_decay": decay}
            for decays, decay in ((True, spec.weight_decay), (False, 0.0))
            if (some := [p for name, p in parameters if backend.decays(model, name) == decays])
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=spec.lr)
        if spec.anchor == "pull":
            attach_pull(self.optimizer, spec.pull)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=spec.scheduler_factor, patience=spec.scheduler_patience, min_lr=spec.min_lr
        )
        self.identity, self.workdir = identity, workdir
        self.state = FitState()
        self._curvature_seconds = self._started = self._saved = self._since = 0.0
        self._train_loss = math.nan
        self._walltime: float | None = None
        self._late = False

    # one optimizer step

    def _step(self, graphs: Sequence[LabelledGraph], curvature: CurvatureTerm | None) -> float:
        """Take one step on labelled structures, the curvature term, or both; return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total, epoch = 0.0, self.state.epoch + 1
        if graphs:
            batch = labelled_batch(graphs, self.dtype, self.device)
            wants_stress = self.spec.stress_weight > 0
            predictions = self.backend.predict(self.model, batch.inputs, stress=wants_stress, create_graph=True)
            loss = efs_loss(predictions, batch, self.spec)
            total = float(loss.detach())
            if not math.isfinite(total):
                advice = "Check that structure's labels and geometry, or lower lr."
                raise _diverged("The loss", f"{epoch}: {self._culprits(graphs)}", advice)
            loss.backward(inputs=self.parameters)
        if curvature is not None:
            start = time.perf_counter()
            part = curvature.accumulate(self.model, self.parameters)
            if not math.isfinite(part):
                raise _diverged("The curvature loss", epoch, "Check the force constants, or lower lr.")
            total += part
            self.state.curvature_steps += 1
            self._curvature_seconds += time.perf_counter() - start
        if self.spec.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.spec.clip_norm)
            if not bool(torch.isfinite(norm)):
                names = ", ".join(graph.name for graph in graphs) or "perfect supercell"
                advice = "Check those structures for coinciding atoms, or lower lr."
                raise _diverged("A gradient", f"{epoch} (structures {names})", advice)
        self.optimizer.step()
        self.state.steps += 1
        if self.spec.ema is not None:
            # warm-up: the average must not remember the start for longer than training has lasted
            decay = min(self.spec.ema, (1 + self.state.steps) / (10 + self.state.steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.state.ema, self.parameters, 1 - decay)
        return total

    def _culprits(self, graphs: Sequence[LabelledGraph]) -> str:
        """Name the structures whose own loss is not finite."""
        alone = in_batches(graphs, 1, self.dtype, self.device)
        losses = [errors(self.backend, self.model, [batch], self.spec).loss for batch in alone]
        guilty = [graph for graph, loss in zip(graphs, losses, strict=True) if not math.isfinite(loss)]
        return ", ".join(graph.name for graph in guilty or graphs)

    # epochs

    def train_epoch(self) -> float:
        """Run one pass over the training set; return the mean loss of its steps."""
        order = epoch_order(self.seed, self.state.epoch + 1, len(self.train))
        joint = self.curvature if self.spec.curvature_mode == "joint" else None
        self._curvature_seconds = 0.0
        losses = []
        for count, start in enumerate(range(0, len(order), self.spec.batch_size)):
            if joint is None and self.curvature is not None and count % self.spec.cotrain_steps == 0:
                self._step([], self.curvature)
            graphs = [self.train[index] for index in order[start : start + self.spec.batch_size]]
            losses.append(self._step(graphs, joint))
        return float(np.mean(losses))

    def judge(self, epoch: int, train_loss: float | None, seconds: float) -> EpochRecord:
        """Validate the current weights (their average, where asked for); keep them when they are the best so far."""
        live, averaged = _copies(self.parameters), self.state.ema or self.parameters
        self._assign(averaged)
        valid = errors(self.backend, self.model, self.valid, self.spec)
        column_mae = self.judged.mae(self.model) if self.judged is not None else None
        self._assign(live)
        monitor = valid.loss + (self.spec.curvature_weight * column_mae if column_mae is not None else 0.0)
        if epoch == 0 or monitor < self.state.best_monitor:
            self.state.best_monitor, self.state.best_epoch = monitor, epoch
            self.state.best = _copies(averaged)
        if not math.isfinite(monitor):
            advice = "Training diverged: lower lr, or check the validation structures."
            raise _diverged("The validation loss", epoch, advice)
        return EpochRecord(
            epoch=epoch,
            lr=float(self.optimizer.param_groups[0]["lr"]),
            train_loss=train_loss,
            valid_loss=valid.loss,
            valid_mae_forces_mev_per_angstrom=valid.mae_forces_mev_per_angstrom,
            valid_mae_energy_mev_per_atom=valid.mae_energy_mev_per_atom,
            curvature_mae_ev_per_angstrom2=column_mae,
            monitor=monitor,
            steps=self.state.steps,
            curvature_steps=self.state.curvature_steps,
            seconds=seconds,
            curvature_seconds=self._curvature_seconds,
        )

    def _assign(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    @_in_order
    def begin(self, *, walltime: float | None = None, since: float | None = None) -> None:
        """Go on from a checkpoint, or judge the weights as they are (epoch 0); arguments are those of :meth:`run`."""
        begin = time.perf_counter()
        self._walltime, self._since = walltime, begin if since is None else since
        if not self._resume():
            self.state.ema = _copies(self.parameters) if self.spec.ema is not None else []
            record = self.judge(0, None, 0.0)
            record.seconds = time.perf_counter() - begin
            self._record(record)
        self._saved = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether no epoch follows: training is finished, or its walltime is over."""
        return self.state.finished or self._late

    @_in_order
    def launch_epoch(self) -> None:
        """Start the next epoch."""
        self._started = time.perf_counter()
        self._train_loss = self.train_epoch()

    @_in_order
    def finish_epoch(self) -> EpochRecord:
        """Judge the epoch that was launched; write its record, and a checkpoint where one is due."""
        record = self.judge(self.state.epoch + 1, self._train_loss, time.perf_counter() - self._started)
        self.scheduler.step(record.monitor)
        self.state.epoch = record.epoch
        self.state.seconds += time.perf_counter() - self._started
        self.state.reason = self._stop_reason(record)
        self.state.finished = bool(self.state.reason)
        self._record(record)
        now = time.perf_counter()
        lasting = now - self._since + 1.2 * (now - self._started)
        self._late = self._walltime is not None and lasting > self._walltime
        if self.over or now - self._saved > CHECKPOINT_SECONDS:
            self.save()
        if self._late and not self.state.finished:
            self.state.reason = f"walltime of {self._walltime:g} s"
        return record

    def run(
        self,
        *,
        walltime: float | None = None,
        since: float | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
    ) -> FitState:
        """Train; the best weights are in ``state.best`` when it returns.

        Several fitters can take turns instead: :meth:`begin` each, then :meth:`launch_epoch` and :meth:`finish_epoch`
        in turn until it is :attr:`over`.

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
        self.begin(walltime=walltime, since=since)
        while not self.over:
            self.launch_epoch()
            record = self.finish_epoch()
            if on_epoch is not None:
                try:
                    on_epoch(record)
                except BaseException:
                    self.save()
                    raise
        return self.state

    def take_best(self) -> None:
        """Give the model the best weights so far."""
        self._assign(self.state.best)

    def _stop_reason(self, record: EpochRecord) -> str:
        spec = self.spec
        if (target := spec.target_forces_mae) is not None and record.valid_mae_forces_mev_per_angstrom <= 1000 * target:
            return f"validation force MAE reached {1000 * target:g} meV/Å"
        if record.epoch >= spec.epochs:
            return "all epochs done"
        if spec.patience is not None and record.epoch - self.state.best_epoch >= spec.patience:
            return f"no improvement for {spec.patience} epochs"
        return ""

    # records and checkpoints

    def _record(self, record: EpochRecord) -> None:
        self.state.history.append(asdict(record))
        if self.workdir is not None:
            log_epoch(self.workdir, self.state.history)

    def save(self) -> None:
        """Write a checkpoint of the last finished epoch."""
        self._saved = time.perf_counter()
        if self.workdir is None:
            return
        content = {
            "state": dict(vars(self.state)),
            "parameters": _copies(self.parameters),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "curvature_used": self.curvature.used if self.curvature else 0,
            "curvature_method": self.curvature.method if self.curvature else "",
        }
        save_checkpoint(self.workdir, self.identity, content)

    def _resume(self) -> bool:
        if self.workdir is None or (content := load_checkpoint(self.workdir, self.identity)) is None:
            return False
        self.state = FitState(**content["state"])
        self._assign(content["parameters"])
        self.state.ema = [value.to(self.device) for value in self.state.ema]
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        if self.curvature is not None:
            self.curvature.used = content["curvature_used"]
            self.curvature.method = content["curvature_method"]
        # epochs after the checkpoint will be trained, and logged, again
        write_atomic(self.workdir / METRICS_NAME, metrics_lines(self.state.history))
        return True


def _diverged(what: str, epoch: int | str, advice: str) -> TrainingError:
    return TrainingError(f"{what} is not finite in epoch {epoch}.", advice)


def _copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]
