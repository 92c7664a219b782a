"""``phonosmith doctor``: what this installation, or the workers of a cluster, can do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phonosmith.cli.common import JSON, LAUNCHPAD, PROJECT, ROUTING, START, answer, command
from phonosmith.cli.setup.checks import CHECKS, Finding, run_check

_MARKS = {"ok": ("green", "ok  "), "warning": ("yellow", "note"), "error": ("red", "FAIL")}


@command("doctor", START)
def doctor(
    cluster: Annotated[
        str | None, typer.Option(help="Ask the workers of fireworks or jobflow-remote instead: a small job to each.")
    ] = None,
    project: str | None = PROJECT,
    launchpad: Path | None = LAUNCHPAD,
    routing: Path | None = ROUTING,
    timeout: Annotated[float, typer.Option(help="With --cluster: how long to wait for answers, s.")] = 600.0,
    json_output: bool = JSON,
) -> None:
    """Check this installation, or the workers of a cluster, and say what to do about each finding.

    Looked at: settings, package versions, torch and its device, what a GPU takes for a step, the artefact store, the
    embedded job store, jobflow's job store, the VASP command, the POTCAR folder, the cache of foundation models, the
    embedded potentials, and, where they are configured, jobflow-remote's projects and FireWorks' launchpad.

    Ends with 0 when everything essential works and with 1 otherwise. What is missing for DFT on this machine only
    (VASP, POTCAR files) is a note, not a failure.

    Example: phonosmith doctor
    """
    from phonosmith import __version__

    if cluster is not None:
        _ask_workers(cluster, project, launchpad, routing, timeout, json_output=json_output)
        return
    findings = [finding for check in CHECKS for finding in run_check(check)]
    healthy = not _broken(findings)
    payload = {"ok": healthy, "version": __version__, "checks": [asdict(item) for item in findings]}
    answer(payload, lambda: _show(__version__, findings, healthy), json_output=json_output)
    if not healthy:
        raise typer.Exit(1)


def _ask_workers(
    engine: str,
    project: str | None,
    launchpad: Path | None,
    routing: Path | None,
    seconds: float,
    *,
    json_output: bool,
) -> None:
    from phonosmith.cli.campaign.submit import engine_named, read_rules
    from phonosmith.cli.setup.probing import probe_workers

    probes = probe_workers(
        engine_named(engine, project, launchpad),
        read_rules(routing),
        project=project,
        launchpad=launchpad,
        seconds=seconds,
    )
    healthy = all(not probe.problem and not _broken(probe.findings) for probe in probes)
    payload = {"ok": healthy, "engine": engine, "workers": [asdict(probe) for probe in probes]}

    def show() -> None:
        for probe in probes:
            typer.secho(f"{probe.worker} {f'on {probe.host}' if probe.host else ''}", bold=True)
            if probe.problem:
                typer.echo(f"{typer.style('FAIL', fg='red')}  {probe.problem}")
                typer.echo(f"      -> {_UNANSWERED[engine]}")
            else:
                _show_findings(probe.findings)

    answer(payload, show, json_output=json_output)
    if not healthy:
        raise typer.Exit(1)


_UNANSWERED = {
    "jobflow-remote": "Is the runner at work (jf runner status)? What does it say (jf job list; jf job info ID)?",
    "fireworks": "Is somebody launching (launch.sh, or rlaunch)? What happened (lpad get_fws -s FIZZLED -d more)?",
}


def _broken(findings: list[Finding]) -> list[str]:
    return [item.name for item in findings if item.status == "error" and item.essential]


def _show(version: str, findings: list[Finding], healthy: bool) -> None:
    typer.echo(f"phonosmith {version}")
    _show_findings(findings)
    broken = [item.name for item in findings if item.status == "error"]
    typer.echo("Everything essential works." if healthy else f"To be repaired: {', '.join(broken)}.")


def _show_findings(findings: list[Finding]) -> None:
    width = max(len(item.name) for item in findings)
    for item in findings:
        colour, mark = _MARKS[item.status]
        typer.echo(f"{typer.style(mark, fg=colour)}  {item.name:<{width}}  {item.message}")
        if item.advice:
            typer.echo(f"      {'':<{width}}  -> {item.advice}")
