"""``phonosmith tables``: medians, tests and costs of a campaign, beside published figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    CAMPAIGN,
    CAMPAIGNS,
    JOBFLOW,
    JSON,
    STORE,
    command,
    listed,
    open_store,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from jobflow import JobStore

    from phonosmith.analysis.table import CampaignTable
    from phonosmith.analysis.tables import CampaignTables
    from phonosmith.structures.cost import CostModel


_LAYOUTS: dict[str, Callable[[CampaignTable], str]] = {
    "csv": lambda table: table.csv(),
    "md": lambda table: table.markdown(),
    "tex": lambda table: table.latex(),
}


@command("tables", CAMPAIGNS, formerly={"calibration": "write-calibration"})
def tables(
    store: Path | None = STORE,
    jobflow: bool = JOBFLOW,
    campaign: str | None = CAMPAIGN,
    out: Annotated[Path | None, typer.Option(help="Write each table as .csv, .md and .tex into this folder.")] = None,
    foundation: Annotated[str | None, typer.Option(help="Foundation to compare for (most results).")] = None,
    training_set: str | None = typer.Option(None, "--n-train", help="Training structures, or 'all' (most results)."),
    cell: Annotated[str | None, typer.Option("--cell", help="primitive, small or large (the largest).")] = None,
    number: Annotated[list[str] | None, typer.Option(help="Only these published tables, as in 6,8.")] = None,
    layout: Annotated[str | None, typer.Option("--format", help="Print as csv, md or tex.")] = None,
    published: bool = typer.Option(True, help="Put the figures of arXiv:2604.01017 beside (other data)."),
    write_calibration: bool = typer.Option(
        False, "--write-calibration", help="With --out: write what 'plan --calibration' reads."
    ),
    json_output: bool = JSON,
) -> None:
    """Medians and IQRs over materials, stability, phases, costs, learning curves, paired tests, outliers.

    Made from the reports in a job store alone. A store without reports gives no table and says so. Numbers are those of
    arXiv:2604.01017: 6 to 11 list the ways along imaginary modes by reference, foundation, scratch, delta, multihead
    and transfer.

    Example: phonosmith tables --store run/store.sqlite --number 6 --format csv
    """
    from phonosmith.analysis.table import write_tables
    from phonosmith.analysis.tables import campaign_tables
    from phonosmith.core.errors import InputError

    if write_calibration and out is None:
        raise InputError("--write-calibration writes files.", "Add --out FOLDER.")
    if layout is not None and (layout not in _LAYOUTS or json_output):
        raise InputError(f"--format {layout!r} is not known, or stands beside --json.", "Choose csv, md or tex.")
    numbers = listed("number", number or [])
    if wrong := next((one for one in numbers if not one.isdecimal() or not 1 <= int(one) <= 11), None):
        raise InputError(f"--number {wrong} is no published table.", "Give numbers from 1 to 11.")
    job_store = open_store(store, jobflow=jobflow)
    made = campaign_tables(
        job_store, campaign, foundation=foundation, training_set=training_set, cell=cell, published=published
    )
    if numbers:
        made.tables = _numbered(made.tables, numbers)
    files: list[Path] = []
    if out is not None and made.tables:
        files = write_tables(made.tables, out)
    calibrated = _calibrate(job_store, campaign, out if write_calibration else None, made.notes, files)
    if json_output:
        print_json(_payload(made, files, calibrated))
        return
    if layout is not None:
        texts = [_LAYOUTS[layout](table) for table in made.tables]
        typer.echo("\n".join(texts), nl=False)
    else:
        for table in made.tables:
            _show(table)
    for note in made.notes:
        typer.secho(f"note: {note}", err=True)
    for path in files:
        typer.echo(f"  {path}")


def _numbered(tables: list[CampaignTable], numbers: list[str]) -> list[CampaignTable]:
    """Return the tables of some published numbers, which must all be there."""
    from phonosmith.core.errors import InputError

    chosen = []
    for number in numbers:
        found = [table for table in tables if table.key.startswith(f"table{number}_")]
        if not found:
            there = sorted({int(match[1]) for table in tables if (match := re.match(r"table(\d+)_", table.key))})
            raise InputError(
                f"The store holds nothing for table {number}.",
                f"It has {', '.join(map(str, there)) or 'none'}; 4 and 6 to 11 need evaluate: [transitions].",
            )
        chosen += found
    return chosen


def _calibrate(
    store: JobStore, campaign: str | None, out: Path | None, notes: list[str], files: list[Path]
) -> CostModel | None:
    """Return the cost model of ``plan`` fitted to the VASP labels of the store; None where there are none."""
    from phonosmith.analysis.costs import calibrated_model, calibration_points, write_calibration
    from phonosmith.reference.protocol import ReferenceProtocol

    protocol = ReferenceProtocol()
    points, lost = calibration_points(store, campaign)
    notes.extend(lost if points else [])
    if not points:
        if out is not None:
            notes.append("no VASP labels to calibrate 'plan' with: rehearsals and other engines do not count")
        return None
    model = calibrated_model(points, kspacing=protocol.kspacing, encut=protocol.encut)
    if out is not None:
        files.append(write_calibration(points, out / "calibration", kspacing=protocol.kspacing))
    return model


def _payload(made: CampaignTables, files: list[Path], calibrated: CostModel | None) -> dict[str, Any]:
    from phonosmith.structures.cost import CostModel

    return {
        "n_materials": int(made.results.materials["material"].nunique()),
        "n_reports": len(made.results.materials),
        "n_potentials": len(made.results.potentials),
        "compared": made.choice and {key: getattr(made.choice, key) for key in ("foundation", "training_set", "cell")},
        "tables": {
            table.key: {
                "title": table.title,
                "notes": table.notes,
                "rows": table.data.astype(object).where(table.data.notna(), None).to_dict("records"),
            }
            for table in made.tables
        },
        "calibration": calibrated
        and {
            "prefactor": calibrated.prefactor,
            "over_default": calibrated.prefactor / CostModel().prefactor,
            "spread": calibrated.spread,
            "n_calculations": calibrated.n_calibration,
        },
        "notes": made.notes,
        "files": [str(path) for path in files],
    }


def _show(table: CampaignTable) -> None:
    from rich.text import Text

    typer.secho(f"\n{table.title}", bold=True)
    for block in table.blocks:
        style = "dim" if block.caption else ""
        rows = [[Text(cell, style) for cell in row] for row in block.texts]
        print_table(block.columns, rows, title=Text(f"published, {block.caption}" if block.caption else ""))
    for note in table.notes:
        typer.secho(f"  {note}", dim=True)
