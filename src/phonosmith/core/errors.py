"""Errors that say what happened and what to do about it."""

from __future__ import annotations

import difflib
import errno
import re
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

_NAMED = r"\w{0,40}(?:passw(?:or)?d|passphrase|secret|token|credential|api_?key|access_?key)\w{0,40}"
_SECRET_KEY = re.compile(_NAMED, re.IGNORECASE)
_SECRET_TEXTS = (
    # mongodb://user:password@host
    (re.compile(r"(://[^\s/:@]*:)[^\s\"'<>]+@"), r"\1***@"),
    # "password": "...", password='...', password=...
    (re.compile(rf"({_NAMED}['\"]?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;'\"}}\])]+)", re.IGNORECASE), r"\1***"),
)


def mask_secrets(value: Any) -> Any:
    """Return text, or anything of mappings and lists, with passwords, tokens and keys replaced by three asterisks."""
    if isinstance(value, str):
        for pattern, replacement in _SECRET_TEXTS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Mapping):
        return {
            key: "***" if item and isinstance(key, str) and _SECRET_KEY.fullmatch(key) else mask_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_secrets(item) for item in value]
    return value


class PhonosmithError(Exception):
    """Base of every error a user may meet: what is wrong, naming file, field or material, and the way out.

    Secrets in either are masked: errors end in logs, reports and other people's mail.
    """

    exit_code = 1

    def __init__(self, message: str, advice: str = "") -> None:
        message, advice = mask_secrets(message), mask_secrets(advice)
        super().__init__(message, advice)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class InputError(PhonosmithError):
    """The user's input (structure, option, file) cannot be used."""

    exit_code = 2


class ConfigurationError(PhonosmithError):
    """A setting, environment variable or store is missing or wrong.

    ``fields``: settings that are wrong by themselves; empty where settings do not go together.
    """

    exit_code = 2

    def __init__(self, message: str, advice: str = "", fields: Iterable[str] = ()) -> None:
        super().__init__(message, advice)
        self.fields = tuple(fields)


class ArtefactError(PhonosmithError):
    """An artefact is missing, unreachable or altered."""


class UntrustedModelError(PhonosmithError):
    """A foreign pickle would run unknown code and was not opened."""

    exit_code = 2


class PotentialError(PhonosmithError):
    """A potential cannot be loaded or does not cover the material."""

    exit_code = 2


class LabelError(PhonosmithError):
    """A reference calculation did not give a label that can be trusted."""


class MismatchError(PhonosmithError):
    """Two results do not belong together (composition, cell, supercell, settings)."""

    exit_code = 2


class TrainingError(PhonosmithError):
    """A fine-tuning went wrong or did not do what was asked."""


class ConvergenceError(PhonosmithError):
    """A relaxation or fit did not converge."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean ...? " for the known name closest to a mistyped one, or nothing."""
    closest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {closest[0]}? " if closest else ""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def lacks_room(error: BaseException) -> bool:
    """Tell whether something could not be written for want of room or permission, no matter which job tries."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and not any(found is one for one in seen):
        if isinstance(found, OSError) and found.errno in _NO_ROOM:
            return True
        if isinstance(found, sqlite3.Error) and any(word in str(found) for word in ("disk is full", "readonly")):
            return True
        seen.append(found)
        found = found.__cause__ or found.__context__
    return False
