"""``phonosmith doctor``: what this installation can do, and what to do about what it cannot."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import typer

from phonosmith.cli.output import JSON_OPTION, explained, print_json

_MARKS = {"ok": ("green", "ok  "), "warning": ("yellow", "note"), "error": ("red", "FAIL")}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("doctor")(doctor)


@explained
def doctor(json_output: bool = JSON_OPTION) -> None:
    """Check this installation and say what to do about each finding.

    Looked at: settings, package versions, torch and its device, the artefact store, the embedded job store, jobflow's
    job store, the VASP command, the POTCAR folder, the cache of foundation models, the embedded potentials, and, where
    they are configured, jobflow-remote's projects and FireWorks' launchpad.

    Ends with 0 when everything essential works and with 1 otherwise. What is missing for DFT on this machine only
    (VASP, POTCAR files) is a note, not a failure.
    """
    from phonosmith import __version__
    from phonosmith.cli.setup.doctor_checks import CHECKS
    from phonosmith.cli.setup.doctor_engines import ENGINE_CHECKS

    findings = [finding for check in (*CHECKS, *ENGINE_CHECKS) for finding in run_check(check)]
    healthy = not any(item["status"] == "error" and item["essential"] for item in findings)
    if json_output:
        print_json({"ok": healthy, "version": __version__, "checks": findings})
    else:
        _print_findings(__version__, findings, healthy)
    if not healthy:
        raise typer.Exit(1)


def run_check(check: Callable[[], Iterable[Any]]) -> list[dict[str, Any]]:
    """Run one check with libraries kept quiet; a check that breaks is itself a finding."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return [finding.as_dict() for finding in check()]
        except Exception as error:  # noqa: BLE001 a doctor reports what breaks instead of breaking
            name = check.__name__.removeprefix("check_").replace("_", " ")
            return [
                {
                    "name": name,
                    "status": "error",
                    "essential": True,
                    "message": f"The check itself failed: {type(error).__name__}: {error}",
                    "advice": "Report this with the output of 'phonosmith doctor --json'.",
                }
            ]


def _print_findings(version: str, findings: list[dict[str, Any]], healthy: bool) -> None:
    typer.echo(f"phonosmith {version}")
    width = max(len(item["name"]) for item in findings)
    for item in findings:
        colour, mark = _MARKS[item["status"]]
        typer.echo(f"{typer.style(mark, fg=colour)}  {item['name']:<{width}}  {item['message']}")
        if item["advice"]:
            typer.echo(f"      {'':<{width}}  -> {item['advice']}")
    broken = [item["name"] for item in findings if item["status"] == "error"]
    typer.echo("Everything essential works." if healthy else f"To be repaired: {', '.join(broken)}.")
