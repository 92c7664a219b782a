"""Check that a potential is still there, unaltered, and predicts what it did when it was saved."""

from __future__ import annotations

from pydantic import Field

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.document import Document
from phonosmith.core.errors import PhonosmithError
from phonosmith.potentials.architecture import architecture
from phonosmith.potentials.documents import PotentialRef

# saved probe energies are rounded to 1e-6 eV; another processor may differ by a few float32 roundings of the weights
PROBE_TOLERANCE = 1e-5


class Verification(Document):
    """Outcome of checking one potential."""

    name: str = Field(description="human name")
    sha256: str = Field(description="identity that was checked")
    ok: bool = Field(description="present, unaltered, loadable, and the probe agrees")
    message: str = Field("", description="what is wrong, or what was checked")
    probe_difference: float | None = Field(None, description="largest deviation from the saved probe energies, eV")


def verify_potential(ref: PotentialRef) -> Verification:
    """Check one potential of the artefact store."""
    difference = None
    try:
        difference = architecture(ref.architecture).probe_difference(default_artefacts().get_bytes(ref.artefact))
        ok, message = difference is None or difference <= PROBE_TOLERANCE, "unaltered and loads"
    except PhonosmithError as error:
        ok, message = False, str(error)
    if difference is not None:
        agreement = f"unaltered; probe energies agree to {difference:.0e} eV"
        other = f"the installed {ref.architecture} predicts other energies: off by {difference:.1e} eV"
        message = agreement if ok else other
    return Verification(name=ref.name, sha256=ref.sha256, ok=ok, message=message, probe_difference=difference)
