"""The smallest supercell a mode repeats in, and the displacements that span its real amplitudes.

Amplitudes
----------
Atom i of the supercell moves by u_i = Σ_k Q_k e_ki / √m_i with Σ_i e_ki · e_li = δ_kl over the atoms of that supercell.
Q is in Å√amu, and U = ½ Σ_k (2πν_k)² Q_k² per supercell is the harmonic energy. A wave vector with -q not equivalent to
q gives two real patterns for every complex eigenvector (its real and its imaginary part).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.evaluation.modes.search import MOST_CELLS, commensurate
from phonosmith.evaluation.modes.symmetry import amplitude_group, canonical_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from phonopy import Phonopy

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

RANK_TOLERANCE = 1e-4
"""Singular values of normalised patterns below this are linear dependence."""


def smallest_supercell(q: Any, cell: Array, most_cells: int = MOST_CELLS) -> Integers:
    """Return the smallest supercell in which a wave of wave vector q repeats, its vectors as short as they get.

    Lattice translations T with q · T an integer form a lattice of index n, the smallest common denominator of q. No
    supercell with fewer than n primitive cells carries the wave, and this one has exactly n (at most
    ``most_cells``). q is in fractions of the primitive reciprocal vectors, ``cell`` has the primitive vectors as
    rows (Å), and the rows returned mean supercell = matrix @ cell.
    """
    import spglib

    near = commensurate(q, most_cells)
    if near is None:
        raise InputError(
            f"The wave vector {np.round(q, 4).tolist()} is incommensurate with every supercell of at most "
            f"{most_cells} primitive cells.",
            "Allow larger ones, or follow the commensurate point next to it.",
        )
    point, order = near
    if order == 1:
        return np.eye(3, dtype=np.int64)
    a, b, c = (int(value) for value in np.rint(point * order))
    last = order // gcd(order, c)
    second = next((j, k) for j in range(1, order + 1) for k in range(last) if (b * j + c * k) % order == 0)
    first = next(
        (i, j, k)
        for i in range(1, order + 1)
        for j in range(second[0])
        for k in range(last)
        if (a * i + b * j + c * k) % order == 0
    )
    plain = np.array([first, (0, *second), (0, 0, last)], dtype=np.int64)
    reduced = spglib.niggli_reduce(plain @ cell)
    if reduced is None:
        return plain
    matrix = np.rint(reduced @ np.linalg.inv(cell)).astype(np.int64)
    if np.abs(matrix @ cell - reduced).max() > 1e-3:
        return plain
    return matrix if np.linalg.det(matrix) > 0 else -matrix


@dataclass(frozen=True)
class ModeSpace:
    """Real amplitudes of one subspace of modes.

    Attributes
    ----------
    atoms, matrix
        Undisplaced supercell; integer rows: supercell = matrix @ primitive vectors.
    patterns, masses
        Orthonormal mass-weighted displacements e, shape (dimension, n_atoms, 3); amu.
    operations
        How the operations of the crystal act on amplitudes, orthogonal matrices of shape (n, dimension, dimension).
    """

    atoms: Atoms
    matrix: Integers
    patterns: Array
    masses: Array
    operations: Array

    @property
    def dimension(self) -> int:
        """Number of real amplitudes."""
        return len(self.patterns)

    def frame(self, amplitudes: Sequence[float] | Array) -> Atoms:
        """Return the supercell displaced by amplitudes in Å√amu."""
        moved = self.atoms.copy()
        moved.positions += np.tensordot(amplitudes, self.patterns, axes=1) / np.sqrt(self.masses)[:, None]
        return moved

    def gradient(self, forces: Array) -> Array:
        """Return the derivative of the energy by the amplitudes, eV/(Å√amu), from forces in eV/Å."""
        return np.asarray(-np.tensordot(self.patterns, np.asarray(forces) / np.sqrt(self.masses)[:, None], axes=2))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, for jobs of their own."""
        arrays = {"cell": self.atoms.cell.array, "positions": self.atoms.positions, "matrix": self.matrix}
        arrays |= {"patterns": self.patterns, "masses": self.masses, "operations": self.operations}
        return {"symbols": self.atoms.get_chemical_symbols()} | {name: one.tolist() for name, one in arrays.items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ModeSpace:
        """Rebuild a space from `as_dict`."""
        from ase import Atoms

        atoms = Atoms(content["symbols"], positions=content["positions"], cell=content["cell"], pbc=True)
        return cls(atoms, *(np.array(content[name]) for name in ("matrix", "patterns", "masses", "operations")))

    @property
    def reach(self) -> float:
        """Largest displacement of an atom along an axis per amplitude, 1/√amu."""
        return float((np.linalg.norm(self.patterns, axis=2) / np.sqrt(self.masses)).max())


def real_patterns(phonon: Phonopy, q: Array, eigenvectors: Any, matrix: Integers) -> tuple[Atoms, Array, Array]:
    """Return supercell, masses (amu) and orthonormal real patterns that eigenvectors of one wave vector span.

    q is commensurate with ``matrix`` (integer rows, supercell = matrix @ primitive). Eigenvectors are rows in phonopy's
    convention: the phase of an atom follows from its own position.
    """
    from ase.build import make_supercell

    from phonosmith.harmonic.model import atoms_of

    primitive = atoms_of(phonon.primitive)
    primitive.info = {}
    atoms, size = make_supercell(primitive, matrix), len(primitive)
    repeats = len(atoms) // size  # cell by cell
    masses = np.tile(np.asarray(phonon.primitive.masses, dtype=float), repeats)
    waves = np.exp(2j * np.pi * atoms.positions @ np.linalg.inv(primitive.cell.array) @ q)[None, :, None]
    fields = np.tile(np.asarray(eigenvectors).reshape(-1, size, 3), (1, repeats, 1)) * waves
    flat = np.concatenate([fields.real, fields.imag]).reshape(2 * len(fields), -1) / np.sqrt(repeats)
    _, strengths, basis = np.linalg.svd(flat, full_matrices=False)
    rank = int((strengths > RANK_TOLERANCE).sum())
    return atoms, masses, basis[:rank].reshape(rank, len(atoms), 3)


def mode_space(phonon: Phonopy, q: Array, eigenvectors: Any, most_cells: int = MOST_CELLS) -> ModeSpace:
    """Return the space of real amplitudes of one subspace of modes, in axes that do not depend on the eigenvectors.

    q is commensurate, see `smallest_supercell`; the eigenvectors (rows) are any basis of the subspace.
    """
    cell = np.asarray(phonon.primitive.cell)
    matrix = smallest_supercell(q, cell, most_cells)
    atoms, masses, patterns = real_patterns(phonon, q, eigenvectors, matrix)
    group = amplitude_group(atoms, cell, phonon.primitive_symmetry.symmetry_operations, patterns)
    axes = canonical_axes(group, patterns)
    turned = np.tensordot(axes, patterns, axes=1)
    return ModeSpace(atoms, matrix, turned, masses, axes @ group @ axes.T)
