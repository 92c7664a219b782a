"""Atomic reference energies: kept, shifted by least squares, or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from phonosmith.core.errors import ConfigurationError


def composition_matrix(frames: Sequence[Atoms], numbers: Sequence[int]) -> np.ndarray:
    """Return how many atoms of each element every frame holds, shape (frames, elements)."""
    return np.array([[int(np.sum(atoms.numbers == z)) for z in numbers] for atoms in frames], dtype=float)


def least_squares_shift(frames: Sequence[Atoms], numbers: Sequence[int], residuals: np.ndarray) -> np.ndarray:
    """Return the shift per element, eV, that removes the mean of energy residuals.

    Each frame counts per atom, so that large cells do not rule. Where compositions do not tell elements apart (one
    compound), the solution of smallest norm is taken: elements the data say nothing about keep their energies.

    Parameters
    ----------
    frames
        Configurations.
    numbers
        Atomic numbers, in the order of the result.
    residuals
        Label minus prediction per configuration, eV.
    """
    counts = composition_matrix(frames, numbers)
    size = counts.sum(axis=1, keepdims=True)
    shift, *_ = np.linalg.lstsq(counts / size, np.asarray(residuals) / size[:, 0], rcond=1e-8)
    return np.asarray(shift, dtype=float)


def given_energies(values: Mapping[str, float], numbers: Sequence[int]) -> np.ndarray:
    """Return given atomic energies in the model's order, eV.

    Raises
    ------
    ConfigurationError
        When an element is missing or a symbol is unknown.
    """
    unknown = sorted(set(values) - set(atomic_numbers))
    missing = [chemical_symbols[z] for z in numbers if chemical_symbols[z] not in values]
    if unknown or missing:
        raise ConfigurationError(
            f"e0_values lacks {', '.join(missing) or 'nothing'} and names unknown {', '.join(unknown) or 'nothing'}.",
            'Give one energy in eV per element, e.g. e0_values={"Si": -0.8}.',
        )
    return np.array([float(values[chemical_symbols[z]]) for z in numbers])
