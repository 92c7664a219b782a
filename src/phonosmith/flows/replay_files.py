"""Published replay structures: downloading them whole, and drawing from files too large to be read as a whole."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

_RELEASES = "https://github.com/ACEsuit/mace-foundations/releases/download"
SOURCES = {
    "mptrj": f"{_RELEASES}/mace_mp_0b/mp_traj_combined.xyz",
    "matpes-pbe": f"{_RELEASES}/mace_matpes_0/matpes-pbe-replay-data.xyz",
    "matpes-r2scan": f"{_RELEASES}/mace_matpes_0/matpes-r2scan-replay-data.extxyz",
    "omat": f"{_RELEASES}/mace_omat_0/mp_traj_combined_omat.xyz",
}
"""Where mace's own training takes replay structures from."""
COUNT_DIGITS = 12
"""Longest line that may hold a number of atoms."""
CHUNK = 1 << 20
"""Bytes read at a time."""


class ReplayFile(Document):
    """A downloaded file of replay structures."""

    file: str = Field(description="where it lies")
    url: str = Field(description="where it came from")
    sha256: str = Field(description="its digest")
    size: int = Field(description="bytes")


def fetch_replay(
    source: str, out: Path, *, sha256: str = "", on_bytes: Callable[[int, int | None], None] | None = None
) -> ReplayFile:
    """Download a file of replay structures: it is there whole and as expected, or not at all.

    Parameters
    ----------
    source
        A name of ``SOURCES``, or an address.
    sha256
        Digest it must have. The publishers give none: keep the one that is returned.
    on_bytes
        Called with the bytes so far and in all, where that is known.
    """
    url = SOURCES.get(source, source)
    if not url.startswith(("https://", "http://", "file://")):
        raise InputError(f"There are no replay structures called {source!r}.", f"Known: {', '.join(SOURCES)}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as target:
            digest, size = _download(url, target, on_bytes)
        if sha256 and digest != sha256.lower():
            raise InputError(
                f"What {url} gives is not the file expected: its sha256 is {digest}.",
                "Compare the digest with its publisher's; leave --sha256 out to take it as it is.",
            )
        _require_frames(Path(temporary), url)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(out)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return ReplayFile(file=str(out), url=url, sha256=digest, size=size)


def _download(url: str, target: IO[bytes], on_bytes: Callable[[int, int | None], None] | None) -> tuple[str, int]:
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  # the scheme was checked
            length = answer.headers.get("Content-Length")
            total = int(length) if length is not None else None
            while part := answer.read(CHUNK):
                target.write(part)
                digest.update(part)
                done += len(part)
                if on_bytes is not None:
                    on_bytes(done, total)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{url} cannot be downloaded ({error}).",
            "Fetch it where there is a network and give the file with --replay; without one, the foundation labels "
            "structures itself.",
        ) from error
    if total is not None and done != total:
        raise InputError(f"{url} ended after {done} of {total} bytes.", "Fetch it again.")
    return digest.hexdigest(), done


def _require_frames(path: Path, url: str) -> None:
    """Refuse what does not begin as extended XYZ, such as a page that says where to log in."""
    from phonosmith.structures.extxyz import parse_frames

    with path.open(encoding="utf-8", errors="replace") as stream:
        first = next(_texts(stream, url), "")
    parse_frames(first, url)


def sample_replay(path: Path, *, size: int, elements: Sequence[str], seed: int) -> tuple[list[Atoms], int]:
    """Draw labelled structures at random from extended XYZ, every one as likely; return them and how many there were.

    ``elements``: only structures of these, where any are named. The file is read once, a structure at a time.
    """
    from phonosmith.structures.extxyz import parse_frames

    wanted, generator = frozenset(elements), np.random.default_rng([seed, 31])
    kept: list[tuple[int, str]] = []
    count = 0
    try:
        with path.open(encoding="utf-8") as stream:
            for index, text in enumerate(_texts(stream, str(path))):
                if wanted and not {word for line in text.split("\n")[2:] for word in line.split()[:1]} <= wanted:
                    continue
                count += 1
                place = len(kept) if len(kept) < size else int(generator.integers(count))
                if place < size:
                    kept[place : place + 1] = [(index, text)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Give an extended XYZ file.") from error
    if not kept:
        of = f" of {', '.join(elements)} alone" if wanted else ""
        raise InputError(f"{path} holds no structure{of}.", "Name more elements, or give another file.")
    text = "".join(text for _, text in sorted(kept))
    return parse_frames(text, f"{path} (sample)", require=("energy", "forces")), count


def _texts(stream: IO[str], where: str) -> Iterator[str]:
    """Yield the text of one structure after the other."""
    for line in stream:
        count = line.strip()
        if not count:
            continue
        if not count.isdecimal() or len(count) > COUNT_DIGITS:
            raise InputError(f"{where}: {count[:40]!r} is no number of atoms.", "Give an extended XYZ file.")
        wanted = 2 + int(count)
        lines = [line, *itertools.islice(stream, wanted - 1)]
        if len(lines) < wanted:
            raise InputError(f"{where} ends inside a structure.", "The file was cut off; fetch it again.")
        if not lines[-1].endswith("\n"):
            lines.append("\n")
        yield "".join(lines)
