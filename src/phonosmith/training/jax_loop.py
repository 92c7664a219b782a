"""The training loop for JAX models: the same settings, epochs, records and checkpoints as for MACE."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from phonosmith.core.errors import TrainingError
from phonosmith.potentials.nequix_backend import precision
from phonosmith.training.checkpoint import MetricsLog, load_checkpoint, save_checkpoint
from phonosmith.training.jax_data import ColumnGraph, LabelledGraph, column_batch, common_shape, labelled_batch
from phonosmith.training.jax_losses import column_error_function, curvature_gradient, efs_gradient
from phonosmith.training.jax_metrics import split_errors
from phonosmith.training.jax_optimizer import Moved, make_update
from phonosmith.training.loop import CHECKPOINT_SECONDS, EpochRecord, FitState, epoch_order
from phonosmith.training.losses import LossTerms
from phonosmith.training.spec import TrainSpec


class Plateau:
    """Reduce the learning rate when a quantity stops falling, with the rule of torch's ReduceLROnPlateau.

    Parameters
    ----------
    spec
        Learning rate, factor, patience and smallest rate.
    """

    def __init__(self, spec: TrainSpec) -> None:
        self.rate = spec.lr
        self.factor, self.patience, self.least = spec.scheduler_factor, spec.scheduler_patience, spec.min_lr
        self.best, self.bad = math.inf, 0

    def step(self, value: float) -> None:
        """Take note of an epoch's value (relative improvement below 1e-4 counts as none)."""
        if value < self.best * (1 - 1e-4):
            self.best, self.bad = value, 0
            return
        self.bad += 1
        if self.bad > self.patience:
            self.rate, self.bad = max(self.rate * self.factor, self.least), 0


