"""``phonosmith run`` and ``retry``: a campaign on this machine."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import JSON, answer, command, print_table, result_line, shown
from phonosmith.core.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

    from phonosmith.analysis.documents import MaterialReport, PotentialReport
    from phonosmith.engines.local.runner import LocalRunner, RunSummary, Slot

_WORKERS = typer.Option(None, "--workers", min=1, help="Jobs at a time on processor cores; one per core by default.")
_TRUST = typer.Option(
    False, "--trust", help="Take over a run folder somebody else made or changed: its jobs are code that runs as you."
)
_SLOTS = typer.Option("", metavar="KIND=N,...", help="Places for jobs, e.g. cpu=4,gpu=1: trainings take gpu.")


@command("run")
def run(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="What to do; see workflows/campaign.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Folder of store and jobs; named after the file by default.")] = None,
    workers: int | None = _WORKERS,
    slots: str = _SLOTS,
    trust: bool = _TRUST,
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything, count the jobs, start nothing."),
    json_output: bool = JSON,
) -> None:
    """Run a campaign on this machine; the same command continues it, and runs only what is new after a change.

    The file is checked completely before anything starts. A job that fails leaves the others running; 'phonosmith
    retry DIR' starts failed jobs again.

    Example: phonosmith run campaign.yaml --out si --slots cpu=2
    """
    places = _slots(workers, slots)
    folder = (out if out is not None else Path(campaign.stem)).resolve()
    if not dry_run:
        _prepare(folder)
    from phonosmith.flows.campaign import read_campaign

    checked = read_campaign(campaign)
    flow = checked.flow()
    if dry_run:
        names = [job.name for job, _ in flow.iterflow()]
        payload = {"campaign": checked.spec.name, "materials": list(checked.structures), "jobs": len(names)}
        words = f"{campaign} is fine: {len(names)} jobs besides those made on the way. Nothing was started."
        answer(payload | {"names": names}, lambda: typer.echo(words), json_output=json_output)
        return
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.core.identity import fix_identities

    write_atomic(folder / "campaign.yaml", campaign.read_bytes())
    _work(folder, fix_identities(flow), places, json_output=json_output, trust=trust)


@command("retry")
def retry(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of the run.")] = Path(),
    job: Annotated[list[str] | None, typer.Option(help="Only the failed job of this name; repeatable.")] = None,
    workers: int | None = _WORKERS,
    slots: str = _SLOTS,
    trust: bool = _TRUST,
    json_output: bool = JSON,
) -> None:
    """Start failed jobs of a run again, and everything that was left out because of them.

    Example: phonosmith retry si --job 'label si 07'
    """
    folder = folder.resolve()
    if not (folder / "run" / "run.sqlite").is_file():
        raise InputError(f"{folder} holds no run.", "Give the folder that 'phonosmith run --out' wrote.")
    places = _slots(workers, slots)
    _prepare(folder)
    _work(folder, None, places, json_output=json_output, trust=trust, again=job or [])


def _slots(workers: int | None, text: str) -> list[Slot]:
    from phonosmith.engines.local.runner import Slot, default_slots

    if workers is not None and text:
        raise InputError("--workers and --slots both say how many jobs run at a time.", "Give one of them.")
    if not text:
        return default_slots(workers)
    listed: list[Slot] = []
    for part in text.split(","):
        kind, separator, number = part.strip().partition("=")
        if not separator or not kind or not number.isdigit() or int(number) < 1:
            raise InputError(f"--slots {text!r} is not of the form kind=number,...", "Write e.g. --slots cpu=4,gpu=1.")
        threads = default_slots(1)[0].environment
        # every GPU slot sees a card of its own
        cards = [{"CUDA_VISIBLE_DEVICES": str(index)} if kind == "gpu" else {} for index in range(int(number))]
        listed += [Slot(kind, {**threads, **card}) for card in cards]
    return listed


def _prepare(folder: Path) -> None:
    """Make the folder, or say why it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        advice = "Choose another folder with --out."
        raise ConfigurationError(f"Cannot write into {folder}: {error.strerror}.", advice) from error


