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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeVar

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
Item = TypeVar("Item")


@dataclass(frozen=True)
class Entry:
    """One file of a source: its name below the source (compression ending removed) and its content.

    ``data`` is None and ``refusal`` says why where the file was not read; ``path`` is set for files of a folder.
    """

    name: str
    data: bytes | None
    refusal: str | None = None
    path: Path | None = None


class _Member(NamedTuple):
    """A file that could be read, or the reason why it must not be."""

    name: str
    refusal: str | None
    read: Callable[[], bytes]
    path: Path | None = None


class _Forward(io.RawIOBase):
    """A decompressed stream that counts, goes only forward and stops a bomb while it unfolds."""

    def __init__(self, stream: Any, compressed: int, limits: Limits, where: str) -> None:
        self._stream, self._compressed, self._limits, self._where = stream, compressed, limits, where
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

    A tar archive may be plain, gz, xz, lzma or bz2. ``wanted`` tells from a name (compression ending removed) whether
    the content is needed; passing a limit ends the source with an InputError.
    """
    if path.is_dir():
        members = _folder(path, wanted, limits)
    else:
        members = _zip(path, limits) if path.name.lower().endswith(".zip") else _tar(path, limits)
    seen: set[str] = set()
    total = 0
    try:
        for member in members:
            if refusal := member.refusal or ("the name occurs twice" if member.name in seen else None):
                yield Entry(member.name, None, refusal)
                continue
            seen.add(member.name)
            if not wanted(name := bare_name(member.name)):
                continue
            try:
                data = member.read()
            except InputError as error:  # a damaged file is refused alone
                yield Entry(name, None, error.message)
                continue
            total += len(data)
            check_size(total, total, limits.total_bytes, limits, str(path))
            yield Entry(name, data, path=member.path)
    except _DAMAGE as error:
        raise InputError(f"{path} is damaged: {error}.", "Copy or pack it again.") from error


def _counted(items: Iterable[Item], limits: Limits, path: Path) -> Iterator[Item]:
    for count, item in enumerate(items, start=1):
        if count > limits.members:
            raise InputError(
                f"{path} has more than {limits.members} entries.", "Split it, or raise the limits in Python."
            )
        yield item


def _folder(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[_Member]:
    def files() -> Iterator[Path]:
        for root, folders, names in os.walk(path, followlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(root) / name for name in sorted(names))

    for file in _counted(files(), limits, path):
        name = file.relative_to(path).as_posix()
        if not wanted(bare_name(name)):
            continue
        refusal = None if file.is_file() else "not a regular file"
        if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
            refusal = "a symbolic link that leads out of the folder is not followed"
        yield _Member(name, refusal, partial(read_bounded, file, limits), file)


def _tar(path: Path, limits: Limits) -> Iterator[_Member]:
    with path.open("rb") as raw, decompressor(raw, path.suffix.lower()) as stream:
        forward = _Forward(stream, path.stat().st_size, limits, str(path))
        with tarfile.open(fileobj=forward, mode="r:") as archive:
            for member in _counted(archive, limits, path):
                # tarfile remembers every member it passes; a million-entry archive must not live in memory
                archive.members = []  # type: ignore[attr-defined]
                if member.isdir():
                    continue
                refusal = None
                if member.issym() or member.islnk():
                    refusal = f"a link to {member.linkname!r} is not followed"
                elif not member.isreg() or member.issparse():
                    refusal = "not a regular file (device, pipe or sparse file)"
                refusal = refusal or _common_refusal(member.name, member.size, limits)
                yield _Member(member.name, refusal, partial(_tar_content, archive, member, limits))


def _tar_content(archive: tarfile.TarFile, member: tarfile.TarInfo, limits: Limits) -> bytes:
    handle = archive.extractfile(member)
    assert handle is not None  # links and devices were refused
    return decompress(_whole(handle), member.name, limits)


def _zip(path: Path, limits: Limits) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for member in _counted(archive.infolist(), limits, path):
            if member.is_dir():
                continue
            kind, refusal = stat.S_IFMT(member.external_attr >> 16), None
            if kind == stat.S_IFLNK:
                refusal = "a symbolic link is not followed"
            elif kind not in (0, stat.S_IFREG):
                refusal = "not a regular file"
            elif member.flag_bits & 0x1:
                refusal = "it is encrypted"
            refusal = refusal or _common_refusal(member.filename, member.file_size, limits)
            yield _Member(member.filename, refusal, partial(_zip_content, archive, member, limits))


def _zip_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: Limits) -> bytes:
    bounded = replace(limits, total_bytes=limits.member_bytes)
    try:
        with archive.open(member) as handle:
            data = _whole(_Forward(handle, member.compress_size, bounded, member.filename))
    except _DAMAGE as error:
        raise InputError(f"{member.filename} is damaged: {error}.", "Pack it again.") from error
    return decompress(data, member.filename, limits)


def _whole(stream: io.RawIOBase | IO[bytes]) -> bytes:
    return b"".join(iter(lambda: stream.read(MIB) or b"", b""))


def _common_refusal(name: str, size: int, limits: Limits) -> str | None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and pure.parts[0].endswith(":")):
        return "its name leads out of the archive"
    if size > limits.member_bytes:
        return f"{size / MIB:.0f} MiB are more than the limit of {limits.member_bytes / MIB:.0f} MiB"
    return None
