"""``phonosmith run``: a campaign on this machine."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import INTERRUPTED, JSON, answer, command, print_table, result_line, shown
from phonosmith.core.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

    from phonosmith.analysis.documents import MaterialReport, PotentialReport
    from phonosmith.engines.local.runner import LocalRunner, RunSummary, Slot
    from phonosmith.engines.local.state import JobRow

WORKERS = typer.Option(None, "--workers", min=1, help="Jobs at a time on processor cores; one per core by default.")
LIMITS = typer.Option(
    "",
    "--time-limit",
    metavar="STAGE=TIME,...",
    help="Longest time of a job, e.g. train=2h,label=30m; what takes longer fails.",
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SLOTS = typer.Option("", metavar="KIND=N,...", help="Places for jobs, e.g. cpu=4,gpu=1: trainings take gpu.")
TRUST_RUN = typer.Option(
    False, "--trust", help="Take over a run folder somebody else made or changed: its jobs are code that runs as you."
)


@command("run")
def run(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="What to do; see workflows/campaign.yaml.")],
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
        words = f"{campaign} is fine: {len(names)} jobs besides those made on the way. Nothing was started."
        if checked.spec.adaptive is not None:
            payload["adaptive_labels"] = (few, most) = checked.spec.adaptive_labels
            words += f" Each material (foundation, cell) gets {few} to {most} labels."
        answer(payload | {"names": names}, lambda: typer.echo(words), json_output=json_output)
        return
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.core.identity import fix_identities

    _prepare(folder)
    write_atomic(folder / "campaign.yaml", campaign.read_bytes())
    again = shlex.join(["phonosmith", "run", str(campaign), *([] if out is None else ["--out", str(out)])])
    _work(folder, fix_identities(flow), places, limits, json_output=json_output, command=again, trust=trust)


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


def _prepare(folder: Path) -> None:
    """Make the folder, or say why it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        advice = "Choose another folder with --out."
        raise ConfigurationError(f"Cannot write into {folder}: {error.strerror}.", advice) from error


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
    _prepare(folder)
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
    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.engines.local.mending import Mender
    from phonosmith.engines.local.runner import LocalRunner
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    with _alone(folder), _ending_like_ctrl_c():
        store = open_embedded_jobstore(folder / "store.sqlite")
        store.connect()
        runner = LocalRunner(
            store,
            folder / "run",
            slots=places,
            time_limits=limits,
            progress=not json_output or os.isatty(2),
            trust=trust,
        )
        if again is not None:
            runner.retry(_chosen(runner.state.rows("failed", asked=True), *again))
        if flow is not None:
            runner.ask(flow)
        mender = Mender(runner.state, store, default_artefacts(), folder / "run")
        interrupted = False
        try:
            if losses := mender.mend():
                typer.secho(f"Lost since the last run: {losses}.", fg="yellow", err=True)
            summary = runner.run()
            while mender.mend_again():
                summary = summary.and_then(runner.run())
        except KeyboardInterrupt:
            interrupted, summary = True, runner.summary()
        lost = [] if interrupted else mender.remaining()
        reports = _reports(store, runner)
        store.close()
    # what failed has to be asked for again, what was interrupted goes on by itself
    following = command if interrupted else shlex.join(["phonosmith", "retry", str(folder)])
    payload = _payload(folder, summary, reports)
    payload |= {"restored": mender.restored, "repeated": mender.repeated, "lost": lost, "ok": summary.ok and not lost}
    payload |= {"interrupted": interrupted, "command": None if payload["ok"] else following}
    answer(payload, lambda: _show(payload), json_output=json_output)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not payload["ok"]:
        raise typer.Exit(1)


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


@contextmanager
def _ending_like_ctrl_c() -> Iterator[None]:
    """Let what asks this process to end (a scheduler, a closed terminal) do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _reports(store: JobStore, runner: LocalRunner) -> list[MaterialReport]:
    """Return the finished reports that are asked for."""
    from phonosmith.analysis.committees import with_expected
    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.analysis.judgement import rejudged
    from phonosmith.analysis.queries import read_expected
    from phonosmith.core.metadata import stage_of

    rows = [row for row in runner.state.rows("done", asked=True) if stage_of(row.name, row.metadata) == "report"]
    there = [row.uuid for row in rows if store.count({"uuid": row.uuid})]
    reports = [MaterialReport.model_validate(store.get_output(uuid, load=True)) for uuid in there]
    expected = read_expected(store)
    return [rejudged(with_expected(report, expected)) for report in reports] if expected else reports


def _payload(folder: Path, summary: RunSummary, reports: list[MaterialReport]) -> dict[str, Any]:
    materials = [
        {
            **report.model_dump(include={"material", "key", "mode", "reference", "rehearsal", "cell", "seed"}),
            "foundation": _line(report.foundation) | {"name": report.foundation.potential.name},
            "strategies": [_line(entry) for entry in report.strategies],
            **report.model_dump(include={"best", "gain", "failed", "missing", "notes"}),
        }
        for report in sorted(reports, key=lambda report: report.key)
    ]
    return {
        "ok": summary.ok,
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
    if payload["materials"]:
        typer.echo(f"Page with figures: phonosmith report --store {payload['folder']}/store.sqlite")
    if payload["interrupted"]:
        typer.echo(
            f"Stopped. {len(payload['waiting'])} jobs are still to be done; what is done stays done. "
            f"To go on: {payload['command']}"
        )
    elif payload["failed"]:
        typer.echo(f"Mend the cause, then: {payload['command']}")
