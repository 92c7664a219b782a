"""Replay: structures that keep the model from forgetting, drawn from a pool and labelled by the foundation itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from phonosmith.core.errors import InputError
from phonosmith.potentials.backend import Backend
from phonosmith.potentials.graphs import batches, collate, frozen, make_graph, numpy64
from phonosmith.structures.labels import label_frame, labels_of
from phonosmith.training.spec import TrainSpec

_BATCH = 512, 200_000
"""Most atoms and edges that are labelled at a time."""


def draw(pool: Sequence[Atoms], size: int, seed: int) -> list[Atoms]:
    """Draw structures at random without repetition (all of them where the pool is smaller)."""
    if len(pool) == 0:
        raise InputError("The replay pool is empty.", "Give structures to replay, labelled or not.")
    order = np.random.default_rng([seed, 7]).permutation(len(pool))[:size]
    return [pool[index] for index in sorted(order)]


def label_with(backend: Backend, model: torch.nn.Module, frames: Sequence[Atoms]) -> list[Atoms]:
    """Label structures with a single-head model's own energy, forces and stress; labels they carry are replaced."""
    numbers, cutoff, parameter = backend.atomic_numbers(model), backend.cutoff(model), next(model.parameters())
    graphs = [make_graph(atoms, numbers, cutoff, index) for index, atoms in enumerate(frames)]
    labelled = []
    with frozen(model):
        for group in batches(graphs, *_BATCH):
            batch = collate(group, parameter.dtype, parameter.device)
            # the very operations of training: the foundation's own loss on its labels is zero
            predictions = backend.predict(model, batch, stress=True, create_graph=False)
            assert predictions.stress is not None  # it was asked for
            forces = np.split(numpy64(predictions.forces), batch["ptr"][1:-1].tolist())
            tensors = zip(numpy64(predictions.energy), forces, numpy64(predictions.stress), strict=True)
            for atoms, (energy, own, stress) in zip((frames[graph.index] for graph in group), tensors, strict=True):
                periodic = bool(np.all(atoms.pbc))
                labelled.append(label_frame(atoms, energy=energy, forces=own, stress=stress if periodic else None))
    return labelled


def replay_frames(
    backend: Backend, model: torch.nn.Module, pool: Sequence[Atoms], spec: TrainSpec, seed: int
) -> tuple[list[Atoms], str]:
    """Draw labelled replay structures; say whether the labels are those ``given`` or the ``foundation``'s."""
    drawn = draw(pool, spec.replay_size, seed)
    carried = [labels_of(atoms) for atoms in drawn]
    complete = all(one.energy is not None and one.forces is not None for one in carried)
    if spec.replay_labels == "given" or (spec.replay_labels == "auto" and complete):
        return drawn, "given"
    return label_with(backend, model, drawn), "foundation"
