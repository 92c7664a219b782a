"""Backend of modules that turn the vectors of edges into one energy per atom: all derivatives are taken here.

An architecture adds ``atom_energies`` and what its files and parameters are called. A fourth one in sixty lines is
in tests/potentials/test_another_architecture.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.backend import Ability, Predictions, require_ability
from phonosmith.potentials.e3nn_eager import recast
from phonosmith.potentials.torch_potential import TorchPotential

if TYPE_CHECKING:
    from phonosmith.potentials.base import Array, Potential
    from phonosmith.potentials.graphs import Batch


class EdgeBackend:
    """Common part of the ``Backend`` protocol for such modules."""

    architecture: str
    plain_suffix: str
    abilities: frozenset[Ability] = frozenset({"float64_training"})

    def atom_energies(self, model: Any, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        """Return each atom's energy without its atomic reference energy, eV, shape (atoms,)."""
        raise NotImplementedError

    def atomic_energies(self, model: Any) -> Array:
        """Return atomic reference energies, eV, shape (1, elements)."""
        raise NotImplementedError

    def prepare(self, model: Any, batch: Batch) -> Batch:  # noqa: ARG002
        """Return the batch: nothing is gained beforehand."""
        return batch

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
        references = torch.as_tensor(self.atomic_energies(model), dtype=energies.dtype, device=energies.device)
        offsets = references[batch["head"][graph], batch["species"]]
        energy = interaction + energies.new_zeros(n_graphs).index_add(0, graph, offsets)
        gradients = torch.autograd.grad(
            interaction.sum(), leaves, create_graph=create_graph, retain_graph=create_graph, materialize_grads=True
        )
        tension = None
        if stress:
            a, b, c = batch["cell"].view(-1, 3, 3).unbind(1)
            volume = (a * torch.linalg.cross(b, c)).sum(-1).abs()
            tension = gradients[1] / volume[:, None, None]
        return Predictions(positions, energy, interaction, -gradients[0], tension)

    def heads(self, model: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Return the one head."""
        return ("Default",)

    def cast(self, model: Any, dtype: str, device: str = "cpu") -> Any:
        """Return a copy in another precision on a device."""
        return recast(model, getattr(torch, dtype), device)

    def prune(self, model: Any, numbers: Sequence[int]) -> Any:
        """Return a copy with all elements: idle ones cost a row of the first layer and nothing else."""
        missing = set(numbers) - set(self.atomic_numbers(model))
        if missing:
            raise PotentialError(
                f"The model does not cover the atomic numbers {sorted(missing)}.", "Choose elements the model covers."
            )
        return copy.deepcopy(model)

    def atomic_numbers(self, model: Any) -> tuple[int, ...]:
        """Return the atomic numbers in the order of the element channels."""
        raise NotImplementedError

    def single_head(self, model: Any, head: str) -> Any:  # noqa: ARG002
        """Return the model: it has one head."""
        return model

    def trainable_module(self, potential: Potential) -> Any:
        """Return the module behind a loaded potential of this architecture."""
        if potential.architecture != self.architecture or not isinstance(potential, TorchPotential):
            raise PotentialError(
                f"{type(potential).__name__} cannot be fine-tuned: it has no torch module of {self.architecture}.",
                "Use one of the published foundations ('phonosmith models list').",
            )
        return potential.model

    def potential(self, model: Any, name: str = "The potential") -> TorchPotential:
        """Wrap a module for evaluation."""
        return TorchPotential(self, model, name=name)  # type: ignore[arg-type]  # subclasses add files

    def blocks(self, model: Any) -> tuple[str, ...]:
        """Return the names of the blocks in forward order."""
        raise NotImplementedError

    def block_of(self, model: Any, parameter: str) -> int | None:
        """Return the block a parameter's name begins with."""
        for index, block in enumerate(self.blocks(model)):
            if parameter == block or parameter.startswith(f"{block}."):
                return index
        return None

    def decays(self, model: Any, parameter: str) -> bool:  # noqa: ARG002
        """Tell whether weight decay acts: on everything, unless the architecture's own training spares some."""
        return True

    def with_heads(self, model: Any, heads: Sequence[str]) -> Any:  # noqa: ARG002
        """Refuse: one readout."""
        self._refuse("heads", "A model with several heads")

    def add_low_rank(self, model: Any, rank: int, alpha: float) -> None:  # noqa: ARG002
        """Refuse: no low-rank layers."""
        self._refuse("low_rank", "A low-rank update")

    def merge_low_rank(self, model: Any) -> Any:  # noqa: ARG002
        """Refuse: no low-rank layers."""
        self._refuse("low_rank", "A low-rank update")

    def atoms_at_a_time(self, model: Any, batch: Batch, memory_gb: float) -> int | None:  # noqa: ARG002
        """Return None: all atoms at once."""
        return None

    def in_blocks(self, model: Any, size: int | None) -> AbstractContextManager[None]:  # noqa: ARG002
        """Evaluate as usual; refuse anything else."""
        from contextlib import nullcontext

        return nullcontext() if size is None else self._refuse("atom_blocks", "Evaluation in blocks of atoms")

    def _refuse(self, ability: Ability, what: str) -> NoReturn:
        require_ability(self, ability, what)  # type: ignore[arg-type]
        raise NotImplementedError(ability)


def element_rows(values: Any, count: int) -> Array:
    """Return one number per element as an array of shape (1, count)."""
    return np.broadcast_to(np.asarray(values, dtype=np.float64).reshape(1, -1), (1, count)).copy()
