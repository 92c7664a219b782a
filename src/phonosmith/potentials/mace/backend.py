"""MACE as the rest of phonosmith knows it: a ``Backend`` over mace's own modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_bytes
from phonosmith.potentials.backend import DEFAULT_HEAD, Ability, Backend, DecayRule, FreshStart, Predictions
from phonosmith.potentials.e3nn_eager import default_dtype, product_bytes
from phonosmith.potentials.foreign import trust_digest
from phonosmith.potentials.graphs import numpy64
from phonosmith.potentials.mace.blocks import block_size, in_blocks
from phonosmith.potentials.mace.files import plain_bytes, register_model, unpack_model
from phonosmith.potentials.mace.imports import import_mace
from phonosmith.potentials.mace.inputs import model_inputs
from phonosmith.potentials.mace.lammps import lammps_bytes
from phonosmith.potentials.mace.low_rank import LowRank
from phonosmith.potentials.mace.pairs import directed_pairs, shared_pairs
from phonosmith.potentials.mace.prune import prune_model

if TYPE_CHECKING:
    from phonosmith.potentials.backend import LammpsStyle
    from phonosmith.potentials.base import Array
    from phonosmith.potentials.graphs import Batch


class MaceBackend(LowRank, Backend):
    """Functions over ``MACE`` and ``ScaleShiftMACE`` modules."""

    architecture = "mace"
    plain_suffix = ".model"
    abilities: frozenset[Ability] = frozenset({"heads", "low_rank", "atom_blocks", "float64_training"})

    def atomic_numbers(self, model: Any) -> tuple[int, ...]:
        """Return the atomic numbers in the order of the element channels."""
        return tuple(int(number) for number in model.atomic_numbers)

    def cutoff(self, model: Any) -> float:
        """Return the cutoff of one layer, Å."""
        return float(model.r_max)

    def heads(self, model: Any) -> tuple[str, ...]:
        """Return the names of the heads."""
        return tuple(getattr(model, "heads", None) or (DEFAULT_HEAD,))

    def atomic_energies(self, model: Any) -> Array:
        """Return atomic reference energies, eV, shape (heads, elements)."""
        return np.atleast_2d(numpy64(model.atomic_energies_fn.atomic_energies))

    def bytes_per_edge(self, model: Any) -> float:
        """Return the size of one edge's features over all layers, bytes."""
        return product_bytes(model, [block.conv_tp for block in model.interactions])

    def prepare(self, model: Any, batch: Batch) -> Batch:  # noqa: ARG002
        """Note which edges are the two directions of one pair: radial networks then see every pair once."""
        first, place = directed_pairs(batch)
        return batch | {"pair_first": first, "pair_place": place}

    def predict(self, model: Any, batch: Batch, *, stress: bool, create_graph: bool) -> Predictions:
        """Evaluate a batch with mace's own forward pass."""
        data = model_inputs(model, batch)
        positions = data["positions"]
        paired = "pair_first" in batch
        with shared_pairs(model, batch["pair_first"], batch["pair_place"]) if paired else nullcontext():
            # mace takes its volumes from a determinant, which waits for the device
            known = "volume" in batch
            out = model(data, training=create_graph, compute_stress=stress and not known, compute_virials=stress)
        interaction = out.get("interaction_energy", out["energy"])
        tension = None
        if stress:
            tension = -out["virials"] / batch["volume"][:, None, None] if known else out["stress"]
        return Predictions(positions, out["energy"], interaction, out["forces"], tension)

    def prune(self, model: Any, numbers: Sequence[int]) -> Any:
        """Return a copy restricted to some elements with identical predictions."""
        if sorted(numbers) == sorted(self.atomic_numbers(model)):
            return copy.deepcopy(model)
        return prune_model(model, numbers)

    def single_head(self, model: Any, head: str) -> Any:
        """Return a plain single-head model with the predictions of one head."""
        if len(self.heads(model)) == 1:
            return model
        import_mace()
        from mace.tools.scripts_utils import remove_pt_head

        dtype = next(model.parameters()).dtype
        with default_dtype(dtype):
            plain = remove_pt_head(model, head)
        return plain.to(dtype)

    def require_trainable(self, model: Any) -> None:
        """Refuse anything but a ScaleShiftMACE, and one with further inputs."""
        if type(model).__name__ != "ScaleShiftMACE":
            raise PotentialError(
                f"{type(model).__name__} cannot be fine-tuned: training needs a ScaleShiftMACE model.",
                "Use a MACE foundation (all MACE-MP, MPA, OMAT and MatPES models are).",
            )
        if hasattr(model, "embedding_readout"):
            raise PotentialError(
                "This MACE model has an embedding readout (charge or spin input), which training does not handle.",
                "Use a foundation without it.",
            )

    def fresh(self, model: Any, start: FreshStart) -> Any:
        """Return the same architecture with random weights, scaled as mace scales what it trains from scratch."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            made = _rebuilt(model, (DEFAULT_HEAD,), fresh=True)
        for interaction in made.interactions:
            interaction.avg_num_neighbors = float(start.neighbours)
        # as mace trains from scratch: energies in units of the forces' root mean square
        made.scale_shift.scale.fill_(max(start.force_scale, 1e-3))
        return made

    def set_atomic_energies(self, model: Any, head: int, energies: Array) -> None:
        """Overwrite the atomic reference energies of one head, eV."""
        block = model.atomic_energies_fn
        values = torch.atleast_2d(block.atomic_energies.detach().clone())
        values[head] = torch.as_tensor(energies, dtype=values.dtype, device=values.device)
        block.atomic_energies = values.reshape(block.atomic_energies.shape)

    def blocks(self, model: Any) -> tuple[str, ...]:
        """Return embedding, interaction and product per layer, readouts."""
        layers = [name for k in range(len(model.interactions)) for name in (f"interactions.{k}", f"products.{k}")]
        return ("node_embedding", *layers, "readouts")

    def stem(self, model: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Return what mace builds before its interactions; of published models the first alone has parameters."""
        return ("node_embedding", "radial_embedding", "pair_repulsion_fn", "spherical_harmonics", "atomic_energies_fn")

    def decays(self, model: Any, parameter: str, rule: DecayRule = "all") -> bool:
        """Tell whether weight decay acts on a parameter.

        ``linear`` spares the symmetric contractions, which are no matrices. ``mace`` is what ``mace_run_train`` does:
        the linear and skip layers of the interactions and all of the products.
        """
        if rule == "interactions":
            part = parameter.split(".", maxsplit=1)[0]
            decaying = "linear.weight" in parameter or "skip_tp_full.weight" in parameter
            return part == "products" or (part == "interactions" and decaying)
        return super().decays(model, parameter, rule) and (rule == "all" or "symmetric_contractions" not in parameter)

    def with_heads(self, model: Any, heads: Sequence[str], fresh: int | None = None) -> Any:
        """Return a model with several heads, each a copy of the model's readout; ``fresh``: seed of a random last."""
        made = _rebuilt(model, heads)
        if fresh is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(fresh)
                random = _rebuilt(model, heads, fresh=True)
            _take_last_head(made.readouts, random.readouts, len(heads))
        return made

    def atoms_at_a_time(self, model: Any, batch: Batch, memory_gb: float) -> int | None:
        """Return how many atoms a block may hold for an exact curvature step to stay within memory, None: all."""
        return block_size(model, model_inputs(model, batch), memory_gb)

    in_blocks = staticmethod(in_blocks)
    unpack = staticmethod(unpack_model)
    register = staticmethod(register_model)
    plain_bytes = staticmethod(plain_bytes)

    def lammps_bytes(self, model: Any, style: LammpsStyle) -> bytes:
        """Return the file a LAMMPS pair style reads."""
        return lammps_bytes(model, style)

    def write_plain(self, model: Any, path: Path) -> None:
        """Write a plain ``.model``: the pickle is made here, so its digest goes on the user's trust list."""
        data = plain_bytes(model)
        write_atomic(path, data)
        trust_digest(digest_bytes(data), f"trained here: {path}")


