"""Choose near-cubic supercells by one documented rule.

The rule
--------
Every supercell of the crystal is a triple of vectors of its lattice. Among all triples with angles within
``angle_tolerance`` of 90°:

1. the edges shall lie in the length window, and the cell shall hold at most ``max_atoms`` atoms;
2. the smallest such cell is the yardstick;
3. a cell that keeps every rotation of the crystal is taken instead when it needs at most ``symmetry_bonus`` times as
   many atoms: phonons then need the fewest displacements, and cubic crystals get cubes;
4. a right-angled cell (all angles within 0.5° of 90°) is taken instead of a tilted one of the same kind when it needs
   at most ``right_angle_bonus`` times as many atoms;
5. otherwise the smallest cell wins, ties go to the most cubic one (edge ratio, then angles).

When no triple fits, those that break the window least (sum over the edges of the distance to the window, in Å) compete
by the same rule, and the choice says so in ``warnings``. The search covers all lattice vectors of the needed length,
so, unlike rounding of a cube laid along the Cartesian axes, it does not depend on how the crystal is oriented.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.structures.standard import SYMPREC, spglib_cell

if TYPE_CHECKING:
    from pymatgen.core import Structure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RIGHT_ANGLE = 0.5
"""Deviation from 90° in degrees below which a cell counts as right-angled."""
WINDOWS = {"small": (5.0, 10.0), "large": (10.0, 15.0)}
"""Edge-length windows of the fine-tuning supercells, Å."""
PHONON_MIN_LENGTH = 20.0
"""Shortest edge of the supercell of finite-displacement phonons, Å."""


@dataclass(frozen=True)
class SupercellChoice:
    """A supercell and why it was chosen.

    Attributes
    ----------
    matrix
        Integer rows: supercell vectors = matrix @ cell vectors (pymatgen's and ASE's convention; phonopy's is the
        transpose).
    n_atoms
        Atoms in the supercell.
    lengths, angles
        Achieved edges in Å and angles in degrees.
    warnings
        What could not be had.
    """

    matrix: tuple[tuple[int, int, int], ...]
    n_atoms: int
    lengths: tuple[float, float, float]
    angles: tuple[float, float, float]
    warnings: tuple[str, ...] = field(default=())

    @property
    def phonopy_matrix(self) -> list[list[int]]:
        """The matrix as phonopy and atomate2 want it."""
        return [list(row) for row in zip(*self.matrix, strict=True)]

    def build(self, structure: Structure) -> Structure:
        """Return the supercell of the structure the choice was made for."""
        return structure.make_supercell(np.array(self.matrix), in_place=False)


def lengths_and_angles(vectors: Floats) -> tuple[Floats, Floats]:
    """Return edges in Å and angles (alpha, beta, gamma) in degrees of row vectors."""
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = [vectors[i] @ vectors[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def _lattice_vectors(basis: Floats, longest: float) -> Ints:
    """Return integer coefficients of all lattice vectors up to a length, one of each pair ±v, shortest first."""
    reach = np.floor(longest * np.linalg.norm(np.linalg.inv(basis), axis=0) + 1e-9).astype(int)
    grid = np.array(list(product(*(range(-n, n + 1) for n in reach))), dtype=np.int64)
    lengths = np.linalg.norm(grid @ basis, axis=1)
    keep = (lengths <= longest + 1e-9) & (lengths > 1e-9)
    grid, lengths = grid[keep], lengths[keep]
    first = np.array([row[np.flatnonzero(row)[0]] for row in grid]) > 0
    grid, lengths = grid[first], lengths[first]
    # rounding makes the order of equally long vectors the same on every machine
    order = np.lexsort((*grid.T[::-1], np.round(lengths, 6)))
    return grid[order]


def _triples(vectors: Floats, tolerance: float) -> Ints:
    """Return index triples of vectors that are pairwise within ``tolerance`` degrees of perpendicular."""
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    near = np.abs(unit @ unit.T) <= np.sin(np.radians(tolerance)) + 1e-9
    triples = []
    for i in range(len(vectors) - 2):
        second = np.flatnonzero(near[i, i + 1 :]) + i + 1
        if len(second) < 2:
            continue
        j, k = np.nonzero(np.triu(near[np.ix_(second, second)], 1))
        if len(j):
            triples.append(np.column_stack([np.full(len(j), i), second[j], second[k]]))
    return np.concatenate(triples) if triples else np.empty((0, 3), dtype=np.int64)


def _reduced(structure: Structure) -> tuple[Floats, Ints]:
    """Return a reduced basis (Å) and its integer coefficients in the structure's own basis."""
    own = np.array(structure.lattice.matrix, dtype=float)
    reduced = np.array(structure.lattice.get_lll_reduced_lattice().matrix, dtype=float)
    coefficients = np.rint(reduced @ np.linalg.inv(own)).astype(np.int64)
    return coefficients @ own, coefficients


