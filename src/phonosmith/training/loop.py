"""The training loop: steps, epochs, best weights, records, checkpoints, ends; the same for every architecture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import TrainingError
from phonosmith.core.progress import progress_bar
from phonosmith.potentials.backend import Backend
from phonosmith.potentials.capture import Capture
from phonosmith.potentials.device import ordered_sums
from phonosmith.training.capture import Recording, Snapshot, capture_for, device_lost, epoch_shapes
from phonosmith.training.checkpoint import (
    METRICS_NAME,
    load_checkpoint,
    log_epoch,
    metrics_lines,
    on_host,
    save_checkpoint,
)
from phonosmith.training.curvature import Choice, CurvatureTerm
from phonosmith.training.documents import Errors
from phonosmith.training.graphs import LabelledBatch, LabelledGraph, in_batches, labelled_batch
from phonosmith.training.losses import errors, errors_of
from phonosmith.training.spec import TrainSpec
from phonosmith.training.step import Step
from phonosmith.training.traced import Compiler, inductor

CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints, s (one is always written when training ends or is interrupted)."""
HOST_COPY_SECONDS = 5.0
"""Time between two copies of a training on a GPU to the host, s: where the GPU fails, the last becomes a checkpoint."""

WARMUP = 0.05
"""Share of the epochs over which the rate of a cosine schedule rises."""
_RATES = ("_last_lr", "base_lrs")


@dataclass
class EpochRecord:
    """One line of the metrics log; ``monitor`` (validation loss, plus weighted column MAE) decides the best epoch.

    Of recorded epochs ``seconds`` includes validation, and ``curvature_seconds`` is not known.
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
    curvature_seconds: float | None


@contextmanager
def epoch_reporter(spec: TrainSpec, title: str, *, show: bool) -> Iterator[Callable[[EpochRecord], None]]:
    """Yield a callback that shows a bar with validation errors and learning rate on standard error."""
    name = f"train {title}"
    with progress_bar(name, spec.epochs, show=show, stays=True) as move:

        def report(record: EpochRecord) -> None:
            status = (
                f"F {record.valid_mae_forces_mev_per_angstrom:.1f} meV/Å, "
                f"E {record.valid_mae_energy_mev_per_atom:.2f} meV/atom, lr {record.lr:.1e}"
            )
            move(record.epoch, spec.epochs, f"{name}: {status}")

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


def cosine_factor(epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch (counted from 0) over its largest: a linear rise, then half a cosine.

    >>> [round(cosine_factor(epoch, 40), 3) for epoch in (0, 1, 2, 21, 39, 40)]
    [0.333, 0.667, 1.0, 0.5, 0.002, 0.0]
    """
    rise = round(WARMUP * epochs)
    if epoch < rise:
        return (epoch + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - rise) / (epochs - rise))))


