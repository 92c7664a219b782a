"""Atomic reference energies: kept, shifted by least squares, or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from phonosmith.core.errors import ConfigurationError
from phonosmith.potentials.backend import Backend
from phonosmith.potentials.base import Array
from phonosmith.potentials.graphs import frozen
from phonosmith.training.graphs import LabelledBatch, LabelledGraph, compositions, in_batches


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


def energy_residuals(backend: Backend, model: torch.nn.Module, graphs: Sequence[LabelledGraph]) -> Array:
    """Return label minus predicted interaction energy of every graph, eV."""
    dtype = next(model.parameters()).dtype

    def residual(batch: LabelledBatch) -> float:
        predictions = backend.predict(model, batch.inputs, stress=False, create_graph=False)
        return float((batch.energy - predictions.interaction).detach())

    with frozen(model):
        return np.array([residual(batch) for batch in in_batches(graphs, 1, dtype)])


def final_shift(
    backend: Backend, model: torch.nn.Module, head: int, train: Sequence[LabelledGraph], valid: Sequence[LabelledGraph]
) -> Array:
    """Shift one head's atomic energies by the offset training left; return it per element, eV (zeros: not made).

    At the learning rates of fine-tuning the mean energy wanders by some meV/atom from step to step, and the loss
    hardly sees it. The shift is the least-squares one of the training set's residuals; it is made only when it lowers
    the mean absolute energy error of the validation set. Forces and stresses do not depend on it.
    """
    energies = backend.atomic_energies(model)[head]
    shift = least_squares_shift(compositions(train, len(energies)), energy_residuals(backend, model, train))
    counts = compositions(valid, len(energies))
    left = energy_residuals(backend, model, valid)
    sizes = counts.sum(axis=1)
    if not np.mean(np.abs(left - counts @ shift) / sizes) < np.mean(np.abs(left) / sizes):
        return np.zeros(len(shift))
    backend.set_atomic_energies(model, head, energies + shift)
    return shift