class JaxFitter:
    """Fits the weights of one Nequix model.

    Parameters
    ----------
    key
        Architecture (``nequix_backend.architecture_key``).
    leaves
        Weights to start from; the trained ones are in ``state.best``.
    moved
        Which of them may change, and which decay.
    train, valid
        Labelled graphs (train includes replay).
    columns, valid_columns
        Hessian columns to learn, and to judge by (default: the ones learnt).
    spec, seed, identity, workdir
        As for ``loop.Fitter``.
    pull_reference
        Foundation weights; default: ``leaves``.
    device
        cpu or cuda.
    """

    def __init__(
        self,
        key: str,
        leaves: Sequence[Any],
        moved: Moved,
        train: Sequence[LabelledGraph],
        valid: Sequence[LabelledGraph],
        spec: TrainSpec,
        *,
        columns: Sequence[ColumnGraph] = (),
        valid_columns: Sequence[ColumnGraph] = (),
        pull_reference: Sequence[Any] | None = None,
        seed: int = 0,
        identity: str = "",
        workdir: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.key, self.spec, self.seed = key, spec, seed
        self.identity, self.workdir, self.device = identity, workdir, device
        self.train, self.valid = list(train), list(valid)
        self.columns, self.valid_columns = list(columns), list(valid_columns) or list(columns)
        self.terms = LossTerms.of(spec)
        self.shape = common_shape([one.graph for one in [*self.train, *self.valid]], spec.batch_size)
        per_step = min(spec.curvature_columns, len(self.columns))
        self.column_shape = common_shape([one.graph for one in [*self.columns, *self.valid_columns]], max(1, per_step))
        self.per_step = per_step
        self.used = 0
        self.state = FitState()
        self.plateau = Plateau(spec)
        self.log = MetricsLog(workdir)
        self._curvature_seconds = 0.0
        with precision(spec.dtype, device):
            self.leaves = self._arrays(leaves)
            self.update, self.optimizer = make_update(spec, self.leaves, moved, self._arrays(pull_reference or leaves))

    def _arrays(self, leaves: Sequence[Any]) -> list[Any]:
        import jax.numpy as jnp

        return [jnp.asarray(np.asarray(leaf), dtype=self.spec.dtype) for leaf in leaves]

    # one optimizer step

    def _next_columns(self) -> list[ColumnGraph]:
        chosen = [self.columns[(self.used + k) % len(self.columns)] for k in range(self.per_step)]
        self.used += self.per_step
        return chosen

    def _step(self, chosen: Sequence[LabelledGraph], *, with_curvature: bool) -> float:
        """Take one step on labelled structures, on the next columns, or on both; return its loss."""
        total, gradient = 0.0, None
        names = ", ".join(one.name for one in chosen)
        if chosen:
            loss, gradient = efs_gradient(self.key, self.terms)(
                self.leaves, labelled_batch(chosen, self.shape, self.spec.dtype)
            )
            total = float(loss)
        if with_curvature:
            start = time.perf_counter()
            part, slope = self._curvature_gradient()
            total += part
            gradient = slope if gradient is None else [a + b for a, b in zip(gradient, slope, strict=True)]
            self.state.curvature_steps += 1
            self._curvature_seconds += time.perf_counter() - start
        if not math.isfinite(total):
            raise TrainingError(
                f"The loss is not finite in epoch {self.state.epoch + 1} ({names or 'curvature'}).",
                "Check those structures' labels and geometry, or lower lr.",
            )
        self.state.steps += 1
        self.leaves, self.optimizer, norm = self.update(
            self.leaves, self.optimizer, gradient, self.plateau.rate, self.state.steps
        )
        if not math.isfinite(float(norm)):
            raise TrainingError(
                f"A gradient is not finite in epoch {self.state.epoch + 1} ({names or 'curvature'}).",
                "Check those structures for coinciding atoms, or lower lr.",
            )
        return total

    def _curvature_gradient(self) -> tuple[float, list[Any]]:
        spec = self.spec
        gradient = curvature_gradient(
            self.key, spec.curvature_weight, spec.curvature_forces_weight, spec.curvature_stress_weight
        )
        loss, slope = gradient(self.leaves, column_batch(self._next_columns(), self.column_shape, spec.dtype))
        return float(loss), slope

    def _epoch(self) -> float:
        order = epoch_order(self.seed, self.state.epoch + 1, len(self.train))
        joint = self.spec.curvature_mode == "joint" and bool(self.columns)
        self._curvature_seconds = 0.0
        losses = []
        for count, start in enumerate(range(0, len(order), self.spec.batch_size)):
            chosen = [self.train[index] for index in order[start : start + self.spec.batch_size]]
            if self.columns and not joint and count % self.spec.cotrain_steps == 0:
                self._step([], with_curvature=True)
            losses.append(self._step(chosen, with_curvature=joint))
        return float(np.mean(losses))

    # judging

    @property
    def averaged(self) -> list[Any]:
        """The weights that are judged: their moving average where asked for."""
        found: list[Any] = self.optimizer["ema"] if self.spec.ema is not None else self.leaves
        return found

    def column_mae(self, leaves: Sequence[Any], columns: Sequence[ColumnGraph]) -> float:
        """Return the weighted mean |dΦ| over columns, eV/Å²."""
        function = column_error_function(self.key)
        total = 0.0
        for start in range(0, len(columns), max(1, self.per_step)):
            chosen = columns[start : start + max(1, self.per_step)]
            errors = np.asarray(function(leaves, column_batch(chosen, self.column_shape, self.spec.dtype)))
            total += float(sum(errors[place] * one.weight for place, one in enumerate(chosen)))
        return total / len(columns)

    def _judge(self, epoch: int, train_loss: float | None, seconds: float) -> EpochRecord:
        weights = self.averaged
        found = split_errors(self.key, weights, self.valid, self.terms, self.spec, self.shape)
        mae = self.column_mae(weights, self.valid_columns) if self.valid_columns else None
        monitor = found.loss + (self.spec.curvature_weight * mae if mae is not None else 0.0)
        if epoch == 0 or monitor < self.state.best_monitor:
            self.state.best_monitor, self.state.best_epoch = monitor, epoch
            self.state.best = list(weights)
        if not math.isfinite(monitor):
            raise TrainingError(
                f"The validation loss is not finite in epoch {epoch}.",
                "Training diverged: lower lr, or check the validation structures.",
            )
        return EpochRecord(
            epoch=epoch,
            lr=self.plateau.rate,
            train_loss=train_loss,
            valid_loss=found.loss,
            valid_mae_forces_mev_per_angstrom=found.mae_forces_mev_per_angstrom,
            valid_mae_energy_mev_per_atom=found.mae_energy_mev_per_atom,
            curvature_mae_ev_per_angstrom2=mae,
            monitor=monitor,
            steps=self.state.steps,
            curvature_steps=self.state.curvature_steps,
            seconds=seconds,
            curvature_seconds=self._curvature_seconds,
        )

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
        """Train until done, out of time or interrupted; see ``loop.Fitter.run``."""
        begin = time.perf_counter() if since is None else since
        with precision(self.spec.dtype, self.device):
            if not self._resume():
                self._record(self._judge(0, None, time.perf_counter() - begin))
            saved = time.perf_counter()
            while not self.state.finished:
                start = time.perf_counter()
                train_loss = self._epoch()
                record = self._judge(self.state.epoch + 1, train_loss, time.perf_counter() - start)
                self.plateau.step(record.monitor)
                self.state.epoch = record.epoch
                self.state.seconds += time.perf_counter() - start
                self.state.reason = self._stop_reason(record)
                self.state.finished = bool(self.state.reason)
                self._record(record)
                now = time.perf_counter()
                late = walltime is not None and now - begin + 1.2 * (now - start) > walltime
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
                    break
        return self.state

    def _record(self, record: EpochRecord) -> None:
        line = asdict(record)
        self.state.history.append(line)
        self.log.append(line)

    # checkpoints

    def _save(self) -> None:
        if self.workdir is None:
            return
        import jax
        import torch

        def plain(arrays: Sequence[Any]) -> list[Any]:
            return [torch.from_numpy(np.array(array)) for array in arrays]

        state = {name: getattr(self.state, name) for name in self.state.__dataclass_fields__}
        content = {
            "state": {**state, "best": plain(self.state.best)},
            "parameters": plain(self.leaves),
            "optimizer": plain(jax.tree_util.tree_leaves(self.optimizer)),
            "plateau": dict(vars(self.plateau)),
            "used": self.used,
        }
        save_checkpoint(self.workdir, self.identity, content)

    def _resume(self) -> bool:
        found = load_checkpoint(self.workdir, self.identity) if self.workdir is not None else None
        if found is None:
            return False
        import jax
        import jax.numpy as jnp

        def arrays(tensors: Sequence[Any]) -> list[Any]:
            return [jnp.asarray(tensor.numpy()) for tensor in tensors]

        self.state = FitState(**found["state"])
        self.state.best = arrays(self.state.best)
        self.leaves = arrays(found["parameters"])
        tree = jax.tree_util.tree_structure(self.optimizer)
        self.optimizer = jax.tree_util.tree_unflatten(tree, arrays(found["optimizer"]))
        vars(self.plateau).update(found["plateau"])
        self.used = found["used"]
        self.log.rewrite(self.state.history)
        return True
