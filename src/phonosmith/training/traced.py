"""The gradient of a step as one compiled function: both derivatives traced through, then torch's Inductor.

Compiling takes minutes and one shape of batch, so this pays where many steps, or many trainings, share a shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch

from phonosmith.training.losses import efs_loss

if TYPE_CHECKING:
    from phonosmith.training.graphs import LabelledBatch
    from phonosmith.training.step import Step

Compiler = Callable[[torch.fx.GraphModule], Callable[..., Sequence[torch.Tensor]]]
Gradient = Callable[[], torch.Tensor]
"""Sets the gradients of the trainable parameters and returns the loss."""


def inductor(graph: torch.fx.GraphModule) -> Callable[..., Sequence[torch.Tensor]]:
    """Compile a traced function for the shapes it was traced with."""
    compiled: Callable[..., Sequence[torch.Tensor]] = torch.compile(graph, dynamic=False, fullgraph=True)
    return compiled


def traced_gradient(
    step: Step, parameters: Sequence[tuple[str, torch.nn.Parameter]], batch: LabelledBatch, compiler: Compiler
) -> Gradient:
    """Return what ``Step.structures`` does for a batch that stays where it is, as one compiled function.

    The (name, parameter) pairs are the trainable ones; all else of the model is taken as it is now.
    """
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.utils.stateless import _reparametrize_module

    names, values = [name for name, _ in parameters], [parameter for _, parameter in parameters]
    wants_stress = step.spec.stress_weight > 0

    labels = {one.name: tensor for one in fields(batch) if torch.is_tensor(tensor := getattr(batch, one.name))}

    def both(
        weights: list[torch.Tensor], inputs: dict[str, torch.Tensor], told: dict[str, torch.Tensor]
    ) -> tuple[Any, ...]:
        with _reparametrize_module(step.model, dict(zip(names, weights, strict=True))):
            predictions = step.backend.predict(step.model, inputs, stress=wants_stress, create_graph=True)
            loss = efs_loss(predictions, replace(batch, inputs=inputs, **told), step.spec)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return loss.detach(), *gradients

    leaves = [value.detach().clone().requires_grad_(True) for value in values]
    graph = make_fx(both)(leaves, dict(batch.inputs), labels)
    compiled = compiler(graph)

    def gradient() -> torch.Tensor:
        with torch.no_grad():
            loss, *gradients = compiled([value.detach() for value in values], dict(batch.inputs), labels)
        for value, one in zip(values, gradients, strict=True):
            value.grad = one
        return loss

    return gradient
