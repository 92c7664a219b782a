"""Small JSON files in the user's folder that several processes may write at once."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import ConfigurationError
from phonosmith.settings import get_settings

INDEX = "models.json"
TRUSTED = "trusted.json"
IMPORTS = "imports.json"


def user_file(name: str) -> Path:
    """Return the path of one of this user's files."""
    return get_settings().home_dir / name


def read_user_json(name: str) -> dict[str, Any]:
    """Return a file's content, empty when there is none yet; a damaged file is a ConfigurationError."""
    path = user_file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.", "Repair it or move it away.") from error
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


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"Cannot write to {path}: {error.strerror or error}.", "Make PHONOSMITH_HOME writable.")
