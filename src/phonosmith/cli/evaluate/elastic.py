"""``phonosmith elastic`` and ``phonosmith eos``: mechanical properties of a crystal by a potential."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import (
    DOCUMENTS,
    EVALUATION,
    JSON,
    POTENTIAL,
    RELAX,
    STRUCTURE,
    TRUST,
    command,
    load_case,
    print_json,
)

if TYPE_CHECKING:
    from pydantic import BaseModel


def _keep(document: BaseModel, out: Path | None, name: str) -> None:
    from phonosmith.core.artefacts import write_atomic

    if out is not None:
        write_atomic(out / name, document.model_dump_json(indent=2).encode())


@command("elastic", EVALUATION)
def elastic(
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    relax: bool = RELAX,
    fmax: float = typer.Option(1e-4, min=1e-8, help="Largest force left in each strained cell, eV/Å."),
    out: Path | None = DOCUMENTS,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Elastic tensor, moduli, Born stability, sound velocities and Slack conductivity.

    Strains of ±0.5 and ±1 % as atomate2's ElasticMaker applies them, atoms relaxed in each, all cells in one batch.
    A tensor whose stresses do not follow the strains is refused (exit code 1); --out keeps its document all the same.

    Example: phonosmith elastic Si.cif --potential embedded
    """
    from phonosmith.evaluation.mechanics.fastpath import evaluate_elastic, require_reliable

    case = load_case(structure, potential, trust=trust)
    case = case.relaxed() if relax else case
    document = evaluate_elastic(case.crystal, case.potential, method=case.ref.name, fmax=fmax)
    _keep(document, out, "elastic.json")
    require_reliable(document)
    if json_output:
        print_json(document)
        return
    fit = document.fit
    typer.echo(f"{document.formula} by {case.ref.name}: elastic tensor (GPa)")
    for row in fit.tensor:
        typer.echo("  " + " ".join(f"{value:9.2f}" for value in row))
    if fit.moduli is not None:
        typer.echo(f"K = {fit.moduli.bulk_vrh:.2f} GPa, G = {fit.moduli.shear_vrh:.2f} GPa (Voigt-Reuss-Hill)")
    typer.echo(f"Born stable: {'yes' if fit.born_stable else 'NO'}; stress scatter {100 * fit.residual:.3f} %")
    if document.slack is not None:
        typer.echo(f"Slack conductivity at 300 K: {document.slack.kappa:.2f} W/(m K)")
    for warning in fit.warnings:
        typer.secho(f"Warning: {warning}", fg="yellow", err=True)


@command("eos", EVALUATION)
def eos(
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    relax: bool = RELAX,
    fmax: float = typer.Option(5e-4, min=1e-8, help="Largest force left at each volume, eV/Å."),
    out: Path | None = DOCUMENTS,
    figure: Annotated[Path | None, typer.Option(help="Image of energy against volume (.png, .svg, .pdf).")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Stored equation of state (eos.json) of another method, drawn as the reference.")
    ] = None,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Birch-Murnaghan equation of state over ±5 % volume in steps of 1 %.

    Atoms relax at each fixed volume; points the others cannot explain are left out and listed.

    Example: phonosmith eos Si.cif --potential embedded --figure eos.png
    """
    from phonosmith.core.errors import InputError
    from phonosmith.core.reading import read_document
    from phonosmith.evaluation.mechanics.documents import EosDoc
    from phonosmith.evaluation.mechanics.fastpath import evaluate_eos
    from phonosmith.report.figures.mechanics import energy_volume_figure
    from phonosmith.report.figures.style import image_format, save_figure

    if against is not None and figure is None:
        raise InputError("--against is for the figure.", "Name one with --figure.")
    if figure is not None:
        image_format(figure)
    written = "Give the eos.json that phonosmith eos --out wrote."
    drawn = [] if against is None else [read_document(against, EosDoc, "equation of state", written)]
    case = load_case(structure, potential, trust=trust)
    case = case.relaxed() if relax else case
    document = evaluate_eos(case.crystal, case.potential, method=case.ref.name, fmax=fmax)
    _keep(document, out, "eos.json")
    if figure is not None:
        save_figure(energy_volume_figure([*drawn, document]), figure)
    if json_output:
        print_json(document)
        return
    fit = document.fit
    typer.echo(
        f"{document.formula} by {case.ref.name}: V0 = {fit.volume:.4f} Å³ per cell of {document.n_atoms} atoms, "
        f"B0 = {fit.bulk_modulus:.2f} GPa, B0' = {fit.bulk_modulus_derivative:.2f}, E0 = {fit.energy:.6f} eV"
    )
    for note in [*fit.reasons, *fit.warnings]:
        typer.secho(f"Warning: {note}", fg="yellow", err=True)
