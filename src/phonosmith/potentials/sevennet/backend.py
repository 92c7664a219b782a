"""SevenNet as the rest of phonosmith knows it: sevenn's modules over edge vectors, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from phonosmith.potentials.container import probe_energies, store_model
from phonosmith.potentials.e3nn_eager import product_bytes
from phonosmith.potentials.edge_backend import EdgeBackend, element_rows
from phonosmith.potentials.graphs import numpy64
from phonosmith.potentials.mace.low_rank import LowRank
from phonosmith.potentials.sevennet.files import build_model, checkpoint_bytes, pack_model, unpack_model, weights

if TYPE_CHECKING:
    from phonosmith.potentials.backend import Ability, FreshStart
    from phonosmith.potentials.base import Array
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.graphs import Batch

_ONE_HOT = ("onehot_idx_to_onehot", "one_hot_modality")
"""Replaced here: sevenn's own casts to float32 and looks elements up by atomic number."""
_RESCALE = "rescale_atomic_energy"


class SevenNetBackend(LowRank, EdgeBackend):
    """Functions over ``AtomGraphSequential``."""

    architecture = "sevennet"
    plain_suffix = ".pth"
    abilities: frozenset[Ability] = frozenset({"low_rank", "float64_training"})

    def atom_energies(self, model: Any, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        """Run the modules up to the atomic energies before their shift, scaled."""
        channels = torch.arange(len(self.atomic_numbers(model)), device=vectors.device)
        one_hot = (batch["species"][:, None] == channels).to(vectors.dtype)
        data = {"edge_vec": vectors, "x": one_hot, "node_attr": one_hot, "atom_type": batch["species"]}
        data |= {"edge_index": batch["edge_index"], "batch": batch["batch"]}
        channel = self._channel(model)
        if channel is not None:
            count = len(model.settings["_modal_map"])
            data["modal_attr"] = vectors.new_zeros((len(batch["ptr"]) - 1, count))
            data["modal_attr"][:, channel] = 1.0
        for name, module in model.named_children():
            if name == _RESCALE:
                break
            if name not in _ONE_HOT:
                data = module(data)
        return data["scaled_atomic_energy"][:, 0] * self._per_element(model, "scale")[batch["species"]]

    def _channel(self, model: Any) -> int | None:
        name = model.settings.get("phonosmith_channel")
        return None if name is None else int(model.settings["_modal_map"][name])

    def _per_element(self, model: Any, which: str) -> torch.Tensor:
        values: torch.Tensor = getattr(getattr(model, _RESCALE), which).detach()
        return values if values.ndim == 1 else values[self._channel(model) or 0]

    def atomic_numbers(self, model: Any) -> tuple[int, ...]:
        """Return the atomic numbers in the order of the element channels."""
        types = model.settings["_type_map"]
        return tuple(int(number) for number in sorted(types, key=types.__getitem__))

    def cutoff(self, model: Any) -> float:
        """Return the cutoff of one layer, Å."""
        return float(model.cutoff)

    def atomic_energies(self, model: Any) -> Array:
        """Return the shifts of the atomic energies, eV, shape (1, elements)."""
        return element_rows(numpy64(self._per_element(model, "shift")), len(self.atomic_numbers(model)))

    def references(self, model: Any) -> torch.Tensor:
        """Return the shifts of the atomic energies as a tensor, eV, shape (1, elements)."""
        return self._per_element(model, "shift").reshape(1, -1).expand(1, len(self.atomic_numbers(model)))

    def set_atomic_energies(self, model: Any, head: int, energies: Array) -> None:  # noqa: ARG002
        """Overwrite the shifts, eV."""
        self._per_element(model, "shift").copy_(torch.as_tensor(energies))

    def bytes_per_edge(self, model: Any) -> float:
        """Return the size of one edge's features over all layers, bytes."""
        return product_bytes(model, [one.convolution for one in self._convolutions(model)])

    def _convolutions(self, model: Any) -> list[Any]:
        return [module for name, module in model.named_children() if name.endswith("_convolution")]

    def fresh(self, model: Any, start: FreshStart) -> Any:
        """Return the same architecture with random weights, scaled as sevenn scales what it trains from scratch."""
        parameter = next(model.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            made = build_model(model.settings, None, parameter.dtype)
        with torch.no_grad():
            rescale = getattr(made, _RESCALE)
            rescale.scale.fill_(max(start.force_scale, 1e-3))
            rescale.shift.copy_(getattr(model, _RESCALE).shift)
            for convolution in self._convolutions(made):
                convolution.denominator.fill_(start.neighbours)
        return made.to(parameter.device)

    def blocks(self, model: Any) -> tuple[str, ...]:
        """Return embedding, layers and readout."""
        layers = {name.split("_")[0] for name, _ in model.named_children() if name[0].isdigit()}
        return ("embedding", *(f"layers.{k}" for k in sorted(map(int, layers))), "readout")

    def stem(self, model: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Return the embedding of elements."""
        return ("embedding",)

    def block_of(self, model: Any, parameter: str) -> int | None:
        """Return the block of a parameter; None for scale, shift and mean neighbours, which are never trained."""
        first = parameter.split(".", maxsplit=1)[0]
        if first == _RESCALE or parameter.endswith(".denominator"):
            return None
        if first[0].isdigit():
            return 1 + int(first.split("_")[0])
        return len(self.blocks(model)) - 1 if first.startswith("reduce_") else 0

    unpack = staticmethod(unpack_model)
    plain_bytes = staticmethod(checkpoint_bytes)

    def register(self, model: Any, name: str, parents: Sequence[str]) -> PotentialRef:
        """Keep a module as weights and description, with its probe energies in float64."""
        (energies,) = probe_energies(self, build_model(model.settings, weights(model), torch.float64))
        return store_model(pack_model(model, energies), name, parents)
