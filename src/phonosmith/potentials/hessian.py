"""Columns of the Hessian d²E/dx²: by a second reverse pass, or by central differences of forces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    import torch
    from ase import Atoms

    from phonosmith.potentials.base import Array, Potential

Stencil = tuple[tuple[float, float], ...]
"""Multiples h of the step and weights of f(h) - f(-h) in a central difference."""
SECOND_ORDER: Stencil = ((1.0, 0.5),)
FOURTH_ORDER: Stencil = ((1.0, 8.0 / 12.0), (2.0, -1.0 / 12.0))


def checked_columns(atoms: Atoms, columns: Sequence[int]) -> list[int]:
    """Return the column numbers after checking that the structure has them."""
    size = 3 * len(atoms)
    wanted = [int(column) for column in columns]
    if wrong := [column for column in wanted if not 0 <= column < size]:
        raise InputError(
            f"Hessian column {wrong[0]} does not exist for {len(atoms)} atoms.", f"Columns are 0 to {size - 1}."
        )
    return wanted


def reverse_columns(
    forces: torch.Tensor, positions: torch.Tensor, columns: Sequence[int] | torch.Tensor, *, create_graph: bool
) -> torch.Tensor:
    """Return Hessian columns, eV/Å², shape (len(columns), 3n), by differentiating forces once per column.

    ``forces`` and ``positions`` are of one structure, with the graph of the forces; of several in one batch a row of
    columns, one of each, comes at once. ``create_graph`` keeps the graph of
    the columns too, for a gradient by parameters; the graph of the forces is kept with it. Column numbers that are a
    tensor on the device stay there.
    """
    import torch

    rows, places = [], torch.as_tensor(columns, device=forces.device)
    for row in range(len(places)):
        probe = torch.zeros_like(forces)
        probe.view(-1).index_fill_(0, places[row].reshape(-1), -1.0)
        keep = create_graph or row + 1 < len(places)
        (response,) = torch.autograd.grad(forces, positions, probe, create_graph=create_graph, retain_graph=keep)
        rows.append(response.reshape(-1))
    return torch.stack(rows)


def difference_columns(
    potential: Potential, atoms: Atoms, columns: Sequence[int], step: float = 1e-3, stencil: Stencil = SECOND_ORDER
) -> Array:
    """Return Hessian columns, eV/Å², by central differences of forces: the fallback without second derivatives.

    To second order, a step of 1e-3 Å gives about 1e-6 of the largest element in float64.
    """
    wanted = checked_columns(atoms, columns)
    moves = [(sign * multiple * step, -sign * weight / step) for multiple, weight in stencil for sign in (1.0, -1.0)]
    frames = []
    for column in wanted:
        for distance, _ in moves:
            moved = atoms.copy()
            moved.positions[column // 3, column % 3] += distance
            frames.append(moved)
    forces = np.array([one.forces.ravel() for one in potential.evaluate(frames, stress=False)])
    weights = np.array([weight for _, weight in moves])
    rows = weights[:, None] * forces.reshape(len(wanted), len(moves), 3 * len(atoms))
    return np.asarray(rows.sum(axis=1))
