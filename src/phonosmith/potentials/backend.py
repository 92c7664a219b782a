"""What an architecture gives to the rest: differentiable functions over its torch module, and what can be done with it.

The one torch potential (``torch_potential``) and the one training loop (``phonosmith.training``) know an architecture
through this protocol only. Batches are the tensors of ``graphs.collate``; an architecture derives from them what its
module wants. Abilities that not every architecture has are listed in ``abilities`` and refused by name where they lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from phonosmith.core.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from phonosmith.potentials.base import Array, Potential
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.graphs import Batch

Ability = Literal["heads", "low_rank", "atom_blocks", "float64_training"]
"""heads: several readouts on one trunk; low_rank: LoRA layers; atom_blocks: layers evaluated a few atoms at a time."""


@dataclass(frozen=True)
class Predictions:
    """Differentiable outcome of one batch.

    Attributes
    ----------
    positions
        The leaf tensor that forces were differentiated by, Å: further derivatives are taken by it.
    energy
        Total energies, eV, shape (graphs,).
    interaction
        The same without the atomic reference energies, summed without them: no digits are lost in float32.
    forces
        eV/Å, shape (atoms, 3).
    stress
        eV/Å³, ASE sign, shape (graphs, 3, 3); None where it was not asked for.
    """

    positions: torch.Tensor
    energy: torch.Tensor
    interaction: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor | None


@dataclass(frozen=True)
class FreshStart:
    """Statistics of a training set that a model with random weights is scaled by.

    Attributes
    ----------
    seed
        Of the weights.
    neighbours
        Mean number of edges per atom.
    force_scale
        Root mean square of the force components, eV/Å.
    """

    seed: int
    neighbours: float
    force_scale: float


class Backend(Protocol):
    """One architecture's functions over its torch module."""

    architecture: str
    plain_suffix: str
    """Ending of the file that the rest of the world reads, e.g. ``.model``."""
    abilities: frozenset[Ability]

    # what a module is

    def atomic_numbers(self, model: torch.nn.Module) -> tuple[int, ...]:
        """Return the atomic numbers in the order of the model's element channels (``species`` of a batch)."""
        ...

    def cutoff(self, model: torch.nn.Module) -> float:
        """Return the interaction range of one layer, Å."""
        ...

    def heads(self, model: torch.nn.Module) -> tuple[str, ...]:
        """Return the names of the readouts; one for most models."""
        ...

    def atomic_energies(self, model: torch.nn.Module) -> Array:
        """Return atomic reference energies, eV, shape (heads, elements)."""
        ...

    def bytes_per_edge(self, model: torch.nn.Module) -> float:
        """Return the size of one edge's features over all layers, bytes: it decides about batch sizes."""
        ...

    # evaluation

    def prepare(self, model: torch.nn.Module, batch: Batch) -> Batch:
        """Add to a batch what makes evaluation with fixed parameters faster; same numbers to rounding."""
        ...

    def predict(self, model: torch.nn.Module, batch: Batch, *, stress: bool, create_graph: bool) -> Predictions:
        """Evaluate a batch, which is not changed.

        Parameters
        ----------
        model, batch
            Module and the tensors of ``graphs.collate`` on its device and in its precision.
        stress
            Whether stress is wanted.
        create_graph
            Keep the graph of the forces, for gradients by parameters or second derivatives by ``positions``.
        """
        ...

    # copies that predict the same

    def cast(self, model: torch.nn.Module, dtype: str, device: str = "cpu") -> torch.nn.Module:
        """Return a copy in another precision (``float32`` or ``float64``) on a device."""
        ...

    def prune(self, model: torch.nn.Module, numbers: Sequence[int]) -> torch.nn.Module:
        """Return a copy that knows only these elements, in ascending order (or all, where nothing is gained)."""
        ...

    def single_head(self, model: torch.nn.Module, head: str) -> torch.nn.Module:
        """Return a plain model with the predictions of one head."""
        ...

    # training

    def trainable_module(self, potential: Potential) -> torch.nn.Module:
        """Return the module behind a loaded potential, or raise PotentialError when this kind cannot be trained."""
        ...

    def potential(self, model: torch.nn.Module, name: str = "The potential") -> Potential:
        """Wrap a module for evaluation."""
        ...

    def fresh(self, model: torch.nn.Module, start: FreshStart) -> torch.nn.Module:
        """Return a model of the same architecture, elements and precision with random weights."""
        ...

    def set_atomic_energies(self, model: torch.nn.Module, head: int, energies: Array) -> None:
        """Overwrite the atomic reference energies of one head, eV."""
        ...

    def blocks(self, model: torch.nn.Module) -> tuple[str, ...]:
        """Return the names of the model's blocks in forward order; the last one holds the readouts."""
        ...

    def block_of(self, model: torch.nn.Module, parameter: str) -> int | None:
        """Return the block a parameter belongs to, None for one that is never trained."""
        ...

    def decays(self, model: torch.nn.Module, parameter: str) -> bool:
        """Tell whether weight decay acts on a parameter when this architecture is trained."""
        ...

    def with_heads(self, model: torch.nn.Module, heads: Sequence[str]) -> torch.nn.Module:
        """Return a model with several readouts, each a copy of the model's own (ability ``heads``)."""
        ...

    def add_low_rank(self, model: torch.nn.Module, rank: int, alpha: float) -> None:
        """Insert low-rank layers, the only ones that stay trainable (ability ``low_rank``)."""
        ...

    def merge_low_rank(self, model: torch.nn.Module) -> torch.nn.Module:
        """Fold low-rank layers into plain weights (ability ``low_rank``)."""
        ...

    def atoms_at_a_time(self, model: torch.nn.Module, batch: Batch, memory_gb: float) -> int | None:
        """Return how many atoms fit into memory for an exact curvature step, None: all (ability ``atom_blocks``)."""
        ...

    def in_blocks(self, model: torch.nn.Module, size: int | None) -> AbstractContextManager[None]:
        """Evaluate layers so many atoms at a time inside the block (None: as usual; ability ``atom_blocks``)."""
        ...

    # files

    def register(self, model: torch.nn.Module, name: str, parents: Sequence[str]) -> PotentialRef:
        """Keep a trained model in the artefact store and return its reference."""
        ...

    def write_plain(self, model: torch.nn.Module, path: Path) -> None:
        """Write the file that the rest of the world reads, trusted here at once."""
        ...


def require_ability(backend: Backend, ability: Ability, what: str) -> None:
    """Refuse what an architecture cannot do, e.g. ``what="strategy multihead"``.

    Raises
    ------
    ConfigurationError
        When the architecture lacks the ability.
    """
    if ability not in backend.abilities:
        raise ConfigurationError(
            f"{what} is not possible with a {backend.architecture} model.",
            "Choose another strategy (transfer, delta and freeze1 work with every architecture) or another foundation.",
        )
