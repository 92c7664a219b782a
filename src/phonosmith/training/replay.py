"""Replay: structures that keep the model from forgetting, drawn from a pool and labelled by the foundation itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from phonosmith.core.errors import InputError
from phonosmith.potentials.backend import Backend
from phonosmith.potentials.graphs import make_graph, numpy64
from phonosmith.structures.labels import label_frame, labels_of
from phonosmith.training.judging import Predicted, predicted
from phonosmith.training.spec import TrainSpec

POOL_OF = "replay pool of "
"""How the source of structures begins that were made for replay and labelled by the foundation that is named."""


def draw(pool: Sequence[Atoms], size: int, seed: int) -> list[Atoms]:
    """Draw structures at random without repetition (all of them where the pool is smaller)."""
    if len(pool) == 0:
        raise InputError("The replay pool is empty.", "Give structures to replay, labelled or not.")
    order = np.random.default_rng([seed, 7]).permutation(len(pool))[:size]
    return [pool[index] for index in sorted(order)]


def keeps_labels(drawn: Sequence[Atoms], spec: TrainSpec) -> bool:
    """Say whether replay structures keep the labels they carry; else the foundation labels them."""
    carried = [labels_of(atoms) for atoms in drawn]
    complete = all(one.energy is not None and one.forces is not None for one in carried)
    return spec.replay_labels == "given" or (spec.replay_labels == "auto" and complete)


def with_labels(frames: Sequence[Atoms], found: Predicted) -> list[Atoms]:
    """Return structures with predicted energy, forces and (where periodic) stress as labels."""
    forces = np.split(numpy64(found.forces), np.cumsum(found.sizes)[:-1])
    values = zip(frames, numpy64(found.energy), forces, numpy64(found.stress), strict=True)
    return [
        label_frame(atoms, energy=energy, forces=own, stress=stress if np.all(atoms.pbc) else None)
        for atoms, energy, own, stress in values
    ]


def label_with(backend: Backend, model: torch.nn.Module, frames: Sequence[Atoms]) -> list[Atoms]:
    """Label structures with a single-head model's own energy, forces and stress; labels they carry are replaced."""
    numbers, cutoff = backend.atomic_numbers(model), backend.cutoff(model)
    graphs = [make_graph(atoms, numbers, cutoff, index) for index, atoms in enumerate(frames)]
    return with_labels(frames, predicted(backend, model, graphs))