def _orient(coefficients: Ints, basis: Floats) -> Ints:
    """Order and sign three vectors so that they are right-handed and follow the cell's own axes."""
    axes = basis / np.linalg.norm(basis, axis=1)[:, None]
    vectors = coefficients @ basis
    cosines = (vectors / np.linalg.norm(vectors, axis=1)[:, None]) @ axes.T
    best: tuple[tuple[float, ...], Ints] | None = None
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            candidate = coefficients[list(order)] * np.array(signs)[:, None]
            if round(float(np.linalg.det(candidate))) <= 0:
                continue
            fit = sum(signs[row] * cosines[order[row], row] for row in range(3))
            key = (round(-float(fit), 6), *(-int(number) for number in candidate.ravel()))
            if best is None or key < best[0]:
                best = (key, candidate)
    if best is None:
        raise InputError("The supercell vectors are coplanar.", "Check the lattice of the structure.")
    return best[1]


@dataclass
class _Candidates:
    """Supercells with everything the rule compares, one row each."""

    matrices: Ints
    atoms: Ints
    misfit: Floats
    tilt: Floats
    ratio: Floats

    def take(self, mask: NDArray[np.bool_]) -> _Candidates:
        return _Candidates(self.matrices[mask], self.atoms[mask], self.misfit[mask], self.tilt[mask], self.ratio[mask])

    def join(self, other: _Candidates) -> _Candidates:
        pairs = [(getattr(self, item.name), getattr(other, item.name)) for item in fields(self)]
        return _Candidates(*(np.concatenate(pair) for pair in pairs))

    def smallest(self) -> Ints:
        """Return the smallest matrix; ties by edge ratio, tilt, then by the numbers themselves."""
        # rounding makes ties the same on every machine
        numbers = tuple(self.matrices.reshape(len(self.matrices), 9).T)
        order = np.lexsort((*numbers[::-1], np.round(self.tilt, 4), np.round(self.ratio, 5), self.atoms))
        return np.array(self.matrices[order[0]])


def _candidates(
    grid: Ints, basis: Floats, window: tuple[float, float], n_atoms: int, max_atoms: int | None, tolerance: float
) -> _Candidates:
    """Return every near-cubic supercell under the atom cap."""
    vectors = grid @ basis
    triples = _triples(vectors, tolerance)
    lengths = np.linalg.norm(vectors, axis=1)
    edges = lengths[triples].reshape(-1, 3)
    unit = vectors / lengths[:, None]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = np.column_stack([np.einsum("nx,nx->n", unit[triples[:, i]], unit[triples[:, j]]) for i, j in pairs])
    tilt = np.max(np.abs(np.degrees(np.arccos(np.clip(cosines, -1, 1))) - 90.0), axis=1)
    determinants = np.abs(np.rint(np.linalg.det(grid[triples].astype(float)))).astype(np.int64)
    misfit = np.round(np.sum(np.maximum(np.maximum(window[0] - edges, edges - window[1]), 0.0), axis=1), 5)
    candidates = _Candidates(grid[triples], determinants * n_atoms, misfit, tilt, edges.max(axis=1) / edges.min(axis=1))
    cap = np.inf if max_atoms is None else max_atoms
    return candidates.take((determinants > 0) & (candidates.atoms <= cap))


