"""Backend of modules that turn the vectors of edges into one energy per atom: all derivatives are taken here.

An architecture adds ``atom_energies`` and what its files and parameters are called. A fourth one in sixty lines is
in tests/potentials/test_another_architecture.py.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.backend import Backend, Predictions
from phonosmith.potentials.e3nn_eager import recast

if TYPE_CHECKING:
    from phonosmith.potentials.base import Array
    from phonosmith.potentials.graphs import Batch


class EdgeBackend(Backend):
    """Common part of the backends of such modules."""

    @abstractmethod
    def atom_energies(self, model: Any, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        """Return each atom's energy without its atomic reference energy, eV, shape (atoms,)."""

    def references(self, model: Any) -> torch.Tensor:
        """Return the atomic reference energies as a tensor on the model's device, eV, shape (heads, elements).

        Override it with tensors of the module: a step with a round trip by the CPU cannot be recorded as a CUDA graph.
        """
        return torch.as_tensor(self.atomic_energies(model), device=next(model.parameters()).device)

    def predict(self, model: Any, batch: Batch, *, stress: bool, create_graph: bool) -> Predictions:
        """Differentiate the energy by positions and, where stress is wanted, by a symmetric strain of each graph."""
        positions = batch["positions"].detach().clone().requires_grad_(True)
        (sender, receiver), graph = batch["edge_index"], batch["batch"]
        n_graphs = len(batch["ptr"]) - 1
        leaves, moved, shifts = [positions], positions, batch["shifts"]
        if stress:
            strain = positions.new_zeros((n_graphs, 3, 3), requires_grad=True)
            symmetric = (strain + strain.mT) / 2
            moved = positions + torch.einsum("ni,nij->nj", positions, symmetric[graph])
            shifts = shifts + torch.einsum("ni,nij->nj", shifts, symmetric[graph[sender]])
            leaves.append(strain)
        energies = self.atom_energies(model, batch, moved[receiver] - moved[sender] + shifts)
        interaction = energies.new_zeros(n_graphs).index_add(0, graph, energies)
        offsets = self.references(model).to(energies.dtype)[batch["head"][graph], batch["species"]]
        energy = interaction + energies.new_zeros(n_graphs).index_add(0, graph, offsets)
        gradients = torch.autograd.grad(
            interaction.sum(), leaves, create_graph=create_graph, retain_graph=create_graph, materialize_grads=True
        )
        tension = None
        if stress:
            volume = batch.get("volume")
            if volume is None:
                a, b, c = batch["cell"].view(-1, 3, 3).unbind(1)
                volume = (a * torch.linalg.cross(b, c)).sum(-1).abs()
            tension = gradients[1] / volume[:, None, None]
        return Predictions(positions, energy, interaction, -gradients[0], tension)

    def cast(self, model: Any, dtype: str, device: str = "cpu") -> Any:
        """Return a copy in another precision on a device, its coupling coefficients exact."""
        return recast(model, getattr(torch, dtype), device)

    def prune(self, model: Any, numbers: Sequence[int]) -> Any:
        """Return a copy with all elements: idle ones cost a row of the first layer and nothing else."""
        if missing := set(numbers) - set(self.atomic_numbers(model)):
            raise PotentialError(
                f"The model does not cover the atomic numbers {sorted(missing)}.", "Choose elements the model covers."
            )
        return copy.deepcopy(model)


def element_rows(values: Any, count: int) -> Array:
    """Return one number per element as an array of shape (1, count)."""
    return np.broadcast_to(np.asarray(values, dtype=np.float64).reshape(1, -1), (1, count)).copy()
