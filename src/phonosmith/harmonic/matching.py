"""Bring two phonon calculations into one primitive cell, or say why they do not belong together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.cell import Cell
from numpy.typing import NDArray

from phonosmith.core.errors import MismatchError
from phonosmith.harmonic.model import HarmonicModel, composition_of, require_same_formula

if TYPE_CHECKING:
    from phonopy.structure.atoms import PhonopyAtoms

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

IDENTITY: Integers = np.eye(3, dtype=np.int64)
LENGTH_TOLERANCE = 0.15
"""Relative difference of lattice lengths two relaxations of one crystal may show."""
ANGLE_TOLERANCE = 12.0
"""Difference of lattice angles in degrees two relaxations of one crystal may show."""
SITE_TOLERANCE = 1.0
"""Å an atom may sit away from its counterpart: half a bond, so that counterparts stay unambiguous."""
VOLUME_NOTE, LENGTH_NOTE, ANGLE_NOTE = 0.05, 0.02, 2.0
"""Differences of volume, lengths (relative) and angles (degrees) that two relaxations seldom show: they are said."""
MASS_TOLERANCE = 1e-2
"""Relative difference of masses up to which frequencies compare force constants: 0.5 % of a frequency."""


@dataclass(frozen=True)
class CellMatch:
    """How the candidate's primitive cell relates to the reference's.

    ``transform`` is the unimodular integer matrix M with M @ candidate lattice ≈ reference lattice (up to rotation and
    strain). With ``same_rotations`` both have the same point operations in the common basis, so that one reduced mesh
    serves both. ``notes`` are differences worth knowing.
    """

    transform: Integers
    same_space_group: bool
    same_rotations: bool
    notes: tuple[str, ...] = ()

    def to_candidate(self, qpoints: Array) -> Array:
        """Return q-points of the reference's reduced coordinates in those of the candidate."""
        if np.array_equal(self.transform, IDENTITY):
            return qpoints
        return np.asarray(qpoints @ np.linalg.inv(self.transform).T, dtype=float)


def primitive_supercell_matrix(model: HarmonicModel) -> Integers:
    """Return integer S with supercell lattice = S @ primitive lattice (rows are vectors)."""
    return np.rint(model.phonon.supercell.cell @ np.linalg.inv(model.phonon.primitive.cell)).astype(np.int64)


def _scale(reference: Array, candidate: Array) -> float:
    """Return by how much the candidate's lengths must grow to give the reference's volume."""
    return float((abs(np.linalg.det(reference)) / abs(np.linalg.det(candidate))) ** (1 / 3))


def _lattice_distance(reference: Array, candidate: Array) -> float:
    """Return a number that is at most 1 when two lattices agree within the tolerances, basis vector by basis vector."""
    scale = _scale(reference, candidate)
    ours, theirs = Cell(reference).cellpar(), Cell(candidate).cellpar()
    lengths = np.abs([1 / scale - 1, *(theirs[:3] * scale / ours[:3] - 1)])
    return float(max(lengths.max() / LENGTH_TOLERANCE, np.abs(ours[3:] - theirs[3:]).max() / ANGLE_TOLERANCE))


def pair_sites(reference: PhonopyAtoms, candidate: PhonopyAtoms, transform: Integers) -> tuple[float, Integers]:
    """Return the largest distance (Å) between counterparts after the best origin shift, and who they are.

    The candidate's atom of each atom of the reference; the distance is infinite where they cannot be paired.
    """
    fractions = candidate.scaled_positions @ np.linalg.inv(transform)
    ours, theirs = np.asarray(reference.numbers), np.asarray(candidate.numbers)
    kinds, first, counts = np.unique(ours, return_index=True, return_counts=True)
    rare, anchor = kinds[np.argmin(counts)], first[np.argmin(counts)]
    best, counterparts = np.inf, np.arange(len(ours))
    for other in np.flatnonzero(theirs == rare):
        shift = reference.scaled_positions[anchor] - fractions[other]
        delta = reference.scaled_positions[:, None] - (fractions + shift)[None]
        delta -= np.rint(delta)
        distances = np.linalg.norm(delta @ reference.cell, axis=2)
        distances[ours[:, None] != theirs[None]] = np.inf
        nearest = distances.argmin(axis=1)
        if len(set(nearest.tolist())) == len(ours):
            shifts = delta[np.arange(len(ours)), nearest]
            # the anchor need not be where it was: take out the mean shift
            moved = np.linalg.norm((shifts - shifts.mean(axis=0)) @ reference.cell, axis=1)
            if (distance := float(moved.max())) < best:
                best, counterparts = distance, nearest
    return best, counterparts


