"""Choose near-cubic supercells by documented rules.

``cubic``, for phonons as published
-----------------------------------
The rule of atomate2's phonon workflow (pymatgen's ``CubicSupercellTransformation``): a cube laid along the Cartesian
axes grows in steps of 0.1 Å until the cell rounded to it has right angles, edges of the wanted length and at most 1,200
atoms; where none has, one with other angles is taken. Rounding depends on how the crystal is oriented, so it is turned
into spglib's standard setting first. Of 32 published supercells this gives 31 sizes.

``compact``
-----------
Every supercell of the crystal is a triple of vectors of its lattice. Among all triples with angles within 15° of 90°:

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

from dataclasses import dataclass, fields, replace
from itertools import permutations, product
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.structures.standard import SYMPREC, spglib_cell

if TYPE_CHECKING:
    from pymatgen.core import Structure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ANGLE_TOLERANCE = 15.0
"""Largest deviation of an angle from 90° in degrees."""
RIGHT_ANGLE = 0.5
"""Deviation from 90° in degrees below which a cell counts as right-angled."""
MOST_ATOMS = 20_000
"""Largest supercell that is ever built."""
MOST_VECTORS, MOST_TRIPLES = 5_000_000, 7_000_000
"""How many combinations the search may look at: about a minute and 2.6 GB."""
WINDOWS = {"small": (5.0, 10.0), "large": (10.0, 15.0)}
"""Edge-length windows of the fine-tuning supercells, Å."""
SupercellRule = Literal["cubic", "compact"]
"""How supercells of phonons are chosen, see the module's description."""
CUBIC_MAX_ATOMS = 1200
"""Atoms up to which the published rule looks for right angles."""
LARGEST = 50_000
"""Atoms of a supercell that nobody wants: a length was mistyped."""
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
    lengths, angles
        Achieved edges in Å and angles in degrees.
    warnings
        What could not be had.
    """

    matrix: tuple[tuple[int, int, int], ...]
    n_atoms: int
    lengths: tuple[float, float, float]
    angles: tuple[float, float, float]
    warnings: tuple[str, ...] = ()

    @property
    def phonopy_matrix(self) -> list[list[int]]:
        """The matrix as phonopy and atomate2 want it."""
        return [list(row) for row in zip(*self.matrix, strict=True)]

    def build(self, structure: Structure) -> Structure:
        """Return the supercell of the structure the choice was made for."""
        return structure.make_supercell(np.array(self.matrix), in_place=False)


def _lattice_vectors(basis: Floats, longest: float) -> Ints:
    """Return integer coefficients of all lattice vectors up to a length, one of each pair ±v, shortest first."""
    reach = np.floor(longest * np.linalg.norm(np.linalg.inv(basis), axis=0) + 1e-9).astype(np.int64)
    grid = np.array(list(product(*(range(-n, n + 1) for n in reach))), dtype=np.int64)
    lengths = np.linalg.norm(grid @ basis, axis=1)
    # of ±v the one whose first coefficient that is not zero is positive; zero itself is neither
    leading = np.take_along_axis(grid, np.argmax(grid != 0, axis=1)[:, None], axis=1)[:, 0]
    keep = (lengths <= longest + 1e-9) & (leading > 0)
    grid, lengths = grid[keep], lengths[keep]
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
    ranked = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        candidate = coefficients[list(order)] * np.array(signs)[:, None]
        if round(float(np.linalg.det(candidate))) > 0:
            fit = sum(signs[row] * cosines[order[row], row] for row in range(3))
            ranked.append((round(-float(fit), 6), (-candidate).ravel().tolist()))
    return -np.reshape(min(ranked)[1], (3, 3))


@dataclass
class _Candidates:
    """Supercells with everything the rule compares, one row each."""

    matrices: Ints
    atoms: Ints
    misfit: Floats
    tilt: Floats
    ratio: Floats

    def take(self, mask: NDArray[np.bool_]) -> _Candidates:
        return _Candidates(*(getattr(self, item.name)[mask] for item in fields(self)))

    def join(self, other: _Candidates) -> _Candidates:
        return _Candidates(*(np.concatenate([getattr(self, i.name), getattr(other, i.name)]) for i in fields(self)))

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
    edges = lengths[triples]
    unit = (vectors / lengths[:, None])[triples]
    cosines = np.einsum("nix,nix->ni", unit, np.roll(unit, 1, axis=1))
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


def _require_searchable(structure: Structure, basis: Floats, reach: float, tolerance: float, shortest: float) -> None:
    """Refuse a search that would fill the memory; its size follows from the density of lattice vectors."""
    with np.errstate(over="ignore", invalid="ignore"):
        outer, inner = np.float64(reach) ** 3, np.float64(max(shortest, 0.0)) ** 3
        boxes = float(np.prod(2 * np.floor(reach * np.linalg.norm(np.linalg.inv(basis), axis=0)) + 1))
        # one of each pair ±v in the shell; the share of them within a tolerance of perpendicular is its sine
        vectors = 2 * np.pi / 3 * (outer - inner) / structure.volume
        triples = vectors**3 / 6 * np.sin(np.radians(min(tolerance, 90.0))) ** 3
    if not boxes <= MOST_VECTORS or not triples <= MOST_TRIPLES:
        raise _too_large(structure, reach)


def _too_large(structure: Structure, length: float) -> InputError:
    with np.errstate(over="ignore"):
        atoms = len(structure) * np.float64(length) ** 3 / structure.volume
    return InputError(
        f"Supercells of {structure.composition.reduced_formula} with edges of up to {length:.4g} Å, about "
        f"{atoms:.2g} atoms, are too many to choose from.",
        "Ask for a shorter edge, e.g. 20 Å, or give the supercell itself.",
    )


def choose_supercell(
    structure: Structure,
    window: tuple[float, float],
    *,
    max_atoms: int | None = 500,
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
    symmetry_bonus, right_angle_bonus
        How many times as many atoms a cell may have to keep the crystal's rotations, or right angles.
    """
    if not 0 < window[0] <= window[1] or min(symmetry_bonus, right_angle_bonus) < 1:
        raise InputError(
            f"Window {window} Å, bonuses {symmetry_bonus} and {right_angle_bonus} are not a rule.",
            "Give 0 < shortest <= longest and bonuses of at least 1.",
        )
    if max_atoms is not None and max_atoms < len(structure):
        raise InputError(
            f"The cap of {max_atoms} atoms is below the {len(structure)} atoms of the cell itself.", "Raise the cap."
        )
    basis, coefficients = _reduced(structure)
    rotations = _rotations(structure, coefficients)
    spacing = float(np.max(np.linalg.norm(basis, axis=1)))
    longest = window[1] if np.isfinite(window[1]) else window[0] + spacing
    size = len(structure)

    def within(reach: float, tolerance: float, shortest: float = window[0] - 1e-6) -> _Candidates:
        _require_searchable(structure, basis, reach, tolerance, shortest)
        grid = _lattice_vectors(basis, reach)
        grid = grid[np.linalg.norm(grid @ basis, axis=1) >= shortest]
        return _candidates(grid, basis, window, size, max_atoms, tolerance)

    candidates = within(longest, ANGLE_TOLERANCE)
    if not np.isfinite(window[1]):
        # right-angled cells of cubic and tetragonal crystals may need longer edges than the smallest tilted cell
        candidates = candidates.join(within(window[0] + 2 * spacing, RIGHT_ANGLE))
    fits = len(candidates.atoms) > 0
    if not fits:
        if max_atoms is not None:
            longest = min(longest, 1.5 * (max_atoms / size * structure.volume) ** (1 / 3))
        for tolerance in (ANGLE_TOLERANCE, 30.0, 45.0, 61.0):
            candidates = within(max(longest, spacing * 1.001), tolerance, 0.0)
            if len(candidates.atoms):
                break
        candidates = candidates.take(candidates.misfit <= candidates.misfit.min(initial=np.inf) + 1e-4)
    # a reduced basis always has angles within 60° of 90°, so the last resort is rarely more than a formality
    rule = (rotations, symmetry_bonus, right_angle_bonus)
    best = _best(candidates, *rule) if len(candidates.atoms) else np.eye(3, dtype=np.int64)
    choice = describe_supercell(
        structure, _orient(best @ coefficients, np.array(structure.lattice.matrix, dtype=float))
    )
    if fits:
        return choice
    asked = f" to {window[1]:g}" if np.isfinite(window[1]) else " or more"
    cap = f", at most {max_atoms} atoms" if max_atoms is not None else ""
    taken = f"{' × '.join(f'{edge:.1f}' for edge in choice.lengths)} Å ({choice.n_atoms} atoms)"
    wish = f"edges of {window[0]:g}{asked} Å, angles within {ANGLE_TOLERANCE:g}° of 90°{cap}"
    return replace(choice, warnings=(f"no supercell has {wish}; took {taken}",))


