"""``phonosmith status``: how far every material is."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    ARTEFACTS,
    CAMPAIGNS,
    JOBFLOW,
    JSON,
    LAUNCHPAD,
    PROJECT,
    QUEUE,
    STORE,
    answer,
    command,
    open_artefacts,
    open_store,
    print_table,
)
from phonosmith.core.errors import InputError, did_you_mean
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from jobflow import JobStore

    from phonosmith.analysis.status import StoreStatus
    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.engines.queues.jobs import Queue
    from phonosmith.engines.queues.watching import QueueLook
    from phonosmith.engines.store.sealed import StoreCheck


_TOGETHER = "Give one of --engine, --run, --store and --jobflow."


@dataclass
class _Look:
    """What one look found."""

    states: StoreStatus
    counts: dict[str, int] | None = None
    incomplete: dict[str, list[str]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    queue: QueueLook | None = None
    checked: StoreCheck | None = None
    next_command: str = ""

    @property
    def at_work(self) -> bool:
        """Something is left that may go on by itself."""
        if self.queue is not None:
            return self.queue.at_work
        return any((self.counts or {}).get(name) for name in ("waiting", "running"))

    def payload(self) -> dict[str, Any]:
        """Return what is printed as JSON."""
        lacking = any(entry.failed or entry.missing for entry in self.states.materials.values())
        checked = self.checked
        return {
            "ok": not (lacking or self.at_work or self.incomplete or self.lost) and (checked is None or checked.ok),
            "n_jobs": self.states.n_jobs,
            "materials": [material.as_dict() for material in self.states.materials.values()],
            "run": self.counts,
            "queue": self.queue and {key: getattr(self.queue, key) for key in ("engine", "target", "counts")},
            "incomplete": self.incomplete,
            "lost": self.lost,
            "notes": [*self.states.notes, *(self.queue.notes if self.queue else [])],
            "next": self.next_command,
        } | ({} if checked is None else {"deep": checked.model_dump(mode="json") | {"ok": checked.ok}})


@command("status", CAMPAIGNS)
def status(
    store: Path | None = STORE,
    jobflow: bool = JOBFLOW,
    run: Annotated[Path | None, typer.Option(help="Folder of a local run: what runs, waits, failed, and why.")] = None,
    engine: str | None = QUEUE,
    project: str | None = PROJECT,
    launchpad: Path | None = LAUNCHPAD,
    watch: bool = typer.Option(False, "--watch", help="Look again and again until nothing is left to be done."),
    every: Annotated[float, typer.Option(min=1, help="With --watch: seconds between two looks.")] = 15.0,
    deep: bool = typer.Option(False, "--deep", help="Read every document and artefact: is each what its job wrote?"),
    artefacts: Path | None = ARTEFACTS,
    json_output: bool = JSON,
) -> None:
    """Done, running, waiting, failed and missing jobs of every material, stage by stage, and what to type next.

    From the job store alone, missing is what another material of the store has and this one has not, as long as it has
    no report. With --run the state of the local run says exactly what is running, waiting or failed; its own store is
    read unless --store names another. With --engine the queue of jobflow-remote or FireWorks says it, with what SLURM
    gives as the reason why a job is pending; the job store is that of the queue.

    --deep compares every document with the seal its job put on it and every model, data set and force constants with
    its identity, and names what is altered or missing; 'phonosmith run' then mends a local run.

    Example: phonosmith status --engine jobflow-remote --watch
    """
    from rich.console import Console

    from phonosmith.flows.routing import ENGINES

    if engine is not None and engine not in ENGINES:
        raise InputError(f"There is no engine {engine!r}.", f"{did_you_mean(engine, ENGINES)}Use {', '.join(ENGINES)}.")
    if engine is not None and (store is not None or jobflow or run is not None):
        raise InputError("--engine reads the queue's own job store.", _TOGETHER)
    if (project is not None and engine != "jobflow-remote") or (launchpad is not None and engine != "fireworks"):
        raise InputError("--project is for jobflow-remote, --launchpad for FireWorks.", "Add --engine.")
    if watch and (json_output or deep):
        raise InputError("--watch shows a table again and again.", "Leave --json and --deep out.")
    if watch and engine is None and run is None:
        raise InputError("A job store does not say what is going on.", "Add --engine or --run to --watch.")
    while True:
        if engine is not None:
            found = _look_at_queue(engine, project, launchpad, artefacts, deep=deep)
        else:
            found = _look_at_store(store, run, artefacts, jobflow=jobflow, deep=deep)
        if watch:
            Console().clear()
        answer(found.payload(), partial(_show, found), json_output=json_output)
        if not watch or not found.at_work:
            break
        time.sleep(every)
    if found.checked is not None and not found.checked.ok:
        raise typer.Exit(1)


def _look_at_queue(
    engine: str, project: str | None, launchpad: Path | None, artefacts: Path | None, *, deep: bool
) -> _Look:
    from phonosmith.analysis.status import read_status
    from phonosmith.engines.queues.watching import look

    with contextlib.ExitStack() as stack:
        queue: Queue
        if engine == "jobflow-remote":
            from phonosmith.engines.queues.remote import opened_remote

            queue = stack.enter_context(opened_remote(project))
        else:
            from phonosmith.engines.queues.fireworks import open_fireworks

            queue = open_fireworks(launchpad)
        seen = look(queue)
        states = read_status(queue.store)
        states.add_live(seen.jobs)
        checked = _check(queue.store, open_artefacts(artefacts, None), []) if deep else None
    return _Look(states, queue=seen, checked=checked, next_command=seen.next_command)


def _look_at_store(store: Path | None, run: Path | None, artefacts: Path | None, *, jobflow: bool, deep: bool) -> _Look:
    from phonosmith.analysis.status import read_status

    state = None if run is None else _state_of(run)
    if state is not None and store is None and not jobflow:
        # beside the folder of the run, or in it
        places = [folder / "store.sqlite" for folder in (state.parent.parent, state.parent)]
        store = next((file for file in places if file.is_file()), None)
        if store is None:
            advice = "'phonosmith run' with its campaign brings its documents back; or name the store with --store."
            raise InputError(f"The run in {run} has lost its job store {places[0]}.", advice)
    with contextlib.closing(open_store(store, jobflow=jobflow)) as job_store:
        found = _Look(read_status(job_store))
        if state is not None:
            _add_run(found, state, job_store)
            found.next_command = _next_of_run(found, run or Path())
        if deep:
            found.checked = _check(job_store, open_artefacts(artefacts, store), found.lost)
    return found


def _state_of(run: Path) -> Path:
    state = next(filter(Path.is_file, (run / "run" / "run.sqlite", run / "run.sqlite")), None)
    if state is None:
        raise InputError(f"There is no run in {run}.", "Name the folder that 'phonosmith run' was given with --out.")
    return state


def _next_of_run(found: _Look, run: Path) -> str:
    counts = found.counts or {}
    if counts.get("failed"):
        return f"phonosmith retry {run}"
    if counts.get("running"):
        return f"phonosmith status --run {run} --watch"
    if counts.get("waiting") or found.lost or found.incomplete:
        return f"phonosmith run CAMPAIGN.yaml --out {run}"
    return f"phonosmith report --store {run}"


def _check(store: JobStore, artefacts: ArtefactStore, lost: list[str]) -> StoreCheck:
    """Read everything; ``lost``: finished jobs of a local run whose documents are not there to be read."""
    from phonosmith.engines.store.sealed import check_store

    with progress_bar("reading the store") as show:
        checked = check_store(store, artefacts, show)
    checked.missing = lost
    return checked


def _add_run(found: _Look, path: Path, store: JobStore) -> None:
    """Add what a run knows: its jobs, what was done without something, and what is done but not in the store."""
    from phonosmith.analysis.status import LiveJob
    from phonosmith.engines.local.state import DONE, SKIPPED, RunState
    from phonosmith.engines.store.sealed import keys_in

    with contextlib.closing(RunState(path)) as state:
        rows = state.rows(asked=True)
        found.incomplete = {one.job.name: one.missing for one in state.incomplete()}
    done = [row for row in rows if row.state == DONE]
    there = keys_in(store, [row.uuid for row in done])
    found.lost = [row.name for row in done if row.key not in there]
    found.counts = dict(Counter(row.state for row in rows))
    found.states.add_live(
        LiveJob(row.name, row.metadata, "missing" if row.state == SKIPPED else row.state, row.error or "")
        for row in rows
    )


def _show(found: _Look) -> None:
    import rich
    from rich.text import Text

    entries = [material.as_dict() for material in found.states.materials.values()]
    if not entries:
        typer.echo("The store holds no job of a material yet.")
    else:
        rows = []
        for entry in entries:
            stages = "  ".join(f"{name} {_cell(jobs)}" for name, jobs in entry["stages"].items())
            best = ", ".join(dict.fromkeys(entry["best"])) if entry["n_reports"] else "no report yet"
            rows.append((Text(entry["material"], no_wrap=True), stages, str(entry["n_fit"]), Text(best)))
        print_table(("material", "jobs by stage", "fit", " best"), rows, left=2)
        rich.print("done, [red]✗ failed[/red], [yellow]… missing, waiting or pending[/yellow], [cyan]▶ running[/cyan]")
        for entry in entries:
            for name, reason in entry["failed"].items():
                typer.echo(f"  failed: {name}: {reason}")
    pending = sum((Counter(material.pending) for material in found.states.materials.values()), Counter[str]())
    for reason, number in pending.most_common():
        typer.echo(f"  pending: {number} jobs: {reason}")
    for name, missing in found.incomplete.items():
        typer.echo(f"  incomplete: {name} was made without {', '.join(missing)}")
    for name in found.lost:
        typer.secho(f"  lost: {name} is done, and its document is not in the store", fg="red")
    for what, counts in (("run", found.counts), ("queue", None if found.queue is None else found.queue.counts)):
        if counts is not None:
            words = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
            typer.echo(f"{what}: {words or 'empty'}")
    for note in [*found.states.notes, *(found.queue.notes if found.queue else [])]:
        typer.secho(f"note: {note}", err=True)
    if found.checked is not None:
        _show_check(found.checked)
    if found.next_command:
        typer.echo(f"next: {found.next_command}")


def _show_check(checked: StoreCheck) -> None:
    for one in checked.altered:
        typer.secho(f"  altered: {one.job} ({one.uuid}): {', '.join(one.fields)}", fg="red")
    for artefact in checked.artefacts:
        typer.secho(f"  {artefact.problem}: {artefact.kind} {artefact.sha256[:12]} of {artefact.job}", fg="red")
    words = "all as their jobs wrote them" if checked.ok else "the others are as their jobs wrote them"
    unsealed = f" ({checked.n_unsealed} documents without a seal cannot be judged)" if checked.n_unsealed else ""
    typer.echo(f"{checked.n_documents} documents, {checked.n_artefacts} artefacts read: {words}{unsealed}.")


def _cell(entry: dict[str, Any]) -> str:
    shown = (
        ("red", "✗", entry["failed"]),
        ("cyan", "▶", entry["running"]),
        ("yellow", "…", entry["missing"] + entry["waiting"] + entry["pending"]),
    )
    return " ".join([str(entry["done"]), *(f"[{colour}]{sign}{n}[/{colour}]" for colour, sign, n in shown if n)])
