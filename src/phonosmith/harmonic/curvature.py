"""Force constants as training targets: the Hessian of a supercell and its symmetry-irreducible columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
VOLUME_TOLERANCE = 0.25
"""Relative difference of volumes per atom; the sampling protocol spans about ±10 %."""


@dataclass(frozen=True)
class CurvatureTarget:
    """Reference force constants of one supercell, called ``source`` in messages.

    ``atoms`` is the perfect supercell, ``hessian`` d²E/dx² in eV/Å² with row and column 3i+a of atom i, direction a;
    ``columns`` are its symmetry-irreducible columns, from which every other follows, and ``weights`` (mean one) say how
    many atoms each of them stands for. ``orbits`` says of every atom which one it is symmetrically equivalent to, where
    that is known; ``energy`` is the supercell's, eV, where it is.
    """

    atoms: Atoms
    hessian: Array
    columns: tuple[int, ...]
    weights: tuple[float, ...]
    source: str = "force constants"
    orbits: tuple[int, ...] = ()
    energy: float | None = None

    @property
    def equivalent_columns(self) -> tuple[int, ...]:
        """All columns that follow from ``columns`` by symmetry, themselves among them."""
        taken = {column // 3 for column in self.columns}
        atoms = [i for i in range(len(self.atoms)) if not self.orbits or self.orbits[i] in taken]
        return tuple(3 * i + axis for i in atoms for axis in range(3))


def hold_out(
    target: CurvatureTarget, share: float, generator: np.random.Generator
) -> tuple[CurvatureTarget, CurvatureTarget | None]:
    """Return a target with the columns of some inequivalent atoms left out, and one with these alone, drawn at random.

    A column says nothing that its symmetric images do not say: whole sets of equivalent atoms are held out, ``share``
    of them rounded down. None where that is not one.
    """
    independent = sorted({column // 3 for column in target.columns})
    count = int(share * len(independent)) if target.orbits else 0
    if count == 0:
        return target, None
    held = set(generator.permutation(independent)[:count].tolist())
    return _with_columns(target, held, inside=False), _with_columns(target, held, inside=True)


def _with_columns(target: CurvatureTarget, atoms: set[int], *, inside: bool) -> CurvatureTarget:
    pairs = zip(target.columns, target.weights, strict=True)
    columns, weights = zip(*[pair for pair in pairs if (pair[0] // 3 in atoms) == inside], strict=True)
    scale = float(np.mean(weights))
    return replace(target, columns=columns, weights=tuple(weight / scale for weight in weights))


def hessian_matrix(force_constants: Array) -> Array:
    """Lay force constants Φ[i, j, a, b] out as the matrix H[3i+a, 3j+b]."""
    n = len(force_constants)
    return np.ascontiguousarray(force_constants.swapaxes(1, 2)).reshape(3 * n, 3 * n)


def irreducible_columns(symmetry: Any, lattice: Array) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the Hessian columns that symmetry turns into all others, with weights of mean one.

    ``symmetry`` is phonopy's ``Symmetry`` of the supercell with the given lattice vectors (rows, Å).
    """
    to_cartesian = lattice.T
    back = np.linalg.inv(to_cartesian)
    orbits = np.asarray(symmetry.get_map_atoms())
    columns: list[int] = []
    weights: list[float] = []
    for atom in map(int, symmetry.get_independent_atoms()):
        rotations = np.array([to_cartesian @ r @ back for r in symmetry.get_site_symmetry(atom)])
        directions: list[int] = []
        spanned, rank = np.zeros((0, 3)), 0
        for axis in range(3):
            candidate = np.vstack([spanned, rotations[:, :, axis]])
            dimensions = int(np.linalg.matrix_rank(candidate, tol=DIRECTION_TOLERANCE))
            if dimensions > rank:
                directions.append(3 * atom + axis)
                spanned, rank = candidate, dimensions
        columns += directions
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
    orbits = tuple(map(int, phonon.symmetry.get_map_atoms()))
    return CurvatureTarget(atoms_of(phonon.supercell), hessian, columns, weights, source, orbits)


def check_target(target: CurvatureTarget, frames: Sequence[Atoms]) -> None:
    """Raise MismatchError unless reduced composition and volume per atom are those of the training set."""
    formula, *others = (atoms.get_chemical_formula(mode="hill", empirical=True) for atoms in (target.atoms, *frames))
    if formula not in others:
        raise MismatchError(
            f"{target.source} is of {formula}, the training set of {', '.join(sorted(set(others)))}.",
            "Give the force constants of the material that is trained.",
        )
    volume = target.atoms.get_volume() / len(target.atoms)
    same = [atoms for atoms, other in zip(frames, others, strict=True) if other == formula]
    typical = float(np.median([atoms.get_volume() / len(atoms) for atoms in same]))
    if abs(volume / typical - 1) > VOLUME_TOLERANCE:
        raise MismatchError(
            f"{target.source} has {volume:.2f} Å³ per atom, the training set {typical:.2f} Å³.",
            "Give force constants of the same crystal structure near its equilibrium volume.",
        )
