"""What an architecture tells about itself before anything heavy is imported, and where it is found.

Every folder beside this file with a module ``identify`` is an architecture: the module's ``ARCHITECTURE`` says which
files and names are its own and loads, keeps, checks and exports them. Packages elsewhere add theirs with
``register_architecture`` or the entry point group ``phonosmith.architectures``.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_file
from phonosmith.potentials.container import is_model_file, read_header

if TYPE_CHECKING:
    from phonosmith.potentials.backend import Backend
    from phonosmith.potentials.base import Potential
    from phonosmith.potentials.documents import PotentialRef

ENTRY_POINTS = "phonosmith.architectures"
CUTOFF_TOLERANCE = 1e-5
"""Å; a cutoff kept in single precision."""


@dataclass(frozen=True)
class Foundation:
    """One published model."""

    name: str
    source: str
    """What the architecture's own package calls it."""
    aliases: tuple[str, ...]
    """Other spellings, lower case."""
    note: str
    """What it was trained on and its licence."""
    sha256: str = ""
    """Of the published file; another file never gets the name. Empty: not known."""

    def called(self, name: str) -> bool:
        """Tell whether a name, in any case, means this foundation."""
        return name.lower() in (self.name.lower(), *self.aliases)


class Architecture(ABC):
    """One architecture's files and names; a subclass overrides what differs."""

    name: str
    foundations: tuple[Foundation, ...] = ()
    plain_suffix: str = ""
    """Ending of the file the rest of the world reads; empty when that is the artefact itself."""
    readers: str = ""
    """Who reads that file, for people."""
    last_resort: bool = False
    """Asked after all others whether a file is its own."""
    packages: tuple[str, ...] = ()
    """Importable names of the packages it needs."""

    def backend(self) -> Backend:
        """Return the functions over its torch module."""
        raise PotentialError(f"A potential of kind {self.name} has no torch module.", "Choose another foundation.")

    def installed(self) -> bool:
        """Tell whether its packages are here, without importing them."""
        return all(importlib.util.find_spec(name) for name in self.packages)

    @abstractmethod
    def recognises(self, data: bytes) -> bool:
        """Tell whether a file that is no artefact of ours belongs to this architecture, without running its code."""

    @abstractmethod
    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:
        """Put a recognised file's content into the artefact store (``source``: where it came from, for messages)."""

    def cached_file(self, foundation: Foundation) -> tuple[Path, str]:
        """Return where a foundation's file lies or would lie on this machine, and the address it comes from."""
        raise PotentialError(f"It is not known where {self.name} keeps {foundation.name}.", "Give a file.")

    def download(self, foundation: Foundation, path: Path, url: str) -> Path:
        """Download a foundation's file and return where it is; OSError, RuntimeError or ValueError says why not."""
        raise OSError(f"nothing here brings {foundation.name} from {url} to {path}")

    def fetch(self, foundation: Foundation) -> Path:
        """Return the local file of a foundation, downloading it when it is not there; it must be the published one."""
        path, url = self.cached_file(foundation)
        if not path.is_file():
            try:
                path = self.download(foundation, path, url)
            except (OSError, RuntimeError, ValueError) as error:
                raise PotentialError(
                    f"{foundation.name} is not on this machine and cannot be downloaded ({error}).",
                    f"Fetch {url} elsewhere and put it at {path}, "
                    f"or add a copy: phonosmith models add FILE --name {foundation.name}.",
                ) from error
        digest = digest_file(path)
        if foundation.sha256 and digest != foundation.sha256:
            raise PotentialError(
                f"{path} is not the published {foundation.name}: its sha256 is {digest[:16]}, expected "
                f"{foundation.sha256[:16]}.",
                "Delete it and let it be downloaded again; add it under another name if it is meant to differ.",
            )
        return path

    def load(self, data: bytes, *, dtype: str, device: str, name: str) -> Potential:
        """Load the content of an artefact, on cpu, on cuda, or (auto) to be evaluated where that takes less time."""
        from phonosmith.potentials.torch_potential import TorchPotential

        backend, roams = self.backend(), device == "auto"
        model = backend.unpack(data, dtype, name).to("cpu" if roams else device)
        return TorchPotential(backend, model, name=name, roams=roams)

    def probe_difference(self, data: bytes) -> float | None:
        """Return how far predictions for saved probes are off, eV; None when an artefact holds none."""
        if not is_model_file(data):
            self.load(data, dtype="float64", device="cpu", name="The potential")
            return None
        from phonosmith.potentials.container import probe_energies

        backend, header = self.backend(), read_header(data)
        model = backend.unpack(data, "float64")
        cutoff, numbers = float(backend.cutoff(model)), sorted(backend.atomic_numbers(model))
        if abs(cutoff - header["cutoff"]) > CUTOFF_TOLERANCE or numbers != sorted(header["atomic_numbers"]):
            raise PotentialError(
                f"The file contradicts itself: its header says elements {header['atomic_numbers']} within "
                f"{header['cutoff']} Å, its model {numbers} within {cutoff} Å.",
                "Fetch it again and compare its sha256.",
            )
        energies = probe_energies(backend, model)
        return float(np.max(np.abs(np.ravel(energies) - np.ravel(header["probe_energies"]))))

    def details(self, data: bytes) -> dict[str, Any]:
        """Return what ``models show`` tells beyond the reference: precision, e3nn where it matters, description."""
        if not is_model_file(data):
            return {}
        header = read_header(data)
        description = {key: value for key, value in header["description"].items() if key != "constants"}
        made_under = {"e3nn": header["e3nn"]} if "e3nn" in header else {}
        return {"saved_dtype": header["dtype"], **made_under, "description": description}

    def plain_bytes(self, data: bytes) -> bytes:
        """Return the file the rest of the world reads, from an artefact."""
        return self.backend().plain_bytes(self.backend().unpack(data)) if is_model_file(data) else data


@cache
def _registered() -> dict[str, Architecture]:
    import phonosmith.potentials as package

    folders = [folder.name for folder in pkgutil.iter_modules(package.__path__) if folder.ispkg]
    names = [f"{package.__name__}.{folder}.identify" for folder in sorted(folders)]
    own = [importlib.import_module(name).ARCHITECTURE for name in names if importlib.util.find_spec(name)]
    outside = [point.load() for point in entry_points(group=ENTRY_POINTS)]
    return {one.name: one for one in (*own, *outside)}


def register_architecture(architecture: Architecture) -> None:
    """Add an architecture; an existing name is refused."""
    if architecture.name in _registered():
        raise PotentialError(
            f"There is already an architecture {architecture.name}.", "Choose another architecture name."
        )
    _registered()[architecture.name] = architecture


def architectures() -> list[Architecture]:
    """Return every architecture, the last resorts at the end."""
    return sorted(_registered().values(), key=lambda one: (one.last_resort, one.name))


def architecture(name: str) -> Architecture:
    """Return an architecture by name; one that is not known here is a PotentialError."""
    if name not in _registered():
        raise PotentialError(
            f"No adapter for architecture {name!r} is installed (known: {', '.join(sorted(_registered()))}).",
            "Install the package that brings it or call phonosmith.potentials.architecture.register_architecture.",
        )
    return _registered()[name]


def foundations() -> Iterator[tuple[Architecture, Foundation]]:
    """Yield every published model with its architecture."""
    for one in architectures():
        for foundation in one.foundations:
            yield one, foundation


def find_foundation(name: str) -> tuple[Architecture, Foundation] | None:
    """Return the foundation of this name or alias, in any case, or None."""
    return next((pair for pair in foundations() if pair[1].called(name)), None)
