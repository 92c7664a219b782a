"""``phonosmith tune``: one material from crystal to verdict in one command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from phonosmith.cli.common import (
    FOUNDATION,
    JSON,
    SETTINGS,
    START,
    TRUST,
    answer,
    command,
    print_table,
    quiet_libraries,
    shown,
)
from phonosmith.core.errors import PhonosmithError

if TYPE_CHECKING:
    from phonosmith.study.request import Budget
    from phonosmith.study.study import Study


@command("tune", START)
def tune(
    crystal: Annotated[
        str, typer.Argument(metavar="INPUT", help="Crystal (POSCAR, CIF, embedded:Si), or phonopy.yaml with forces.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the run, report.html, table, figures and the model.")],
    foundation: str = FOUNDATION,
    reference: Annotated[
        str | None,
        typer.Option(metavar="E|FILE", help="Who tells the truth: vasp, gpaw, a potential, or phonopy.yaml."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Preset of training; several as in transfer,delta (default: phonosmith, or transfer for few labels)."
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="quick, or paper: the published protocol.")] = "quick",
    settings: list[str] | None = SETTINGS,
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything, say what it costs, start nothing."),
    open_page: bool = typer.Option(False, "--open", help="Open the report in the browser."),
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Fine-tune a foundation for one crystal and judge its phonons: what it costs, a live table, verdict, report.

    With phonopy.yaml as INPUT or reference nothing is calculated anew: its force constants give labels and truth, and
    the answer is before and after. The same command goes on where it was interrupted.

    Example: phonosmith tune embedded:Si --foundation embedded --reference embedded-reference --out si
    """
    from phonosmith.study.tune import how_to_submit, planned
    from phonosmith.training.spec import parse_settings

    with quiet_libraries():
        study: Study = planned(
            crystal,
            foundation=foundation,
            reference=reference,
            strategy=strategy,
            budget=cast("Budget", budget),
            out=out,
            trust=trust,
            training=parse_settings(settings or []),
        )
    cost = study.cost
    for line in (cost.words(), cost.recommendation, *cost.warnings):
        if line:
            typer.echo(line, err=True)
    if dry_run:
        jobs = sum(1 for _ in study.flow.iterflow())
        words = f"{study.request.name}: {jobs} jobs besides those made on the way. Nothing was started."
        answer({"ok": True, "cost": cost, "jobs": jobs}, lambda: typer.echo(words), json_output=json_output)
        return
    try:
        study.request.require_program()
    except PhonosmithError as error:
        raise type(error)(error.message, f"{error.advice} {how_to_submit(study)}") from error
    study.run(show=not json_output or os.isatty(2))
    with quiet_libraries():
        payload = _payload(study)
    answer(payload, lambda: _show(study, payload), json_output=json_output)
    if open_page:
        typer.launch(payload["files"]["report"])


def _payload(study: Study) -> dict[str, Any]:
    verdict, outcome = study.verdict, study.outcome
    return {
        "ok": outcome is not None and outcome.ok,
        "material": study.request.name,
        "verdict": "fit" if verdict.fit else "not fit",
        "reasons": verdict.details,
        "basis": study.basis,
        "best": study.best.strategy,
        "potential": study.best.entry.potential.sha256,
        "numbers": [
            {"name": one.name, "value": one.value, "limit": one.limit, "unit": one.unit, "within": one.within}
            for one in study.numbers
        ],
        "table": study.records(),
        "cost": study.cost,
        "jobs_run": 0 if outcome is None else outcome.summary.executed,
        "seconds": 0.0 if outcome is None else outcome.summary.seconds,
        "failed": [] if outcome is None else [{"job": row.name, "error": row.error} for row in outcome.summary.failed],
        "folder": str(study.folder),
        "files": {what: str(path) for what, path in study.write().items()},
    }


def _show(study: Study, payload: dict[str, Any]) -> None:
    forms = {
        "phonon_mae_thz": ".3f",
        "omega_max_error_percent": "+.2f",
        "entropy_error_percent": "+.2f",
        "valid_force_mae_mev_per_angstrom": ".1f",
        "training_seconds": ".0f",
    }
    print_table(
        ("potential", "phonon MAE\nTHz", "ω_max error\n%", "S error\n%", "force MAE\nmeV/Å", "training\ns", " fit"),
        [
            (row["strategy"], *(shown(row[key], form) for key, form in forms.items()), "yes" if row["fit"] else "no")
            for row in payload["table"]
        ],
    )
    typer.echo(study.words())
    for reason in payload["reasons"]:
        typer.echo(f"  {reason.code}: {reason.message}")
    for failed in payload["failed"]:
        typer.secho(f"  failed: {failed['job']}: {failed['error']}", fg="red", err=True)
    for what, path in payload["files"].items():
        typer.echo(f"  {what}: {path}")