def require_buildable(n_atoms: int) -> None:
    """Refuse a supercell nothing could be done with, before it is allocated."""
    if n_atoms > MOST_ATOMS:
        raise InputError(f"A supercell of {n_atoms} atoms is more than {MOST_ATOMS}.", "Ask for a smaller one.")


def describe_supercell(structure: Structure, matrix: Ints) -> SupercellChoice:
    """Return size and shape of a given supercell matrix (rows, pymatgen's convention)."""
    from pymatgen.core import Lattice

    rows = np.asarray(matrix)
    whole = rows.shape == (3, 3) and np.all(np.abs(rows) <= MOST_ATOMS)
    if not whole or not np.allclose(rows, np.rint(rows)):
        raise InputError(f"The supercell matrix {rows.tolist()} is not 3 × 3 integers.", "Give three rows of integers.")
    factor = abs(round(float(np.linalg.det(rows))))
    if factor == 0:
        raise InputError(f"The supercell matrix {rows.tolist()} is singular.", "Give independent rows.")
    require_buildable(factor * len(structure))
    lattice = Lattice(rows @ structure.lattice.matrix)
    integers = tuple((int(a), int(b), int(c)) for a, b, c in rows)
    return SupercellChoice(integers, factor * len(structure), lattice.abc, lattice.angles)


