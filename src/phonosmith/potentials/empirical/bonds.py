"""Neighbour pairs and bond angles of many configurations as flat arrays: what a short-ranged potential sums over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Bonds:
    """Directed pairs of neighbours of a batch of configurations, sorted by their first atom.

    Attributes
    ----------
    n_atoms
        Atoms in the whole batch.
    n_frames
        Configurations in the batch.
    frame
        Configuration every atom belongs to.
    species
        Index of every atom's element in the element list that was asked for.
    first, second
        Atoms of every pair.
    vector
        From the first atom to the second, Å.
    length
        Å.
    """

    n_atoms: int
    n_frames: int
    frame: Integers
    species: Integers
    first: Integers
    second: Integers
    vector: Floats
    length: Floats

    def keep(self, mask: NDArray[np.bool_]) -> Bonds:
        """Return the pairs a mask selects."""
        return Bonds(
            self.n_atoms,
            self.n_frames,
            self.frame,
            self.species,
            self.first[mask],
            self.second[mask],
            self.vector[mask],
            self.length[mask],
        )


@dataclass(frozen=True)
class Derivatives:
    """Energies, forces and virials of a batch.

    Attributes
    ----------
    energies
        Per configuration, eV.
    forces
        Per atom of the batch, eV/Å.
    virials
        Σ (∂E/∂r)⊗r per configuration, eV; divided by the volume it is the stress in ASE's sign.
    """

    energies: Floats
    forces: Floats
    virials: Floats


def find_bonds(frames: Sequence[Atoms], elements: Sequence[str], cutoff: float) -> Bonds:
    """Return all pairs closer than a cutoff (Å), periodic images included."""
    from matscipy.neighbours import neighbour_list  # type: ignore[import-untyped]

    index = {symbol: number for number, symbol in enumerate(elements)}
    parts: list[tuple[Any, Any, Any, Any]] = []
    offset = 0
    for atoms in frames:
        first, second, vector, length = neighbour_list("ijDd", _boxed(atoms, cutoff), cutoff)
        parts.append((first + offset, second + offset, vector, length))
        offset += len(atoms)
    return Bonds(
        n_atoms=offset,
        n_frames=len(frames),
        frame=np.repeat(np.arange(len(frames)), [len(atoms) for atoms in frames]),
        species=np.array([index[symbol] for atoms in frames for symbol in atoms.symbols], dtype=np.int64),
        first=np.concatenate([part[0] for part in parts]).astype(np.int64),
        second=np.concatenate([part[1] for part in parts]).astype(np.int64),
        vector=np.concatenate([part[2] for part in parts]).reshape(-1, 3),
        length=np.concatenate([part[3] for part in parts]),
    )


def _boxed(atoms: Atoms, margin: float) -> Atoms:
    """Return a configuration with three cell vectors: a molecule, wire or slab without them gets empty space."""
    if atoms.cell.rank == 3:
        return atoms
    boxed = atoms.copy()
    boxed.center(vacuum=margin, axis=[axis for axis in range(3) if not atoms.pbc[axis]])
    return boxed


def angles(bonds: Bonds) -> tuple[Integers, Integers]:
    """Return all ordered couples (p, q) of different pairs that share their first atom."""
    count = np.bincount(bonds.first, minlength=bonds.n_atoms)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    per_pair = count[bonds.first]
    p = np.repeat(np.arange(len(bonds.first)), per_pair)
    within = np.arange(len(p)) - np.repeat(np.cumsum(per_pair) - per_pair, per_pair)
    q = start[bonds.first[p]] + within
    different = p != q
    return p[different], q[different]


def collect(bonds: Bonds, pair_energy: Floats, gradient: Floats) -> Derivatives:
    """Sum pair energies and ∂E/∂vector over the batch.

    Parameters
    ----------
    bonds
        The pairs.
    pair_energy
        Energy credited to every directed pair, eV.
    gradient
        ∂E/∂vector of every directed pair, eV/Å, shape (n_pairs, 3).
    """
    frame = bonds.frame[bonds.first]
    forces = np.empty((bonds.n_atoms, 3))
    virials = np.empty((bonds.n_frames, 3, 3))
    for axis in range(3):
        pull = gradient[:, axis]
        forces[:, axis] = np.bincount(bonds.first, pull, bonds.n_atoms) - np.bincount(bonds.second, pull, bonds.n_atoms)
        for other in range(3):
            virials[:, axis, other] = np.bincount(frame, pull * bonds.vector[:, other], bonds.n_frames)
    energies: Floats = np.bincount(frame, pair_energy, bonds.n_frames).astype(np.float64)
    return Derivatives(energies, forces, virials)


def scatter(target: int, index: Integers, vectors: Floats) -> Floats:
    """Sum vectors (n, 3) by index into an array of shape (target, 3)."""
    return np.stack([np.bincount(index, vectors[:, axis], target) for axis in range(3)], axis=1)
