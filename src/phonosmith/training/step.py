"""One optimizer step as operations on tensors alone: nothing in it waits for the device.

Gradients, clipping, pull, AdamW and the average of weights; losses and whether they are finite are added up in tensors
that an epoch reads once. The plain loop runs these parts one after the other and looks in between;
:mod:`phonosmith.training.capture` records all of them as one graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from phonosmith.potentials.backend import Backend
from phonosmith.training.curvature import Choice, CurvatureTerm
from phonosmith.training.graphs import LabelledBatch
from phonosmith.training.losses import efs_loss
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import attach_pull, blend

_HOW = ("fused", "foreach", "capturable")
"""Settings of the optimizer that say how it computes, not what: a checkpoint does not carry them."""


class Step:
    """Steps of one model's trainable parameters.

    Parameters
    ----------
    parameters
        (name, parameter) pairs that may change; a pull is to their values now.
    recordable
        Keep the learning rate and the count of steps where the parameters are, so that a recording of a step reads
        them anew each time it is replayed.

    Attributes
    ----------
    named
        The pairs.
    compiled
        What takes the place of ``structures`` for batches that stay where they are, by their identity.
    ema
        Average of the weights; empty where none is kept.
    count
        Steps taken, as a tensor.
    sums
        Sum of the losses of labelled structures (with the curvature part where it is joint; of columns where there is
        nothing else), and the number of steps whose loss or gradient was not finite.
    """

    def __init__(
        self,
        backend: Backend,
        model: torch.nn.Module,
        parameters: Sequence[tuple[str, torch.nn.Parameter]],
        spec: TrainSpec,
        curvature: CurvatureTerm | None = None,
        *,
        recordable: bool = False,
    ) -> None:
        self.backend, self.model, self.spec, self.curvature = backend, model, spec, curvature
        self.parameters = [parameter for _, parameter in parameters]
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device
        groups = [
            {"params": some, "weight_decay": decay}
            for decays, decay in ((True, spec.weight_decay), (False, 0.0))
            if (some := [p for name, p in parameters if backend.decays(model, name, spec.decay_rule) == decays])
        ]
        amsgrad = spec.optimizer == "mace"
        rate = spec.rate(sum(one.numel() for one in self.parameters), backend.rate_factor)
        self.rates: list[torch.Tensor] = []
        if recordable:
            on_gpu = self.device.type == "cuda"
            # CUDA's fused AdamW reads a rate in float32; each group has its own, for schedulers change them in place
            dtype = torch.float32 if on_gpu else torch.float64
            self.rates = [torch.tensor(rate, dtype=dtype, device=self.device) for _ in groups]
            given = [group | {"lr": rate} for group, rate in zip(groups, self.rates, strict=True)]
            self.optimizer = torch.optim.AdamW(given, fused=True, capturable=on_gpu, amsgrad=amsgrad)
            # torch warns of steps that are not recorded; those before a recording are not, by design
            self.optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]  # noqa: SLF001
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=rate, amsgrad=amsgrad)
        if spec.anchor == "pull":
            attach_pull(self.optimizer, spec.pull)
        self.named = list(parameters)
        self.compiled: dict[int, Callable[[], torch.Tensor]] = {}
        self.ema: list[torch.Tensor] = []
        self.count = torch.zeros((), dtype=torch.float64, device=self.device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def __call__(self, batch: LabelledBatch | None, choice: Choice | None) -> None:
        """Take a step on labelled structures, Hessian columns, or both."""
        loss, part = self.gradient(batch, choice)
        losses = [one.double() for one in (loss, part) if one is not None]
        norm = self.clip()
        bad = ~torch.isfinite(torch.stack(losses if norm is None else [*losses, norm.double()])).all()
        told = loss is not None or self.spec.curvature_mode == "alone"
        counted = torch.stack(losses).sum() if told else torch.zeros_like(losses[0])
        self.sums.add_(torch.stack([counted, bad.double()]))
        self.update()

    def gradient(
        self, batch: LabelledBatch | None, choice: Choice | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Set the gradients; return the loss of the structures and of the columns, where they take part."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = None if batch is None else self.structures(batch)
        return loss, None if choice is None else self.columns(choice)

    def structures(self, batch: LabelledBatch) -> torch.Tensor:
        """Add the gradient of labelled structures; return their loss."""
        if (gradient := self.compiled.get(id(batch))) is not None:
            return gradient()
        wants_stress = self.spec.stress_weight > 0
        predictions = self.backend.predict(self.model, batch.inputs, stress=wants_stress, create_graph=True)
        loss = efs_loss(predictions, batch, self.spec)
        loss.backward(inputs=self.parameters)
        return loss.detach()

    def columns(self, choice: Choice) -> torch.Tensor:
        """Add the gradient of Hessian columns; return their loss."""
        assert self.curvature is not None  # there is nothing to choose from without it
        return self.curvature.accumulate(self.model, self.parameters, choice)

    def clip(self) -> torch.Tensor | None:
        """Scale the gradient down to the largest norm allowed; return what it was, None where all are allowed."""
        if self.spec.clip_norm is None:
            return None
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.spec.clip_norm)

    def update(self) -> None:
        """Move the weights, and their average after them."""
        self.optimizer.step()
        self.count += 1
        if self.ema and self.spec.ema is not None:
            # warm-up: the average must not remember the start for longer than training has lasted
            decay = ((1 + self.count) / (10 + self.count)).clamp(max=self.spec.ema)
            blend(self.ema, self.parameters, 1 - decay if self.rates else 1 - float(decay))

    # what a recording and a checkpoint have to put back

    def changing(self) -> list[torch.Tensor]:
        """Return every tensor that a step changes."""
        states = (self.optimizer.state.get(parameter, {}) for parameter in self.parameters)
        kept = [value for state in states for value in state.values() if torch.is_tensor(value)]
        return [*self.parameters, *self.ema, *kept, self.count, self.sums]

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state as the plain optimizer would have it."""
        content = self.optimizer.state_dict()
        plain = dict.fromkeys(_HOW) | {"capturable": False}
        content["param_groups"] = [group | plain | {"lr": float(group["lr"])} for group in content["param_groups"]]
        return content

    def load_optimizer(self, content: dict[str, Any]) -> None:
        """Take an optimizer's state, however it was computed."""
        content = copy.deepcopy(content)
        for group, own in zip(content["param_groups"], self.optimizer.param_groups, strict=True):
            group.update({name: own[name] for name in _HOW})
        self.optimizer.load_state_dict(content)
        self.keep_rates()

    def keep_rates(self) -> None:
        """Put the learning rates, which a checkpoint or a scheduler has set, where a recording reads them."""
        if not self.rates:
            return
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if group["lr"] is not rate:
                group["lr"] = rate.fill_(float(group["lr"]))
