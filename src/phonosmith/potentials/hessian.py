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


def checked_columns(atoms: Atoms, columns: Sequence[int]) -> list[int]:
    """Return the column numbers after checking that the structure has them."""
    size = 3 * len(atoms)
    wanted = [int(column) for column in columns]
    wrong = [column for column in wanted if not 0 <= column < size]
    if wrong:
        raise InputError(
            f"Hessian column {wrong[0]} does not exist for {len(atoms)} atoms.", f"Columns are 0 to {size - 1}."
        )
    return wanted


def reverse_columns(
    forces: torch.Tensor, positions: torch.Tensor, columns: Sequence[int], *, create_graph: bool
) -> torch.Tensor:
    """Return Hessian columns, eV/Å², shape (len(columns), 3n), by differentiating forces once per column.

    Parameters
    ----------
    forces, positions
        Of one structure, with the graph of the forces.
    create_graph
        Keep the graph of the columns too, for a gradient by parameters; the graph of the forces is kept with it.
    """
    import torch

    rows = []
    for row, column in enumerate(columns):
        probe = torch.zeros_like(forces)
        probe.view(-1)[column] = -1.0
        (response,) = torch.autograd.grad(
            forces,
            positions,
            grad_outputs=probe,
            create_graph=create_graph,
            retain_graph=create_graph or row + 1 < len(columns),
        )
        rows.append(response.reshape(-1))
    return torch.stack(rows)


def difference_columns(potential: Potential, atoms: Atoms, columns: Sequence[int], step: float = 1e-3) -> Array:
    """Return Hessian columns, eV/Å², by central differences of forces: the fallback without second derivatives.

    Parameters
    ----------
    step
        Displacement, Å. The error grows as its square; 1e-3 Å gives about 1e-6 of the largest element in float64.
    """
    wanted = checked_columns(atoms, columns)
    frames = []
    for column in wanted:
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[column // 3, column % 3] += sign * step
            frames.append(moved)
    forces = [evaluation.forces.ravel() for evaluation in potential.evaluate(frames, stress=False)]
    rows = [(forces[2 * row + 1] - forces[2 * row]) / (2 * step) for row in range(len(wanted))]
    return np.array(rows).reshape(len(wanted), 3 * len(atoms))
