"""Content-addressed artefact store: models, trajectories, force constants travel by sha256, never by path."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import ArtefactError, ConfigurationError
from phonosmith.core.hashing import digest_bytes, digest_file

if TYPE_CHECKING:
    from maggma.core import Store

    from phonosmith.settings import Settings

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHELF = "results"


class ArtefactRef(Document):
    """Name of an artefact: its content hash, with enough to recognise it by eye."""

    sha256: str = Field(description="sha256 of the content, 64 hexadecimal digits", pattern=r"^[0-9a-f]{64}$")
    kind: str = Field("blob", description="what it is: model, frames, force_constants, trajectory, ...")
    suffix: str = Field("", description="file suffix with dot, e.g. .safetensors, .extxyz, .npz")
    size: int = Field(ge=0, description="size in bytes")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is either absent or whole: temporary name in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class DirectoryBackend:
    """Artefacts as files ``ab/abcdef...`` below one folder (a shared file system is enough)."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def path(self, sha256: str) -> Path:
        """Return where the artefact is or would be kept."""
        if not _SHA256.fullmatch(sha256):
            raise ArtefactError(f"{sha256!r} is not a sha256 digest.", "Give all 64 hexadecimal digits.")
        return self.root / sha256[:2] / sha256

    def write(self, sha256: str, data: bytes) -> None:
        """Keep data under its hash."""
        path = self.path(sha256)
        # an existing file is replaced only when damaged: writing again heals the store
        if path.is_file() and path.stat().st_size == len(data) and digest_file(path) == sha256:
            return
        try:
            write_atomic(path, data)
        except OSError as error:
            raise ArtefactError(
                f"Cannot write to the artefact store {self.root}: {error.strerror or error}.",
                "Make it writable or set PHONOSMITH_ARTEFACTS to another folder.",
            ) from error

    def read(self, sha256: str) -> bytes:
        """Return the kept bytes."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise ArtefactError(
                f"Artefact {sha256[:12]} is not in {self.root}.",
                "Point PHONOSMITH_ARTEFACTS at the store it was written to.",
            ) from error

    def has(self, sha256: str) -> bool:
        """Tell whether the artefact is kept."""
        return self.path(sha256).is_file()

    def beside(self, name: str) -> DirectoryBackend:
        """Return a place of its own for something else than content under its hash."""
        return DirectoryBackend(self.root / name)

    def keys(self) -> list[str]:
        """List every kept hash."""
        return sorted(p.name for p in self.root.glob("[0-9a-f][0-9a-f]/*") if _SHA256.fullmatch(p.name))


class MaggmaBackend:
    """Artefacts in any maggma store: GridFSStore and S3Store as blobs, others as documents.

    The content travels as base64 text, because these stores pass documents through JSON.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        self.store, self.prefix = store, prefix

    @cached_property
    def _index(self) -> Store:
        """The connected store that says what there is: of S3 its index."""
        from maggma.stores import S3Store

        index = self.store.index if isinstance(self.store, S3Store) else self.store
        try:
            self.store.connect()
            index.count({self.store.key: "0"})
        except Exception as error:
            raise ArtefactError(
                f"The artefact store {self.store.name} cannot be reached: {error}.",
                "Check PHONOSMITH_ARTEFACTS_STORE and that the server runs.",
            ) from error
        return index

    def beside(self, name: str) -> MaggmaBackend:
        """Return a place of its own for something else than content under its hash."""
        return MaggmaBackend(self.store, f"{name}:")

    def write(self, sha256: str, data: bytes) -> None:
        """Keep data under its hash; what is there but altered is written again."""
        if self.has(sha256):
            with suppress(ArtefactError):
                if digest_bytes(self.read(sha256)) == sha256:
                    return
        text = base64.b64encode(data).decode()
        self.store.update(
            [{self.store.key: self.prefix + sha256, "size": len(data), "base64": text}], key=self.store.key
        )

    def read(self, sha256: str) -> bytes:
        """Return the kept bytes."""
        if not self.has(sha256):
            raise ArtefactError(
                f"Artefact {sha256[:12]} is not in {self.store.name}.", "Check PHONOSMITH_ARTEFACTS_STORE."
            )
        try:
            return base64.b64decode(
                self.store.query_one({self.store.key: self.prefix + sha256})["base64"], validate=True
            )
        except Exception as error:
            # stores raise anything from zlib.error to KeyError when their content is damaged
            raise ArtefactError(
                f"Artefact {sha256[:12]} in {self.store.name} is damaged or unreadable: {error}.",
                "Write it again or restore the store.",
            ) from error

    def has(self, sha256: str) -> bool:
        """Tell whether the artefact is kept."""
        return bool(self._index.count({self.store.key: self.prefix + sha256}) > 0)

    def keys(self) -> list[str]:
        """List every kept hash."""
        return sorted(key for key in self._index.distinct(self.store.key) if _SHA256.fullmatch(key))


