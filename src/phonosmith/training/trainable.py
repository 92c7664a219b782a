"""What may change, and what ties it to the foundation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from phonosmith.core.errors import ConfigurationError
from phonosmith.training.models import block_names, parameter_block
from phonosmith.training.spec import TrainSpec


def first_trainable_block(model: torch.nn.Module, spec: TrainSpec) -> int:
    """Return the index of the first block that is trained.

    Raises
    ------
    ConfigurationError
        When freezing that many blocks leaves nothing to train.
    """
    blocks = block_names(model)
    if spec.trainable == "all":
        return 0
    if spec.trainable == "readouts":
        return len(blocks) - 1
    if spec.freeze_blocks >= len(blocks):
        raise ConfigurationError(
            f"Freezing {spec.freeze_blocks} blocks leaves nothing to train: this model has {len(blocks)} "
            f"({', '.join(blocks)}).",
            f"Use freeze_blocks <= {len(blocks) - 1}.",
        )
    return spec.freeze_blocks


def select_trainable(model: torch.nn.Module, spec: TrainSpec) -> list[tuple[str, torch.nn.Parameter]]:
    """Mark what may change and return it, name by name; with a low-rank anchor, insert the adapters first.

    Parameters outside every block (fixed radial basis, short-range repulsion) are never trained.
    """
    if spec.anchor == "low_rank":
        _insert_adapters(model, spec)
        return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    first = first_trainable_block(model, spec)
    chosen = []
    for name, parameter in model.named_parameters():
        block = parameter_block(model, name)
        parameter.requires_grad_(block is not None and block >= first and parameter.numel() > 0)
        if parameter.requires_grad:
            chosen.append((name, parameter))
    return chosen


def adapted_layers(model: torch.nn.Module) -> list[str]:
    """Return the layers that carry a low-rank update.

    These are mace's own choice: equivariant linear layers and the layers of the radial networks. The element-dependent
    skip connections and the weights of the symmetric contractions have no matrix form to take a low-rank factor of;
    they stay as they were.
    """
    return sorted({name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name})


def _insert_adapters(model: torch.nn.Module, spec: TrainSpec) -> None:
    try:
        from mace.modules.lora import inject_lora
    except ImportError as error:
        raise ConfigurationError(
            "Low-rank updates need mace-torch >= 0.3.15.", "Upgrade mace-torch or choose strategy delta."
        ) from error
    inject_lora(model, rank=spec.rank, alpha=spec.alpha)


def merge_adapters(model: torch.nn.Module) -> torch.nn.Module:
    """Fold low-rank updates into the weights: a plain model with identical predictions, changed in place."""
    from mace.modules.lora import merge_lora_weights

    return merge_lora_weights(model, inplace=True)


def attach_pull(
    optimizer: torch.optim.Optimizer, reference: Sequence[torch.Tensor], strength: float
) -> torch.utils.hooks.RemovableHandle:
    """Pull parameters towards reference values before every step: ``p += min(1, lr*strength) * (p0 - p)``.

    Step for step this equals AdamW's decoupled decay of an additive update p - p0; after the Adam update it would not.

    Parameters
    ----------
    optimizer
        With one parameter group, whose current learning rate is used.
    reference
        Values p0, one per parameter of the group.
    strength
        Decay of the update, 1/(learning rate) units as AdamW's ``weight_decay``.
    """
    group = optimizer.param_groups[0]

    def pull(*_: Any) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(group["params"], list(reference), min(1.0, group["lr"] * strength))

    return optimizer.register_step_pre_hook(pull)
