"""Comparing configurations: equal up to rounding, near-duplicates, the work done between two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.formula import Formula
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Array = NDArray[np.float64]


def reduced_formula(composition: Atoms | Formula) -> str:
    """Return a reduced formula with elements in Hill order, equal for equal compositions."""
    formula = composition.symbols.formula if isinstance(composition, Atoms) else composition
    return str(formula.reduce()[0].format("hill"))


def grouped(frames: Sequence[Atoms], key: Callable[[Atoms], object]) -> dict[str, list[int]]:
    """Return frame indices by the text of a value; frames for which it is None are left out."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, atoms in enumerate(frames):
        if (value := key(atoms)) is not None:
            groups[str(value)].append(index)
    return groups


def same_geometry(one: Atoms, other: Atoms, tolerance: float = 1e-4) -> bool:
    """Tell whether two configurations agree in species, cell and positions up to the rounding of files, Å."""
    if len(one) != len(other) or np.any(one.numbers != other.numbers):
        return False
    if np.abs(one.cell.array - other.cell.array).max() > tolerance:
        return False
    delta = one.get_scaled_positions(wrap=False) - other.get_scaled_positions(wrap=False)
    return bool(np.abs((delta - np.round(delta)) @ one.cell.array).max() < tolerance)


def near_duplicates(frames: Sequence[Atoms], tolerance: float = 1e-4) -> list[list[int]]:
    """Return groups of frames that are the same configuration up to lattice translations of single atoms.

    Only frames with equal species order can be equal; ``tolerance`` is the largest difference of a cell vector
    component or position, Å. Groups have two or more indices, ascending.
    """
    groups: list[list[int]] = []
    for members in grouped(frames, lambda atoms: atoms.numbers.tobytes()).values():
        signatures = np.array([_signature(frames[index]) for index in members])
        shortest = min(float(frames[index].cell.lengths().min()) for index in members)
        # a shift of one atom by the tolerance changes its phase by 2 pi tolerance / length at most, weights are below 1
        reach = 4 * np.pi * tolerance / max(shortest, 1e-3) * len(frames[members[0]]) + 20 * tolerance
        equal = [
            (one, other)
            for one, other in cKDTree(signatures).query_pairs(reach)
            if same_geometry(frames[members[one]], frames[members[other]], tolerance)
        ]
        if equal:
            graph = coo_array((np.ones(len(equal)), np.transpose(equal)), shape=(len(members), len(members)))
            joined = connected_components(graph, directed=False)[1]
            several = np.flatnonzero(np.bincount(joined) > 1)
            groups += [[members[k] for k in np.flatnonzero(joined == group)] for group in several]
    return sorted(groups)


def _signature(atoms: Atoms) -> Array:
    """Return numbers that are equal for equal configurations and continuous in positions and cell."""
    weights = np.sin(1.0 + np.arange(len(atoms)))[:, None]
    phases = np.exp(2j * np.pi * atoms.get_scaled_positions(wrap=False))
    summed = (weights * phases).sum(axis=0)
    return np.concatenate([summed.real, summed.imag, atoms.cell.array.ravel()])


def displacement_and_strain(one: Atoms, other: Atoms) -> tuple[Array, Array]:
    """Return the shortest non-affine displacement (Å) and the symmetric strain that lead from one frame to another.

    Both frames need the same species order and a cell of full rank.
    """
    delta = other.get_scaled_positions(wrap=False) - one.get_scaled_positions(wrap=False)
    delta -= np.round(delta)
    mean_cell = (one.cell.array + other.cell.array) / 2
    gradient = np.linalg.solve(mean_cell, other.cell.array - one.cell.array)
    return delta @ mean_cell, (gradient + gradient.T) / 2
