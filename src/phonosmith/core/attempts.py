"""Attempts of the same work: those within a job, and what a repeated job finds of the one before it.

The local runner links to the folder of the attempt before.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PREVIOUS = "previous"
"""Name of the link in the folder of a repeated job."""


def set_aside(folder: Path, attempt: int) -> Path:
    """Give the folder of an attempt another name, one that is free, and return it."""
    names = (folder.with_name(f"{folder.name}.attempt{number}") for number in itertools.count(attempt))
    name = next(name for name in names if not name.exists())
    shutil.move(folder, name)
    return name


def left_behind(path: Path, folder: Path | None = None) -> Path | None:
    """Return a file that the newest earlier attempt has left, or None.

    ``path`` is relative to the ``folder`` of the job, the current one by default.
    """
    place = folder or Path()
    while (place / PREVIOUS).is_dir():
        place /= PREVIOUS
        if (place / path).is_file():
            return place / path
    return None


def repeated(once: Callable[[], T], again: Callable[[T], bool], attempts: int) -> tuple[T, int]:
    """Do something in the current folder until it need not be done ``again``; return its last answer and how often.

    What a failed attempt wrote is kept in ``attempt_N``; files that were there before stay where they are.
    """
    known = {path.name for path in Path.cwd().iterdir()}
    for attempt in itertools.count(1):
        answer = once()
        if attempt >= attempts or not again(answer):
            return answer, attempt
        kept = Path.cwd() / f"attempt_{attempt}"
        kept.mkdir(exist_ok=True)
        for path in sorted(Path.cwd().iterdir()):
            if path.name not in known and not path.name.startswith((".", "attempt_")):
                with contextlib.suppress(FileNotFoundError):
                    shutil.move(str(path), kept / path.name)
    raise AssertionError("the loop ends by returning")
