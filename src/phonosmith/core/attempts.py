"""Attempts of the same work: those within a job, how long it may go on, and what a repeated job finds of the last one.

The local runner links to the folder of the attempt before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from phonosmith.settings import get_settings

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


def seconds_left() -> float | None:
    """Return how long the SLURM job of this process still runs, s; None where it has no end, or nobody is to mind it.

    The setting ``stop_in_time`` says whether work is to end before that, with what a following job can go on from.
    """
    end = _allocation_end() if get_settings().stop_in_time else None
    return None if end is None else end - time.time()


@lru_cache(maxsize=1)
def _allocation_end() -> float | None:
    """Return when the SLURM job of this process ends, s since the epoch; None without one, or without an end."""
    job, end = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_END_TIME", "")
    if job is None or end.isdigit():
        return float(end) if job else None
    command = ["squeue", "-h", "-j", job, "-o", "%L"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    left = read_slurm_time(said)
    return None if left is None else time.time() + left


def read_slurm_time(text: str) -> int | None:
    """Return a time as SLURM prints it, s; None for words like UNLIMITED.

    >>> read_slurm_time("4:59"), read_slurm_time("1:00:01"), read_slurm_time("2-01:00:00"), read_slurm_time("UNLIMITED")
    (299, 3601, 176400, None)
    """
    if not re.fullmatch(r"(\d+-)?(\d+:){1,2}\d+", text):
        return None
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = ([0] + [int(part) for part in clock.split(":")])[-3:]
    return 86400 * int(days or 0) + 3600 * hours + 60 * minutes + seconds


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
