"""Foreign model files are pickles, and opening a pickle runs what is in it: only trusted digests are opened."""

from __future__ import annotations

import io
import pickle
import shlex
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import InputError, PotentialError, UntrustedModelError
from phonosmith.core.hashing import digest_bytes
from phonosmith.core.userfiles import IMPORTS, TRUSTED, edited_user_json, read_user_json, user_file
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    import torch

PICKLE = b"\x80"
"""First byte of a pickle of protocol 2 or later, the only kind torch has ever written."""
HARMLESS = ("builtins.set", "builtins.slice", "builtins.getattr", "__builtin__.set", "functools.partial")


def read_model_bytes(path: str | Path) -> bytes:
    """Return a model file's content or say in one line why not."""
    source = Path(path).expanduser()
    if source.is_dir():
        raise InputError(f"{source} is a folder, not a model file.", "Give the model file itself.")
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        raise InputError(f"There is no model file {source}.", "Check the path.") from None
    except OSError as error:
        raise InputError(f"Cannot read {source}: {error.strerror or error}.", "Check its permissions.") from error
    if not data:
        raise InputError(f"{source} is empty.", "Fetch it again; the copy or download was interrupted.")
    return data


def is_trusted(sha256: str) -> bool:
    """Tell whether a digest is on this user's trust list."""
    return sha256 in read_user_json(TRUSTED)


def trust_digest(sha256: str, source: str) -> None:
    """Put a digest on this user's trust list."""
    with edited_user_json(TRUSTED) as trusted:
        trusted[sha256] = {"source": source, "since": datetime.now(UTC).isoformat(timespec="seconds")}


def _unusual_imports(data: bytes, expected: tuple[str, ...]) -> list[str]:
    """List what a torch file would import beyond the expected packages, without opening it; empty when unknown."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except Exception:  # noqa: BLE001  # an old torch, or a damaged file: opening it will say so
        return []
    return sorted(name for name in names if not name.startswith(expected) and name not in HARMLESS)


def unreadable(what: str, error: Exception) -> PotentialError:
    """Return the error of a damaged file: the first line of what was met, and the advice to fetch it again."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
    return PotentialError(f"{what} ({reason}).", "Fetch it again and compare its sha256.")


def refuse_other_formats(data: bytes, source: str) -> None:
    """Refuse what torch did not write, or what was cut short, before anybody is asked to trust it."""
    if data[:1] == PICKLE:
        return
    reason = "it is neither a torch file nor one of ours"
    if data[:2] == b"PK":
        reason = "it is cut short"
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                # compiled parts are archives within the archive: what is left of a file may end in a whole inner one
                if min((entry.header_offset for entry in archive.infolist()), default=0) == 0:
                    return
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            pass
    raise PotentialError(f"{source} is not a readable model file ({reason}).", "Fetch it again and compare its sha256.")


@dataclass(frozen=True)
class ForeignKind:
    """What an architecture's own package writes."""

    kind: str
    """Architecture as people write it."""
    expected: tuple[str, ...]
    """Where the classes of an ordinary file come from."""
    pinned: frozenset[str]
    """Digests of published files, opened without asking."""
    prepare: Callable[[], None]
    """Called before a file is opened."""


def import_foreign(
    data: bytes, name: str, source: str, kind: ForeignKind, register: Callable[..., PotentialRef], *, trust: bool
) -> PotentialRef:
    """Keep a foreign torch model as an artefact; one that was imported before is not opened again.

    ``source`` is where it came from, for messages and the trust list; ``register`` is called with the module, the name
    and the file's digest as only parent. With ``trust`` the user takes responsibility, remembered once it opened.
    """
    sha256 = digest_bytes(data)
    before = read_user_json(IMPORTS).get(sha256)
    ref = None if before is None else PotentialRef.model_validate(before).model_copy(update={"name": name})
    known = ref is not None and default_artefacts().has(ref.artefact)
    model = None if known else open_foreign(data, source, kind, trust=trust)
    if trust and sha256 not in kind.pinned and not is_trusted(sha256):
        trust_digest(sha256, source)
    if ref is None or model is not None:
        try:
            ref = register(model, name, [sha256])
        except PotentialError as error:
            raise PotentialError(f"{source} cannot be used: {error.message}", error.advice) from error
        with edited_user_json(IMPORTS) as imports:
            imports[sha256] = ref.model_dump(mode="json")
    return ref


def open_foreign(data: bytes, source: str, kind: ForeignKind, *, trust: bool) -> torch.nn.Module:
    """Unpickle a foreign torch model; the very bytes whose digest is trusted or pinned are the ones opened."""
    import torch

    refuse_other_formats(data, source)
    sha256 = digest_bytes(data)
    if not (trust or sha256 in kind.pinned or is_trusted(sha256)):
        odd = _unusual_imports(data, kind.expected)
        told = f" It would import {', '.join(odd[:4])}, which no {kind.kind} model needs." if odd else ""
        raise UntrustedModelError(
            f"{source} was not opened: it is a pickle, which can run any code, and its sha256 {sha256[:16]} is neither "
            f"pinned nor on your trust list ({user_file(TRUSTED)}).{told}",
            f"If you trust where it came from: phonosmith models add {shlex.quote(source)} --trust.",
        )
    kind.prepare()
    try:
        model: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except (ModuleNotFoundError, AttributeError) as error:
        raise PotentialError(
            f"{source} needs code that is not installed: {error}.", "Install the package it was saved with."
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, ImportError) as error:
        raise unreadable(f"{source} is not a readable model file", error) from error
    if not isinstance(model, torch.nn.Module):
        raise PotentialError(
            f"{source} holds a {type(model).__name__}, not a model.",
            "Give the complete '.model' file, not a checkpoint or a state dictionary.",
        )
    return model
