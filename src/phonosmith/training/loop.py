"""The training loop: deterministic, resumable to the bit, stopping when nothing improves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phonosmith.core.errors import TrainingError
from phonosmith.training.checkpoint import MetricsLog, load_checkpoint, save_checkpoint
from phonosmith.training.curvature import CurvatureTerm
from phonosmith.training.graphs import Batch, Graph, collate, in_batches
from phonosmith.training.losses import LossTerms, efs_loss
from phonosmith.training.metrics import errors
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import attach_pull

CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints, s (one is always written when training ends or is interrupted)."""


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
    """Everything a training needs to go on: plain numbers and tensors."""

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


class Fitter:
    """Fits the trainable parameters of one model in place.

    Parameters
    ----------
    model
        Torch module, already in its training precision and on its device.
    parameters
        (name, parameter) pairs that may change.
    train, valid
        Graphs of both splits (train includes replay).
    spec
        Strategy.
    seed
        Of the order of structures.
    curvature
        Curvature term, where the strategy has one.
    pull_reference
        Foundation values of the parameters; default: their values now.
    identity
        Digest of everything the outcome depends on; a checkpoint with another one is refused.
    workdir
        Where the metrics log and the checkpoint go; nothing is written without it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        parameters: Sequence[tuple[str, torch.nn.Parameter]],
        train: Sequence[Graph],
        valid: Sequence[Graph],
        spec: TrainSpec,
        *,
        seed: int = 0,
        curvature: CurvatureTerm | None = None,
        pull_reference: Sequence[torch.Tensor] | None = None,
        identity: str = "",
        workdir: Path | None = None,
    ) -> None:
        self.model = model
        self.parameters = [parameter for _, parameter in parameters]
        self.train = list(train)
        self.valid = in_batches(valid, max(1, 2 * spec.batch_size))
        self.spec = spec
        self.seed = seed
        self.curvature = curvature
        self.identity = identity
        self.workdir = workdir
        self.terms = LossTerms.of(spec)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=spec.lr, weight_decay=spec.weight_decay)
        if spec.anchor == "pull":
            reference = pull_reference or [parameter.detach().clone() for parameter in self.parameters]
            attach_pull(self.optimizer, reference, spec.pull)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=spec.scheduler_factor, patience=spec.scheduler_patience, min_lr=spec.min_lr
        )
        self.state = FitState()
        self._curvature_seconds = 0.0
        self.log = MetricsLog(workdir)

    # one optimizer step

    def _step(self, batch: Batch | None, *, with_curvature: bool, names: Sequence[str]) -> float:
        """Take one step on a batch, the curvature term, or both; return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        if batch is not None:
            output = self.model(batch, training=True, compute_stress=self.terms.stress > 0)
            loss = efs_loss(output, batch, self.terms)
            total = float(loss.detach())
            if not math.isfinite(total):
                raise TrainingError(
                    f"The loss is not finite in epoch {self.state.epoch + 1}: {self._culprits(names)}.",
                    "Check that structure's labels and geometry, or lower lr.",
                )
            loss.backward(inputs=self.parameters)
        if with_curvature and self.curvature is not None:
            start = time.perf_counter()
            part = self.curvature.accumulate(self.model, self.parameters)
            if not math.isfinite(part):
                raise TrainingError(
                    f"The curvature loss is not finite in epoch {self.state.epoch + 1}.",
                    "Check the force constants, or lower lr.",
                )
            total += part
            self.state.curvature_steps += 1
            self._curvature_seconds += time.perf_counter() - start
        if self.spec.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.spec.clip_norm)
            if not bool(torch.isfinite(norm)):
                raise TrainingError(
                    f"A gradient is not finite in epoch {self.state.epoch + 1} (structures {', '.join(names)}).",
                    "Check those structures for coinciding atoms, or lower lr.",
                )
        self.optimizer.step()
        self.state.steps += 1
        if self.spec.ema is not None:
            # warm-up: the average must not remember the start for longer than training has lasted
            decay = min(self.spec.ema, (1 + self.state.steps) / (10 + self.state.steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.state.ema, self.parameters, 1 - decay)
        return total

    def _culprits(self, names: Sequence[str]) -> str:
        """Name the structures of a batch whose own loss is not finite."""
        by_name = {graph.name: graph for graph in self.train}
        guilty = [name for name in names if not math.isfinite(self._loss_of(by_name[name]))]
        return ", ".join(guilty or names)

    def _loss_of(self, graph: Graph) -> float:
        return errors(self.model, [collate([graph])], self.terms).loss

    def _epoch(self) -> float:
        """Run one pass over the training set; return the mean loss of its steps."""
        order = epoch_order(self.seed, self.state.epoch + 1, len(self.train))
        size = self.spec.batch_size
        joint = self.spec.curvature_mode == "joint"
        self._curvature_seconds = 0.0
        losses = []
        for count, start in enumerate(range(0, len(order), size)):
            chosen = [self.train[index] for index in order[start : start + size]]
            if self.curvature is not None and not joint and count % self.spec.cotrain_steps == 0:
                self._step(None, with_curvature=True, names=["perfect supercell"])
            losses.append(self._step(collate(chosen), with_curvature=joint, names=[graph.name for graph in chosen]))
        return float(np.mean(losses))

    # judging

    def _averaged(self) -> list[torch.Tensor]:
        return self.state.ema if self.spec.ema is not None else [p.detach() for p in self.parameters]

    def _judge(self, epoch: int, train_loss: float | None, seconds: float) -> EpochRecord:
        """Validate the current (averaged) weights and keep them when they are the best so far."""
        live = [parameter.detach().clone() for parameter in self.parameters] if self.spec.ema is not None else None
        if live is not None:
            self._assign(self.state.ema)
        found = errors(self.model, self.valid, self.terms)
        column_mae = self.curvature.mae(self.model) if self.curvature is not None else None
        monitor = found.loss + (self.spec.curvature_weight * column_mae if column_mae is not None else 0.0)
        if epoch == 0 or monitor < self.state.best_monitor:
            self.state.best_monitor, self.state.best_epoch = monitor, epoch
            self.state.best = [parameter.detach().clone() for parameter in self.parameters]
        if live is not None:
            self._assign(live)
        if not math.isfinite(monitor):
            raise TrainingError(
                f"The validation loss is not finite in epoch {epoch}.",
                "Training diverged: lower lr, or check the validation structures.",
            )
        return EpochRecord(
            epoch=epoch,
            lr=float(self.optimizer.param_groups[0]["lr"]),
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

    def _assign(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

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

    # the whole fit

    def run(
        self,
        *,
        walltime: float | None = None,
        since: float | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
    ) -> FitState:
        """Train until done, out of time or interrupted; the best weights are in the model when it is finished.

        Parameters
        ----------
        walltime
            Seconds after which a checkpoint is written and an unfinished state is returned; one epoch is always
            trained, so that a training in parts comes to its end.
        since
            ``time.perf_counter()`` from which they count; default: now.
        on_epoch
            Called after every epoch (progress bars); what it raises interrupts training after a checkpoint.
        """
        begin = time.perf_counter()
        since = begin if since is None else since
        if not self._resume():
            self.state.ema = [p.detach().clone() for p in self.parameters] if self.spec.ema is not None else []
            self._record(self._judge(0, None, 0.0), begin)
        saved = time.perf_counter()
        while not self.state.finished:
            start = time.perf_counter()
            train_loss = self._epoch()
            record = self._judge(self.state.epoch + 1, train_loss, time.perf_counter() - start)
            self.scheduler.step(record.monitor)
            self.state.epoch = record.epoch
            self.state.seconds += time.perf_counter() - start
            self.state.reason = self._stop_reason(record)
            self.state.finished = bool(self.state.reason)
            self._record(record, begin)
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
        self._assign(self.state.best)
        return self.state

    def _record(self, record: EpochRecord, begin: float) -> None:
        if record.epoch == 0:
            record.seconds = time.perf_counter() - begin
        line = asdict(record)
        self.state.history.append(line)
        self.log.append(line)

    # checkpoints

    def _save(self) -> None:
        if self.workdir is None:
            return
        state = {name: getattr(self.state, name) for name in self.state.__dataclass_fields__}
        save_checkpoint(
            self.workdir,
            self.identity,
            {
                "state": state,
                "parameters": [parameter.detach().clone() for parameter in self.parameters],
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "curvature_used": self.curvature.used if self.curvature else 0,
                "curvature_method": self.curvature.method if self.curvature else "",
            },
        )

    def _resume(self) -> bool:
        found = load_checkpoint(self.workdir, self.identity) if self.workdir is not None else None
        if found is None:
            return False
        self.state = FitState(**found["state"])
        self._assign(found["parameters"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.scheduler.load_state_dict(found["scheduler"])
        if self.curvature is not None:
            self.curvature.used = found["curvature_used"]
            self.curvature.method = found["curvature_method"]
        self.log.rewrite(self.state.history)
        return True
