"""Which files are empirical potentials: JSON with our format's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phonosmith.core.errors import InputError
from phonosmith.core.reading import load_json
from phonosmith.potentials.architecture import Architecture
from phonosmith.potentials.container import store_file
from phonosmith.potentials.empirical import FORMAT

if TYPE_CHECKING:
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.empirical.potential import EmpiricalPotential


class Empirical(Architecture):
    """Published parameters in a JSON file, which is the artefact."""

    name = "empirical"

    def recognises(self, data: bytes) -> bool:
        """Tell whether it is JSON of that format."""
        if data.lstrip()[:1] != b"{":
            return False
        try:
            content = load_json(data, "it")
        except InputError:
            return False
        return isinstance(content, dict) and content.get("format") == FORMAT

    def load(self, data: bytes, *, dtype: str, device: str, name: str) -> EmpiricalPotential:  # noqa: ARG002
        """Read the file: numpy in float64 on the CPU whatever is asked, as nothing is gained elsewhere."""
        from phonosmith.potentials.empirical.potential import load_empirical

        return load_empirical(data)

    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:  # noqa: ARG002
        """Keep the file as it is."""
        from ase.data import atomic_numbers

        potential = self.load(data, dtype="float64", device="cpu", name=name)
        numbers = [atomic_numbers[symbol] for symbol in potential.elements]
        header = {"architecture": self.name, "atomic_numbers": numbers, "cutoff": potential.cutoff}
        return store_file(data, ".json", header, name)


ARCHITECTURE = Empirical()
