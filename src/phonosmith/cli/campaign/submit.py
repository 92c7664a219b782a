"""``phonosmith submit``: a campaign to FireWorks or jobflow-remote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import JSON, answer, command, read_yaml

if TYPE_CHECKING:
    from jobflow import Flow

    from phonosmith.engines.queues.submission import Submission
    from phonosmith.flows.routing import Routing


_TARGETS = {"jobflow-remote": "project", "fireworks": "launchpad"}
"""The option that names what a submission went to."""


@command("submit")
def submit(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="What to do; see workflows/campaign.yaml.")],
    engine: Annotated[str, typer.Option(help="fireworks or jobflow-remote.")],
    project: Annotated[str | None, typer.Option(help="jobflow-remote: project; its default when not given.")] = None,
    launchpad: Annotated[Path | None, typer.Option(help="FireWorks: launchpad file [FireWorks' own default].")] = None,
    routing: Annotated[Path | None, typer.Option(help="File with 'routing' [workers dft, gpu, inference].")] = None,
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything and count the jobs, submit nothing."),
    json_output: bool = JSON,
) -> None:
    """Submit a campaign to workers on a cluster: DFT, training and inference each where they belong.

    Checked first: the file, databases, the job store's blob store, a worker for every kind of job, the artefact store.
    The same command again submits only what is new; 'phonosmith retry --engine ENGINE' starts failed jobs again.

    Example: phonosmith submit campaign.yaml --engine jobflow-remote --project phonosmith --dry-run
    """
    from phonosmith.core.errors import ConfigurationError, InputError, did_you_mean
    from phonosmith.flows.campaign import read_campaign
    from phonosmith.flows.routing import ENGINES, read_routing

    if engine not in ENGINES:
        advice = f"{did_you_mean(engine, ENGINES)}Engines: {', '.join(ENGINES)}; for this machine: phonosmith run."
        raise InputError(f"There is no engine {engine!r}.", advice)
    if project is not None and engine != "jobflow-remote":
        raise InputError("--project belongs to jobflow-remote.", "Use --launchpad for FireWorks.")
    if launchpad is not None and engine != "fireworks":
        raise InputError("--launchpad belongs to FireWorks.", "Use --project for jobflow-remote.")
    checked = read_campaign(campaign)
    section = None
    if routing is not None:
        content = read_yaml(routing)
        if not isinstance(content, dict) or "routing" not in content:
            raise ConfigurationError(f"{routing} has no section 'routing'.", "See workflows/routing.yaml.")
        section = content["routing"]
    rules = read_routing(section, f"{routing}: routing")
    done = submit_flow(checked.flow(), engine, rules, project=project, launchpad=launchpad, dry_run=dry_run)
    answer(done, lambda: _show(done, dry_run=dry_run), json_output=json_output)


def submit_flow(
    flow: Flow,
    engine: str,
    rules: Routing,
    *,
    project: str | None = None,
    launchpad: Path | None = None,
    dry_run: bool = False,
) -> Submission:
    """Submit a flow to one of the engines."""
    if engine == "jobflow-remote":
        from phonosmith.engines.queues.remote import submit_remote

        return submit_remote(flow, rules, project, dry_run=dry_run)
    from phonosmith.engines.queues.fireworks import submit_fireworks

    return submit_fireworks(flow, rules, launchpad, dry_run=dry_run)


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
