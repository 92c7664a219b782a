"""Our model artefact: one safetensors file that holds weights and an architecture description, and no code.

The file's single metadata entry ``phonosmith`` is JSON: format version, architecture, element list, cutoff, the
description ``architecture.build`` takes, and the energies of a fixed probe configuration with which ``verify_model``
tells whether an installation still predicts what the model was saved with.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.artefacts import ArtefactStore, default_artefacts, write_atomic
from phonosmith.core.errors import PotentialError
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.graphs import collate, make_graph
from phonosmith.potentials.mace.description import build, describe, differences
from phonosmith.potentials.mace.imports import settle
from phonosmith.potentials.mace.inputs import model_inputs

if TYPE_CHECKING:
    import torch
    from ase import Atoms

FORMAT = 1
METADATA_KEY = "phonosmith"
# Models pickled by another mace or opt_einsum version may sum in another order: that, and nothing more, is let through.
ROUNDING = 1e-12


def probe_frames(atomic_numbers: Sequence[int], r_max: float) -> list[Atoms]:
    """Return two fixed configurations that touch every element: a jittered periodic lattice and a close pair."""
    from ase import Atoms

    count = max(len(atomic_numbers), 8)
    side = int(np.ceil(count ** (1 / 3)))
    spacing = 0.62 * r_max
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:count]
    jitter = np.random.default_rng(20260401).uniform(-0.1, 0.1, grid.shape)
    numbers = [atomic_numbers[i % len(atomic_numbers)] for i in range(count)]
    lattice = Atoms(numbers, positions=(grid + jitter) * spacing, cell=[side * spacing] * 3, pbc=True)
    pair = Atoms([atomic_numbers[0], atomic_numbers[-1]], positions=[[0, 0, 0], [0, 0.3, 1.1]])
    return [lattice, pair]


def probe(model: Any) -> dict[str, Any]:
    """Return energies, forces and stresses of the probe configurations for every head, in the model's own precision."""
    numbers = [int(number) for number in model.atomic_numbers]
    r_max = float(model.r_max)
    reference = next(model.parameters())
    graphs = [make_graph(atoms, numbers, r_max) for atoms in probe_frames(numbers, r_max)]
    settle(model)
    heads = len(getattr(model, "heads", None) or ["Default"])
    found: dict[str, list[Any]] = {"energy": [], "forces": [], "stress": []}
    for head in range(heads):
        batch = model_inputs(model, collate(graphs, reference.dtype, reference.device, head))
        out = model(batch, compute_stress=True)
        for key, values in found.items():
            values.append(out[key].detach().cpu().double().numpy())
    return {key: np.stack(values) for key, values in found.items()}


