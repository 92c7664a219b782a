"""Our model artefact: one safetensors file that holds weights and a JSON header, and no code.

The file's single metadata entry ``phonosmith`` is the header: format version, architecture and what that architecture
needs to build the model again. Digests are identities: what is packed once must pack to the same bytes for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import InputError, PotentialError
from phonosmith.core.reading import load_json
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    import torch

    from phonosmith.potentials.backend import Backend

FORMAT = 1
METADATA_KEY = "phonosmith"
Header = dict[str, Any]


def pack(tensors: Mapping[str, torch.Tensor], header: Header) -> bytes:
    """Return the artefact of tensors (on the CPU) and a header; ``format`` is added."""
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT, **header}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    data: bytes = save(dict(tensors), metadata={METADATA_KEY: text})
    return data


def read_header(data: bytes, name: str = "The file") -> Header:
    """Return the header of an artefact; anything else is a PotentialError."""
    try:
        length = int.from_bytes(data[:8], "little")
        text = load_json(data[8 : 8 + length], name)["__metadata__"][METADATA_KEY]
        content: Header = load_json(text, name)
        version = content.get("format")
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, InputError) as error:
        raise PotentialError(
            f"{name} is not a phonosmith model file.", "Add models with 'phonosmith models add'."
        ) from error
    if version != FORMAT:
        raise PotentialError(
            f"{name} has model format {version}; this version reads format {FORMAT}.", "Install a newer phonosmith."
        )
    if wrong := [key for key, fits in _HEADER.items() if not fits(content.get(key))]:
        raise PotentialError(
            f"{name} is damaged: its header says {wrong[0]} = {content.get(wrong[0])!r}.",
            "Fetch it again and compare its sha256.",
        )
    return content


_HEADER: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda value: isinstance(value, str),
    "atomic_numbers": lambda value: (
        isinstance(value, list) and len(value) > 0 and all(type(number) is int and 0 < number < 119 for number in value)
    ),
    "cutoff": lambda value: type(value) in (int, float) and 0 < value < 100,
}
"""What every artefact says, and how to tell that it does."""


def is_model_file(data: bytes) -> bool:
    """Tell whether bytes look like an artefact of ours."""
    try:
        read_header(data)
    except PotentialError:
        return False
    return True


def read_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of an artefact; a damaged file is a PotentialError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, torch.Tensor] = load(data)
    except SafetensorError as error:
        raise PotentialError(f"The model file is damaged: {error}.", "Restore it from a backup.") from error
    return tensors


def fill(model: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor], package: str, advice: str) -> None:
    """Copy saved tensors into those of a module just built, refusing any that do not fit exactly."""
    import torch

    odd = [
        name
        for name in sorted(model.keys() | saved.keys())
        if name not in model
        or name not in saved
        or (model[name].shape, model[name].dtype) != (saved[name].shape, saved[name].dtype)
    ]
    if odd:
        raise PotentialError(
            f"The installed {package} builds other tensors than this model has: {', '.join(odd[:4])}.", advice
        )
    with torch.no_grad():
        for name, value in model.items():
            value.copy_(saved[name])


def store_model(data: bytes, name: str, parents: Sequence[str] = (), *, dtype: str = "float64") -> PotentialRef:
    """Keep an artefact and return its reference; its header names architecture, elements and cutoff (Å)."""
    return store_file(data, ".safetensors", read_header(data), name, parents, dtype)


def store_file(
    data: bytes, suffix: str, header: Header, name: str, parents: Sequence[str] = (), dtype: str = "float64"
) -> PotentialRef:
    """Keep a potential's file; ``header`` holds ``architecture``, ``atomic_numbers`` and ``cutoff`` (Å)."""
    from ase.data import chemical_symbols

    artefact = default_artefacts().put_bytes(data, kind="model", suffix=suffix)
    return PotentialRef(
        sha256=artefact.sha256,
        name=name or artefact.sha256[:12],
        architecture=header["architecture"],
        dtype=dtype,
        elements=[chemical_symbols[number] for number in sorted(header["atomic_numbers"])],
        cutoff=header["cutoff"],
        artefact=artefact,
        parents=list(parents),
    )


def probe_frames(atomic_numbers: Sequence[int], r_max: float) -> list[Atoms]:
    """Return two fixed configurations that touch every element: a jittered periodic lattice and a close pair."""
    count = max(len(atomic_numbers), 8)
    side = int(np.ceil(count ** (1 / 3)))
    spacing = 0.62 * r_max
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:count]
    jitter = np.random.default_rng(20260401).uniform(-0.1, 0.1, grid.shape)
    numbers = [atomic_numbers[i % len(atomic_numbers)] for i in range(count)]
    lattice = Atoms(numbers, positions=(grid + jitter) * spacing, cell=[side * spacing] * 3, pbc=True)
    pair = Atoms([atomic_numbers[0], atomic_numbers[-1]], positions=[[0, 0, 0], [0, 0.3, 1.1]])
    return [lattice, pair]


def probe_energies(backend: Backend, model: torch.nn.Module) -> list[list[float]]:
    """Return a model's energies of these configurations, eV, by head."""
    from phonosmith.potentials.torch_potential import TorchPotential

    frames = probe_frames(backend.atomic_numbers(model), backend.cutoff(model))
    by_head = (TorchPotential(backend, model, head=head) for head in backend.heads(model))
    return [[one.energy for one in potential.evaluate(frames, stress=False)] for potential in by_head]
