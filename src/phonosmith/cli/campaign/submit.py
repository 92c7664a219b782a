"""``phonosmith submit``: a campaign to FireWorks or jobflow-remote."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import (
    CAMPAIGN_FILE,
    CAMPAIGNS,
    JSON,
    LAUNCHPAD,
    PROJECT,
    ROUTING,
    answer,
    command,
    read_yaml,
)
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from jobflow import Flow

    from phonosmith.engines.queues.submission import Submission
    from phonosmith.flows.routing import EngineName, Routing


_TARGETS = {"jobflow-remote": "project", "fireworks": "launchpad"}
"""The option that names what a submission went to."""


@command("submit", CAMPAIGNS)
def submit(
    engine: Annotated[str, typer.Option(help="fireworks or jobflow-remote: in their queue.")],
    campaign: Path = CAMPAIGN_FILE,
    project: str | None = PROJECT,
    launchpad: Path | None = LAUNCHPAD,
    routing: Path | None = ROUTING,
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything, count the jobs, start nothing."),
    json_output: bool = JSON,
) -> None:
    """Submit a campaign to workers on a cluster: DFT, training and inference each where they belong.

    Checked first: the file, databases, the job store's blob store, a worker for every kind of job, the artefact store.
    The same command again submits only what is new; 'phonosmith retry --engine ENGINE' starts failed jobs again.

    Example: phonosmith submit campaign.yaml --engine jobflow-remote --project phonosmith --dry-run
    """
    from phonosmith.flows.campaign import read_campaign

    runs = engine_named(engine, project, launchpad)
    checked = read_campaign(campaign)
    rules = read_rules(routing)
    with progress_bar("making the flows", len(checked.structures)) as bar:
        done = submit_flows(
            checked.flows(),
            runs,
            rules,
            project=project,
            launchpad=launchpad,
            dry_run=dry_run,
            show=lambda number, words: bar(number, None, words),
        )
    answer(done, lambda: _show(done, dry_run=dry_run), json_output=json_output)


def engine_named(name: str, project: str | None, launchpad: Path | None) -> EngineName:
    """Return an engine, refusing what there is not and options that belong to another one."""
    from phonosmith.core.errors import InputError, did_you_mean
    from phonosmith.flows.routing import ENGINES

    engine = next((known for known in ENGINES if known == name), None)
    if engine is None:
        advice = f"{did_you_mean(name, ENGINES)}Engines: {', '.join(ENGINES)}; for this machine: phonosmith run."
        raise InputError(f"There is no engine {name!r}.", advice)
    if project is not None and engine != "jobflow-remote":
        raise InputError("--project belongs to jobflow-remote.", "Use --launchpad for FireWorks.")
    if launchpad is not None and engine != "fireworks":
        raise InputError("--launchpad belongs to FireWorks.", "Use --project for jobflow-remote.")
    return engine


def read_rules(path: Path | None) -> Routing:
    """Return the rules of a routing file; without one, workers called dft, gpu and inference."""
    from phonosmith.core.errors import ConfigurationError
    from phonosmith.flows.routing import read_routing

    section = None
    if path is not None:
        content = read_yaml(path)
        if not isinstance(content, dict) or "routing" not in content:
            raise ConfigurationError(f"{path} has no section 'routing'.", "See workflows/routing.yaml.")
        section = content["routing"]
    return read_routing(section, f"{path}: routing")


def submit_flows(
    flows: Flow | Iterable[Flow],
    engine: EngineName,
    rules: Routing,
    *,
    project: str | None = None,
    launchpad: Path | None = None,
    dry_run: bool = False,
    show: Callable[[int, str], None] = lambda *_: None,
) -> Submission:
    """Submit flows to one of the engines; ``show`` is told how many are through, and what goes on."""
    if engine == "jobflow-remote":
        from phonosmith.engines.queues.remote import submit_remote

        return submit_remote(flows, rules, project, dry_run=dry_run, show=show)
    from phonosmith.engines.queues.fireworks import submit_fireworks

    return submit_fireworks(flows, rules, launchpad, dry_run=dry_run, show=show)


def _show(done: Submission, *, dry_run: bool) -> None:
    for worker, stages in done.workers.items():
        words = ", ".join(f"{count} {stage}" for stage, count in stages.items())
        typer.echo(f"{worker:<12} {sum(stages.values()):>4} jobs: {words}")
    head = "would be submitted" if dry_run else "submitted"
    typer.echo(
        f"{done.n_new} jobs {head} to {done.engine} ({done.target}), {done.n_finished} are finished, "
        f"{done.n_queued} in the queue already. Jobs made on the way, such as one per label, come on top."
    )
    again = f"phonosmith retry --engine {done.engine} --{_TARGETS[done.engine]} {done.target}"
    if done.failed:
        typer.echo(f"{len(done.failed)} failed earlier: {', '.join(done.failed[:5])} ... Start them with: {again}")
    if done.lost:
        typer.echo(f"{len(done.lost)} lost or altered: {', '.join(done.lost[:5])} ... Make them again with: {again}")
    if done.held_back:
        typer.echo(f"{len(done.held_back)} new jobs wait for those in the queue: submit again when they are done.")
    for warning in done.warnings:
        typer.secho(f"note: {warning}", fg="yellow", err=True)
