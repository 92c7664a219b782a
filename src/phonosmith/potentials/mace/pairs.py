"""Evaluate a model's radial networks once per pair of atoms instead of once per direction.

Both directions of a pair have the same length and the same radial features, so the networks that turn these into tensor
product weights (a quarter of a small model's time on a CPU) see every input twice. For the time of a block each network
is replaced by one that computes the first direction and copies the result to the second: the same numbers, half the
work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# networks whose only input is the radial features; the element-aware ones of the non-linear block are not among them
NETWORKS = ("conv_tp_weights", "density_fn")


def pair_index(edges: NDArray[np.int64], shifts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one edge of every pair, and for every edge the place of its pair in that list.

    ``edges`` are senders and receivers, (2, n_edges); ``shifts`` lattice translations, whole numbers, (n_edges, 3).
    """
    sender, receiver = edges
    translation = np.rint(shifts).astype(np.int64)
    # the direction is canonical when the first non-zero of (receiver - sender, translation) is positive
    columns = np.column_stack([receiver - sender, translation])
    leading = columns[np.arange(len(columns)), np.argmax(columns != 0, axis=1)]
    sign = np.where(leading < 0, -1, 1)
    low, high = np.where(sign > 0, edges, edges[::-1])
    oriented = translation * sign[:, None]
    reach, atoms = int(np.abs(oriented).max(initial=0)) + 1, int(edges.max(initial=0)) + 1
    key = np.ravel_multi_index((low, high, *(oriented + reach).T), (atoms, atoms, *[2 * reach + 1] * 3))
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    return first.astype(np.int64), place.astype(np.int64)


def directed_pairs(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``pair_index`` of a batch as tensors on its device."""
    import torch

    first, place = pair_index(batch["edge_index"].cpu().numpy(), batch["unit_shifts"].cpu().numpy())
    device = batch["edge_index"].device
    return torch.as_tensor(first, device=device), torch.as_tensor(place, device=device)


@contextmanager
def shared_pairs(model: Any, first: torch.Tensor, place: torch.Tensor) -> Iterator[None]:
    """Let the radial networks of a model see every pair once while the block runs."""
    swapped = []
    for block in model.interactions:
        for name in NETWORKS:
            network = block._modules.get(name)  # noqa: SLF001  # torch's own table of submodules
            if type(network).__name__ == "FullyConnectedNet":
                swapped.append((block, name, network))
                block._modules[name] = _once_per_pair(network, first, place)  # noqa: SLF001
    try:
        yield
    finally:
        for block, name, network in swapped:
            block._modules[name] = network  # noqa: SLF001


def _once_per_pair(network: torch.nn.Module, first: torch.Tensor, place: torch.Tensor) -> torch.nn.Module:
    import torch

    class OncePerPair(torch.nn.Module):
        """A radial network that computes one direction of every pair."""

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            weights: torch.Tensor = network(features.index_select(0, first)).index_select(0, place)
            return weights

    return OncePerPair()
