"""``phonosmith status``: how far every material is."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    ARTEFACTS,
    CAMPAIGNS,
    JOBFLOW,
    JSON,
    STORE,
    answer,
    command,
    open_artefacts,
    open_store,
    print_table,
)
from phonosmith.core.errors import InputError
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from jobflow import JobStore

    from phonosmith.analysis.status import StoreStatus
    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.engines.store.sealed import StoreCheck


@command("status", CAMPAIGNS)
def status(
    store: Path | None = STORE,
    jobflow: bool = JOBFLOW,
    run: Annotated[Path | None, typer.Option(help="Folder of a local run: what runs, waits, failed, and why.")] = None,
    deep: bool = typer.Option(False, "--deep", help="Read every document and artefact: is each what its job wrote?"),
    artefacts: Path | None = ARTEFACTS,
    json_output: bool = JSON,
) -> None:
    """Done, failed and missing jobs of every material, stage by stage, from the job store alone.

    Missing is what another material of the store has and this one has not, as long as it has no report. With --run the
    state of the local run says exactly what is running, waiting or failed; its own store is read unless --store names
    another.

    --deep compares every document with the seal its job put on it and every model, data set and force constants with
    its identity, and names what is altered or missing; 'phonosmith run' then mends a local run.

    Example: phonosmith status --run my-campaign
    """
    from phonosmith.analysis.status import read_status

    state = None
    if run is not None:
        state = next(filter(Path.is_file, (run / "run" / "run.sqlite", run / "run.sqlite")), None)
        if state is None:
            raise InputError(
                f"There is no run in {run}.", "Name the folder that 'phonosmith run' was given with --out."
            )
    if state is not None and store is None and not jobflow:
        # beside the folder of the run, or in it
        places = [folder / "store.sqlite" for folder in (state.parent.parent, state.parent)]
        store = next((file for file in places if file.is_file()), None)
        if store is None:
            advice = "'phonosmith run' with its campaign brings its documents back; or name the store with --store."
            raise InputError(f"The run in {run} has lost its job store {places[0]}.", advice)
    job_store = open_store(store, jobflow=jobflow)
    states = read_status(job_store)
    counts, incomplete, lost = (None, {}, []) if state is None else _add_run(states, state, job_store)
    lacking = any(entry.failed or entry.missing for entry in states.materials.values())
    pending = sum((counts or {}).get(name, 0) for name in ("waiting", "running"))
    payload = {
        "ok": not (lacking or pending or incomplete or lost),
        "n_jobs": states.n_jobs,
        "materials": [material.as_dict() for material in states.materials.values()],
        "run": counts,
        "incomplete": incomplete,
        "lost": lost,
        "notes": states.notes,
    }
    checked = _check(job_store, open_artefacts(artefacts, store), lost) if deep else None
    job_store.close()
    if checked is not None:
        payload["ok"] = payload["ok"] and checked.ok
        payload["deep"] = checked.model_dump(mode="json") | {"ok": checked.ok}
    answer(payload, lambda: _show(states, counts, incomplete, lost, checked), json_output=json_output)
    if checked is not None and not checked.ok:
        raise typer.Exit(1)


def _check(store: JobStore, artefacts: ArtefactStore, lost: list[str]) -> StoreCheck:
    """Read everything; ``lost``: finished jobs of a local run whose documents are not there to be read."""
    from phonosmith.engines.store.sealed import check_store

    with progress_bar("reading the store") as show:
        checked = check_store(store, artefacts, show)
    checked.missing = lost
    return checked


def _add_run(
    states: StoreStatus, path: Path, store: JobStore
) -> tuple[dict[str, int], dict[str, list[str]], list[str]]:
    """Replace guesses about what is missing by what the run knows.

    Returns its jobs by state, the names of those that are done without what they asked for, with what they lack, and
    the names of those that are done and whose documents the store has not.
    """
    from phonosmith.analysis.status import MaterialStatus
    from phonosmith.core.metadata import stage_of
    from phonosmith.engines.local.state import DONE, RunState
    from phonosmith.engines.store.sealed import keys_in

    with closing(RunState(path)) as state:
        rows = state.rows(asked=True)
        incomplete = {one.job.name: one.missing for one in state.incomplete()}
    done = [row for row in rows if row.state == DONE]
    there = keys_in(store, [row.uuid for row in done])
    lost = [row.name for row in done if row.key not in there]
    for material in states.materials.values():
        material.missing.clear()
        for entry in material.stages.values():
            entry.missing = 0
    for row in rows:
        owner = states.find(row.name, row.metadata)
        if owner is None:
            words = row.name.split()
            if len(words) < 2:
                continue
            # nothing of this material is in the store yet
            owner = states.materials.setdefault(words[1], MaterialStatus(words[1]))
        stage = owner.stage(stage_of(row.name, row.metadata))
        stage.running += row.state == "running"
        stage.waiting += row.state == "waiting"
        if row.state == "failed":
            stage.failed += row.name not in owner.failed
            owner.failed[row.name] = row.error or "failed"
        elif row.state == "skipped":
            stage.missing += 1
            owner.missing.append(row.name)
    return dict(Counter(row.state for row in rows)), incomplete, lost


def _show(
    material_states: StoreStatus,
    counts: dict[str, int] | None,
    incomplete: dict[str, list[str]],
    lost: list[str],
    checked: StoreCheck | None,
) -> None:
    import rich
    from rich.text import Text

    entries = [material.as_dict() for material in material_states.materials.values()]
    if not entries:
        typer.echo("The store holds no job of a material yet.")
    else:
        rows = []
        for entry in entries:
            stages = "  ".join(f"{name} {_cell(jobs)}" for name, jobs in entry["stages"].items())
            best = ", ".join(dict.fromkeys(entry["best"])) if entry["n_reports"] else "no report yet"
            rows.append((Text(entry["material"], no_wrap=True), stages, str(entry["n_fit"]), Text(best)))
        print_table(("material", "jobs by stage", "fit", " best"), rows, left=2)
        rich.print("done, [red]✗ failed[/red], [yellow]… missing or waiting[/yellow], [cyan]▶ running[/cyan]")
        for entry in entries:
            for name, reason in entry["failed"].items():
                typer.echo(f"  failed: {name}: {reason}")
    for name, missing in incomplete.items():
        typer.echo(f"  incomplete: {name} was made without {', '.join(missing)}")
    for name in lost:
        typer.secho(f"  lost: {name} is done, and its document is not in the store", fg="red")
    if counts is not None:
        typer.echo("run: " + ", ".join(f"{number} {name}" for name, number in sorted(counts.items())))
    for note in material_states.notes:
        typer.secho(f"note: {note}", err=True)
    if checked is not None:
        _show_check(checked)


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
        ("yellow", "…", entry["missing"] + entry["waiting"]),
    )
    return " ".join([str(entry["done"]), *(f"[{colour}]{sign}{n}[/{colour}]" for colour, sign, n in shown if n)])
