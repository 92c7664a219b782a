"""Read the files of a folder or archive without unpacking anything: links, devices, escapes and bombs are refused.

Nothing is ever written, so a hostile archive cannot place a file; what remains are links that make one file stand for
another, names that lie about where they belong, and data that decompress to more than the machine holds.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from phonosmith.core.errors import InputError
from phonosmith.core.reading import (
    COMPRESSED,
    DAMAGE,
    DEFAULT_LIMITS,
    MIB,
    Limits,
    bare_name,
    check_size,
    decompress,
    decompressor,
    read_bounded,
)

_TAR_ENDINGS = (".tar", ".tgz", ".txz", ".tbz2", *(f".tar{ending}" for ending in COMPRESSED))
_DAMAGE = (*DAMAGE, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True)
class Entry:
    """One file of a source: its name below the source (compression ending removed) and its content.

    ``data`` is None and ``refusal`` says why where the file was not read; ``path`` is set for files of a folder.
    """

    name: str
    data: bytes | None
    refusal: str | None = None
    path: Path | None = None


class _Forward(io.RawIOBase):
    """A decompressed stream that counts, goes only forward and stops a bomb while it unfolds."""

    def __init__(self, stream: Any, compressed: int, limits: Limits, where: str) -> None:
        self._stream, self._compressed, self._limits, self._where = stream, max(compressed, 1), limits, where
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        target = offset if whence == os.SEEK_SET else self._position + offset
        if whence == os.SEEK_END or target < self._position:
            raise InputError(f"{self._where} is damaged: it points backwards.", "Pack it again.")
        while self._position < target and self.read(min(MIB, target - self._position)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        # headers are small; only a forged one asks for much at once, file content is read in pieces of 1 MiB
        if size < 0 or size > 16 * MIB:
            raise InputError(f"{self._where} holds a header of {size} bytes.", "It is damaged or hostile.")
        data: bytes = self._stream.read(size)
        self._position += len(data)
        check_size(self._position, self._compressed, self._limits.total_bytes, self._limits, self._where)
        return data


def is_archive(path: Path) -> bool:
    """Tell whether a path is a tar or zip archive by its name."""
    return path.name.lower().endswith((*_TAR_ENDINGS, ".zip"))


def iter_entries(path: Path, wanted: Callable[[str], bool], limits: Limits = DEFAULT_LIMITS) -> Iterator[Entry]:
    """Yield the wanted files of a folder or archive, and a refusal for every entry that must not be read.

    Parameters
    ----------
    path
        Folder, tar archive (plain, gz, xz, lzma, bz2) or zip archive.
    wanted
        Tells from a name (compression ending removed) whether the content is needed.
    limits
        Bounds; passing one ends the source with an InputError.
    """
    if path.is_dir():
        source = _folder(path, wanted, limits)
    elif path.name.lower().endswith(".zip"):
        source = _zip(path, wanted, limits)
    else:
        source = _tar(path, wanted, limits)
    try:
        yield from source
    except _DAMAGE as error:
        raise InputError(f"{path} is damaged: {error}.", "Copy or pack it again.") from error


def _folder(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Entry]:
    count = total = 0
    for root, folders, files in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            count += 1
            _check_count(count, limits, path)
            file = Path(root) / name
            relative = file.relative_to(path).as_posix()
            if not wanted(bare_name(relative)):
                continue
            if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
                yield Entry(relative, None, "a symbolic link that leads out of the folder is not followed")
            elif not file.is_file():
                yield Entry(relative, None, "not a regular file")
            else:
                entry = replace(_guarded(relative, partial(read_bounded, file, limits)), path=file)
                total += len(entry.data or b"")
                check_size(total, total, limits.total_bytes, limits, str(path))
                yield entry


def _guarded(name: str, read: Callable[[], bytes]) -> Entry:
    """Read one file; a damaged one is refused alone."""
    try:
        return Entry(bare_name(name), read())
    except InputError as error:
        return Entry(bare_name(name), None, error.message)


def _unsafe_name(name: str) -> str | None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and pure.parts[0].endswith(":")):
        return "its name leads out of the archive"
    return None


def _check_count(count: int, limits: Limits, path: Path) -> None:
    if count > limits.members:
        raise InputError(f"{path} has more than {limits.members} entries.", "Split it, or raise the limits in Python.")


def _tar(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Entry]:
    size = path.stat().st_size
    seen: set[str] = set()
    with path.open("rb") as raw, decompressor(raw, path.suffix.lower()) as stream:
        forward = _Forward(stream, size, limits, str(path))
        with tarfile.open(fileobj=forward, mode="r:") as archive:
            for count, member in enumerate(archive, start=1):
                _check_count(count, limits, path)
                # tarfile remembers every member it passes; a million-entry archive must not live in memory
                archive.members = []  # type: ignore[attr-defined]
                if member.isdir():
                    continue
                refusal = _tar_refusal(member, limits) or ("the name occurs twice" if member.name in seen else None)
                if refusal:
                    yield Entry(member.name, None, refusal)
                    continue
                seen.add(member.name)
                if wanted(bare_name(member.name)):
                    handle = archive.extractfile(member)
                    if handle is not None:
                        data = b"".join(iter(lambda: handle.read(MIB), b""))  # noqa: B023  (used at once)
                        yield _guarded(member.name, partial(decompress, data, member.name, limits))


def _tar_refusal(member: tarfile.TarInfo, limits: Limits) -> str | None:
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r} is not followed"
    if not member.isreg() or member.issparse():
        return "not a regular file (device, pipe or sparse file)"
    if member.size > limits.member_bytes:
        return f"{member.size / MIB:.0f} MiB are more than the limit of {limits.member_bytes / MIB:.0f} MiB"
    return _unsafe_name(member.name)


def _zip(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Entry]:
    seen: set[str] = set()
    total = 0
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_count(len(members), limits, path)
        for member in members:
            if member.is_dir():
                continue
            refusal = _zip_refusal(member, limits) or ("the name occurs twice" if member.filename in seen else None)
            if refusal:
                yield Entry(member.filename, None, refusal)
                continue
            seen.add(member.filename)
            if wanted(bare_name(member.filename)):
                entry = _guarded(member.filename, partial(_zip_content, archive, member, limits))
                total += len(entry.data or b"")
                check_size(total, path.stat().st_size, limits.total_bytes, limits, str(path))
                yield entry


def _zip_refusal(member: zipfile.ZipInfo, limits: Limits) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a symbolic link is not followed"
    if kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if member.flag_bits & 0x1:
        return "it is encrypted"
    if member.file_size > limits.member_bytes:
        return f"{member.file_size / MIB:.0f} MiB are more than the limit of {limits.member_bytes / MIB:.0f} MiB"
    return _unsafe_name(member.filename)


def _zip_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: Limits) -> bytes:
    parts, size = [], 0
    try:
        with archive.open(member) as handle:
            while piece := handle.read(MIB):
                size += len(piece)
                check_size(size, member.compress_size, limits.member_bytes, limits, member.filename)
                parts.append(piece)
    except _DAMAGE as error:
        raise InputError(f"{member.filename} is damaged: {error}.", "Pack it again.") from error
    return decompress(b"".join(parts), member.filename, limits)
