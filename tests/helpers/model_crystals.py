"""Model crystals whose phonons are known in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.units import THZ_PER_SQRT_EV_PER_A2_AMU

if TYPE_CHECKING:
    from phonopy import Phonopy

Array = NDArray[np.float64]


def spring_crystal(
    n: int = 4,
    *,
    longitudinal: float = 3.0,
    transverse: float = 0.8,
    mass: float = 27.0,
    edge: float = 3.0,
    symbol: str = "Al",
    basis: Any = None,
) -> tuple[Phonopy, Array]:
    """Return a simple-cubic crystal with springs between nearest neighbours, and its force constants.

    Parameters
    ----------
    n
        Cells along each edge of the supercell.
    longitudinal, transverse
        Spring constants along and across each bond, eV/Å².
    mass
        amu.
    edge
        Lattice constant, Å.
    symbol
        Element the atoms are called.
    basis
        Unimodular integer matrix: use ``basis @ cubic lattice`` as the cell (supercell and physics stay the same).

    Returns
    -------
    Phonopy
        Without force constants.
    Array
        Full force constants, eV/Å².
    """
    from phonopy.structure.atoms import PhonopyAtoms

    from phonosmith.harmonic.model import new_phonon

    turn = np.eye(3, dtype=int) if basis is None else np.array(basis)
    unit = PhonopyAtoms(symbols=[symbol], cell=turn @ np.eye(3) * edge, scaled_positions=[[0, 0, 0]], masses=[mass])
    # phonopy: supercell lattice = matrixᵀ @ cell; the supercell stays the cube of n edges
    matrix = np.rint(n * np.linalg.inv(turn).T).astype(int)
    phonon = new_phonon(unit, matrix, np.eye(3))
    sites = np.rint(phonon.supercell.positions / edge).astype(int) % n
    index = {tuple(site): i for i, site in enumerate(sites)}
    constants = np.zeros((len(sites), len(sites), 3, 3))
    for i, site in enumerate(sites):
        for axis in range(3):
            spring = np.eye(3) * transverse
            spring[axis, axis] = longitudinal
            for sign in (1, -1):
                step = sign * np.eye(3, dtype=int)[axis]
                constants[i, index[tuple((site + step) % n)]] -= spring
                constants[i, i] += spring
    return phonon, constants


def spring_frequencies(
    qpoints: Any, *, longitudinal: float = 3.0, transverse: float = 0.8, mass: float = 27.0
) -> Array:
    """Return the closed-form frequencies of `spring_crystal` in THz, imaginary ones negative, sorted.

    ω_a² = (2/m) Σ_b k_ab (1 - cos 2πq_b) with k_aa longitudinal and k_ab transverse; q in cubic reciprocal vectors.
    """
    loss = 2 * (1 - np.cos(2 * np.pi * np.atleast_2d(np.asarray(qpoints, dtype=float))))
    squares = (transverse * loss.sum(axis=1, keepdims=True) + (longitudinal - transverse) * loss) / mass
    return np.sort(np.sign(squares) * np.sqrt(np.abs(squares)) * THZ_PER_SQRT_EV_PER_A2_AMU, axis=1)


def harmonic_forces(phonon: Phonopy, constants: Array, displacement: float = 0.01) -> None:
    """Give ``phonon`` displacements of that length (Å) and the forces -Φu in place."""
    phonon.generate_displacements(distance=displacement)
    moved = [cell.positions - phonon.supercell.positions for cell in phonon.supercells_with_displacements]
    phonon.forces = np.array([-np.einsum("ijab,jb->ia", constants, step) for step in moved])
