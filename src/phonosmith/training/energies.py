"""Atomic reference energies: kept, shifted by least squares, or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from phonosmith.core.errors import ConfigurationError
from phonosmith.training.graphs import Graph, adapted, collate, fresh
from phonosmith.training.models import frozen, model_e0, set_e0


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
    return shift_of_compositions(composition_matrix(frames, numbers), residuals)


def shift_of_compositions(counts: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return :func:`least_squares_shift` from numbers of atoms, shape (frames, elements)."""
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


def graph_compositions(graphs: Sequence[Graph]) -> np.ndarray:
    """Return how many atoms of each of the model's elements every graph holds, shape (graphs, elements)."""
    return np.array([graph.tensors["node_attrs"].sum(dim=0).double().cpu().numpy() for graph in graphs])


def energy_residuals(model: torch.nn.Module, graphs: Sequence[Graph]) -> np.ndarray:
    """Return label minus predicted interaction energy of every graph, eV."""
    found = []
    with frozen(model):
        for graph in graphs:
            batch = collate([graph])
            output = model(fresh(batch), training=False, compute_force=False)
            found.append(float((batch["energy"] - output["interaction_energy"]).detach()))
    return np.array(found)


def relative_to(graphs: Sequence[Graph], shift: np.ndarray, head: int | None = None) -> list[Graph]:
    """Return float64 graphs whose energy labels are relative to atomic energies shifted by so much (eV per element)."""
    removed = graph_compositions(graphs) @ shift
    return [
        adapted(
            graph,
            dtype=torch.float64,
            device=torch.device("cpu"),
            energy=float(graph.tensors["energy"]) - float(amount),
            head=head,
        )
        for graph, amount in zip(graphs, removed, strict=True)
    ]


def final_shift(model: torch.nn.Module, head: int, train: Sequence[Graph], valid: Sequence[Graph]) -> np.ndarray:
    """Take the offset training left out of the energies: shift one head's atomic energies, changing the model.

    At the learning rates of fine-tuning the mean energy wanders by some meV/atom from step to step, and the loss
    hardly sees it. The shift is the least-squares one of the training set's residuals; it is made only when it lowers
    the mean absolute energy error of the validation set. Forces and stresses do not depend on it.

    Returns
    -------
    numpy.ndarray
        The shift made per element, eV; zeros when it was not made.
    """
    shift = shift_of_compositions(graph_compositions(train), energy_residuals(model, train))
    counts = graph_compositions(valid)
    left = energy_residuals(model, valid)
    sizes = counts.sum(axis=1)
    if not np.mean(np.abs(left - counts @ shift) / sizes) < np.mean(np.abs(left) / sizes):
        return np.zeros(len(shift))
    set_e0(model, head, model_e0(model)[head] + shift)
    return shift
