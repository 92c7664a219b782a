"""mace's LoRA layers, which go into any model whose linear layers are those of e3nn or torch."""

from __future__ import annotations

from typing import Any


class LowRank:
    """Ability ``low_rank`` of a backend."""

    def add_low_rank(self, model: Any, rank: int, alpha: float) -> None:
        """Insert low-rank layers, the only ones that stay trainable.

        They go to equivariant and plain linear layers and to those of radial networks. What has no matrix to take a
        low-rank factor of (MACE's skip connections and symmetric contractions) stays as it was.
        """
        from mace.modules.lora import inject_lora

        inject_lora(model, rank=rank, alpha=alpha)

    def merge_low_rank(self, model: Any) -> Any:
        """Fold low-rank layers into the weights: a plain model with identical predictions, changed in place."""
        from mace.modules.lora import merge_lora_weights

        return merge_lora_weights(model, inplace=True)
