"""``phonosmith import`` and ``phonosmith audit``: labelled datasets from finished calculations, and a verdict."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from phonosmith.cli.common import JSON_OPTION, command, print_json

if TYPE_CHECKING:
    from phonosmith.reference.datasets.documents import AuditDocument, ImportDocument


class Steps(StrEnum):
    """Which ionic steps of a run are taken."""

    all = "all"
    last = "last"


@command("import")
def import_(
    paths: list[Path] = typer.Argument(  # noqa: B008
        None, help="Folders, archives, vasprun.xml, OUTCAR, extended XYZ, phonopy YAML or JSON of atomate2 documents."
    ),
    out: Path = typer.Option(..., "--out", "-o", help="Extended XYZ file to write."),  # noqa: B008
    steps: Steps = typer.Option(Steps.all, "--steps", help="Ionic steps of a relaxation or MD run to take."),  # noqa: B008
    functional: str = typer.Option(None, "--functional", help="Functional of labels whose files do not name one."),
    expect: list[str] = typer.Option(  # noqa: B008
        [], "--expect", help="Expected composition: name=Formula, or a CSV/JSON file with columns id and formula."
    ),
    jobstore: bool = typer.Option(False, "--jobstore", help="Also take every calculation in the configured JobStore."),
    allow_rehearsal: bool = typer.Option(False, "--allow-rehearsal", help="Take labels of the VASP stand-in."),
    json_output: bool = JSON_OPTION,
) -> None:
    """Import finished calculations as one labelled dataset, refusing what cannot be trusted."""
    from phonosmith.core.errors import InputError
    from phonosmith.reference.importers.collect import import_paths

    if not paths and not jobstore:
        raise InputError("There is nothing to import.", "Name files, folders or archives, or give --jobstore.")
    document = import_paths(
        paths or [],
        out,
        steps=steps.value,
        functional=functional,
        expect=expect,
        jobstore=jobstore,
        allow_rehearsal=allow_rehearsal,
    )
    if json_output:
        print_json(document)
    else:
        _show_import(document, out)
    if document.n_frames == 0:
        raise typer.Exit(InputError.exit_code)


def _show_import(document: ImportDocument, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("source", "kind", "frames", "refused", "functional", title="Import")
    for source in document.sources:
        table.add_row(
            source.path, source.kind, str(source.n_frames), str(source.n_refused), source.functional or "unknown"
        )
    console = Console()
    console.print(table)
    for source in document.sources:
        for refusal in source.refused[:20]:
            console.print(f"[yellow]refused[/] {refusal.where}: {refusal.reason}", highlight=False)
        if len(source.refused) > 20:
            console.print(f"... and {len(source.refused) - 20} more; --json lists all")
        for note in source.notes:
            console.print(f"note: {note}", highlight=False)
    if document.dataset is None:
        console.print("[red]Nothing was imported.[/]")
    else:
        console.print(f"{document.n_frames} frames -> {out} (dataset {document.dataset.short})")


@command("audit")
def audit(
    dataset: Path = typer.Argument(..., help="Extended XYZ file with labels."),  # noqa: B008
    out: Path = typer.Option(None, "--out", "-o", help="Write the frames that remain to this file."),  # noqa: B008
    majority: float = typer.Option(0.9, "--majority", help="Fraction from which a differing minority is excluded."),
    allow_rehearsal: bool = typer.Option(False, "--allow-rehearsal", help="Accept labels of the VASP stand-in."),
    json_output: bool = JSON_OPTION,
) -> None:
    """Judge whether the frames of a dataset may be trained on together: pass, pass_with_exclusions or refuse."""
    from pydantic import ValidationError

    from phonosmith.core.errors import InputError
    from phonosmith.reference.audit.audit import audit as judge
    from phonosmith.reference.audit.audit import kept_frames
    from phonosmith.reference.datasets.documents import AuditOptions
    from phonosmith.structures.extxyz import read_frames, write_frames

    try:
        options = AuditOptions(majority=majority, allow_rehearsal=allow_rehearsal)
    except ValidationError as error:
        raise InputError(f"--majority {majority} is not above 0.5 and at most 1.", "Give e.g. 0.9.") from error
    frames = read_frames(dataset)
    document = judge(frames, options)
    if json_output:
        print_json(document)
    else:
        _show_audit(document, dataset)
    if out is not None and document.verdict == "refuse":
        typer.secho(f"{out} was not written: the set was refused.", fg="red", err=True)
        raise typer.Exit(InputError.exit_code)
    if out is not None:
        write_frames(out, kept_frames(frames, document))


def _show_audit(document: AuditDocument, dataset: Path) -> None:
    from rich.console import Console

    console = Console()
    colour = {"pass": "green", "pass_with_exclusions": "yellow", "refuse": "red"}[document.verdict]
    console.print(f"[{colour}]{document.verdict}[/]: {dataset}, {document.n_kept} of {document.n_frames} frames remain")
    for finding in document.findings:
        where = f" [frames {', '.join(map(str, finding.frames[:8]))}{', ...' if len(finding.frames) > 8 else ''}]"
        console.print(
            f"  {finding.severity:8s} {finding.check}: {finding.message}{where if finding.frames else ''}",
            highlight=False,
            markup=False,
        )
