"""Columns of the Hessian d²E/dx² of a MACE model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.potentials.base import Array, Potential
from phonosmith.potentials.mace.batched import frozen
from phonosmith.potentials.mace.graphs import collate, make_graph
from phonosmith.potentials.mace.pairs import directed_pairs, shared_pairs

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.potentials.mace.potential import MacePotential


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


def autograd_columns(potential: MacePotential, atoms: Atoms, columns: Sequence[int]) -> Array:
    """Return Hessian columns, eV/Å², by reverse-over-reverse differentiation in the potential's precision.

    The graph of the forces is built once and differentiated once per column.
    """
    import torch

    from phonosmith.potentials.mace.potential import numpy64

    wanted = checked_columns(atoms, columns)
    graph = make_graph(atoms, potential.z_table, potential.r_max)
    batch = collate(
        [graph],
        len(potential.z_table),
        potential.heads.index(potential.head),
        getattr(torch, potential.dtype),
        potential.device,
    )
    found = np.zeros((len(wanted), 3 * len(atoms)))
    positions = batch["positions"]
    with frozen(potential.model):
        # training=True keeps the graph of the forces, which is what a second derivative needs
        with shared_pairs(potential.model, *directed_pairs(batch)):
            forces = potential.model(batch, training=True)["forces"].reshape(-1)
        for row, column in enumerate(wanted):
            (gradient,) = torch.autograd.grad(-forces[column], positions, retain_graph=row + 1 < len(wanted))
            found[row] = numpy64(gradient).ravel()
    return found


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
    forces = [found.forces.ravel() for found in potential.evaluate(frames, stress=False)]
    rows = [(forces[2 * row + 1] - forces[2 * row]) / (2 * step) for row in range(len(wanted))]
    return np.array(rows).reshape(len(wanted), 3 * len(atoms))
