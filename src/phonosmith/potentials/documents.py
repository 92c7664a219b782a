"""Identity of a potential."""

from __future__ import annotations

from pydantic import Field

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.document import Document


class PotentialRef(Document):
    """A potential by identity: what it is, not where its file lies.

    The sha256 is that of the artefact (weights with architecture description, or parameter file), so two
    potentials with the same reference predict the same numbers.
    """

    sha256: str = Field(description="sha256 of the artefact", pattern=r"^[0-9a-f]{64}$")
    name: str = Field(description="human name, e.g. embedded, MACE-MP-0b3, si-delta")
    architecture: str = Field(description="architecture that can load it, e.g. mace, empirical")
    dtype: str = Field("float64", description="precision it is evaluated in: float32 or float64")
    elements: list[str] = Field(description="chemical symbols it covers, by atomic number")
    cutoff: float | None = Field(None, description="interaction range per layer, Å")
    artefact: ArtefactRef = Field(description="where its content is in the artefact store")
    parents: list[str] = Field(default_factory=list, description="sha256 of potentials and datasets it was made from")

    @property
    def short(self) -> str:
        """First twelve digits of the hash: enough to name it on a command line."""
        return self.sha256[:12]
