"""``phonosmith status``: how far every material is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import JOBFLOW_OPTION, JSON_OPTION, STORE_OPTION, command, open_store, print_json

if TYPE_CHECKING:
    from phonosmith.analysis.status import StoreStatus


@command("status")
def status(
    store: Path | None = STORE_OPTION,
    jobflow: bool = JOBFLOW_OPTION,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of a local run: also what runs, waits and failed, and why.")
    ] = None,
    json_output: bool = JSON_OPTION,
) -> None:
    """Done, failed and missing jobs of every material, stage by stage, from the job store alone.

    Missing is what another material of the store has and this one has not, as long as it has no report. With --run the
    state of the local run says exactly what is running, waiting or failed; its own store is read unless --store names
    another.

    [bold]Example[/bold]: phonosmith status --run my-campaign
    """
    from phonosmith.analysis.status import read_status

    state = None if run is None else _state_file(run)
    if state is not None and store is None and not jobflow:
        store = _store_of(state)
    found = read_status(open_store(store, jobflow=jobflow))
    counts = None if state is None else _add_run(found, state)
    if json_output:
        print_json(
            {
                "n_jobs": found.n_jobs,
                "materials": [material.as_dict() for material in found.materials.values()],
                "run": counts,
                "notes": found.notes,
            }
        )
    else:
        _show(found, counts)


def _state_file(folder: Path) -> Path:
    from phonosmith.core.errors import InputError

    for path in (folder / "run" / "run.sqlite", folder / "run.sqlite"):
        if path.is_file():
            return path
    raise InputError(f"There is no run in {folder}.", "Name the folder that 'phonosmith run' was given with --out.")


def _store_of(state: Path) -> Path:
    """Return the store beside a run's folder, or in it."""
    for folder in (state.parent.parent, state.parent):
        if (folder / "store.sqlite").is_file():
            return folder / "store.sqlite"
    return state.parent.parent / "store.sqlite"


def _add_run(found: StoreStatus, path: Path) -> dict[str, int]:
    """Replace guesses about what is missing by what the run knows; return its jobs by state."""
    from collections import Counter

    from phonosmith.analysis.status import MaterialStatus
    from phonosmith.core.metadata import stage_of
    from phonosmith.engines.local.state import RunState

    state = RunState(path)
    try:
        rows = state.rows()
    finally:
        state.close()
    for material in found.materials.values():
        material.missing.clear()
        for entry in material.stages.values():
            entry.missing = 0
    for row in rows:
        owner = found.find(row.name, row.metadata)
        if owner is None:
            words = row.name.split()
            if len(words) < 2:
                continue
            # nothing of this material is in the store yet
            owner = found.materials.setdefault(words[1], MaterialStatus(words[1]))
        stage = owner.stage(stage_of(row.name, row.metadata))
        if row.state == "failed":
            if row.name not in owner.failed:
                stage.failed += 1
            owner.failed[row.name] = row.error or "failed"
        elif row.state == "running":
            stage.running += 1
        elif row.state in ("waiting", "skipped"):
            stage.waiting += row.state == "waiting"
            stage.missing += row.state == "skipped"
            if row.state == "skipped":
                owner.missing.append(row.name)
    return dict(Counter(row.state for row in rows))


def _show(found: StoreStatus, counts: dict[str, int] | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not found.materials:
        console.print("The store holds no job of a material yet.")
    else:
        entries = [material.as_dict() for material in found.materials.values()]
        table = Table()
        table.add_column("material", no_wrap=True)
        table.add_column("jobs by stage")
        table.add_column("fit", justify="right")
        table.add_column("best")
        for entry in entries:
            stages = "  ".join(f"{name} {_cell(jobs)}" for name, jobs in entry["stages"].items())
            best = ", ".join(dict.fromkeys(entry["best"])) if entry["n_reports"] else "no report yet"
            table.add_row(Text(entry["material"]), stages, str(entry["n_fit"]), Text(best))
        console.print(table)
        console.print("done, [red]✗ failed[/red], [yellow]… missing or waiting[/yellow], [cyan]▶ running[/cyan]")
        for entry in entries:
            for name, reason in entry["failed"].items():
                console.print(Text(f"  failed: {name}: {reason}"))
    if counts is not None:
        console.print("run: " + ", ".join(f"{number} {name}" for name, number in sorted(counts.items())))
    for note in found.notes:
        typer.secho(f"note: {note}", err=True)


def _cell(entry: dict[str, Any]) -> str:
    parts = [str(entry["done"])]
    parts += [f"[red]✗{entry['failed']}[/red]"] * bool(entry["failed"])
    parts += [f"[cyan]▶{entry['running']}[/cyan]"] * bool(entry["running"])
    left = entry["missing"] + entry["waiting"]
    return " ".join(parts + [f"[yellow]…{left}[/yellow]"] * bool(left))
