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
    one_hot = torch.nn.functional.one_hot(batch["species"], len(model.atomic_numbers))
    return data | {"node_attrs": one_hot.to(data["positions"].dtype)}
