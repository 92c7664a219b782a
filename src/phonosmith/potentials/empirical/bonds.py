"""Neighbour pairs and bond angles of many configurations as flat arrays: what a short-ranged potential sums over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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
    n_frames
        Configurations in the batch.
    frame, species
        Of every atom in the batch: its configuration, and its element's index in the list that was asked for.
    first, second
        Atoms of every pair.
    vector, length
        From the first atom to the second, Å.
    """

    n_frames: int
    frame: Integers
    species: Integers
    first: Integers
    second: Integers
    vector: Floats
    length: Floats

    def keep(self, mask: NDArray[np.bool_]) -> Bonds:
        """Return the pairs a mask selects."""
        pairs = {name: getattr(self, name)[mask] for name in ("first", "second", "vector", "length")}
        return replace(self, **pairs)

    def couples(self) -> tuple[Integers, Integers]:
        """Return all ordered couples (p, q) of different pairs that share their first atom."""
        count = np.bincount(self.first, minlength=len(self.frame))
        per_pair = count[self.first]
        p = np.repeat(np.arange(len(self.first)), per_pair)
        within = np.arange(len(p)) - np.repeat(np.cumsum(per_pair) - per_pair, per_pair)
        q = (np.cumsum(count) - count)[self.first[p]] + within
        different = p != q
        return p[different], q[different]


@dataclass(frozen=True)
class Derivatives:
    """Energies (eV, per configuration), forces (eV/Å, per atom of the batch) and virials of a batch.

    A virial is Σ (∂E/∂r)⊗r, eV; divided by the volume it is the stress in ASE's sign.
    """

    energies: Floats
    forces: Floats
    virials: Floats


def find_bonds(frames: Sequence[Atoms], elements: Sequence[str], cutoff: float) -> Bonds:
    """Return all pairs closer than a cutoff (Å), periodic images included."""
    from matscipy.neighbours import neighbour_list

    index = {symbol: number for number, symbol in enumerate(elements)}
    sizes = [len(atoms) for atoms in frames]
    lists = [neighbour_list("ijDd", _boxed(atoms, cutoff), cutoff) for atoms in frames]
    first, second, vector, length = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    offset = np.repeat(np.cumsum([0, *sizes[:-1]]), [len(pairs[0]) for pairs in lists])
    return Bonds(
        n_frames=len(frames),
        frame=np.repeat(np.arange(len(frames)), sizes),
        species=np.array([index[symbol] for atoms in frames for symbol in atoms.symbols], dtype=np.int64),
        first=(first + offset).astype(np.int64),
        second=(second + offset).astype(np.int64),
        vector=vector.reshape(-1, 3),
        length=length,
    )


def _boxed(atoms: Atoms, margin: float) -> Atoms:
    """Return a configuration with three cell vectors: a molecule, wire or slab without them gets empty space."""
    if atoms.cell.rank == 3:
        return atoms
    boxed = atoms.copy()
    boxed.center(vacuum=margin, axis=[axis for axis in range(3) if not atoms.pbc[axis]])
    return boxed


def collect(bonds: Bonds, pair_energy: Floats, gradient: Floats) -> Derivatives:
    """Sum over the batch the energy credited to every directed pair (eV) and its ∂E/∂vector (eV/Å, (n_pairs, 3))."""
    frame, n_atoms = bonds.frame[bonds.first], len(bonds.frame)
    forces = scatter(n_atoms, bonds.first, gradient) - scatter(n_atoms, bonds.second, gradient)
    rows = [scatter(bonds.n_frames, frame, gradient[:, [axis]] * bonds.vector) for axis in range(3)]
    energies = np.bincount(frame, pair_energy, bonds.n_frames).astype(np.float64)
    return Derivatives(energies, forces, np.stack(rows, axis=1))


def scatter(target: int, index: Integers, vectors: Floats) -> Floats:
    """Sum vectors (n, 3) by index into an array of shape (target, 3)."""
    return np.stack([np.bincount(index, vectors[:, axis], target) for axis in range(3)], axis=1).astype(np.float64)
