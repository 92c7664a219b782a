"""What a repeated job finds of its earlier attempts: the local runner links to the folder of the one before."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

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
