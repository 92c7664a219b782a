"""``phonosmith retry``: what failed, and everything that was made without it, on this machine or in a queue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.campaign.run import LIMITS, SLOTS, TRUST_RUN, WORKERS, retry_run
from phonosmith.cli.campaign.submit import engine_named
from phonosmith.cli.common import CAMPAIGNS, JSON, LAUNCHPAD, PROJECT, QUEUE, answer, command
from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from phonosmith.engines.queues.retrying import Retried


@command("retry", CAMPAIGNS)
def retry(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of a run on this machine.")] = Path(),
    job: Annotated[list[str] | None, typer.Option(help="Only the failed job of this name (repeatable).")] = None,
    material: Annotated[list[str] | None, typer.Option(help="Only this material (repeatable).")] = None,
    engine: str | None = QUEUE,
    project: str | None = PROJECT,
    launchpad: Path | None = LAUNCHPAD,
    workers: int | None = WORKERS,
    slots: str = SLOTS,
    time_limit: str = LIMITS,
    trust: bool = TRUST_RUN,
    json_output: bool = JSON,
) -> None:
    """Start failed jobs again, and everything that was left out, or was done without them.

    What does not depend on them is kept. In a queue the jobs are put back in line, and its workers take them.

    Example: phonosmith retry si --job 'label si 07'
    """
    names, materials = job or [], material or []
    if engine is None:
        if project is not None or launchpad is not None:
            raise InputError("--project and --launchpad belong to an engine.", "Add --engine ENGINE.")
        retry_run(folder, names, materials, workers, slots, time_limit, json_output=json_output, trust=trust)
        return
    runs = engine_named(engine, project, launchpad)
    if workers is not None or slots or time_limit or trust:
        raise InputError(
            "--workers, --slots, --time-limit and --trust are for this machine.", f"Leave them out with {engine}."
        )
    if runs == "jobflow-remote":
        from phonosmith.engines.queues.remote import retry_remote

        done = retry_remote(names, materials, project)
    else:
        from phonosmith.engines.queues.fireworks import retry_fireworks

        done = retry_fireworks(names, materials, launchpad)
    answer(done, lambda: _show(done), json_output=json_output)


def _show(done: Retried) -> None:
    typer.echo(f"{len(done.failed)} failed jobs start again on {done.engine} ({done.target}).")
    for name in done.failed:
        typer.echo(f"  {name}")
    if done.again:
        typer.echo(f"{len(done.again)} that were done or failed without them follow: {', '.join(done.again[:6])} ...")
    if done.resubmit:
        typer.echo(
            f"{len(done.resubmit)} of other submissions were made from results that are not valid any more and left "
            "the queue: submit the campaign again when these are done."
        )
    if done.removed:
        typer.echo(f"{len(done.removed)} that those had made are taken out of the queue and will be made anew.")
