"""The user's own folder: small JSON files that several processes may write at once, and the key that signs jobs."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.core.reading import read_json
from phonosmith.settings import get_settings

INDEX = "models.json"
TRUSTED = "trusted.json"
IMPORTS = "imports.json"
KEY = "signing.key"
_KEY_BYTES = 32


def user_file(name: str) -> Path:
    """Return the path of one of this user's files."""
    return get_settings().home_dir / name


def read_user_json(name: str) -> dict[str, Any]:
    """Return a file's content, empty when there is none yet; a damaged file is a ConfigurationError."""
    path = user_file(name)
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except InputError as error:
        raise ConfigurationError(error.message, "Repair it or move it away.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} does not hold a JSON object.", "Repair it or move it away.")
    return content


@contextmanager
def edited_user_json(name: str) -> Iterator[dict[str, Any]]:
    """Yield a file's content for changing and write it back whole, one writer at a time."""
    path = user_file(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = read_user_json(name)
        yield content
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        try:
            write_atomic(path, text.encode())
        except OSError as error:
            raise _unwritable(path, error) from error


def sign(*parts: str) -> str:
    """Return this user's signature of texts, 64 hexadecimal digits; nobody without the user's key can make it."""
    return hmac.new(_signing_key(user_file(KEY)), json.dumps(parts).encode(), "sha256").hexdigest()


def is_signed(signature: str, *parts: str) -> bool:
    """Tell whether a signature of these texts is this user's."""
    return hmac.compare_digest(signature.encode(), sign(*parts).encode())


@lru_cache(maxsize=4)
def _signing_key(path: Path) -> bytes:
    """Return the key, made at the first use: random, readable by its owner alone from its first moment."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # temporary files are made with mode 0600
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-") as fresh:
                fresh.write(secrets.token_bytes(_KEY_BYTES))
                fresh.flush()
                os.fsync(fresh.fileno())
                # a link, unlike a rename, leaves the key that another process has just made
                with suppress(FileExistsError):
                    os.link(fresh.name, path)
        mode, key = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise _unwritable(path, error) from error
    if mode & 0o077 or len(key) != _KEY_BYTES:
        raise ConfigurationError(
            f"{path}, which signs what you run, is damaged or open to others.",
            "Remove it: a new one is made, and runs signed with the old one are taken over with --trust.",
        )
    return key


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"Cannot write to {path}: {error.strerror or error}.", "Make PHONOSMITH_HOME writable.")
