"""``phonosmith import`` and ``phonosmith audit``: labelled datasets from finished calculations, and a verdict."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import ALLOW_REHEARSAL, DATA, JSON, TRUST, answer, command, print_table
from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from phonosmith.reference.datasets.documents import AuditDocument, ImportDocument


class Steps(StrEnum):
    """Which ionic steps of a run are taken."""

    all = "all"
    last = "last"


@command("import", DATA, formerly={"jobstore": "jobflow"})
def import_(
    out: Annotated[Path, typer.Option("--out", help="Extended XYZ file to write.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders, archives, vasprun.xml, OUTCAR, XYZ, phonopy YAML, JSON of atomate2."),
    ] = None,
    steps: Annotated[Steps, typer.Option(help="Ionic steps of a relaxation or MD run to take.")] = Steps.all,
    functional: Annotated[str | None, typer.Option(help="Functional of labels whose files do not name one.")] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="Expected composition: name=Formula, or CSV/JSON with columns id, formula (repeatable)."),
    ] = None,
    jobflow: bool = typer.Option(False, "--jobflow", help="Also take every calculation in the store of jobflow.yaml."),
    allow_rehearsal: bool = ALLOW_REHEARSAL,
    json_output: bool = JSON,
) -> None:
    """Import finished calculations as one labelled dataset, refusing what cannot be trusted.

    Example: phonosmith import old-runs --out labels.xyz
    """
    from phonosmith.reference.importers.collect import import_paths

    if not paths and not jobflow:
        raise InputError("There is nothing to import.", "Name files, folders or archives, or give --jobflow.")
    document = import_paths(
        paths or [],
        out,
        steps=steps.value,
        functional=functional,
        expect=expect or [],
        jobstore=jobflow,
        allow_rehearsal=allow_rehearsal,
    )
    answer(document, lambda: _show_import(document, out), json_output=json_output)
    if document.n_frames == 0:
        raise typer.Exit(InputError.exit_code)


def _show_import(document: ImportDocument, out: Path) -> None:
    rows = [
        (one.path, one.kind, str(one.n_frames), str(one.n_refused), one.functional or "unknown")
        for one in document.sources
    ]
    print_table(("source", "kind", "frames", "refused", " functional"), rows, title="Import", left=2)
    for source in document.sources:
        for refusal in source.refused[:20]:
            typer.echo(f"{typer.style('refused', fg='yellow')} {refusal.where}: {refusal.reason}")
        if len(source.refused) > 20:
            typer.echo(f"... and {len(source.refused) - 20} more; --json lists all")
        for note in source.notes:
            typer.echo(f"note: {note}")
    if document.dataset is None:
        typer.secho("Nothing was imported.", fg="red")
    else:
        typer.echo(f"{document.n_frames} frames -> {out} (dataset {document.dataset.short})")


@command("audit", DATA)
def audit(
    dataset: Annotated[Path, typer.Argument(help="Extended XYZ file with labels.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the frames that remain to this file.")] = None,
    majority: Annotated[float, typer.Option(help="Fraction from which a differing minority is excluded.")] = 0.9,
    allow_rehearsal: bool = ALLOW_REHEARSAL,
    foundation: Annotated[
        str | None, typer.Option(help="Compare the labels with this potential's predictions, too: far more shows.")
    ] = None,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Judge whether the frames of a dataset may be trained on together: pass, pass_with_exclusions or refuse.

    Example: phonosmith audit labels.xyz --foundation embedded
    """
    from phonosmith.reference.audit.audit import audit as judge
    from phonosmith.reference.audit.audit import kept_frames, predictions
    from phonosmith.reference.datasets.documents import AuditOptions
    from phonosmith.structures.extxyz import read_frames, write_frames

    if not 0.5 < majority <= 1:
        raise InputError(f"--majority {majority} is not above 0.5 and at most 1.", "Give e.g. 0.9.")
    options = AuditOptions(majority=majority, allow_rehearsal=allow_rehearsal)
    frames = read_frames(dataset)
    baseline = None
    if foundation is not None:
        from phonosmith.potentials.registry import load, resolve

        baseline = predictions(load(resolve(foundation, trust=trust)), frames)
    document = judge(frames, options, baseline)
    answer(document, lambda: _show_audit(document, dataset), json_output=json_output)
    if out is not None and document.verdict == "refuse":
        typer.secho(f"{out} was not written: the set was refused.", fg="red", err=True)
        raise typer.Exit(InputError.exit_code)
    if out is not None:
        write_frames(out, kept_frames(frames, document))


def _show_audit(document: AuditDocument, dataset: Path) -> None:
    colour = {"pass": "green", "pass_with_exclusions": "yellow", "refuse": "red"}[document.verdict]
    verdict = typer.style(document.verdict, fg=colour)
    typer.echo(f"{verdict}: {dataset}, {document.n_kept} of {document.n_frames} frames remain")
    for finding in document.findings:
        where = f" [frames {', '.join(map(str, finding.frames[:8]))}{', ...' if len(finding.frames) > 8 else ''}]"
        typer.echo(f"  {finding.severity:8s} {finding.check}: {finding.message}{where if finding.frames else ''}")