def _fits(reference: PhonopyAtoms, candidate: PhonopyAtoms, matrix: Integers) -> bool:
    """Tell whether a transform brings lattice and atoms of the candidate onto the reference."""
    return (
        _lattice_distance(reference.cell, matrix @ candidate.cell) <= 1
        and pair_sites(reference, candidate, matrix)[0] <= SITE_TOLERANCE
    )


def find_transforms(reference: PhonopyAtoms, candidate: PhonopyAtoms) -> list[Integers]:
    """Find every unimodular M with M @ candidate lattice ≈ reference lattice and the same atoms in the cell.

    A crystal (nearly) symmetric under a rotation allows as many M as rotations. The identity comes first when it fits,
    then the least distorted.
    """
    combinations = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    lengths = np.linalg.norm(combinations @ candidate.cell, axis=1) * _scale(reference.cell, candidate.cell)
    wanted = np.linalg.norm(reference.cell, axis=1)
    rows = [combinations[np.abs(lengths / length - 1) <= LENGTH_TOLERANCE] for length in wanted]

    def rank(matrix: Integers) -> tuple[bool, float, float]:
        distance = _lattice_distance(reference.cell, matrix @ candidate.cell)
        return not np.array_equal(matrix, IDENTITY), round(distance, 4), -round(float(np.linalg.det(matrix)))

    matrices = (np.array(triple) for triple in itertools.product(*rows))
    unimodular = (matrix for matrix in matrices if abs(round(float(np.linalg.det(matrix)))) == 1)
    return sorted((matrix for matrix in unimodular if _fits(reference, candidate, matrix)), key=rank)


def _same_supercell(ours: Integers, theirs: Integers, transform: Integers) -> bool:
    """Tell whether two supercells (in their primitive vectors) span the same lattice in the common basis."""
    relation = theirs @ np.linalg.inv(transform) @ np.linalg.inv(ours)
    return bool(np.allclose(relation, np.rint(relation), atol=1e-4) and abs(abs(np.linalg.det(relation)) - 1) < 1e-3)


def _rotations(model: HarmonicModel, transform: Integers) -> set[bytes]:
    """Return the point operations of the primitive cell in the transformed basis."""
    inverse = np.linalg.inv(transform)
    operations = model.phonon.primitive_symmetry.pointgroup_operations
    # positions change as x' = x M⁻¹ (rows), so operations on column vectors change as R' = M⁻ᵀ R Mᵀ
    return {np.rint(inverse.T @ rotation @ transform.T).astype(np.int64).tobytes() for rotation in operations}


def _require_same_masses(reference: HarmonicModel, candidate: HarmonicModel) -> None:
    """Refuse other masses: the frequencies would differ with the same force constants."""
    ours, theirs = (
        dict(zip(model.phonon.primitive.symbols, model.phonon.primitive.masses, strict=True))
        for model in (reference, candidate)
    )
    for symbol, mass in ours.items():
        if abs(theirs[symbol] / mass - 1) > MASS_TOLERANCE:
            raise MismatchError(
                f"Masses differ: {symbol} has {mass:.3f} in {reference.source}, {theirs[symbol]:.3f} in "
                f"{candidate.source}.",
                "Frequencies then differ with the same forces; give both files the same masses.",
            )


