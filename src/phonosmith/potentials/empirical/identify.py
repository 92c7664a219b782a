"""Which files are empirical potentials: JSON with our format's name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from phonosmith.core.artefacts import default_artefacts
from phonosmith.potentials.architecture import Architecture
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.empirical import FORMAT

if TYPE_CHECKING:
    from phonosmith.potentials.empirical.potential import EmpiricalPotential


class Empirical(Architecture):
    """Published parameters in a JSON file, which is the artefact."""

    name = "empirical"

    def recognises(self, data: bytes) -> bool:
        """Tell whether it is JSON of that format."""
        if data.lstrip()[:1] != b"{":
            return False
        try:
            content = json.loads(data)
        except ValueError:
            return False
        return isinstance(content, dict) and content.get("format") == FORMAT

    def load(self, data: bytes, *, dtype: str, device: str, name: str) -> EmpiricalPotential:  # noqa: ARG002
        """Read the file: numpy in float64 on the CPU whatever is asked, as nothing is gained elsewhere."""
        from phonosmith.potentials.empirical.potential import load_empirical

        return load_empirical(data)

    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:  # noqa: ARG002
        """Keep the file as it is."""
        potential = self.load(data, dtype="float64", device="cpu", name=name)
        artefact = default_artefacts().put_bytes(data, kind="model", suffix=".json")
        return PotentialRef(
            sha256=artefact.sha256,
            name=name,
            architecture=self.name,
            dtype="float64",
            elements=list(potential.elements),
            cutoff=potential.cutoff,
            artefact=artefact,
        )


ARCHITECTURE = Empirical()
