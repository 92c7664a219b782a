"""Which files and names are SevenNet's: its checkpoints, and the published models inside its package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_bytes
from phonosmith.potentials.architecture import Architecture, Foundation

if TYPE_CHECKING:
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.sevennet.backend import SevenNetBackend


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

    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:  # noqa: ARG002
        """Keep a checkpoint's weights and description; its pickle runs no code when read."""
        from phonosmith.potentials.sevennet.files import read_checkpoint

        return self.backend().register(read_checkpoint(data, source), name, [digest_bytes(data)])

    def cached_file(self, foundation: Foundation) -> tuple[Path, str]:
        """Return the file inside the package."""
        spec = importlib.util.find_spec("sevenn")
        if spec is None or spec.origin is None:
            raise PotentialError(
                f"{foundation.name} comes with the package sevenn, which is not installed.",
                "Run tools/install_architectures.sh in this environment.",
            )
        return Path(spec.origin).parent / "pretrained_potentials" / foundation.source, "https://pypi.org/project/sevenn"

    def download(self, foundation: Foundation, path: Path, url: str) -> Path:  # noqa: ARG002
        """Refuse: it comes with the package."""
        raise PotentialError(
            f"The installed sevenn does not hold {foundation.name}.",
            "Run tools/install_architectures.sh in this environment, or give the path of a copy.",
        )

    def backend(self) -> SevenNetBackend:
        """Return the functions over sevenn's module."""
        from phonosmith.potentials.sevennet.backend import SevenNetBackend

        return SevenNetBackend()


ARCHITECTURE = SevenNet()