def _work(
    folder: Path,
    flow: Flow | None,
    places: list[Slot],
    *,
    json_output: bool,
    trust: bool,
    again: list[str] | None = None,
) -> None:
    from phonosmith.engines.local.runner import LocalRunner
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    with _alone(folder):
        store = open_embedded_jobstore(folder / "store.sqlite")
        store.connect()
        show = not json_output or os.isatty(2)
        runner = LocalRunner(store, folder / "run", slots=places, progress=show, trust=trust)
        if again is not None:
            failed = {row.name for row in runner.state.rows("failed")}
            if unknown := [name for name in again if name not in failed]:
                advice = f"Failed: {', '.join(sorted(failed)) or 'none'}."
                raise InputError(f"No failed job is called {unknown[0]!r}.", advice)
            runner.retry(again or None)
        dropped = _drop_what_is_no_longer_asked(folder, runner, flow)
        summary = runner.run(flow)
        summary.failed = [row for row in summary.failed if row.uuid not in dropped]
        summary.skipped = [row for row in summary.skipped if row.uuid not in dropped]
        wanted = None if flow is None else {job.uuid for job, _ in flow.iterflow()}
        reports = _reports(store, runner, wanted)
    payload = _payload(folder, summary, reports)
    answer(payload, lambda: _show(payload), json_output=json_output)
    if not summary.ok:
        raise typer.Exit(1)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second runner out of the folder; the lock ends with this process, however it ends."""
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"Another phonosmith is running the campaign in {folder}."
            raise ConfigurationError(message, "Wait for it, or choose another --out.") from error
        yield


def _drop_what_is_no_longer_asked(folder: Path, runner: LocalRunner, flow: Flow | None) -> set[str]:
    """Leave aside jobs of an earlier version of the campaign file; return their uuids.

    A strategy that failed and was then taken out, or given other settings, must not keep the campaign from ending well.
    """
    from phonosmith.core.artefacts import write_atomic

    file = folder / "asked.json"
    before = json.loads(file.read_text()) if file.is_file() else {"now": [], "ever": []}
    now = before["now"] if flow is None else [job.uuid for job, _ in flow.iterflow()]
    ever = sorted({*before["ever"], *now})
    write_atomic(file, json.dumps({"now": now, "ever": ever}).encode())
    dropped = set(ever) - set(now)
    for row in runner.state.rows("waiting", "running"):
        if row.uuid in dropped:
            runner.state.update(row.key, state="skipped")
    for row in runner.state.rows("skipped"):
        if row.uuid not in dropped:
            runner.state.update(row.key, state="waiting")
    return dropped


def _reports(store: JobStore, runner: LocalRunner, wanted: set[str] | None) -> list[MaterialReport]:
    """Return finished reports: those of the flow, or of a run the newest of each name."""
    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.core.metadata import stage_of

    rows = [row for row in runner.state.rows("done") if stage_of(row.name, row.metadata) == "report"]
    newest = {row.name: row.uuid for row in rows if wanted is None or row.uuid in wanted}
    return [MaterialReport.model_validate(store.get_output(uuid, load=True)) for uuid in newest.values()]


def _payload(folder: Path, summary: RunSummary, reports: list[MaterialReport]) -> dict[str, Any]:
    materials = [
        {
            **report.model_dump(include={"material", "key", "mode", "reference", "rehearsal", "cell", "seed"}),
            "foundation": _line(report.foundation) | {"name": report.foundation.potential.name},
            "strategies": [_line(entry) for entry in report.strategies],
            **report.model_dump(include={"best", "gain", "failed", "notes"}),
        }
        for report in sorted(reports, key=lambda report: report.key)
    ]
    return {
        "ok": summary.ok,
        "folder": str(folder),
        "done": summary.done,
        "jobs_run": summary.executed,
        "failed": [{"job": row.name, "error": row.error, "folder": row.folder} for row in summary.failed],
        "skipped": [row.name for row in summary.skipped],
        "seconds": summary.seconds,
        "materials": materials,
    }


def _line(entry: PotentialReport) -> dict[str, Any]:
    return result_line(entry) | {"n_train": entry.n_train}


def _show(payload: dict[str, Any]) -> None:
    rows = []
    for material in payload["materials"]:
        for line in (material["foundation"], *material["strategies"]):
            errors = shown(line["phonon_mae_thz"], ".3f"), shown(line["valid_force_mae_mev_per_angstrom"], ".1f")
            name, n_train = line.get("name") or line["strategy"], str(line["n_train"] or "-")
            rows.append((material["key"], name, n_train, *errors, line["verdict"]))
    if rows:
        print_table(
            ("material", "potential", "structures", "phonon MAE\nTHz", "force MAE\nmeV/Å", " verdict"),
            rows,
            left=2,
        )
    typer.echo(
        f"{payload['done']} jobs done ({payload['jobs_run']} now, {payload['seconds']:.0f} s), "
        f"{len(payload['failed'])} failed, {len(payload['skipped'])} left out because of them."
    )
    for failed in payload["failed"]:
        typer.secho(f"  failed: {failed['job']}: {failed['error']}", fg="red")
        typer.secho(f"          {failed['folder']}", dim=True)
    if payload["materials"]:
        typer.echo(f"Page with figures: phonosmith report --store {payload['folder']}/store.sqlite")
    if payload["failed"]:
        typer.echo(f"Mend the cause, then: phonosmith retry {payload['folder']}")