def sampling_supercell(structure: Structure, cell: str, *, max_atoms: int | None = 500) -> SupercellChoice:
    """Return the fine-tuning cell of a primitive structure: ``primitive``, ``small`` (5–10 Å), ``large`` (10–15 Å)."""
    if cell == "primitive":
        return describe_supercell(structure, np.eye(3, dtype=np.int64))
    if cell not in WINDOWS:
        raise InputError(f"Cell size {cell!r} is not known.", "Choose primitive, small or large.")
    return choose_supercell(structure, WINDOWS[cell], max_atoms=max_atoms)


def phonon_supercell(
    structure: Structure,
    min_length: float = PHONON_MIN_LENGTH,
    *,
    rule: SupercellRule = "cubic",
    max_atoms: int | None = None,
) -> SupercellChoice:
    """Return a supercell whose edges are all at least ``min_length`` Å long: cubic as published, or the smallest.

    Where the cubic rule finds none (within ``max_atoms``, 1,200 by default) the compact one decides, with a warning.
    """
    if min_length > (LARGEST * structure.volume / len(structure)) ** (1 / 3):
        raise _too_large(structure, min_length)
    matrix = None if rule == "compact" else _cubic_matrix(structure, min_length, max_atoms or CUBIC_MAX_ATOMS)
    if matrix is not None:
        return describe_supercell(structure, matrix)
    compact = choose_supercell(structure, (min_length, np.inf), max_atoms=max_atoms)
    if rule == "cubic":
        warning = f"no cubic supercell of at most {max_atoms or CUBIC_MAX_ATOMS} atoms was found: took a compact one"
        return replace(compact, warnings=(*compact.warnings, warning))
    return compact


def _cubic_matrix(structure: Structure, min_length: float, max_atoms: int) -> Ints | None:
    """Return the rows that atomate2's rule gives for a crystal in its standard setting, None where it gives none."""
    import spglib
    from atomate2.common.utils import get_supercell_matrix
    from pymatgen.core import Lattice, Structure

    vectors = structure.lattice.matrix
    try:
        dataset = spglib.get_symmetry_dataset(spglib_cell(structure), symprec=SYMPREC)
    except spglib.SpglibError:
        dataset = None
    if dataset is not None:
        vectors = vectors @ dataset.std_rotation_matrix.T
    turned = Structure(Lattice(vectors), structure.species, structure.frac_coords)
    try:
        columns = get_supercell_matrix(turned, min_length, None, prefer_90_degrees=True, max_atoms=max_atoms)
    except (AttributeError, np.linalg.LinAlgError):  # how pymatgen's transformation says that there is none
        return None
    rows = np.rint(np.transpose(columns)).astype(np.int64)
    edges = np.linalg.norm(rows @ structure.lattice.matrix, axis=1)
    return rows if edges.min() >= min_length - 1e-3 else None
