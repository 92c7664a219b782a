"""Which part of a Nequix model a strategy changes, and which strategies there are for it."""

from __future__ import annotations

import numpy as np

from phonosmith.core.errors import ConfigurationError
from phonosmith.potentials.nequix.backend import NequixWeights, Skeleton
from phonosmith.training.jax_optimizer import Moved
from phonosmith.training.spec import TrainSpec

ATOM_ENERGIES = ".atom_energies"
SUPPORTED = "transfer, freeze1, freeze2, ..., delta, pft, delta+pft, and replay=cotrain with any of them"


def require_supported(spec: TrainSpec) -> None:
    """Refuse what only MACE models can do.

    Raises
    ------
    ConfigurationError
        Naming the setting and what is possible.
    """
    refused = {
        "start=fresh (strategy scratch)": spec.start == "fresh",
        "anchor=low_rank (strategy lora)": spec.anchor == "low_rank",
        "replay=head (strategy multihead)": spec.replay == "head",
        "curvature_method=fd": spec.curvature_method == "fd" and spec.uses_curvature,
    }
    for setting, wanted in refused.items():
        if wanted:
            raise ConfigurationError(f"{setting} is not possible with a Nequix foundation.", f"Choose {SUPPORTED}.")


def blocks_of(skeleton: Skeleton) -> list[str]:
    """Return the model's blocks from input to output: its layers, then the readout."""
    found: list[str] = []
    for name in skeleton.names:
        block = block_of(name)
        if block is not None and block not in found:
            found.append(block)
    return found


def block_of(name: str) -> str | None:
    """Return the block an array belongs to; None for the atomic energies, which no gradient changes."""
    return None if name == ATOM_ENERGIES else name.removeprefix(".").split(".")[0]


def select_moved(skeleton: Skeleton, spec: TrainSpec) -> Moved:
    """Return which arrays a strategy changes and which of them decay.

    Raises
    ------
    ConfigurationError
        When freezing that many blocks leaves nothing to train.
    """
    blocks = blocks_of(skeleton)
    first = {"all": 0, "readouts": len(blocks) - 1, "freeze": spec.freeze_blocks}[spec.trainable]
    if first >= len(blocks):
        raise ConfigurationError(
            f"Freezing {first} blocks leaves nothing to train: this model has {len(blocks)} ({', '.join(blocks)}).",
            f"Use freeze_blocks <= {len(blocks) - 1}.",
        )
    free = set(blocks[first:])
    trained = tuple(block_of(name) in free for name in skeleton.names)
    decayed = tuple(_is_linear(name) and moves for name, moves in zip(skeleton.names, trained, strict=True))
    return Moved(trained, decayed)


def _is_linear(name: str) -> bool:
    """Tell whether an array is the matrix of a linear layer: nequix itself lets nothing else decay."""
    return name.endswith(".weights") or "._weights[" in name


def changes(
    skeleton: Skeleton, before: NequixWeights, after: NequixWeights
) -> tuple[int, float, float, dict[str, int]]:
    """Return changed parameters, norm of the change, that norm relative to the start's, and changes by block."""
    by_block = dict.fromkeys(blocks_of(skeleton), 0)
    count, square, scale = 0, 0.0, 0.0
    for name, old, new in zip(skeleton.names, before.leaves, after.leaves, strict=True):
        block = block_of(name)
        if block is None:
            continue
        first, second = np.asarray(old, dtype=float), np.asarray(new, dtype=float)
        changed = int((first != second).sum())
        by_block[block] += changed
        count += changed
        square += float(((second - first) ** 2).sum())
        scale += float((first**2).sum())
    return count, square**0.5, (square / scale) ** 0.5 if scale else 0.0, by_block