class ArtefactStore:
    """Put and get by content hash, verified on every read.

    ``cache`` is a folder of local copies; needed only when a path is asked of a remote backend.
    """

    def __init__(self, backend: DirectoryBackend | MaggmaBackend, cache: str | Path | None = None) -> None:
        self.backend = backend
        self._cache = DirectoryBackend(cache) if cache is not None else None

    def put_bytes(self, data: bytes, kind: str = "blob", suffix: str = "") -> ArtefactRef:
        """Keep bytes and return their reference; the same content is kept once."""
        sha256 = digest_bytes(data)
        self.backend.write(sha256, data)
        return ArtefactRef(sha256=sha256, kind=kind, suffix=suffix, size=len(data))

    def get_bytes(self, ref: ArtefactRef | str) -> bytes:
        """Return an artefact's content after checking that it still has the hash it is asked by."""
        sha256 = ref if isinstance(ref, str) else ref.sha256
        if self._cache is not None and self._cache.has(sha256):
            data = self._cache.read(sha256)
            if digest_bytes(data) == sha256:
                return data
        data = self.backend.read(sha256)
        if digest_bytes(data) != sha256:
            raise ArtefactError(
                f"Artefact {sha256[:12]} was altered: its content has the hash {digest_bytes(data)[:12]}.",
                "Restore it from a backup or write it again; nothing was loaded.",
            )
        if self._cache is not None:
            self._cache.write(sha256, data)
        return data

    def get_path(self, ref: ArtefactRef | str) -> Path:
        """Return a verified local file of an artefact, for libraries that insist on a path."""
        sha256 = ref if isinstance(ref, str) else ref.sha256
        data = self.get_bytes(sha256)
        if self._cache is not None:
            self._cache.write(sha256, data)
            return self._cache.path(sha256)
        if isinstance(self.backend, DirectoryBackend):
            return self.backend.path(sha256)
        raise ConfigurationError(
            "A path was asked of a remote artefact store without a cache.", "Set PHONOSMITH_CACHE."
        )

    def shelve(self, key: str, data: bytes) -> None:
        """Keep a finished result under the digest of what it was made from, for those who ask nobody else."""
        self.backend.beside(_SHELF).write(key, data)

    def shelved(self, key: str) -> bytes | None:
        """Return what was kept under such a digest; whoever reads it has to check it."""
        shelf = self.backend.beside(_SHELF)
        return shelf.read(key) if shelf.has(key) else None

    def has(self, ref: ArtefactRef | str) -> bool:
        """Tell whether the artefact is kept."""
        return self.backend.has(ref if isinstance(ref, str) else ref.sha256)

    def find(self, prefix: str) -> list[str]:
        """Return every kept hash that begins with ``prefix``."""
        return [key for key in self.backend.keys() if key.startswith(prefix.lower())]  # noqa: SIM118


def open_artefacts(settings: Settings) -> ArtefactStore:
    """Open the artefact store that the settings name."""
    if settings.artefacts_store is None:
        return ArtefactStore(DirectoryBackend(settings.artefacts_dir))
    from monty.json import MontyDecoder

    try:
        store = MontyDecoder().process_decoded(settings.artefacts_store)
        if not hasattr(store, "query_one"):
            raise TypeError("'@module' and '@class' do not name a maggma store")  # noqa: TRY301
    except Exception as error:
        raise ConfigurationError(
            f"PHONOSMITH_ARTEFACTS_STORE cannot be opened: {error}.",
            "Give the JSON of store.as_dict(), with @module and @class.",
        ) from error
    return ArtefactStore(MaggmaBackend(store), settings.cache_dir)


@lru_cache(maxsize=4)
def _open_cached(settings_json: str) -> ArtefactStore:
    from phonosmith.settings import Settings

    return open_artefacts(Settings.model_validate_json(settings_json))


def default_artefacts() -> ArtefactStore:
    """Return this process's artefact store, opened once for the current settings."""
    from phonosmith.settings import get_settings

    return _open_cached(get_settings().model_dump_json())