def _shape_notes(reference: Array, candidate: Array) -> list[str]:
    """Say by how much two cells (candidate in the reference's basis, Å) differ, where relaxations seldom do."""
    ours, theirs = Cell(reference), Cell(candidate)
    notes = []
    volume = theirs.volume / ours.volume - 1
    if abs(volume) > VOLUME_NOTE:
        notes.append(f"volume is {abs(volume):.1%} {'larger' if volume > 0 else 'smaller'}")
    changes = theirs.cellpar() / ours.cellpar() - 1
    longest = int(np.argmax(np.abs(changes[:3])))
    if abs(changes[longest]) > LENGTH_NOTE:
        kind = "longer" if changes[longest] > 0 else "shorter"
        notes.append(f"lattice vector {'abc'[longest]} is {abs(changes[longest]):.1%} {kind}")
    turned = np.abs(theirs.cellpar() - ours.cellpar())[3:]
    if turned.max() > ANGLE_NOTE:
        notes.append(f"angles differ by up to {turned.max():.1f}°")
    return notes and [f"the candidate's {', '.join(notes)}: these are phonons of another state of the crystal"]


def match_models(reference: HarmonicModel, candidate: HarmonicModel) -> CellMatch:
    """Relate two harmonic models of one crystal.

    Raises
    ------
    MismatchError
        When composition, number of atoms, masses, geometry or supercell differ, with both values in the message.
    """
    require_same_formula(reference.formula, candidate.formula, reference.source, candidate.source)
    contents = [composition_of(model.phonon.primitive) for model in (reference, candidate)]
    if contents[0] != contents[1]:
        raise MismatchError(
            f"Primitive cells differ: {contents[0].formula} ({reference.space_group[0]}) in {reference.source}, "
            f"{contents[1].formula} ({candidate.space_group[0]}) in {candidate.source}: "
            "they relaxed into different structures.",
            "Branches cannot be paired; compare stability and thermodynamics of each side instead.",
        )
    _require_same_masses(reference, candidate)
    ours, theirs = primitive_supercell_matrix(reference), primitive_supercell_matrix(candidate)
    cells = reference.phonon.primitive, candidate.phonon.primitive
    # the search is needed only where the two files chose different primitive vectors
    obvious = _fits(*cells, IDENTITY) and _same_supercell(ours, theirs, IDENTITY)
    transforms = [IDENTITY] if obvious else find_transforms(*cells)
    if not transforms:
        sides = " and ".join(
            f"{model.source} ({model.space_group[0]}, {model.phonon.primitive.volume:.2f} Å³)"
            for model in (reference, candidate)
        )
        raise MismatchError(
            f"Geometry mismatch: the primitive cells of {sides} cannot be mapped onto each other.",
            "The two relaxed into different structures or belong to different polymorphs.",
        )
    fitting = [matrix for matrix in transforms if _same_supercell(ours, theirs, matrix)]
    if not fitting:
        raise MismatchError(
            f"Supercell mismatch: {reference.source} has {len(reference.phonon.supercell)} atoms "
            f"(S = {ours.tolist()} in primitive vectors), {candidate.source} has {len(candidate.phonon.supercell)} "
            f"(S = {theirs.tolist()}).",
            "Compute the candidate in the reference's supercell: interpolated branches of different supercells differ.",
        )
    transform = fitting[0]
    notes = []
    groups = reference.space_group, candidate.space_group
    if groups[0][1] != groups[1][1]:
        notes.append(
            f"relaxed into different space groups: reference {groups[0][0]} ({groups[0][1]}), "
            f"candidate {groups[1][0]} ({groups[1][1]})"
        )
    if not np.array_equal(transform, IDENTITY):
        notes.append("the candidate's primitive cell has another basis; its q-points were transformed")
    notes += _shape_notes(cells[0].cell, transform @ cells[1].cell)
    same_rotations = _rotations(reference, IDENTITY) == _rotations(candidate, transform)
    return CellMatch(transform, groups[0][1] == groups[1][1], same_rotations, tuple(notes))
