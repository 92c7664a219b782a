"""What a model says about the structures of a set, computed once, and every error that follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.backend import Backend, Predictions
from phonosmith.potentials.base import Array
from phonosmith.potentials.graphs import Graph, batches, collate, frozen, numpy64
from phonosmith.potentials.torch_potential import TorchPotential
from phonosmith.training.documents import Errors, ForceParity
from phonosmith.training.graphs import LabelledBatch, LabelledGraph, labelled_batch
from phonosmith.training.losses import errors_of, prediction_sums
from phonosmith.training.spec import TrainSpec

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch


MOST_COMPONENTS = 300
"""Of a force parity: what a figure can show, small enough for every report."""


@dataclass(frozen=True)
class Predicted:
    """Predictions for the structures of one set, in order, on the CPU in the model's precision; units are eV and Å.

    ``energy`` is total, ``interaction`` without atomic reference energies: errors with other reference energies need no
    other prediction.
    """

    sizes: Array
    energy: torch.Tensor
    interaction: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor

    def residuals(self, graphs: Sequence[LabelledGraph]) -> Array:
        """Return label minus predicted interaction energy of every graph, eV."""
        return np.array([one.energy for one in graphs]) - numpy64(self.interaction)

    def errors(self, graphs: Sequence[LabelledGraph], spec: TrainSpec) -> Errors:
        """Compare with the labels of the graphs that were predicted (or with the same ones shifted)."""
        first, *others = (prediction_sums(*one, spec) for one in self._beside_labels(graphs, 2 * spec.batch_size))
        return errors_of(sum(others, start=first))

    def _beside_labels(self, graphs: Sequence[LabelledGraph], size: int) -> Iterator[tuple[Predictions, LabelledBatch]]:
        atoms = np.concatenate([[0], np.cumsum(self.sizes)]).astype(int)
        for start in range(0, len(graphs), size):
            batch = labelled_batch([_without_edges(one) for one in graphs[start : start + size]], self.forces.dtype)
            some = slice(start, start + size)
            rows = slice(atoms[start], atoms[min(start + size, len(graphs))])
            yield (
                Predictions(
                    positions=batch.inputs["positions"],
                    energy=self.energy[some],
                    interaction=self.interaction[some],
                    forces=self.forces[rows],
                    stress=self.stress[some],
                ),
                batch,
            )


def force_parity(graphs: Sequence[LabelledGraph], before: Predicted, after: Predicted) -> ForceParity:
    """Return force components of labels and of two predictions of them, at most `MOST_COMPONENTS`, in order."""
    label = np.concatenate([one.forces.ravel() for one in graphs])
    shown = np.linspace(0, len(label) - 1, min(len(label), MOST_COMPONENTS)).astype(int)
    sides = (label, *(numpy64(one.forces).ravel() for one in (before, after)))
    rows = [np.round(1000 * side[shown], 1).tolist() for side in sides]
    return ForceParity(label=rows[0], before=rows[1], after=rows[2], n_components=len(label))


def _without_edges(one: LabelledGraph) -> LabelledGraph:
    """Labels need no neighbours."""
    bare = replace(one.graph, edges=np.zeros((2, 0), dtype=np.int64), shifts=np.zeros((0, 3)))
    return replace(one, graph=bare)


def predicted(backend: Backend, model: torch.nn.Module, graphs: Sequence[Graph], head: int = 0) -> Predicted:
    """Predict a set where the model is, in batches bounded by memory.

    The very operations of training are used: a model's own loss on its labels is zero.
    """
    limits = TorchPotential(backend, model, head=backend.heads(model)[head]).batch_limits()
    with frozen(model):
        parts = [part for group in batches(graphs, *limits) for part in _parts(backend, model, group, head)]
    energy, interaction, forces, stress = (torch.cat(values) for values in zip(*parts, strict=True))
    return Predicted(np.array([len(graph.species) for graph in graphs]), energy, interaction, forces, stress)


def _parts(
    backend: Backend, model: torch.nn.Module, group: Sequence[Graph], head: int
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Predict one batch; on a device that runs out of memory, its halves."""
    parameter = next(model.parameters())
    with suppress(torch.cuda.OutOfMemoryError):
        yield _values(backend, model, collate(group, parameter.dtype, parameter.device, head))
        return
    # not where the error is handled: it holds the tensors of the evaluation that failed
    if len(group) == 1:
        raise PotentialError(
            f"A structure of {len(group[0].species)} atoms does not fit into the memory of {parameter.device}.",
            "Train with device=cpu, or on smaller cells.",
        )
    torch.cuda.empty_cache()
    half = len(group) // 2
    yield from _parts(backend, model, group[:half], head)
    yield from _parts(backend, model, group[half:], head)


def _values(backend: Backend, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
    found = backend.predict(model, batch, stress=True, create_graph=False)
    assert found.stress is not None  # it was asked for
    return tuple(value.detach().cpu() for value in (found.energy, found.interaction, found.forces, found.stress))
