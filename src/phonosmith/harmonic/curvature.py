"""Force constants as training targets: the Hessian of a supercell and its symmetry-irreducible columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.core.errors import MismatchError
from phonosmith.harmonic.fit import make_force_constants
from phonosmith.harmonic.model import atoms_of, check_force_constants, full_force_constants

if TYPE_CHECKING:
    from phonopy import Phonopy

Array = NDArray[np.float64]
DIRECTION_TOLERANCE = 1e-3
"""Smallest singular value of a set of unit vectors that still counts as independent."""


@dataclass(frozen=True)
class CurvatureTarget:
    """Reference force constants of one supercell.

    Attributes
    ----------
    atoms
        Perfect supercell.
    hessian
        d²E/dx² in eV/Å², shape (3n, 3n); row and column 3i+a belong to atom i, direction a.
    columns
        Symmetry-irreducible columns; every other column follows from them.
    weights
        One per column, mean one: how many atoms it stands for.
    source
        Where it came from, for messages.
    """

    atoms: Atoms
    hessian: Array
    columns: tuple[int, ...]
    weights: tuple[float, ...]
    source: str = "force constants"


def hessian_matrix(force_constants: Array) -> Array:
    """Lay force constants Φ[i, j, a, b] out as the matrix H[3i+a, 3j+b]."""
    n = len(force_constants)
    return np.ascontiguousarray(force_constants.swapaxes(1, 2)).reshape(3 * n, 3 * n)


def irreducible_columns(symmetry: Any, lattice: Array) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the Hessian columns that symmetry turns into all others, with weights of mean one.

    Parameters
    ----------
    symmetry
        phonopy's ``Symmetry`` of the supercell.
    lattice
        Lattice vectors of the supercell as rows, Å.
    """
    to_cartesian = np.array(lattice, dtype=float).T
    back = np.linalg.inv(to_cartesian)
    orbits = np.asarray(symmetry.get_map_atoms())
    columns: list[int] = []
    weights: list[float] = []
    for atom in symmetry.get_independent_atoms():
        rotations = np.array([to_cartesian @ r @ back for r in symmetry.get_site_symmetry(int(atom))])
        directions: list[int] = []
        spanned, rank = np.zeros((0, 3)), 0
        for axis in range(3):
            candidate = np.vstack([spanned, rotations[:, :, axis]])
            dimensions = int(np.linalg.matrix_rank(candidate, tol=DIRECTION_TOLERANCE))
            if dimensions > rank:
                directions.append(axis)
                spanned, rank = candidate, dimensions
        columns += [3 * int(atom) + axis for axis in directions]
        weights += [float(np.sum(orbits == orbits[atom])) / len(directions)] * len(directions)
    scale = float(np.mean(weights))
    return tuple(columns), tuple(weight / scale for weight in weights)


def curvature_target(phonon: Phonopy, source: str = "force constants") -> CurvatureTarget:
    """Take the force constants of a phonopy object; where it has none, they are fitted (symfc) to its forces.

    Raises
    ------
    InputError
        When it has neither force constants nor forces, or they are not finite.
    """
    if phonon.force_constants is None:
        make_force_constants(phonon, "symfc", source)
    check_force_constants(phonon.force_constants, phonon, source)
    columns, weights = irreducible_columns(phonon.symmetry, phonon.supercell.cell)
    hessian = hessian_matrix(full_force_constants(phonon))
    return CurvatureTarget(atoms_of(phonon.supercell), hessian, columns, weights, source)


def check_target(target: CurvatureTarget, frames: Sequence[Atoms], volume_tolerance: float = 0.25) -> None:
    """Raise MismatchError when force constants are of another material than the training set.

    Compared are the reduced composition and the volume per atom (the sampling protocol spans about ±10 %).
    """
    formula = _formula(target.atoms)
    same = [atoms for atoms in frames if _formula(atoms) == formula]
    if not same:
        raise MismatchError(
            f"{target.source} is of {formula}, the training set of {', '.join(sorted({_formula(a) for a in frames}))}.",
            "Give the force constants of the material that is trained.",
        )
    volume = target.atoms.get_volume() / len(target.atoms)
    typical = float(np.median([atoms.get_volume() / len(atoms) for atoms in same]))
    if abs(volume / typical - 1) > volume_tolerance:
        raise MismatchError(
            f"{target.source} has {volume:.2f} Å³ per atom, the training set {typical:.2f} Å³.",
            "Give force constants of the same crystal structure near its equilibrium volume.",
        )


def _formula(atoms: Atoms) -> str:
    return str(atoms.get_chemical_formula(mode="hill", empirical=True))
