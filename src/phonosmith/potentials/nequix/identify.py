"""Which files and names are Nequix's: ``.nqx`` files, and the published models of its repository."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import InputError
from phonosmith.core.reading import load_json
from phonosmith.potentials.architecture import Architecture, Foundation

if TYPE_CHECKING:
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.nequix.backend import NequixBackend

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
            header = load_json(data[: data.find(b"\n") + 1] or b"null", "it")
        except InputError:
            return False
        return isinstance(header, dict) and "hidden_irreps" in header and "atomic_numbers" in header

    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:  # noqa: ARG002
        """Keep the file as it is, checked by reading it."""
        from phonosmith.potentials.nequix.files import keep

        return keep(data, name)

    def cached_file(self, foundation: Foundation) -> tuple[Path, str]:
        """Return where nequix keeps the file and the address it comes from."""
        return Path("~/.cache/nequix/models").expanduser() / f"{foundation.name}.nqx", foundation.source

    def download(self, foundation: Foundation, path: Path, url: str) -> Path:  # noqa: ARG002
        """Bring the file from its repository."""
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  # an address of ours
            write_atomic(path, answer.read())
        return path

    def backend(self) -> NequixBackend:
        """Return the functions over nequix's torch module."""
        from phonosmith.potentials.nequix.backend import NequixBackend

        return NequixBackend()


ARCHITECTURE = Nequix()
