"""Phonon density of states from mesh frequencies, and how far two of them are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMEARING_THZ = 0.05
"""Standard deviation of the Gaussian, THz."""


def frequency_grid(frequencies: list[Array], smearing: float = SMEARING_THZ, step: float | None = None) -> Array:
    """Return one grid in THz that holds every frequency of all sides with five standard deviations of margin.

    The step is a fifth of the smearing unless given: sums then equal integrals to 1e-12.
    """
    low = min(float(values.min()) for values in frequencies) - 5 * smearing
    high = max(float(values.max()) for values in frequencies) + 5 * smearing
    spacing = smearing / 5 if step is None else step
    return np.asarray(low + spacing * np.arange(int(np.ceil((high - low) / spacing)) + 1))


def density_of_states(frequencies: Array, weights: Array, grid: Array, smearing: float = SMEARING_THZ) -> Array:
    """Return the Gaussian-smeared density of states in states per THz and primitive cell.

    Frequencies have shape (n_q, n_branches), weights any normalisation; the grid is equally spaced, and the smearing a
    standard deviation (all THz).
    """
    share = np.repeat(weights / np.sum(weights), frequencies.shape[1])
    values = frequencies.ravel()
    density = np.zeros(len(grid))
    step = grid[1] - grid[0]
    reach = int(np.ceil(6 * smearing / step))
    centre = np.rint((values - grid[0]) / step).astype(int)
    for offset in range(-reach, reach + 1):
        index = centre + offset
        inside = (index >= 0) & (index < len(grid))
        distance = grid[index[inside]] - values[inside]
        height = share[inside] * np.exp(-0.5 * (distance / smearing) ** 2)
        density += np.bincount(index[inside], weights=height, minlength=len(grid))
    return density / (smearing * np.sqrt(2 * np.pi))


def dos_difference_percent(reference: Array, candidate: Array) -> float:
    """Return 100 ∫|g_c - g_r| dω / ∫ g_r dω of two densities on one equally spaced grid, 0 to 200."""
    return float(100 * np.abs(candidate - reference).sum() / reference.sum())