def _keeps_rotations(matrices: Ints, rotations: Ints) -> NDArray[np.bool_]:
    """Tell which supercell lattices every rotation (integer, acting on column coefficients) maps onto themselves."""
    inverse = np.linalg.inv(matrices.astype(float))
    kept = np.arange(len(matrices))
    for rotation in rotations:
        # few survive the first rotation: only they meet the next
        mapped = (matrices[kept] @ rotation.T) @ inverse[kept]
        kept = kept[np.all(np.abs(mapped - np.rint(mapped)) < 1e-6, axis=(1, 2))]
    mask = np.zeros(len(matrices), dtype=bool)
    mask[kept] = True
    return mask


def _best(candidates: _Candidates, rotations: Ints, symmetry_bonus: float, right_angle_bonus: float) -> Ints:
    """Apply the rule to candidates that fit the window equally well."""
    affordable = candidates.take(candidates.atoms <= symmetry_bonus * candidates.atoms.min())
    symmetric = _keeps_rotations(affordable.matrices, rotations)
    kind = affordable.take(symmetric) if symmetric.any() else candidates
    right = kind.take((kind.tilt <= RIGHT_ANGLE) & (kind.atoms <= right_angle_bonus * kind.atoms.min()))
    return right.smallest() if len(right.atoms) else kind.smallest()


def _rotations(structure: Structure, coefficients: Ints) -> Ints:
    """Return the crystal's proper rotations, acting on columns of coefficients in the reduced basis."""
    import spglib

    try:
        symmetry = spglib.get_symmetry(spglib_cell(structure), symprec=SYMPREC)
    except spglib.SpglibError:
        symmetry = None
    if symmetry is None:
        return np.eye(3, dtype=np.int64)[None]
    # inversion maps every lattice onto itself, so W and -W need not both be tried
    own = {tuple((rotation * round(float(np.linalg.det(rotation)))).ravel()) for rotation in symmetry["rotations"]}
    change = coefficients.T.astype(float)
    turned = [np.linalg.inv(change) @ np.reshape(rotation, (3, 3)) @ change for rotation in sorted(own)]
    return np.rint(np.array(turned)).astype(np.int64)


def choose_supercell(
    structure: Structure,
    window: tuple[float, float],
    *,
    max_atoms: int | None = 500,
    angle_tolerance: float = 15.0,
    symmetry_bonus: float = 3.0,
    right_angle_bonus: float = 1.3,
) -> SupercellChoice:
    """Return the supercell that fits a length window, by the rule in this module's description.

    Parameters
    ----------
    structure
        Cell the matrix shall refer to, best the primitive one.
    window
        Shortest and longest allowed edge, Å (the longest may be infinite).
    max_atoms
        Most atoms allowed; None for no cap.
    angle_tolerance
        Largest deviation of any angle from 90°, degrees.
    symmetry_bonus, right_angle_bonus
        How many times as many atoms a cell may have to keep the crystal's rotations, or right angles.
    """
    if not 0 < window[0] <= window[1] or angle_tolerance <= 0 or min(symmetry_bonus, right_angle_bonus) < 1:
        raise InputError(
            f"Window {window} Å, angle tolerance {angle_tolerance}°, bonuses {symmetry_bonus} and {right_angle_bonus} "
            "are not a rule.",
            "Give 0 < shortest <= longest, a positive angle and bonuses of at least 1.",
        )
    if max_atoms is not None and max_atoms < len(structure):
        raise InputError(
            f"The cap of {max_atoms} atoms is below the {len(structure)} atoms of the cell itself.", "Raise the cap."
        )
    basis, coefficients = _reduced(structure)
    rotations = _rotations(structure, coefficients)
    spacing = float(np.max(np.linalg.norm(basis, axis=1)))
    longest = window[1] if np.isfinite(window[1]) else window[0] + spacing
    grid = _lattice_vectors(basis, longest)
    fitting = grid[np.linalg.norm(grid @ basis, axis=1) >= window[0] - 1e-6]
    size = len(structure)
    warnings: tuple[str, ...] = ()
    candidates = _candidates(fitting, basis, window, size, max_atoms, angle_tolerance)
    if not np.isfinite(window[1]):
        # right-angled cells of cubic and tetragonal crystals may need longer edges than the smallest tilted cell
        wide = _lattice_vectors(basis, window[0] + 2 * spacing)
        wide = wide[np.linalg.norm(wide @ basis, axis=1) >= window[0] - 1e-6]
        candidates = candidates.join(_candidates(wide, basis, window, size, max_atoms, RIGHT_ANGLE))
    if not len(candidates.atoms):
        warnings = (_unfit(window, max_atoms, angle_tolerance),)
        if max_atoms is not None:
            longest = min(longest, 1.5 * (max_atoms / size * structure.volume) ** (1 / 3))
        grid = _lattice_vectors(basis, max(longest, spacing * 1.001))
        for tolerance in (angle_tolerance, 30.0, 45.0, 61.0):
            candidates = _candidates(grid, basis, window, size, max_atoms, max(tolerance, angle_tolerance))
            if len(candidates.atoms):
                break
        candidates = candidates.take(candidates.misfit <= candidates.misfit.min(initial=np.inf) + 1e-4)
    # a reduced basis always has angles within 60° of 90°, so the last resort is rarely more than a formality
    chosen = (
        _best(candidates, rotations, symmetry_bonus, right_angle_bonus)
        if len(candidates.atoms)
        else np.eye(3, dtype=np.int64)
    )
    matrix = _orient(chosen @ coefficients, np.array(structure.lattice.matrix, dtype=float))
    choice = describe_supercell(structure, matrix)
    if not warnings:
        return choice
    text = f"{warnings[0]}; took {' × '.join(f'{edge:.1f}' for edge in choice.lengths)} Å ({choice.n_atoms} atoms)"
    return describe_supercell(structure, matrix, (text,))


