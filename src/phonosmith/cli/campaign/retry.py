"""``phonosmith retry``: what failed, and everything that was made without it, on this machine or in a queue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phonosmith.cli.campaign.run import LIMITS, SLOTS, WORKERS, retry_run
from phonosmith.cli.common import JSON, command


@command("retry")
def retry(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of the run.")] = Path(),
    job: Annotated[list[str] | None, typer.Option(help="Only the failed job of this name; repeatable.")] = None,
    workers: int | None = WORKERS,
    slots: str = SLOTS,
    time_limit: str = LIMITS,
    json_output: bool = JSON,
) -> None:
    """Start failed jobs again, and everything that was left out, or done without them.

    Example: phonosmith retry si --job 'label si 07'
    """
    retry_run(folder, job or [], workers, slots, time_limit, json_output=json_output)