def scheduler_for(optimizer: torch.optim.Optimizer, spec: TrainSpec) -> ReduceLROnPlateau | LambdaLR:
    """Return what sets the learning rate after each epoch."""
    if spec.schedule == "cosine":
        return LambdaLR(optimizer, lambda epoch: cosine_factor(epoch, spec.epochs))
    return ReduceLROnPlateau(
        optimizer, factor=spec.scheduler_factor, patience=spec.scheduler_patience, min_lr=spec.min_lr
    )


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
        Curvature term, where the strategy has one, and another of columns that are not learnt, to choose the best
        epoch by beside the validation structures.
    identity
        Digest of everything the outcome depends on; a checkpoint with another one is refused.
    workdir
        Where the metrics log and the checkpoint go; nothing is written without it.
    capture
        How steps are recorded; default: as ``spec.compile`` says for this device.
    compiler
        What compiles their gradient; default: torch's Inductor where ``spec.compile`` says so, else nothing.
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
        capture: Capture | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.backend, self.model, self.spec, self.seed = backend, model, spec, seed
        self.train, self.valid = list(train), list(valid)
        self._capture, note = (capture, "") if capture else capture_for(spec.compile, parameters[0][1].device)
        self._compiler = compiler or (inductor if spec.compile == "inductor" else None)
        self._notes = [note] if note else []
        if self._capture is not None:
            curvature, judged = (one and one.without_waiting() for one in (curvature, judged))
        self.curvature, self.judged = curvature, judged
        self.step = Step(backend, model, parameters, spec, curvature, recordable=self._capture is not None)
        self.parameters, self.optimizer = self.step.parameters, self.step.optimizer
        self.dtype, self.device = self.step.dtype, self.step.device
        self.scheduler = scheduler_for(self.optimizer, spec)
        self.identity, self.workdir = identity, workdir
        self.state = FitState()
        self._recording: Recording | None = None
        self._good: Snapshot | None = None
        self._kept: dict[str, Any] | None = None
        self._plain_valid: list[LabelledBatch] = []
        self._curvature_seconds: float | None = 0.0
        self._started = self._saved = self._copied = self._since = 0.0
        self._losses: list[float] = []
        self._labelled_steps, self._counters = 0, (0, 0, 0)
        self._walltime: float | None = None
        self._late = False

    @property
    def notes(self) -> list[str]:
        """Choices made on the way."""
        return [
            *self._notes,
            *(self.curvature.notes if self.curvature else []),
            *(self._recording.notes if self._recording else []),
        ]

    # one epoch

    def _steps(self) -> Iterator[tuple[list[int], bool]]:
        """Yield the steps of the next epoch: places of structures, and whether Hessian columns take part.

        An epoch is a pass over the structures, of many crystals one over their columns with its share of structures;
        both go on where the last epoch stopped, so ratio and order do not depend on where epochs end.
        """
        if self._mode == "alone":
            for _ in range(max(self._cells, self._passing)):
                yield [], True
            return
        before = self._labelled_so_far
        for count in range(before, before + self._labelled_each_epoch):
            if self._mode == "alternate" and count % self.spec.cotrain_steps == 0:
                yield [], True
            done, place = divmod(count, self._passing)
            order, start = epoch_order(self.seed, done + 1, len(self.train)), place * self.spec.batch_size
            yield order[start : start + self.spec.batch_size].tolist(), self._mode == "joint"

    def visits(self, first: int) -> int:
        """Return how often a structure from a place in the training set on was in a step so far."""
        passes, rest = divmod(self._labelled_so_far, self._passing)
        begun = epoch_order(self.seed, passes + 1, len(self.train))[: rest * self.spec.batch_size]
        return passes * (len(self.train) - first) + int((begun >= first).sum())

    @property
    def _labelled_so_far(self) -> int:
        """Steps on structures taken so far."""
        return self.state.steps - (self.state.curvature_steps if self._mode in ("alternate", "alone") else 0)

    @property
    def _mode(self) -> str:
        """How columns take part; empty where there are none."""
        return self.spec.curvature_mode if self.curvature is not None else ""

    @property
    def _cells(self) -> int:
        return len(self.curvature.cells) if self.curvature is not None else 0

    @property
    def _passing(self) -> int:
        """Steps of a pass over the structures."""
        return -(-len(self.train) // self.spec.batch_size)

    @property
    def _labelled_each_epoch(self) -> int:
        if self._mode == "alone":
            return 0
        several = self._mode == "alternate" and self._cells > 1
        return self._cells * self.spec.cotrain_steps if several else self._passing

    def _next_choice(self, wanted: bool) -> Choice | None:
        if not wanted or self.curvature is None:
            return None
        self.state.curvature_steps += 1
        return self.curvature.choice(self.curvature.next_rows())

    def _train_plainly(self) -> None:
        """Train one epoch step by step, looking at every loss and gradient."""
        self._curvature_seconds, self._losses = 0.0, []
        for indices, with_columns in self._steps():
            graphs = [self.train[index] for index in indices]
            total = self._checked_step(graphs, self._next_choice(with_columns))
            if graphs or self._mode == "alone":
                self._losses.append(total)

    def _checked_step(self, graphs: Sequence[LabelledGraph], choice: Choice | None) -> float:
        """Take one step on labelled structures, Hessian columns, or both; return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total, epoch = 0.0, self.state.epoch + 1
        if graphs:
            total = float(self.step.structures(labelled_batch(graphs, self.dtype, self.device)))
            if not math.isfinite(total):
                advice = "Check that structure's labels and geometry, or lower lr."
                raise _diverged("The loss", f"{epoch}: {self._culprits(graphs)}", advice)
        if choice is not None:
            start = time.perf_counter()
            part = float(self.step.columns(choice))
            if not math.isfinite(part):
                raise _diverged("The curvature loss", epoch, "Check the force constants, or lower lr.")
            total += part
            self._curvature_seconds = (self._curvature_seconds or 0.0) + time.perf_counter() - start
        norm = self.step.clip()
        if norm is not None and not bool(torch.isfinite(norm)):
            names = ", ".join(graph.name for graph in graphs) or "perfect supercell"
            advice = "Check those structures for coinciding atoms, or lower lr."
            raise _diverged("A gradient", f"{epoch} (structures {names})", advice)
        self.step.update()
        self.state.steps += 1
        return total

    def _culprits(self, graphs: Sequence[LabelledGraph]) -> str:
        """Name the structures whose own loss is not finite."""
        alone = in_batches(graphs, 1, self.dtype, self.device)
        losses = [errors(self.backend, self.model, [batch], self.spec).loss for batch in alone]
        guilty = [graph for graph, loss in zip(graphs, losses, strict=True) if not math.isfinite(loss)]
        return ", ".join(graph.name for graph in guilty or graphs)

    # recorded epochs

    def _record_everything(self, capture: Capture) -> Recording | None:
        """Record steps and validation; None where nothing could be."""
        recording = Recording(self.step, capture, self._compiler)
        passes = -(-self._labelled_each_epoch * self.spec.epochs // self._passing)
        orders = [epoch_order(self.seed, done, len(self.train)) for done in range(1, passes + 1)]
        shapes = epoch_shapes(self.train, orders, self.spec.batch_size) if orders else []
        recording.record_steps(self.train, shapes, joint=self.spec.curvature_mode == "joint")
        if recording.useless:
            self._notes += [*recording.notes, "Nothing could be recorded: trained step by step"]
            return None
        recording.record_validation(self.valid, 2 * self.spec.batch_size, self.judged)
        return recording

    def _launch_recorded(self, recording: Recording) -> None:
        """Launch an epoch and its validation; nothing waits for the device."""
        self._curvature_seconds = None
        self.step.sums.zero_()
        changing = self.step.changing()
        if self._good is None or len(self._good.places) != len(changing):
            self._good = Snapshot(changing)
        self._good.take()
        self._counters = self.state.steps, self.state.curvature_steps, self.curvature.used if self.curvature else 0
        self._labelled_steps = 0
        for indices, with_columns in self._steps():
            graphs = [self.train[index] for index in indices]
            recording.take_step(indices, graphs, self._next_choice(with_columns))
            self.state.steps += 1
            self._labelled_steps += bool(graphs) or self._mode == "alone"
        self._validate(recording.validate)

    def _read_recorded(self, recording: Recording) -> None:
        """Read what the launched epoch came to; train it again step by step where a number was not finite."""
        total, bad = self.step.sums.tolist()
        self._losses = [total / max(1, self._labelled_steps)]
        if not bad and math.isfinite(total):
            return
        assert self._good is not None  # taken at the launch
        self._good.restore(self.step.changing())
        self.state.steps, self.state.curvature_steps, used = self._counters
        if self.curvature is not None:
            self.curvature.used = used
        self._notes += [*recording.notes, f"A number of epoch {self.state.epoch + 1} was not finite when recorded"]
        self._recording = None
        self._train_plainly()

    # validation

    def _validate(self, measure: Callable[[], None]) -> None:
        """Measure with the average of the weights where there is one."""
        if not self.state.ema:
            measure()
            return
        live = _copies(self.parameters)
        self._assign(self.state.ema)
        measure()
        self._assign(live)

    def _measure_plainly(self) -> tuple[Errors, float | None]:
        if not self._plain_valid:
            self._plain_valid = in_batches(self.valid, 2 * self.spec.batch_size, self.dtype, self.device)
        found: list[tuple[Errors, float | None]] = []

        def measure() -> None:
            valid = errors(self.backend, self.model, self._plain_valid, self.spec)
            found.append((valid, self.judged.mae(self.model) if self.judged is not None else None))

        self._validate(measure)
        return found[0]

    def _judge(self, epoch: int, seconds: float) -> EpochRecord:
        """Read or take the validation of the weights; keep them when they are the best so far."""
        if self._recording is None:
            valid, column_mae = self._measure_plainly()
        else:
            valid = errors_of(self._recording.sums)
            column_mae = float(self._recording.column_error) if self.judged is not None else None
        monitor = valid.loss + (self.spec.curvature_weight * column_mae if column_mae is not None else 0.0)
        if epoch == 0 or monitor < self.state.best_monitor:
            self.state.best_monitor, self.state.best_epoch = monitor, epoch
            self.state.best = _copies(self.state.ema or self.parameters)
        if not math.isfinite(monitor):
            advice = "Training diverged: lower lr, or check the validation structures."
            raise _diverged("The validation loss", epoch, advice)
        return EpochRecord(
            epoch=epoch,
            lr=float(self.optimizer.param_groups[0]["lr"]),
            train_loss=float(np.mean(self._losses)) if epoch else None,
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

    # epochs

    def begin(self, *, walltime: float | None = None, since: float | None = None) -> None:
        """Go on from a checkpoint, or judge the weights as they are (epoch 0); record what the epochs will repeat.

        Arguments are those of :meth:`run`.
        """
        begin = time.perf_counter()
        self._walltime, self._since = walltime, begin if since is None else since
        with self._device():
            resumed = self._resume()
            if not resumed:
                self.state.ema = _copies(self.parameters) if self.spec.ema is not None else []
            self.step.ema = self.state.ema
            self.step.count.fill_(self.state.steps)
            if self._capture is not None and not self.state.finished:
                self._recording = self._record_everything(self._capture)
            if not resumed:
                if self._recording is not None:
                    self._validate(self._recording.validate)
                record = self._judge(0, 0.0)
                record.seconds = time.perf_counter() - begin
                self._record(record)
        self._saved = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether no epoch follows: training is finished, or its walltime is over."""
        return self.state.finished or self._late

    def launch_epoch(self) -> None:
        """Start the next epoch; where steps are recorded this returns before the device is done."""
        self._started = time.perf_counter()
        with self._device():
            if self._recording is None:
                self._train_plainly()
            else:
                self._launch_recorded(self._recording)

    def finish_epoch(self) -> EpochRecord:
        """Judge the epoch that was launched; write its record, and a checkpoint where one is due."""
        with self._device():
            if self._recording is not None:
                self._read_recorded(self._recording)
            record = self._judge(self.state.epoch + 1, time.perf_counter() - self._started)
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(record.monitor)
            else:
                self.scheduler.step()
            self.step.keep_rates()
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
        elif self._capture is not None and now - self._copied > HOST_COPY_SECONDS:
            self._keep()
        if self._late and not self.state.finished:
            self.state.reason = f"walltime of {self._walltime:g} s"
        return record

    @contextmanager
    def _device(self) -> Iterator[None]:
        """Say what to do where the device fails, and save what the host still has; order sums where that is asked."""
        try:
            with ordered_sums(self.spec.deterministic and self.device.type == "cuda"):
                yield
        except torch.cuda.OutOfMemoryError as error:
            advice = f"Use a smaller batch_size (now {self.spec.batch_size}), dtype=float32 or device=cpu"
            columns = ", or a smaller curvature_memory_gb." if self.curvature is not None else "."
            raise TrainingError(f"The memory of {self.device} is not enough for a step.", advice + columns) from error
        except RuntimeError as error:
            if not device_lost(error):
                raise
            if self.workdir is not None and self._kept is not None:
                save_checkpoint(self.workdir, self.identity, self._kept)
            raise TrainingError(
                f"The GPU failed in epoch {self.state.epoch + 1}: {str(error).splitlines()[0]}",
                "Start the same training again, on another GPU if it repeats: it goes on from its checkpoint.",
            ) from error

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
        if self.workdir is not None:
            save_checkpoint(self.workdir, self.identity, self._keep())

    def _keep(self) -> dict[str, Any]:
        """Copy to the host all that a training needs to go on: a GPU can fail."""
        self._copied = time.perf_counter()
        scheduler = self.scheduler.state_dict()
        # of a recorded step rates are tensors on the device
        scheduler |= {key: [float(rate) for rate in scheduler[key]] for key in _RATES if key in scheduler}
        content = {
            "state": dict(vars(self.state)),
            "parameters": _copies(self.parameters),
            "optimizer": self.step.optimizer_state(),
            "scheduler": scheduler,
            "curvature_used": self.curvature.used if self.curvature else 0,
            "curvature_method": self.curvature.method if self.curvature else "",
        }
        self._kept = on_host(content)
        return self._kept

    def _resume(self) -> bool:
        if self.workdir is None or (content := load_checkpoint(self.workdir, self.identity)) is None:
            return False
        self.state = FitState(**content["state"])
        self._assign(content["parameters"])
        self.state.ema = [value.to(self.device) for value in self.state.ema]
        self.step.load_optimizer(content["optimizer"])
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