def _unfit(window: tuple[float, float], max_atoms: int | None, tolerance: float) -> str:
    longest = f" to {window[1]:g}" if np.isfinite(window[1]) else " or more"
    cap = f", at most {max_atoms} atoms" if max_atoms is not None else ""
    return f"no supercell has edges of {window[0]:g}{longest} Å, angles within {tolerance:g}° of 90°{cap}"


def describe_supercell(structure: Structure, matrix: Ints, warnings: tuple[str, ...] = ()) -> SupercellChoice:
    """Return size and shape of a given supercell matrix (rows, pymatgen's convention)."""
    rows = np.asarray(matrix)
    if rows.shape != (3, 3) or not np.allclose(rows, np.rint(rows)):
        raise InputError(f"The supercell matrix {rows.tolist()} is not 3 × 3 integers.", "Give three rows of integers.")
    factor = abs(round(float(np.linalg.det(rows))))
    if factor == 0:
        raise InputError(f"The supercell matrix {rows.tolist()} is singular.", "Give independent rows.")
    lengths, angles = lengths_and_angles(rows @ np.array(structure.lattice.matrix, dtype=float))
    return SupercellChoice(
        matrix=tuple((int(a), int(b), int(c)) for a, b, c in rows),
        n_atoms=factor * len(structure),
        lengths=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
        angles=(float(angles[0]), float(angles[1]), float(angles[2])),
        warnings=warnings,
    )


def sampling_supercell(structure: Structure, cell: str, *, max_atoms: int | None = 500) -> SupercellChoice:
    """Return the fine-tuning cell of a primitive structure: ``primitive``, ``small`` (5–10 Å), ``large`` (10–15 Å)."""
    if cell == "primitive":
        return describe_supercell(structure, np.eye(3, dtype=np.int64))
    if cell not in WINDOWS:
        raise InputError(f"Cell size {cell!r} is not known.", "Choose primitive, small or large.")
    return choose_supercell(structure, WINDOWS[cell], max_atoms=max_atoms)


def phonon_supercell(
    structure: Structure, min_length: float = PHONON_MIN_LENGTH, *, max_atoms: int | None = None
) -> SupercellChoice:
    """Return the smallest near-cubic supercell whose edges are all at least ``min_length`` Å long."""
    return choose_supercell(structure, (min_length, np.inf), max_atoms=max_atoms)
