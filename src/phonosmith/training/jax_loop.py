"""Fitting Nequix models in JAX: steps, weights and checkpoints; `epochs` runs them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from phonosmith.core.errors import TrainingError
from phonosmith.potentials.nequix.backend import precision
from phonosmith.training.epochs import EpochLoop
from phonosmith.training.jax_data import ColumnGraph, LabelledGraph, column_batch, common_shape, labelled_batch
from phonosmith.training.jax_losses import column_error_function, curvature_gradient, efs_gradient
from phonosmith.training.jax_metrics import split_errors
from phonosmith.training.jax_optimizer import Moved, make_update
from phonosmith.training.losses import LossTerms
from phonosmith.training.metrics import Errors
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


class JaxFitter(EpochLoop[LabelledGraph]):
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
        As for ``EpochLoop``.
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
        super().__init__(train, spec, seed=seed, identity=identity, workdir=workdir)
        self.key, self.device = key, device
        self.valid = list(valid)
        self.columns, self.valid_columns = list(columns), list(valid_columns) or list(columns)
        self.terms = LossTerms.of(spec)
        self.shape = common_shape([one.graph for one in [*self.train, *self.valid]], spec.batch_size)
        per_step = min(spec.curvature_columns, len(self.columns))
        self.column_shape = common_shape([one.graph for one in [*self.columns, *self.valid_columns]], max(1, per_step))
        self.per_step = per_step
        self.used = 0
        self.plateau = Plateau(spec)
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

    # weights and their judgement

    @property
    def rate(self) -> float:
        """Learning rate now."""
        return self.plateau.rate

    @property
    def learns_curvature(self) -> bool:
        """Whether there are columns to learn."""
        return bool(self.columns)

    def _judged(self) -> list[Any]:
        # JAX arrays do not change: a copy of the list is one of the weights
        return list(self.optimizer["ema"] if self.spec.ema is not None else self.leaves)

    def _measure(self) -> tuple[Errors, float | None]:
        weights = self._judged()
        found = split_errors(self.key, weights, self.valid, self.terms, self.spec, self.shape)
        return found, self.column_mae(weights, self.valid_columns) if self.valid_columns else None

    def column_mae(self, leaves: Sequence[Any], columns: Sequence[ColumnGraph]) -> float:
        """Return the weighted mean |dΦ| over columns, eV/Å²."""
        function = column_error_function(self.key)
        total = 0.0
        for start in range(0, len(columns), max(1, self.per_step)):
            chosen = columns[start : start + max(1, self.per_step)]
            errors = np.asarray(function(leaves, column_batch(chosen, self.column_shape, self.spec.dtype)))
            total += float(sum(errors[place] * one.weight for place, one in enumerate(chosen)))
        return total / len(columns)

    def _lower_rate(self, monitor: float) -> None:
        self.plateau.step(monitor)

    def _context(self) -> AbstractContextManager[Any]:
        return precision(self.spec.dtype, self.device)

    # checkpoints

    def _content(self) -> dict[str, Any]:
        import jax
        import torch

        def plain(arrays: Sequence[Any]) -> list[Any]:
            return [torch.from_numpy(np.array(array)) for array in arrays]

        state = {name: getattr(self.state, name) for name in self.state.__dataclass_fields__}
        return {
            "state": {**state, "best": plain(self.state.best)},
            "parameters": plain(self.leaves),
            "optimizer": plain(jax.tree_util.tree_leaves(self.optimizer)),
            "plateau": dict(vars(self.plateau)),
            "used": self.used,
        }

    def _restore(self, content: dict[str, Any]) -> None:
        import jax
        import jax.numpy as jnp

        def arrays(tensors: Sequence[Any]) -> list[Any]:
            return [jnp.asarray(tensor.numpy()) for tensor in tensors]

        self.state.best = arrays(self.state.best)
        self.leaves = arrays(content["parameters"])
        tree = jax.tree_util.tree_structure(self.optimizer)
        self.optimizer = jax.tree_util.tree_unflatten(tree, arrays(content["optimizer"]))
        vars(self.plateau).update(content["plateau"])
        self.used = content["used"]
