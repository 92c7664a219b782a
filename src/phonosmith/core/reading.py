"""Read a file, compressed or not, within bounds: damage and decompression bombs end with a reason."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from phonosmith.core.errors import InputError

COMPRESSED = (".gz", ".xz", ".lzma", ".bz2")
MIB = 1 << 20
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)
"""What reading a damaged compressed file raises."""


@dataclass(frozen=True)
class Limits:
    """How much may be read from one file or archive.

    Attributes
    ----------
    members
        Files, folders and other entries of one source.
    member_bytes, total_bytes
        Size of one decompressed file, and of one decompressed source.
    ratio, ratio_floor
        Decompressed over compressed size, looked at beyond so many bytes.
    """

    members: int = 200_000
    member_bytes: int = 2048 * MIB
    total_bytes: int = 32 * 1024 * MIB
    ratio: float = 1000.0
    ratio_floor: int = 64 * MIB


DEFAULT_LIMITS = Limits()
_OPENERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys((".gz", ".tgz"), gzip.open),
    **dict.fromkeys((".xz", ".lzma", ".txz"), lzma.open),
    **dict.fromkeys((".bz2", ".tbz2"), bz2.open),
}


def decompressor(stream: IO[bytes], suffix: str) -> Any:
    """Return a stream of decompressed bytes by the ending of the file's name."""
    opener = _OPENERS.get(suffix)
    return opener(stream) if opener is not None else stream


def check_size(size: int, compressed: int, allowed: int, limits: Limits, where: str) -> None:
    """Raise InputError when decompressed data exceed what is allowed or unfold suspiciously."""
    if size > allowed:
        raise InputError(
            f"{where} unfolds to more than {allowed / MIB:.0f} MiB.", "Split it, or raise the limits in Python."
        )
    if size > limits.ratio_floor and size > limits.ratio * max(compressed, 1):
        raise InputError(
            f"{where} unfolds to more than {limits.ratio:.0f} times its size: it looks like a decompression bomb.",
            "Unpack it yourself if you trust it.",
        )


def decompress(data: bytes, name: str, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return a file's content, decompressed by the ending of its name, within the limits."""
    suffix = PurePosixPath(name).suffix
    if suffix not in COMPRESSED:
        return data
    parts, total = [], 0
    try:
        with decompressor(io.BytesIO(data), suffix) as stream:
            while piece := stream.read(MIB):
                total += len(piece)
                check_size(total, len(data), limits.member_bytes, limits, name)
                parts.append(piece)
    except DAMAGE as error:
        raise InputError(f"{name} is damaged: {error}.", "Copy it again.") from error
    return b"".join(parts)


def read_bounded(path: Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return a regular file's decompressed content within the limits."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file.", "Give a file.")
        if status.st_size > limits.member_bytes:
            raise InputError(f"{path} has {status.st_size / MIB:.0f} MiB.", "Raise the limits in Python.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.", "Check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    return decompress(data, str(path), limits)


def bare_name(name: str) -> str:
    """Return a name without its compression ending."""
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix in COMPRESSED else name
