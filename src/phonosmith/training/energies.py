"""Atomic reference energies: kept, shifted by least squares, or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from phonosmith.core.errors import ConfigurationError
from phonosmith.potentials.base import Array


def least_squares_shift(counts: Array, residuals: Array) -> Array:
    """Return the shift per element, eV, that removes the mean of energy residuals (label minus prediction), eV.

    ``counts`` has the atoms of each element, shape (frames, elements). Each frame counts per atom, so that large cells
    do not rule. Where compositions do not tell elements apart (one compound), the solution of smallest norm is taken:
    elements the data say nothing about keep their energies.
    """
    size = counts.sum(axis=1)
    return np.asarray(np.linalg.lstsq(counts / size[:, None], residuals / size, rcond=1e-8)[0])


def given_energies(values: Mapping[str, float], numbers: Sequence[int]) -> Array:
    """Return given atomic energies in the order of ``numbers``, eV; ConfigurationError when they are not complete."""
    unknown = sorted(set(values) - set(atomic_numbers))
    missing = [chemical_symbols[z] for z in numbers if chemical_symbols[z] not in values]
    if unknown or missing:
        raise ConfigurationError(
            f"e0_values lacks {', '.join(missing) or 'nothing'} and names unknown {', '.join(unknown) or 'nothing'}.",
            'Give one energy in eV per element, e.g. e0_values={"Si": -0.8}.',
        )
    return np.array([float(values[chemical_symbols[z]]) for z in numbers])


def settled_shift(counts: Array, residuals: Array, valid_counts: Array, valid_residuals: Array) -> Array:
    """Return the offset of the energies that training left, per element, eV; zeros where taking it out does not help.

    At the learning rates of fine-tuning the mean energy wanders by some meV/atom from step to step, and the loss
    hardly sees it. The shift is the least-squares one of the training set's residuals (eV; see
    :func:`least_squares_shift`); it counts only when it lowers the mean absolute energy error of the validation set.
    Forces and stresses do not depend on it.
    """
    shift, sizes = least_squares_shift(counts, residuals), valid_counts.sum(axis=1)
    before, after = np.abs(valid_residuals) / sizes, np.abs(valid_residuals - valid_counts @ shift) / sizes
    return shift if np.mean(after) < np.mean(before) else np.zeros(len(shift))
