"""MACE in our model artefact (``container``): weights and an architecture description.

The header holds architecture, element list, cutoff, the description ``description.build`` takes, and the energies of a
fixed probe configuration, which tell whether an installation still predicts what the model was saved with.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.backend import DEFAULT_HEAD
from phonosmith.potentials.base import Array
from phonosmith.potentials.container import fill, pack, probe_frames, read_header, read_tensors, store_model
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.e3nn_eager import STRAY, e3nn_version, require_signs, unnatural
from phonosmith.potentials.graphs import collate, make_graph, numpy64
from phonosmith.potentials.mace.description import Description, build, describe, differences
from phonosmith.potentials.mace.inputs import model_inputs

if TYPE_CHECKING:
    import torch

# Models pickled by another mace or opt_einsum version may sum in another order: that, and nothing more, is let through.
ROUNDING = 1e-12


def probe(model: Any) -> dict[str, Array]:
    """Return energies, forces and stresses of the probe configurations for every head, in the model's own precision."""
    numbers, r_max = [int(number) for number in model.atomic_numbers], float(model.r_max)
    reference = next(model.parameters())
    graphs = [make_graph(atoms, numbers, r_max) for atoms in probe_frames(numbers, r_max)]
    by_head = []
    for head in range(len(getattr(model, "heads", None) or [DEFAULT_HEAD])):
        batch = model_inputs(model, collate(graphs, reference.dtype, reference.device, head))
        by_head.append(model(batch, compute_stress=True))
    return {key: np.stack([numpy64(out[key]) for out in by_head]) for key in ("energy", "forces", "stress")}


def pack_model(model: torch.nn.Module) -> bytes:
    """Return the artefact of a MACE model after proving that the rebuilt model predicts the same numbers.

    One that is no MACE energy model, or does not survive the round trip, is a PotentialError.
    """
    description = describe(model)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _tensors(model).items()}
    rebuilt = _assemble(description, tensors)
    if changed := differences(model, rebuilt):
        raise PotentialError(
            f"This model's architecture cannot be carried: {'; '.join(changed[:3])}.",
            "Only unmodified mace constructors are supported; merge adapters such as LoRA into plain weights first.",
        )
    energies = _same_predictions(model, rebuilt)
    header = {
        "architecture": "mace",
        "dtype": str(_main_dtype(tensors)).removeprefix("torch."),
        "atomic_numbers": description["atomic_numbers"],
        "cutoff": description["r_max"],
        "description": description,
        "probe_energies": [[round(float(value), 6) for value in head] for head in energies],
    }
    if unnatural(_irreps(description)):
        header["e3nn"] = e3nn_version()
    return pack(tensors, header)


def _irreps(description: Description) -> list[str]:
    return [str(description.get(key) or "") for key in ("hidden_irreps", "edge_irreps", "MLP_irreps")]


def _same_predictions(model: torch.nn.Module, rebuilt: torch.nn.Module) -> Array:
    """Compare both models in float64 and return the energies they agree on."""
    import torch

    def exact(module: torch.nn.Module) -> torch.nn.Module:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        copied: torch.nn.Module = torch.load(buffer, map_location="cpu", weights_only=False)  # written two lines above
        return copied.double()

    try:
        original = exact(model)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise PotentialError(
            f"This model cannot be copied ({error}).", "Remove hooks and parametrisations from it first."
        ) from error
    # built here, and needed for nothing else: no copy
    before, after = probe(original), probe(rebuilt.double())
    for key, left in before.items():
        worst = np.max(np.abs(left - after[key]))
        if not worst <= ROUNDING * max(1.0, np.max(np.abs(left))):
            raise PotentialError(
                f"The rebuilt model predicts another {key} (largest difference {worst:.1e}).",
                "This architecture cannot be carried; use the mace version it was trained with.",
            )
    return before["energy"]


def _main_dtype(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    return tensors["node_embedding.linear.weight"].dtype


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if not STRAY.search(name)}


def _assemble(description: Description, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Build the module and put the weights in, refusing anything that does not fit exactly."""
    model = build(description, _main_dtype(tensors))
    fill(_tensors(model), tensors, "mace", "Install the mace-torch version the model was made with.")
    return model


def unpack_model(data: bytes, dtype: str | None = None, name: str = "The model") -> torch.nn.Module:
    """Rebuild the torch module of an artefact, by default in the precision it was saved in."""
    import torch

    header = read_header(data)
    require_signs(_irreps(header["description"]), header.get("e3nn", "0.4.4"), name)
    model = _assemble(header["description"], read_tensors(data))
    return model if dtype is None else model.to(getattr(torch, dtype))


def register_model(
    model: torch.nn.Module, name: str = "", parents: Sequence[str] = (), *, dtype: str = "float64"
) -> PotentialRef:
    """Keep a MACE model (not changed) in the artefact store; it is evaluated in a precision by default."""
    return store_model(pack_model(model), name, parents, dtype=dtype)


def plain_bytes(model: torch.nn.Module) -> bytes:
    """Return a plain mace ``.model``: a pickle of a copy on the CPU with every parameter trainable."""
    import torch

    plain = copy.deepcopy(model).cpu().requires_grad_(True)
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()
