"""Magnetic moments beside labels: which state a frame was in, and whether two frames were in the same one.

Only collinear states are compared. Turning every moment at once changes nothing: without spin-orbit coupling both
states have the same energy and forces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.structures.labels import SPIN, moments_of

Array = NDArray[np.float64]

SOME_MOMENT = 0.5
"""μB: an atom with less has a moment its neighbours induce, which may point either way."""
_NO_MOMENT = 0.1
"""μB: states whose atoms all stay below are not magnetic; VASP leaves a few hundredths in a sphere."""


def is_magnetic(atoms: Atoms) -> bool | None:
    """Tell whether labels belong to a magnetic state; None where a frame does not say.

    A total of zero alone does not: moments may cancel. Computed with spin and without a word on moments counts as
    magnetic: nothing shows that they vanished.
    """
    total, sites = moments_of(atoms)
    if sites is not None:
        return bool(np.abs(sites).max() > _NO_MOMENT)
    if total is not None:
        return True if abs(total) >= SOME_MOMENT else None
    spin = atoms.info.get(SPIN)
    return None if spin is None else bool(spin)


def turned_sites(expected: Array, found: Array) -> NDArray[np.intp]:
    """Return the atoms whose moments point the other way than expected, up to one sign common to all (μB)."""
    if expected.shape != found.shape:
        return np.array([], dtype=np.intp)
    known = np.minimum(np.abs(expected), np.abs(found)) >= SOME_MOMENT
    against = known & (np.sign(expected) != np.sign(found))
    if 2 * np.count_nonzero(against) > np.count_nonzero(known):
        against = known & ~against
    return np.flatnonzero(against)


def changed_sites(one: Array, other: Array) -> NDArray[np.intp]:
    """Return the atoms whose moment halved or doubled from one frame to another, by 0.5 μB or more."""
    first, second = np.abs(one), np.abs(other)
    largest = np.maximum(first, second)
    return np.flatnonzero((largest >= 2 * SOME_MOMENT) & (np.abs(first - second) > 0.5 * largest))


def mean_moments(atoms: Atoms) -> dict[str, float]:
    """Return the mean size of the moments of each element, μB; empty where a frame does not tell them."""
    sites = moments_of(atoms).sites
    if sites is None:
        return {}
    symbols = np.array(atoms.get_chemical_symbols())
    return {str(symbol): float(np.abs(sites[symbols == symbol]).mean()) for symbol in np.unique(symbols)}


def net_moment(atoms: Atoms) -> float | None:
    """Return the size of the total moment per atom, μB; the sum over atoms where the cell's is not known."""
    total, sites = moments_of(atoms)
    if total is None:
        return None if sites is None else abs(float(sites.sum())) / len(atoms)
    return abs(total) / len(atoms)


def magnetic_note(frames: Sequence[Atoms]) -> str | None:
    """Say in one sentence what magnetism of the labels means for a potential; None where they have none."""
    magnetic = [atoms for atoms in frames if is_magnetic(atoms)]
    if not magnetic:
        return None
    sizes = [mean_moments(atoms) for atoms in magnetic]
    elements = sorted({symbol for size in sizes for symbol in size})
    said = [f"{symbol} {np.median([s[symbol] for s in sizes if symbol in s]):.2f} μB" for symbol in elements]
    net = [value for atoms in magnetic if (value := net_moment(atoms)) is not None]
    said += [f"{np.median(net):.2f} μB per atom in total"] if net else ["moments not known"]
    return (
        f"{len(magnetic)} of {len(frames)} labels are magnetic ({', '.join(said)}): a potential knows no moments, so"
        " one trained on them holds for this magnetic state alone"
    )
