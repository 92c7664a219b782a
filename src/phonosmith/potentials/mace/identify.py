"""Which files and names are MACE's: pickles that torch wrote and nobody else knows, and the models mace downloads."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.potentials.architecture import Architecture, Foundation
from phonosmith.potentials.foreign import PICKLE, ForeignKind, import_foreign

if TYPE_CHECKING:
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.potentials.mace.backend import MaceBackend

EXPECTED_PREFIXES = ("mace.", "e3nn.", "torch.", "collections.", "numpy.", "opt_einsum_fx.")
"""Where the classes of an ordinary file come from; anything else is named in the refusal."""


class Mace(Architecture):
    """MACE models: artefacts of weights and description, foreign ``.model`` pickles."""

    name = "mace"
    plain_suffix = ".model"
    readers = "MACE, ASE and LAMMPS converters"
    last_resort = True
    foundations = (
        Foundation(
            "MACE-MP-0b3",
            "medium-0b3",
            ("mp-0b3", "medium-0b3"),
            "MPtrj, PBE+U; MIT",
            "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
        ),
        Foundation(
            "MACE-MPA-0",
            "medium-mpa-0",
            ("mpa-0", "medium-mpa-0"),
            "MPtrj and sAlex, PBE+U; MIT",
            "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
        ),
        Foundation(
            "MACE-OMAT-0",
            "medium-omat-0",
            ("omat-0", "medium-omat-0"),
            "OMat24, PBE+U; Academic Software License",
            "d4b14be9afa294eebdbe31a0280b26a0fa29715771e978cbfd3ca24e0d90307a",
        ),
    )

    def recognises(self, data: bytes) -> bool:
        """Tell whether torch may have written it."""
        return data[:1] == PICKLE or data[:2] == b"PK"

    def bring(self, data: bytes, name: str, source: str, *, trust: bool) -> PotentialRef:
        """Open a trusted pickle and keep its weights and description."""
        from phonosmith.potentials.mace.files import register_model
        from phonosmith.potentials.mace.imports import import_mace

        kind = ForeignKind("MACE", EXPECTED_PREFIXES, frozenset(one.sha256 for one in self.foundations), import_mace)
        return import_foreign(data, name, source, kind, register_model, trust=trust)

    def cached_file(self, foundation: Foundation) -> tuple[Path, str]:
        """Return where mace keeps the file and the address it comes from."""
        from phonosmith.potentials.mace.imports import import_mace

        import_mace()
        from mace.calculators.foundations_models import mace_mp_urls
        from mace.tools.utils import get_cache_dir

        url = mace_mp_urls[foundation.source]
        # the file name mace makes of the address: letters, digits and underscores only
        file = "".join(letter for letter in url.rsplit("/", 1)[-1] if letter.isalnum() or letter == "_")
        return Path(get_cache_dir()) / file, url

    def download(self, foundation: Foundation, path: Path, url: str) -> Path:  # noqa: ARG002
        """Let mace download the file."""
        from mace.calculators.foundations_models import download_mace_mp_checkpoint

        with contextlib.redirect_stdout(sys.stderr):
            return Path(download_mace_mp_checkpoint(foundation.source))

    def backend(self) -> MaceBackend:
        """Return the functions over mace's modules."""
        from phonosmith.potentials.mace.backend import MaceBackend

        return MaceBackend()


ARCHITECTURE = Mace()
