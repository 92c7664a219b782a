"""Published foundation models by name, through mace's own download."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_file
from phonosmith.potentials.foreign import PINNED
from phonosmith.potentials.mace.imports import import_mace


@dataclass(frozen=True)
class Foundation:
    """One published model.

    Attributes
    ----------
    name
        Name used everywhere in phonosmith.
    mace_name
        Name mace's download knows.
    aliases
        Other spellings, lower case.
    note
        What it was trained on and its licence.
    """

    name: str
    mace_name: str
    aliases: tuple[str, ...]
    note: str


FOUNDATIONS = (
    Foundation("MACE-MP-0b3", "medium-0b3", ("mp-0b3", "medium-0b3"), "MPtrj, PBE+U; MIT"),
    Foundation("MACE-MPA-0", "medium-mpa-0", ("mpa-0", "medium-mpa-0"), "MPtrj and sAlex, PBE+U; MIT"),
    Foundation("MACE-OMAT-0", "medium-omat-0", ("omat-0", "medium-omat-0"), "OMat24, PBE+U; Academic Software License"),
)


def find_foundation(name: str) -> Foundation | None:
    """Return the foundation of this name or alias, in any case, or None."""
    wanted = name.lower()
    for foundation in FOUNDATIONS:
        if wanted == foundation.name.lower() or wanted in foundation.aliases:
            return foundation
    return None


def cached_file(foundation: Foundation) -> tuple[Path, str]:
    """Return where mace keeps the file and the address it comes from."""
    import_mace()
    from mace.calculators.foundations_models import mace_mp_urls
    from mace.tools.utils import get_cache_dir

    url = mace_mp_urls[foundation.mace_name]
    # the file name mace makes of the address: letters, digits and underscores only
    name = "".join(letter for letter in url.rsplit("/", 1)[-1] if letter.isalnum() or letter == "_")
    return Path(get_cache_dir()) / name, url


def fetch_foundation(foundation: Foundation) -> Path:
    """Return the local file of a foundation, downloading it when it is not there yet.

    Raises
    ------
    PotentialError
        When it cannot be downloaded (saying where to put a copy), or its content is not the published one.
    """
    import_mace()
    from mace.calculators.foundations_models import download_mace_mp_checkpoint

    path, url = cached_file(foundation)
    if not path.is_file():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                path = Path(download_mace_mp_checkpoint(foundation.mace_name))
        except (OSError, RuntimeError, ValueError) as error:
            raise PotentialError(
                f"{foundation.name} is not on this machine and cannot be downloaded ({error}).",
                f"Fetch {url} elsewhere and put it at {path}, "
                f"or add a copy: phonosmith models add FILE --name {foundation.name}.",
            ) from error
    found = digest_file(path)
    published = [digest for digest, name in PINNED.items() if name == foundation.name]
    if published and found not in published:
        raise PotentialError(
            f"{path} is not the published {foundation.name}: its sha256 is {found[:16]}, expected {published[0][:16]}.",
            "Delete it and let it be downloaded again; add it under another name if it is meant to differ.",
        )
    return path
