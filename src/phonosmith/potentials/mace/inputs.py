"""From a batch of graphs to what mace's forward pass takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch


def model_inputs(model: Any, batch: Batch) -> Batch:
    """Return what mace's forward pass takes, which alters its dictionary: positions are new, elements one-hot."""
    import torch

    data = {key: value for key, value in batch.items() if not key.startswith("pair_")}
    data["positions"] = batch["positions"].detach().clone()
    channels = torch.arange(len(model.atomic_numbers), device=batch["species"].device)
    return data | {"node_attrs": (batch["species"][:, None] == channels).to(data["positions"].dtype)}