def _take_last_head(readouts: Any, others: Any, count: int) -> None:
    """Give readouts of several heads the last head's weights of others, in place.

    The channels of a layer are those of one head after the other, and mace masks all but one head's between layers.
    """
    with torch.no_grad():
        for (name, weight), other in zip(readouts.named_parameters(), others.parameters(), strict=True):
            layer = readouts.get_submodule(name.rpartition(".")[0])
            if weight.numel() == 0:
                continue
            channels = layer.irreps_out.dim
            if len(layer.irreps_out) != 1 or weight.numel() % channels or channels % count:
                raise PotentialError(
                    f"A new head of random weights is not possible: readout layer {name} is of an unknown kind.",
                    "Set head_start=copy.",
                )
            mine, its = (values.view(-1, count, channels // count) for values in (weight, other.to(weight.device)))
            mine[:, -1] = its[:, -1]


def _rebuilt(model: Any, heads: Sequence[str], *, fresh: bool = False) -> Any:
    """Build a single-head model's architecture with other heads, with its weights or random ones."""
    import_mace()
    from mace.modules import ScaleShiftMACE
    from mace.tools import AtomicNumberTable
    from mace.tools.finetuning_utils import load_foundations_elements
    from mace.tools.scripts_utils import extract_config_mace_model

    energies = np.atleast_2d(numpy64(model.atomic_energies_fn.atomic_energies))
    dtype, count = next(model.parameters()).dtype, len(heads)
    with default_dtype(dtype):
        config = extract_config_mace_model(model)
        config |= {
            "atomic_energies": np.repeat(energies[:1], count, axis=0),
            "heads": list(heads),
            "atomic_inter_scale": [1.0] * count,
            "atomic_inter_shift": [0.0] * count,
            "distance_transform": config["distance_transform"] or "None",
        }
        built = ScaleShiftMACE(**config)
        if fresh:
            return built.to(dtype)
        table, lmax = AtomicNumberTable([int(number) for number in model.atomic_numbers]), config["hidden_irreps"].lmax
        built = load_foundations_elements(built, model, table, load_readout=True, max_L=lmax, default_dtype=dtype)
    basis, given = (dict(one.radial_embedding.bessel_fn.named_parameters()) for one in (built, model))
    if "bessel_weights" in basis.keys() - given.keys():
        # loading turned the fixed basis into a parameter: a buffer again, so that it is not trained
        del built.radial_embedding.bessel_fn.bessel_weights
        built.radial_embedding.bessel_fn.register_buffer("bessel_weights", basis["bessel_weights"].detach().clone())
    return built.to(next(model.parameters()).device)
