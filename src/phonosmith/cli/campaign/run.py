"""``phonosmith run``: a campaign on this machine."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    CAMPAIGN_FILE,
    CAMPAIGNS,
    INTERRUPTED,
    JSON,
    answer,
    command,
    print_table,
    result_line,
    shown,
)
from phonosmith.core.errors import InputError
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from jobflow import Flow

    from phonosmith.analysis.documents import PotentialReport
    from phonosmith.engines.local.runner import Slot
    from phonosmith.engines.local.session import Outcome
    from phonosmith.engines.local.state import JobRow

WORKERS = typer.Option(None, "--workers", min=1, help="Jobs at a time on processor cores; one per core by default.")
LIMITS = typer.Option(
    "",
    "--time-limit",
    metavar="STAGE=TIME,...",
    help="Longest time of a job, e.g. train=2h,label=30m; what takes longer fails.",
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SLOTS = typer.Option(
    "", metavar="KIND=N,...", help="Places for jobs, e.g. cpu=4,gpu=2 (gpu=2x3: three on each GPU); trainings take gpu."
)
TRUST_RUN = typer.Option(
    False, "--trust", help="Take over a run folder somebody else made or changed: its jobs are code that runs as you."
)


@command("run", CAMPAIGNS)
def run(
    campaign: Path = CAMPAIGN_FILE,
    out: Annotated[Path | None, typer.Option(help="Folder of store and jobs; named after the file by default.")] = None,
    workers: int | None = WORKERS,
    slots: str = SLOTS,
    time_limit: str = LIMITS,
    trust: bool = TRUST_RUN,
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything, count the jobs, start nothing."),
    json_output: bool = JSON,
) -> None:
    """Run a campaign on this machine; the same command continues it, and runs only what is new after a change.

    The file is checked completely before anything starts. A job that fails leaves the others running; 'phonosmith
    retry DIR' starts failed jobs again. Ctrl-C ends it at once; nothing that is done is lost.

    Example: phonosmith run campaign.yaml --out si --slots cpu=2
    """
    places, limits = _slots(workers, slots), _limits(time_limit)
    folder = (out if out is not None else Path(campaign.stem)).resolve()
    from phonosmith.flows.campaign import read_campaign

    checked = read_campaign(campaign)
    flow = checked.flow()
    if dry_run:
        names = [job.name for job, _ in flow.iterflow()]
        payload = {"campaign": checked.spec.name, "materials": list(checked.structures), "jobs": len(names)}
        displaced = checked.calculations()
        words = [f"{campaign} is fine: {len(names)} jobs besides those made on the way. Nothing was started."]
        for material, counts in displaced.items():
            said = ", ".join(f"{number} for {what}" for what, number in counts.items())
            words.append(f"{material}: displaced cells by the reference: {said}")
        if checked.spec.adaptive is not None:
            payload["adaptive_labels"] = (few, most) = checked.spec.adaptive_labels
            words.append(f"Each material (foundation, cell) gets {few} to {most} labels.")
        payload |= {"names": names, "displaced_cells": displaced}
        answer(payload, lambda: typer.echo("\n".join(words)), json_output=json_output)
        return
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.core.identity import fix_identities
    from phonosmith.engines.local.session import prepare_folder

    prepare_folder(folder)
    write_atomic(folder / "campaign.yaml", campaign.read_bytes())
    again = shlex.join(["phonosmith", "run", str(campaign), *([] if out is None else ["--out", str(out)])])
    _work(folder, fix_identities(flow), places, limits, json_output=json_output, command=again, trust=trust)


def _slots(workers: int | None, text: str) -> list[Slot]:
    from phonosmith.engines.local.runner import Slot, default_slots, gpu_slots
    from phonosmith.potentials.device import CARDS_VARIABLE

    if workers is not None and text:
        raise InputError("--workers and --slots both say how many jobs run at a time.", "Give one of them.")
    if not text:
        return default_slots(workers)
    threads = dict(default_slots(1)[0].environment)
    counts: dict[str, tuple[int, int]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*([1-9]\d*)(?:x([1-9]\d*))?\s*", part)
        if match is None or (match[3] and match[1] != "gpu") or match[1] in counts:
            raise InputError(
                f"--slots {text!r} is not of the form kind=number,...",
                "Write e.g. --slots cpu=4,gpu=1, or gpu=2x3 for two GPUs with three jobs at a time on each.",
            )
        counts[match[1]] = int(match[2]), int(match[3] or 1)
    cards = gpu_slots(*counts["gpu"]) if "gpu" in counts else []
    # what was not sent to a GPU is not to take memory there
    hidden = {CARDS_VARIABLE: ""} if cards else {}
    others = [Slot(kind, hidden) for kind, (number, _) in counts.items() if kind != "gpu" for _ in range(number)]
    return [Slot(slot.kind, {**threads, **slot.environment}) for slot in (*others, *cards)]


def _limits(text: str) -> dict[str, float]:
    """Return seconds by stage or beginning of job names."""
    limits: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*([^=]+?)\s*=\s*([0-9]*\.?[0-9]+)\s*([smhd]?)\s*", part)
        if match is None or float(match[2]) <= 0:
            raise InputError(
                f"--time-limit {text!r} is not of the form stage=time,...",
                "Write e.g. --time-limit train=2h,label=30m; units are s, m, h and d.",
            )
        limits[match[1]] = float(match[2]) * _UNITS[match[3] or "s"]
    return limits


def retry_run(
    folder: Path,
    names: list[str],
    materials: list[str],
    workers: int | None,
    slots: str,
    time_limit: str,
    *,
    json_output: bool,
    trust: bool = False,
) -> None:
    """Start failed jobs of a run in a folder again (of some names or materials, or all), and what depends on them."""
    folder = folder.resolve()
    if not (folder / "run" / "run.sqlite").is_file():
        raise InputError(f"{folder} holds no run.", "Give the folder that 'phonosmith run --out' wrote.")
    places, limits = _slots(workers, slots), _limits(time_limit)
    again, command = (names, materials), shlex.join(["phonosmith", "retry", str(folder)])
    _work(folder, None, places, limits, json_output=json_output, command=command, trust=trust, again=again)


def _work(
    folder: Path,
    flow: Flow | None,
    places: list[Slot],
    limits: dict[str, float],
    *,
    json_output: bool,
    command: str,
    trust: bool,
    again: tuple[list[str], list[str]] | None = None,
) -> None:
    """Run a flow, or failed jobs (of names, materials) again; ``command`` goes on with it after an interruption."""
    from phonosmith.engines.local.session import carry_out

    outcome = carry_out(
        folder,
        flow,
        slots=places,
        time_limits=limits,
        progress=not json_output or os.isatty(2),
        trust=trust,
        again=None if again is None else lambda failed: _chosen(failed, *again),
        say=lambda words: typer.secho(words, fg="yellow", err=True),
    )
    page = None if outcome.interrupted else _write_page(folder, outcome)
    # what failed has to be asked for again, what was interrupted goes on by itself
    following = command if outcome.interrupted else shlex.join(["phonosmith", "retry", str(folder)])
    payload = _payload(folder, outcome)
    payload |= {"interrupted": outcome.interrupted, "command": None if outcome.ok else following, "report": page}
    answer(payload, lambda: _show(payload), json_output=json_output)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not outcome.ok:
        raise typer.Exit(1)


def _write_page(folder: Path, outcome: Outcome) -> str | None:
    """Write the page about the materials that have a report; return its name, None where there is none."""
    if not outcome.reports:
        return None
    from phonosmith.analysis.judgement import rejudged
    from phonosmith.report.page.html import write_report

    reports = [rejudged(report) for report in sorted(outcome.reports, key=lambda report: report.key)]
    with progress_bar("report") as move:
        written = write_report(
            reports,
            folder / "report.html",
            title=reports[0].campaign or folder.name,
            progress=lambda done, total, name: move(done, total, f"report: {name or 'writing'}"),
        )
    return str(written.path)


def _chosen(failed: list[JobRow], names: list[str], materials: list[str]) -> list[str] | None:
    """Return the names of the failed jobs that were asked for by name or material; None: all."""
    from phonosmith.core.metadata import material_of

    known = {row.name: material_of(row.name, row.metadata) for row in failed}
    for what, given, there in (("is called", names, set(known)), ("is of", materials, set(known.values()))):
        if unknown := [one for one in given if one not in there]:
            advice = f"Failed: {', '.join(sorted(known)) or 'none'}."
            raise InputError(f"No failed job {what} {unknown[0]!r}.", advice)
    if not names and not materials:
        return None
    return [name for name, of in known.items() if (not names or name in names) and (not materials or of in materials)]


def _payload(folder: Path, outcome: Outcome) -> dict[str, Any]:
    summary = outcome.summary
    materials = [
        {
            **report.model_dump(include={"material", "key", "mode", "reference", "rehearsal", "cell", "seed"}),
            "foundation": _line(report.foundation) | {"name": report.foundation.potential.name},
            "strategies": [_line(entry) for entry in report.strategies],
            **report.model_dump(include={"best", "gain", "failed", "missing", "notes"}),
        }
        for report in sorted(outcome.reports, key=lambda report: report.key)
    ]
    return {
        "ok": outcome.ok,
        "folder": str(folder),
        "done": summary.done,
        "jobs_run": summary.executed,
        "jobs_reused": summary.reused,
        "failed": [{"job": row.name, "error": row.error, "folder": row.folder} for row in summary.failed],
        "skipped": [row.name for row in summary.skipped],
        "incomplete": [{"job": one.job.name, "missing": one.missing} for one in summary.incomplete],
        "waiting": [row.name for row in summary.waiting],
        "seconds": summary.seconds,
        "materials": materials,
        "restored": outcome.restored,
        "repeated": outcome.repeated,
        "lost": outcome.lost,
    }


def _line(entry: PotentialReport) -> dict[str, Any]:
    return result_line(entry) | {"n_train": entry.n_train}


def _show(payload: dict[str, Any]) -> None:
    rows = []
    for material in payload["materials"]:
        for line in (material["foundation"], *material["strategies"]):
            up_to = f" (to {line['expected_mae_thz']['high']:.3f})" if line["expected_mae_thz"] else ""
            errors = (
                shown(line["phonon_mae_thz"], ".3f") + up_to,
                shown(line["valid_force_mae_mev_per_angstrom"], ".1f"),
            )
            name, n_train = line.get("name") or line["strategy"], str(line["n_train"] or "-")
            rows.append((material["key"], name, n_train, *errors, line["verdict"]))
    if rows:
        print_table(
            ("material", "potential", "structures", "phonon MAE\nTHz", "force MAE\nmeV/Å", " verdict"),
            rows,
            left=2,
        )
    if payload["restored"] or payload["repeated"]:
        typer.echo(
            f"Mended: {len(payload['restored'])} documents put back from the folders of their jobs, "
            f"{len(payload['repeated'])} jobs done again."
        )
    reused = f", {payload['jobs_reused']} with the result of an equal job" if payload["jobs_reused"] else ""
    typer.echo(
        f"{payload['done']} jobs done ({payload['jobs_run']} now{reused}, {payload['seconds']:.0f} s), "
        f"{len(payload['failed'])} failed, {len(payload['skipped'])} left out because of them."
    )
    for failed in payload["failed"]:
        typer.secho(f"  failed: {failed['job']}: {failed['error']}", fg="red")
        typer.secho(f"          {failed['folder']}", dim=True)
    for one in payload["incomplete"]:
        typer.secho(f"  incomplete: {one['job']} was made without {', '.join(one['missing'])}", fg="yellow")
    for line in payload["lost"]:
        typer.secho(f"  still lost: {line}", fg="red")
    if payload["report"]:
        typer.echo(f"Report: {payload['report']}")
    if payload["interrupted"]:
        typer.echo(
            f"Stopped. {len(payload['waiting'])} jobs are still to be done; what is done stays done. "
            f"To go on: {payload['command']}"
        )
    elif payload["failed"]:
        typer.echo(f"Mend the cause, then: {payload['command']}")
