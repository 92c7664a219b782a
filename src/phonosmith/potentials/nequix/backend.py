"""Nequix as the rest of phonosmith knows it: its torch module over edge vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from phonosmith.potentials.e3nn_eager import default_dtype, product_bytes
from phonosmith.potentials.edge_backend import EdgeBackend, element_rows
from phonosmith.potentials.graphs import numpy64
from phonosmith.potentials.mace.low_rank import LowRank
from phonosmith.potentials.nequix.files import build_model, keep, read_model, write_model

if TYPE_CHECKING:
    from phonosmith.potentials.backend import Ability, DecayRule, FreshStart
    from phonosmith.potentials.base import Array
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.graphs import Batch


class NequixBackend(LowRank, EdgeBackend):
    """Functions over ``NequixTorch``."""

    architecture = "nequix"
    plain_suffix = ".nqx"
    abilities: frozenset[Ability] = frozenset({"low_rank", "float64_training"})
    # nequix-mp-1 on two crystals: 0.001 was better than 0.002 and 0.0053, which its number of weights says
    rate_factor = 0.2

    def atom_energies(self, model: Any, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the module; its edges point the other way, its constants take the default precision."""
        sender, receiver = batch["edge_index"]
        with default_dtype(vectors.dtype):
            energies: torch.Tensor = model.node_energies(vectors, batch["species"], receiver, sender)
        return energies[:, 0]

    def atomic_numbers(self, model: Any) -> tuple[int, ...]:
        """Return the atomic numbers in the order of the element channels."""
        return tuple(sorted(int(number) for number in model.config["atomic_numbers"]))

    def cutoff(self, model: Any) -> float:
        """Return the cutoff of one layer, Å."""
        return float(model.cutoff)

    def atomic_energies(self, model: Any) -> Array:
        """Return atomic reference energies, eV, shape (1, elements)."""
        return element_rows(numpy64(model.reference_energies), len(model.reference_energies))

    def references(self, model: Any) -> torch.Tensor:
        """Return the atomic reference energies as a tensor, eV, shape (1, elements)."""
        return torch.atleast_2d(model.reference_energies)

    def set_atomic_energies(self, model: Any, head: int, energies: Array) -> None:  # noqa: ARG002
        """Overwrite the atomic reference energies, eV."""
        model.reference_energies.copy_(torch.as_tensor(energies))

    def bytes_per_edge(self, model: Any) -> float:
        """Return the size of one edge's features over all layers, bytes."""
        return product_bytes(model, [layer.tp for layer in model.layers])

    def fresh(self, model: Any, start: FreshStart) -> Any:
        """Return the same architecture with random weights, energies in units of the forces' root mean square."""
        scales = {"avg_n_neighbors": start.neighbours, "scale": max(start.force_scale, 1e-3), "shift": 0.0}
        parameter = next(model.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            made = build_model(model.config | scales)
        made.reference_energies.copy_(model.reference_energies)
        return self.cast(made, str(parameter.dtype).removeprefix("torch."), str(parameter.device))

    def blocks(self, model: Any) -> tuple[str, ...]:
        """Return the layers and the readout."""
        return (*(f"layers.{k}" for k in range(len(model.layers))), "readout")

    def decays(self, model: Any, parameter: str, rule: DecayRule = "all") -> bool:
        """Tell whether weight decay acts: on the matrices of linear layers, as in nequix's own training."""
        return super().decays(model, parameter, rule) and "layer_norm" not in parameter

    def unpack(self, data: bytes, dtype: str | None = None, name: str = "The model") -> Any:
        """Return the module of a ``.nqx`` file."""
        return self.cast(read_model(data, name), dtype or "float32")

    def register(self, model: Any, name: str, parents: Sequence[str]) -> PotentialRef:
        """Keep the module's ``.nqx`` file."""
        return keep(write_model(model), name, parents)

    plain_bytes = staticmethod(write_model)
