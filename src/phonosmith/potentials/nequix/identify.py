"""Which files and names are Nequix's: ``.nqx`` files, and the published models of its repository."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.core.errors import PotentialError
from phonosmith.potentials.architecture import Architecture, Foundation, require_published
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    from phonosmith.potentials.nequix.backend import NequixBackend
    from phonosmith.potentials.torch_potential import TorchPotential

_RAW = "https://github.com/atomicarchitects/nequix/raw"


class Nequix(Architecture):
    """Nequix models; a ``.nqx`` file (a line of JSON, then plain arrays) is the artefact and holds no code."""

    name = "nequix"
    plain_suffix = ".nqx"
    readers = "NequixCalculator"
    packages = ("nequix",)
    foundations = (
        Foundation(
            "nequix-mp-1",
            f"{_RAW}/7c2854de8e754b1a60274c7d9d2e014989ed632e/models/nequix-mp-1.nqx",
            (),
            "MPtrj, PBE+U; MIT",
            "1647af8e627e1afa11e2bfadeab0797326513a521afd7dd01606a96f56783eee",
        ),
        Foundation(
            "nequix-oam-1",
            f"{_RAW}/9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28/models/nequix-oam-1.nqx",
            (),
            "OMat24, sAlex and MPtrj, PBE+U; MIT",
        ),
    )

    def recognises(self, data: bytes) -> bool:
        """Tell whether it begins with a JSON line that names the architecture."""
        if data[:1] != b"{":
            return False
        try:
            header = json.loads(data[: data.find(b"\n") + 1] or b"null")
        except ValueError:
            return False
        return isinstance(header, dict) and "hidden_irreps" in header and "atomic_numbers" in header

    def load(self, data: bytes, *, dtype: str, device: str, name: str) -> TorchPotential:
        """Load the content of a ``.nqx`` file."""
        from phonosmith.potentials.nequix.files import read_model

        backend = self.backend()
        return backend.potential(backend.cast(read_model(data, name), dtype, device), name)

    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:  # noqa: ARG002
        """Keep the file as it is, checked by reading it."""
        return keep(data, name)

    def cached_file(self, foundation: Foundation) -> tuple[Path, str]:
        """Return where nequix keeps the file and the address it comes from."""
        return Path("~/.cache/nequix/models").expanduser() / f"{foundation.name}.nqx", foundation.source

    def fetch(self, foundation: Foundation) -> Path:
        """Return the local file, downloading it when it is not there yet; a failure says where to put a copy."""
        path, url = self.cached_file(foundation)
        if not path.is_file():
            try:
                with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  # an address of ours
                    write_atomic(path, answer.read())
            except OSError as error:
                raise PotentialError(
                    f"{foundation.name} is not on this machine and cannot be downloaded ({error}).",
                    f"Fetch {url} elsewhere and put it at {path}, or give the path of a copy.",
                ) from error
        return require_published(foundation, path)

    def backend(self) -> NequixBackend:
        """Return the functions over nequix's torch module."""
        from phonosmith.potentials.nequix.backend import NequixBackend

        return NequixBackend()


def keep(data: bytes, name: str, parents: tuple[str, ...] = ()) -> PotentialRef:
    """Put a ``.nqx`` file into the artefact store and return its reference."""
    from ase.data import chemical_symbols

    from phonosmith.potentials.nequix.files import read_model

    config = read_model(data, name).config
    artefact = default_artefacts().put_bytes(data, kind="model", suffix=".nqx")
    return PotentialRef(
        sha256=artefact.sha256,
        name=name,
        architecture="nequix",
        dtype="float64",
        elements=[chemical_symbols[number] for number in sorted(config["atomic_numbers"])],
        cutoff=float(config["cutoff"]),
        artefact=artefact,
        parents=list(parents),
    )


ARCHITECTURE = Nequix()
