"""What an architecture gives to the rest: differentiable functions over its torch module, and what can be done with it.

The one torch potential (``torch_potential``) and the one training loop (``phonosmith.training``) know an architecture
through this class only. Batches are the tensors of ``graphs.collate``; an architecture derives from them what its
module wants. Abilities that not every architecture has are listed in ``abilities`` and refused by name where they lack.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from phonosmith.potentials.base import Array
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.graphs import Batch

Ability = Literal["heads", "low_rank", "atom_blocks", "float64_training"]
"""heads: several readouts on one trunk; low_rank: LoRA layers; atom_blocks: layers evaluated a few atoms at a time."""
DEFAULT_HEAD = "Default"
DecayRule = Literal["all", "linear", "interactions"]
"""Which weights decay: all (but what an architecture spares), those of linear layers, or as ``optimizer=mace`` says."""


LammpsStyle = Literal["torchscript", "mliap"]
"""``pair_style mace`` (for a LAMMPS that has it) or ``pair_style mliap unified`` (LAMMPS with Python)."""


@dataclass(frozen=True)
class Predictions:
    """Differentiable outcome of one batch."""

    positions: torch.Tensor
    """The leaf tensor that forces were differentiated by, Å: further derivatives are taken by it."""
    energy: torch.Tensor
    """Total energies, eV, shape (graphs,)."""
    interaction: torch.Tensor
    """The same without the atomic reference energies, summed without them: no digits are lost in float32."""
    forces: torch.Tensor
    """eV/Å, shape (atoms, 3)."""
    stress: torch.Tensor | None
    """eV/Å³, ASE sign, shape (graphs, 3, 3); None where it was not asked for."""


@dataclass(frozen=True)
class FreshStart:
    """Seed of random weights and the statistics of a training set that they are scaled by.

    These are the mean number of edges per atom and the root mean square of the force components, eV/Å.
    """

    seed: int
    neighbours: float
    force_scale: float


class Backend(ABC):
    """One architecture's functions over its torch module; what most architectures share is filled in."""

    architecture: str
    plain_suffix: str
    """Ending of the file that the rest of the world reads, e.g. ``.model``."""
    abilities: frozenset[Ability] = frozenset({"float64_training"})
    rate_factor: float = 1.0
    """What the rate that suits a number of weights is multiplied by for this architecture."""

    # what a module is

    @abstractmethod
    def atomic_numbers(self, model: torch.nn.Module) -> tuple[int, ...]:
        """Return the atomic numbers in the order of the model's element channels (``species`` of a batch)."""

    @abstractmethod
    def cutoff(self, model: torch.nn.Module) -> float:
        """Return the interaction range of one layer, Å."""

    def heads(self, model: torch.nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Return the names of the readouts; one for most models."""
        return (DEFAULT_HEAD,)

    @abstractmethod
    def atomic_energies(self, model: torch.nn.Module) -> Array:
        """Return atomic reference energies, eV, shape (heads, elements)."""

    @abstractmethod
    def bytes_per_edge(self, model: torch.nn.Module) -> float:
        """Return the size of one edge's features over all layers, bytes: it decides about batch sizes."""

    # evaluation

    def prepare(self, model: torch.nn.Module, batch: Batch) -> Batch:  # noqa: ARG002
        """Add to a batch what makes evaluation with fixed parameters faster; same numbers to rounding."""
        return batch

    @abstractmethod
    def predict(self, model: torch.nn.Module, batch: Batch, *, stress: bool, create_graph: bool) -> Predictions:
        """Evaluate a batch (``graphs.collate``, in the module's precision, on its device), which is not changed.

        ``create_graph`` keeps the graph of the forces, for gradients by parameters or second derivatives by
        ``positions``.
        """

    # copies that predict the same

    def cast(self, model: torch.nn.Module, dtype: str, device: str = "cpu") -> torch.nn.Module:
        """Return a copy in another precision (``float32`` or ``float64``) on a device."""
        import torch

        return copy.deepcopy(model).to(dtype=getattr(torch, dtype), device=device)

    @abstractmethod
    def prune(self, model: torch.nn.Module, numbers: Sequence[int]) -> torch.nn.Module:
        """Return a copy that knows only these elements, in ascending order (or all, where nothing is gained)."""

    def single_head(self, model: torch.nn.Module, head: str) -> torch.nn.Module:  # noqa: ARG002
        """Return a plain model with the predictions of one head."""
        return model

    # training

    def require_trainable(self, model: torch.nn.Module) -> None:  # noqa: B027  # most architectures refuse nothing
        """Raise PotentialError when this kind of module cannot be trained."""

    @abstractmethod
    def fresh(self, model: torch.nn.Module, start: FreshStart) -> torch.nn.Module:
        """Return a model of the same architecture, elements and precision with random weights."""

    @abstractmethod
    def set_atomic_energies(self, model: torch.nn.Module, head: int, energies: Array) -> None:
        """Overwrite the atomic reference energies of one head, eV."""

    @abstractmethod
    def blocks(self, model: torch.nn.Module) -> tuple[str, ...]:
        """Return the names of the model's blocks in forward order; the last one holds the readouts."""

    def block_of(self, model: torch.nn.Module, parameter: str) -> int | None:
        """Return the block a parameter belongs to (its name begins with it), None for one that is never trained."""
        blocks = enumerate(self.blocks(model))
        return next((index for index, block in blocks if f"{parameter}.".startswith(f"{block}.")), None)

    def stem(self, model: torch.nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Return the modules before the first layer of interactions, in the order they are built in."""
        return ()

    def decays(self, model: torch.nn.Module, parameter: str, rule: DecayRule = "all") -> bool:  # noqa: ARG002
        """Tell whether weight decay acts on a parameter by a rule (``mace`` is for MACE models alone)."""
        if rule == "interactions":
            raise _lacking(self, "optimizer=mace")
        return rule == "all" or not parameter.endswith("bias")

    def with_heads(
        self,
        model: torch.nn.Module,  # noqa: ARG002
        heads: Sequence[str],
        fresh: int | None = None,  # noqa: ARG002
    ) -> torch.nn.Module:
        """Return a model with several readouts, each a copy of the model's own (ability ``heads``).

        With ``fresh``, a seed, the last one has random weights instead.
        """
        raise _lacking(self, f"A model with {len(heads)} heads")

    def add_low_rank(self, model: torch.nn.Module, rank: int, alpha: float) -> None:  # noqa: ARG002
        """Insert low-rank layers, the only ones that stay trainable (ability ``low_rank``)."""
        raise _lacking(self, "A low-rank update")

    def merge_low_rank(self, model: torch.nn.Module) -> torch.nn.Module:  # noqa: ARG002
        """Fold low-rank layers into plain weights (ability ``low_rank``)."""
        raise _lacking(self, "A low-rank update")

    def atoms_at_a_time(self, model: torch.nn.Module, batch: Batch, memory_gb: float) -> int | None:  # noqa: ARG002
        """Return how many atoms fit into memory for an exact curvature step, None: all (ability ``atom_blocks``)."""
        return None

    def in_blocks(self, model: torch.nn.Module, size: int | None) -> AbstractContextManager[None]:  # noqa: ARG002
        """Evaluate layers so many atoms at a time inside the block (None: as usual; ability ``atom_blocks``)."""
        if size is not None:
            raise _lacking(self, "Evaluation in blocks of atoms")
        return nullcontext()

    # files

    @abstractmethod
    def unpack(self, data: bytes, dtype: str | None = None, name: str = "The model") -> torch.nn.Module:
        """Return the module of an artefact, by default in the precision it was saved in."""

    @abstractmethod
    def register(self, model: torch.nn.Module, name: str, parents: Sequence[str]) -> PotentialRef:
        """Keep a trained model in the artefact store and return its reference."""

    @abstractmethod
    def plain_bytes(self, model: torch.nn.Module) -> bytes:
        """Return the file that the rest of the world reads."""

    def lammps_bytes(self, model: torch.nn.Module, style: LammpsStyle) -> bytes:  # noqa: ARG002
        """Return the file a LAMMPS pair style reads."""
        raise ConfigurationError(
            f"A {self.architecture} model cannot be written for LAMMPS here.",
            "Export it as a plain file, and use the exporter that comes with its package.",
        )

    def write_plain(self, model: torch.nn.Module, path: Path) -> None:
        """Write the file that the rest of the world reads, trusted here at once."""
        write_atomic(path, self.plain_bytes(model))


def require_ability(backend: Backend, ability: Ability, what: str) -> None:
    """Raise ConfigurationError where an architecture lacks an ability that e.g. ``what="strategy multihead"`` needs."""
    if ability not in backend.abilities:
        raise _lacking(backend, what)


def _lacking(backend: Backend, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} is not possible with a {backend.architecture} model.",
        "Choose another strategy (transfer, delta and freeze1 work with every architecture) or another foundation.",
    )