def pack_model(model: torch.nn.Module) -> bytes:
    """Return the artefact of a MACE model after proving that the rebuilt model predicts the same numbers.

    Raises
    ------
    PotentialError
        When the model is no MACE energy model, or its architecture does not survive the round trip.
    """
    from safetensors.torch import save

    description = describe(model)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    rebuilt = _assemble(description, tensors)
    changed = differences(model, rebuilt)
    if changed:
        raise PotentialError(
            f"This model's architecture cannot be carried: {'; '.join(changed[:3])}.",
            "Only unmodified mace constructors are supported; merge adapters such as LoRA into plain weights first.",
        )
    energies = _same_predictions(model, rebuilt)
    header = {
        "format": FORMAT,
        "architecture": "mace",
        "dtype": str(_main_dtype(tensors)).removeprefix("torch."),
        "atomic_numbers": description["atomic_numbers"],
        "cutoff": description["r_max"],
        "description": description,
        "probe_energies": [[round(float(value), 6) for value in head] for head in energies],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    data: bytes = save(tensors, metadata={METADATA_KEY: text})
    return data


def _same_predictions(model: torch.nn.Module, rebuilt: torch.nn.Module) -> Any:
    """Compare both models in float64 and return the energies they agree on."""
    import torch

    def exact(module: torch.nn.Module) -> torch.nn.Module:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        copy: torch.nn.Module = torch.load(buffer, map_location="cpu", weights_only=False)  # written two lines above
        return copy.double()

    try:
        original = exact(model)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise PotentialError(
            f"This model cannot be copied ({error}).", "Remove hooks and parametrisations from it first."
        ) from error
    before, after = probe(original), probe(exact(rebuilt))
    for key, left in before.items():
        scale = max(1.0, float(np.max(np.abs(left))))
        worst = float(np.max(np.abs(left - after[key])))
        if not worst <= ROUNDING * scale:
            raise PotentialError(
                f"The rebuilt model predicts another {key} (largest difference {worst:.1e}).",
                "This architecture cannot be carried; use the mace version it was trained with.",
            )
    return before["energy"]


def _main_dtype(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    return tensors["node_embedding.linear.weight"].dtype


def _assemble(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Build the module and put the weights in, refusing anything that does not fit exactly."""
    import torch

    model = build(description, _main_dtype(tensors))
    expected = model.state_dict()
    odd = [
        name
        for name in sorted(set(expected) | set(tensors))
        if name not in expected
        or name not in tensors
        or expected[name].shape != tensors[name].shape
        or expected[name].dtype != tensors[name].dtype
    ]
    if odd:
        raise PotentialError(
            f"The installed mace builds other tensors than this model has: {', '.join(odd[:4])}.",
            "Install the mace-torch version the model was made with.",
        )
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(tensors[name])
    return model


def read_header(data: bytes, name: str = "The file") -> dict[str, Any]:
    """Return the JSON header of an artefact made by ``pack_model`` without building the model.

    Raises
    ------
    PotentialError
        When the bytes are not such an artefact.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        content: dict[str, Any] = json.loads(header["__metadata__"][METADATA_KEY])
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise PotentialError(
            f"{name} is not a phonosmith model file.", "Add models with 'phonosmith models add'."
        ) from error
    if content.get("format") != FORMAT:
        raise PotentialError(
            f"{name} has model format {content.get('format')}; this version reads format {FORMAT}.",
            "Install a newer phonosmith.",
        )
    return content


def is_model_file(data: bytes) -> bool:
    """Tell whether bytes look like an artefact of ours."""
    try:
        read_header(data)
    except PotentialError:
        return False
    return True


def unpack_model(data: bytes, dtype: str | None = None) -> torch.nn.Module:
    """Rebuild the torch module of an artefact.

    Parameters
    ----------
    data
        What ``pack_model`` returned.
    dtype
        float32 or float64; default as saved.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = read_header(data)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise PotentialError(f"The model file is damaged: {error}.", "Restore it from a backup.") from error
    model = _assemble(header["description"], tensors)
    return model if dtype is None else model.to(getattr(torch, dtype))


def verify_model(data: bytes) -> float:
    """Return how far this installation's predictions for the probe are from the saved ones, eV (largest, all heads)."""
    header = read_header(data)
    found = probe(unpack_model(data, "float64"))["energy"]
    return float(np.max(np.abs(found - np.array(header["probe_energies"]))))


def model_ref(data: bytes, store: ArtefactStore, name: str, parents: Sequence[str], dtype: str) -> PotentialRef:
    """Keep an artefact and return its reference."""
    from ase.data import chemical_symbols

    header = read_header(data)
    artefact = store.put_bytes(data, kind="model", suffix=".safetensors")
    return PotentialRef(
        sha256=artefact.sha256,
        name=name or artefact.sha256[:12],
        architecture="mace",
        dtype=dtype,
        elements=[chemical_symbols[number] for number in sorted(header["atomic_numbers"])],
        cutoff=header["cutoff"],
        artefact=artefact,
        parents=list(parents),
    )


def register_model(
    model: torch.nn.Module,
    name: str = "",
    parents: Sequence[str] = (),
    *,
    dtype: str = "float64",
    store: ArtefactStore | None = None,
) -> PotentialRef:
    """Keep a MACE model in the artefact store and return its reference.

    Parameters
    ----------
    model
        ``mace`` module; it is not changed.
    name
        Human name recorded in the reference (not in the artefact).
    parents
        sha256 of the potentials and datasets it was made from.
    dtype
        Precision it is evaluated in by default.
    store
        Artefact store; default this installation's.
    """
    return model_ref(pack_model(model), store or default_artefacts(), name, parents, dtype)


def plain_bytes(model: torch.nn.Module) -> bytes:
    """Return a plain mace ``.model`` (a pickle, on the CPU, every parameter trainable) as bytes."""
    import torch

    for parameter in model.parameters():
        parameter.requires_grad_(True)
    buffer = io.BytesIO()
    torch.save(model.cpu(), buffer)
    return buffer.getvalue()


def export_plain(ref: PotentialRef, path: str | Path, *, store: ArtefactStore | None = None) -> Path:
    """Write a potential of the store as the plain ``.model`` that mace, ASE and LAMMPS converters read.

    The weights keep the precision they were saved in.
    """
    data = (store or default_artefacts()).get_bytes(ref.artefact)
    target = Path(path)
    write_atomic(target, plain_bytes(unpack_model(data)))
    return target
