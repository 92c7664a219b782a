"""Fixed configurations whose energies are saved with a model, to tell whether an installation still predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

if TYPE_CHECKING:
    import torch

    from phonosmith.potentials.backend import Backend


def probe_frames(atomic_numbers: Sequence[int], r_max: float) -> list[Atoms]:
    """Return two fixed configurations that touch every element: a jittered periodic lattice and a close pair."""
    count = max(len(atomic_numbers), 8)
    side = int(np.ceil(count ** (1 / 3)))
    spacing = 0.62 * r_max
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:count]
    jitter = np.random.default_rng(20260401).uniform(-0.1, 0.1, grid.shape)
    numbers = [atomic_numbers[i % len(atomic_numbers)] for i in range(count)]
    lattice = Atoms(numbers, positions=(grid + jitter) * spacing, cell=[side * spacing] * 3, pbc=True)
    pair = Atoms([atomic_numbers[0], atomic_numbers[-1]], positions=[[0, 0, 0], [0, 0.3, 1.1]])
    return [lattice, pair]


def probe_energies(backend: Backend, model: torch.nn.Module) -> list[list[float]]:
    """Return a model's energies of these configurations, eV, by head."""
    from phonosmith.potentials.torch_potential import TorchPotential

    frames = probe_frames(backend.atomic_numbers(model), backend.cutoff(model))
    by_head = (TorchPotential(backend, model, head=head) for head in backend.heads(model))
    return [[one.energy for one in potential.evaluate(frames, stress=False)] for potential in by_head]
