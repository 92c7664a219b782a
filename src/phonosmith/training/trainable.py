"""What may change, what ties it to the foundation, and what did change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from phonosmith.core.errors import ConfigurationError
from phonosmith.potentials.backend import Backend
from phonosmith.training.spec import TrainSpec


def frozen_blocks(backend: Backend, model: torch.nn.Module, spec: TrainSpec) -> tuple[str, ...]:
    """Return the leading blocks a strategy keeps as they are; ConfigurationError when nothing is left to train."""
    blocks = backend.blocks(model)
    if spec.freeze_stem:
        stem = backend.stem(model)
        if spec.freeze_stem > len(stem):
            raise ConfigurationError(
                f"Strategy f{spec.freeze_stem} freezes modules before the first interaction; a {backend.architecture} "
                f"model has {len(stem)}.",
                "Use freeze1, freeze2, …, which count the blocks of any architecture.",
            )
        return tuple(block for block in blocks if block in stem[: spec.freeze_stem])
    if spec.freeze_blocks >= len(blocks):
        raise ConfigurationError(
            f"Freezing {spec.freeze_blocks} blocks leaves nothing to train: this model has {len(blocks)} "
            f"({', '.join(blocks)}).",
            f"Use freeze_blocks <= {len(blocks) - 1}.",
        )
    return blocks[: len(blocks) - 1 if spec.trainable == "readouts" else spec.freeze_blocks]


def select_trainable(backend: Backend, model: torch.nn.Module, spec: TrainSpec) -> list[tuple[str, torch.nn.Parameter]]:
    """Mark what may change and return it, name by name; with a low-rank anchor, insert the adapters first.

    Parameters outside every block (e.g. a short-range repulsion) are never trained.
    """
    if spec.anchor == "low_rank":
        backend.add_low_rank(model, spec.rank, spec.alpha)
    else:
        first = len(frozen_blocks(backend, model, spec))
        for name, parameter in model.named_parameters():
            block = backend.block_of(model, name)
            parameter.requires_grad_(block is not None and block >= first and parameter.numel() > 0)
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def blend(values: Sequence[torch.Tensor], towards: Sequence[torch.Tensor], weight: float | torch.Tensor) -> None:
    """Move tensors towards others in place: ``values += weight * (towards - values)``.

    A weight that is a tensor (of no dimensions) is read where it is: nothing waits for the device.
    """
    with torch.no_grad():
        if isinstance(weight, float):
            torch._foreach_lerp_(values, towards, weight)
            return
        change = torch._foreach_sub(towards, values)  # noqa: SLF001  # torch documents these under this name
        torch._foreach_mul_(change, weight.to(values[0].dtype))
        torch._foreach_add_(values, change)


def attach_pull(optimizer: torch.optim.Optimizer, strength: float) -> torch.utils.hooks.RemovableHandle:
    """Pull parameters towards their values now before every step: ``p += min(1, lr*strength) * (p0 - p)``.

    Step for step this equals AdamW's decoupled decay of an additive update p - p0; after the Adam update it would not.
    ``strength`` has the units of AdamW's ``weight_decay``, 1/(learning rate).
    """
    references = [[value.detach().clone() for value in group["params"]] for group in optimizer.param_groups]

    def pull(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # the groups are others after a checkpoint was loaded
        for group, reference in zip(optimizer.param_groups, references, strict=True):
            weight = group["lr"] * strength
            blend(group["params"], reference, min(1.0, weight) if isinstance(weight, float) else weight.clamp(max=1.0))

    return optimizer.register_step_pre_hook(pull)


def changes(
    backend: Backend, before: torch.nn.Module, after: torch.nn.Module
) -> tuple[int, float, float, dict[str, int]]:
    """Compare two models of the same architecture, parameter by parameter.

    Returned are the number of changed parameters, the Euclidean norm of the change, that norm relative to the first
    model's, and the number of changed parameters by block (``other`` for those outside every block).
    """
    names = backend.blocks(after)
    by_block = Counter(dict.fromkeys(names, 0))
    square = scale = 0.0
    for (name, parameter), original in zip(after.named_parameters(), before.parameters(), strict=True):
        new, old = parameter.detach().double(), original.detach().double()
        index = backend.block_of(after, name)
        if (changed := int((new != old).sum())) or index is not None:
            by_block["other" if index is None else names[index]] += changed
        square += float((new - old).square().sum())
        scale += float(old.square().sum())
    return by_block.total(), square**0.5, (square / scale) ** 0.5 if scale else 0.0, dict(by_block)
