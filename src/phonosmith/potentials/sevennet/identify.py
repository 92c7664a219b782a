"""Which files and names are SevenNet's: its checkpoints, and the published models inside its package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_bytes
from phonosmith.potentials.architecture import Architecture, Foundation, require_published
from phonosmith.potentials.container import read_header, store_model

if TYPE_CHECKING:
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.sevennet.backend import SevenNetBackend
    from phonosmith.potentials.torch_potential import TorchPotential

_FOLDER = "pretrained_potentials"


class SevenNet(Architecture):
    """SevenNet models: artefacts of weights and description, foreign checkpoints, which are read without their code."""

    name = "sevennet"
    plain_suffix = ".pth"
    readers = "SevenNetCalculator"
    packages = ("sevenn",)
    foundations = (
        Foundation(
            "7net-0",
            "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
            ("sevennet-0", "7net-0_11july2024"),
            "MPtrj, PBE+U; MIT",
            "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
        ),
        Foundation(
            "7net-l3i5",
            "SevenNet_l3i5/checkpoint_l3i5.pth",
            ("sevennet-l3i5",),
            "MPtrj, PBE+U; MIT",
            "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
        ),
        Foundation(
            "7net-mf-0",
            "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
            ("sevennet-mf-0",),
            "PBE channel of a model of PBE+U and r2SCAN; MIT",
            "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
        ),
    )

    def recognises(self, data: bytes) -> bool:
        """Tell whether it is a torch archive whose pickle speaks of SevenNet's settings."""
        return data[:2] == b"PK" and b"model_state_dict" in data and b"cutoff_function_name" in data

    def load(self, data: bytes, *, dtype: str, device: str, name: str) -> TorchPotential:
        """Load an artefact."""
        from phonosmith.potentials.sevennet.files import unpack_model

        backend = self.backend()
        return backend.potential(unpack_model(data, dtype, name).to(device), name)

    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:  # noqa: ARG002
        """Keep a checkpoint's weights and description; its pickle runs no code when read."""
        from phonosmith.potentials.sevennet.files import pack_model, read_checkpoint

        return store_model(pack_model(read_checkpoint(data, source)), name, [digest_bytes(data)])

    def cached_file(self, foundation: Foundation) -> tuple[Path, str]:
        """Return the file inside the package."""
        spec = importlib.util.find_spec("sevenn")
        if spec is None or spec.origin is None:
            raise PotentialError(
                f"{foundation.name} comes with the package sevenn, which is not installed.",
                "Run tools/install_architectures.sh in this environment.",
            )
        return Path(spec.origin).parent / _FOLDER / foundation.source, "https://pypi.org/project/sevenn"

    def fetch(self, foundation: Foundation) -> Path:
        """Return the file inside the package."""
        path, _ = self.cached_file(foundation)
        if not path.is_file():
            raise PotentialError(
                f"The installed sevenn does not hold {foundation.name}.",
                "Run tools/install_architectures.sh in this environment, or give the path of a copy.",
            )
        return require_published(foundation, path)

    def details(self, data: bytes) -> dict[str, Any]:
        """Return precision, the e3nn it was made under and the description."""
        header = read_header(data)
        return {"saved_dtype": header["dtype"], "e3nn": header["e3nn"], "description": header["description"]}

    def probe_difference(self, data: bytes) -> float | None:
        """Return how far this installation's probe energies are from the saved ones, eV."""
        from phonosmith.potentials.sevennet.files import verify_model

        return verify_model(data)

    def plain_bytes(self, data: bytes) -> bytes:
        """Return the checkpoint that ``SevenNetCalculator`` reads."""
        from phonosmith.potentials.sevennet.files import checkpoint_bytes, unpack_model

        return checkpoint_bytes(unpack_model(data))

    def backend(self) -> SevenNetBackend:
        """Return the functions over sevenn's module."""
        from phonosmith.potentials.sevennet.backend import SevenNetBackend

        return SevenNetBackend()


ARCHITECTURE = SevenNet()
