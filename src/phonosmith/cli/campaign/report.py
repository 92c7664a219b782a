"""``phonosmith report``: one HTML file about everything a job store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phonosmith.cli.common import (
    ARTEFACTS,
    CAMPAIGN,
    CAMPAIGNS,
    JOBFLOW,
    JSON,
    STORE,
    command,
    open_artefacts,
    open_store,
    print_json,
)
from phonosmith.core.progress import progress_bar


@command("report", CAMPAIGNS)
def report(
    store: Path | None = STORE,
    jobflow: bool = JOBFLOW,
    campaign: str | None = CAMPAIGN,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    files: bool = typer.Option(False, "--files", help="Also write models, phonopy.yaml, labels, figures into files/."),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "",
    artefacts: Path | None = ARTEFACTS,
    json_output: bool = JSON,
) -> None:
    """Write one HTML file about all materials of a job store: verdicts, figures, tables, provenance.

    The file opens offline in any browser and can be sent to others. Of more than 200 materials it holds a line each,
    and files beside it (report-part-001.html, ...) the rest. A store without finished materials gives a page that says
    so.

    Example: phonosmith report --store demo-out/store.sqlite --out report.html --files
    """
    from phonosmith.report.page.html import write_report
    from phonosmith.report.page.reading import read_reports

    job_store = open_store(store, jobflow=jobflow)
    with progress_bar("reading the store") as show:
        stored = read_reports(job_store, campaign)
        written = write_report(
            stored.reports,
            out,
            title=title or campaign or "phonosmith report",
            artefacts=open_artefacts(artefacts, store),
            files=files,
            unfinished=stored.unfinished,
            notes=stored.notes,
            progress=lambda done, total, name: show(done, total, name or "writing"),
        )
    problems = [*stored.notes, *written.problems]
    n_fit = sum(any(entry.verdict.fit for entry in item.strategies) for item in stored.reports)
    if json_output:
        print_json(
            {
                "path": str(written.path),
                "size_bytes": written.size,
                "n_reports": len(stored.reports),
                "n_fit": n_fit,
                "unfinished": stored.unfinished,
                "n_files": written.files,
                "n_parts": written.parts,
                "problems": problems,
                "seconds": written.seconds,
            }
        )
        return
    for problem in problems:
        typer.secho(f"  {problem}", fg="yellow", err=True)
    typer.echo(
        f"{written.path}: {len(stored.reports)} materials, {n_fit} with a fit potential, "
        f"{written.size / 1e6:.1f} MB{f' with {written.parts} pages beside it' * bool(written.parts)}, "
        f"{written.seconds:.0f} s."
    )
    if stored.unfinished:
        typer.echo(f"Without a report yet: {', '.join(stored.unfinished)}.")
