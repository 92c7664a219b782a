"""The one progress bar: what is being done, how much of it, how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Move = Callable[[int, int | None, str], None]
"""Moves a bar: done, total (None: not known), words."""


@contextmanager
def progress_bar(words: str, total: int | None = None, *, show: bool = True, stays: bool = False) -> Iterator[Move]:
    """Show a bar with the time left on standard error and give what moves it; the last state ``stays`` if wanted."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    # in a notebook rich would ask for widgets; its output cells draw a line over itself as terminals do
    console = Console(stderr=True, force_jupyter=False)
    with Progress(*columns, console=console, transient=not stays, disable=not show) as bar:
        task = bar.add_task(words, total=total)
        yield lambda done, of, now: bar.update(task, completed=done, total=of, description=escape(now))


def spoken_time(seconds: float) -> str:
    """Return a time as people say it.

    >>> spoken_time(42.4), spoken_time(200), spoken_time(5000)
    ('42 s', '3 min 20 s', '1 h 23 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"
