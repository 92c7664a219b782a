"""How a crystal's operations act on the amplitudes of degenerate modes, and axes that follow from that action alone."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

LARGEST_GROUP = 1200
"""A group that grows beyond this was built from matrices that do not close: only its generators are then used."""
_ACTION_TOLERANCE = 0.02
_SAME = 1e-3


def amplitude_group(atoms: Atoms, primitive: Array, operations: Any, patterns: Array) -> Array:
    """Return the distinct orthogonal matrices by which operations of the crystal act on amplitudes, identity first.

    Every operation of the undisplaced crystal that maps the supercell and the subspace onto themselves is applied to
    the displacement patterns (orthonormal, mass-weighted, shape (dimension, n_atoms, 3)); lattice translations are
    among them (they shift the phase of a wave). ``operations`` has ``rotations`` and ``translations`` in fractions of
    the primitive cell, whose vectors are the rows of ``primitive`` (Å).
    """
    matrices = [np.eye(len(patterns))]
    axes = primitive.T
    rotations = [*(axes @ rotation @ np.linalg.inv(axes) for rotation in operations["rotations"]), *[np.eye(3)] * 3]
    # the three lattice translations come last
    shifts = [*(axes @ shift for shift in operations["translations"]), *primitive]
    for cartesian, shift in zip(rotations, shifts, strict=True):
        images = _images(atoms, cartesian, shift)
        if images is None:
            continue
        moved = np.empty_like(patterns)
        moved[:, images] = patterns @ cartesian.T
        left, strengths, right = np.linalg.svd(np.tensordot(patterns, moved, axes=([1, 2], [1, 2])))
        if np.abs(strengths - 1).max() < _ACTION_TOLERANCE:
            matrices.append(left @ right)
    return _closed(matrices)


def _wrapped(positions: Array) -> Array:
    """Return fractions inside the periodic box; rounding takes -1e-17 to 1, which is outside."""
    inside = np.mod(positions, 1.0)
    return np.where(inside < 1.0, inside, 0.0)


def _images(atoms: Atoms, rotation: Array, shift: Array) -> Any:
    """Return where each atom goes, None where an operation does not map the supercell onto itself."""
    from scipy.spatial import cKDTree

    cell = atoms.cell.array
    relation = cell @ rotation.T @ np.linalg.inv(cell)
    if np.abs(relation - np.rint(relation)).max() > 1e-3:
        return None
    home = _wrapped(atoms.get_scaled_positions(wrap=False))
    moved = _wrapped((atoms.positions @ rotation.T + shift) @ np.linalg.inv(cell))
    distances, places = cKDTree(home, boxsize=1.0).query(moved)
    if distances.max() > 1e-2 or len(set(places.tolist())) != len(atoms):
        return None
    return places


def _key(matrix: Array) -> bytes:
    # the offset keeps entries such as 0 and 1/2 away from rounding boundaries
    return np.floor(matrix * 50 + 0.3137).astype(np.int16).tobytes()


def _closed(matrices: list[Array]) -> Array:
    """Return the group that matrices generate, or only the different ones of them where products do not close."""
    members: dict[bytes, Array] = {}
    for matrix in matrices:
        members.setdefault(_key(matrix), matrix)
    generators = front = list(members.values())
    while front:
        fresh = []
        for matrix, generator in itertools.product(front, generators):
            product = matrix @ generator
            if (key := _key(product)) not in members:
                members[key] = product
                fresh.append(product)
            if len(members) > LARGEST_GROUP:
                return np.array(generators)
        front = fresh
    return np.array(list(members.values()))


def canonical_axes(group: Array, patterns: Array) -> Array:
    """Return orthonormal axes (rows) of amplitude space that depend on the subspace only, not on its given basis.

    Directions that many operations leave where they are come first: minima tend to lie along them, and a grid along
    them is mapped onto itself by as many operations as possible. Where operations single out no direction, an axis is
    the projection of one atom's displacement onto what is left. ``patterns`` are those of `amplitude_group`.
    """
    size = len(patterns)
    flat = patterns.reshape(size, -1)
    candidates = sorted(_special_directions(group), key=lambda one: _rank(one, group, flat), reverse=True)
    axes: list[Array] = []
    while len(axes) < size:
        done = np.array(axes).reshape(len(axes), size)
        special = next((one for one in candidates if np.abs(done @ one).max(initial=0) < _SAME), None)
        axes.append(_remaining_direction(done, flat) if special is None else special)
    return _signed(np.array(axes), flat)


def _special_directions(group: Array) -> list[Array]:
    """Return unit vectors along one-dimensional intersections of spaces that operations leave where they are."""
    size = group.shape[1]
    spaces: dict[bytes, Array] = {}
    for matrix in group:
        basis = _null_space(matrix - np.eye(size))
        if 0 < len(basis) < size:
            spaces.setdefault(_key(basis.T @ basis), basis)
    front = list(spaces.values())
    while front and len(spaces) < 400:
        fresh = []
        for one, other in itertools.product(front, list(spaces.values())):
            basis = _null_space(np.vstack([np.eye(size) - one.T @ one, np.eye(size) - other.T @ other]))
            key = _key(basis.T @ basis)
            if len(basis) and key not in spaces:
                spaces[key] = basis
                fresh.append(basis)
        front = fresh
    return [sign * basis[0] for basis in spaces.values() if len(basis) == 1 for sign in (1.0, -1.0)]


def _null_space(matrix: Array) -> Array:
    """Return orthonormal rows; the matrix has at least as many rows as columns."""
    _, strengths, rows = np.linalg.svd(matrix)
    return np.asarray(rows[strengths < _SAME])


def _rank(direction: Array, group: Array, flat: Array) -> tuple[int, int, tuple[float, ...]]:
    """Return what orders directions: operations that keep it, how few atoms it moves, and its pattern itself."""
    kept = int((np.linalg.norm(group @ direction - direction, axis=1) < 0.01).sum())
    pattern = direction @ flat
    uneven = float((pattern**4).sum() * len(pattern))
    return kept, round(100 * uneven), tuple(np.round(pattern, 3).tolist())


def _remaining_direction(done: Array, flat: Array) -> Array:
    """Return the projection of one coordinate of one atom onto what is left after the axes done."""
    columns = (np.eye(len(flat)) - done.T @ done) @ flat
    lengths = np.linalg.norm(columns, axis=0)
    place = int(np.argmax(lengths >= lengths.max() - 1e-6))
    return np.asarray(columns[:, place] / lengths[place])


def _signed(axes: Array, flat: Array) -> Array:
    """Return axes whose patterns have a positive first large entry."""
    patterns = axes @ flat
    first = np.argmax(np.abs(patterns) > 0.5 * np.abs(patterns).max(axis=1, keepdims=True), axis=1)
    return np.asarray(axes * np.sign(np.take_along_axis(patterns, first[:, None], axis=1)))
