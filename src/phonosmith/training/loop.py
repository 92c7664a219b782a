"""Fitting MACE models in torch: steps, weights and checkpoints; `epochs` runs them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from phonosmith.core.errors import TrainingError
from phonosmith.training.curvature import CurvatureTerm
from phonosmith.training.epochs import EpochLoop
from phonosmith.training.graphs import Graph, collate, in_batches
from phonosmith.training.losses import LossTerms, efs_loss
from phonosmith.training.metrics import Errors, errors
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import attach_pull


class Fitter(EpochLoop[Graph]):
    """Fits the trainable parameters of one model in place; the best weights are in it when training is done.

    Parameters
    ----------
    model
        Torch module, already in its training precision and on its device.
    parameters
        (name, parameter) pairs that may change.
    train, valid
        Graphs of both splits (train includes replay).
    spec, seed, identity, workdir
        As for ``EpochLoop``.
    curvature
        Curvature term, where the strategy has one.
    pull_reference
        Foundation values of the parameters; default: their values now.
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
        super().__init__(train, spec, seed=seed, identity=identity, workdir=workdir)
        self.model = model
        self.parameters = [parameter for _, parameter in parameters]
        self.valid = in_batches(valid, max(1, 2 * spec.batch_size))
        self.curvature = curvature
        self.terms = LossTerms.of(spec)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=spec.lr, weight_decay=spec.weight_decay)
        if spec.anchor == "pull":
            reference = pull_reference or [parameter.detach().clone() for parameter in self.parameters]
            attach_pull(self.optimizer, reference, spec.pull)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=spec.scheduler_factor, patience=spec.scheduler_patience, min_lr=spec.min_lr
        )

    # one optimizer step

    def _step(self, chosen: Sequence[Graph], *, with_curvature: bool) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        names = [graph.name for graph in chosen] or ["perfect supercell"]
        if chosen:
            batch = collate(chosen)
            output = self.model(batch, training=True, compute_stress=self.terms.stress > 0)
            loss = efs_loss(output, batch, self.terms)
            total = float(loss.detach())
            if not math.isfinite(total):
                raise TrainingError(
                    f"The loss is not finite in epoch {self.state.epoch + 1}: {self._culprits(chosen)}.",
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

    def _culprits(self, chosen: Sequence[Graph]) -> str:
        """Name the structures whose own loss is not finite."""
        guilty = [
            graph for graph in chosen if not math.isfinite(errors(self.model, [collate([graph])], self.terms).loss)
        ]
        return ", ".join(graph.name for graph in guilty or chosen)

    # weights and their judgement

    @property
    def rate(self) -> float:
        """Learning rate now."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def learns_curvature(self) -> bool:
        """Whether there is a curvature term."""
        return self.curvature is not None

    def _measure(self) -> tuple[Errors, float | None]:
        live = self._copies(self.parameters) if self.spec.ema is not None else None
        if live is not None:
            self._assign(self.state.ema)
        found = errors(self.model, self.valid, self.terms)
        column_mae = self.curvature.mae(self.model) if self.curvature is not None else None
        if live is not None:
            self._assign(live)
        return found, column_mae

    def _judged(self) -> list[torch.Tensor]:
        return self._copies(self.state.ema if self.spec.ema is not None else self.parameters)

    def _copies(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.detach().clone() for tensor in tensors]

    def _assign(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _lower_rate(self, monitor: float) -> None:
        self.scheduler.step(monitor)

    def _begin(self) -> None:
        self.state.ema = self._copies(self.parameters) if self.spec.ema is not None else []

    def _finish(self) -> None:
        self._assign(self.state.best)

    # checkpoints

    def _content(self) -> dict[str, Any]:
        return {
            "state": {name: getattr(self.state, name) for name in self.state.__dataclass_fields__},
            "parameters": self._copies(self.parameters),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "curvature_used": self.curvature.used if self.curvature else 0,
            "curvature_method": self.curvature.method if self.curvature else "",
        }

    def _restore(self, content: dict[str, Any]) -> None:
        self._assign(content["parameters"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        if self.curvature is not None:
            self.curvature.used = content["curvature_used"]
            self.curvature.method = content["curvature_method"]
