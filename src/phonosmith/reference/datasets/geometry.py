"""Comparing configurations: equal up to rounding, near-duplicates, the work done between two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.formula import Formula
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]


def reduced_formula(composition: Atoms | Formula) -> str:
    """Return a reduced formula with elements in Hill order, equal for equal compositions."""
    formula = composition.symbols.formula if isinstance(composition, Atoms) else composition
    return str(formula.reduce()[0].format("hill"))


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

    Parameters
    ----------
    frames
        Configurations; only frames with equal species order can be equal.
    tolerance
        Largest difference of a cell vector component or position, Å.

    Returns
    -------
    list of list of int
        Groups of two or more indices, ascending.
    """
    buckets: dict[bytes, list[int]] = defaultdict(list)
    for index, atoms in enumerate(frames):
        buckets[atoms.numbers.tobytes()].append(index)
    groups = []
    for members in buckets.values():
        if len(members) > 1:
            groups += _groups_within(frames, members, tolerance)
    return sorted(groups)


def _groups_within(frames: Sequence[Atoms], members: Sequence[int], tolerance: float) -> list[list[int]]:
    signatures = np.array([_signature(frames[index]) for index in members])
    shortest = min(float(frames[index].cell.lengths().min()) for index in members)
    # a shift of one atom by the tolerance changes its phase by 2 pi tolerance / length at most, weights are below 1
    reach = 4 * np.pi * tolerance / max(shortest, 1e-3) * len(frames[members[0]]) + 20 * tolerance
    parent = {index: index for index in members}
    for one, other in sorted(cKDTree(signatures).query_pairs(reach)):
        first, second = members[one], members[other]
        if same_geometry(frames[first], frames[second], tolerance):
            root = min(_root(parent, first), _root(parent, second))
            parent[_root(parent, first)] = parent[_root(parent, second)] = root
    groups: dict[int, list[int]] = defaultdict(list)
    for index in members:
        groups[_root(parent, index)].append(index)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _root(parent: dict[int, int], index: int) -> int:
    while parent[index] != index:
        index = parent[index]
    return index


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
