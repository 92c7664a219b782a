"""``phonosmith elastic`` and ``phonosmith eos``: mechanical properties of a crystal by a potential."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from phonosmith.cli.output import JSON_OPTION, explained, print_json

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.potentials.base import Potential

STRUCTURE = typer.Argument(help="Crystal: CIF, POSCAR or anything pymatgen reads.")
POTENTIAL = typer.Option(
    ..., "--potential", "-p", help="Potential: foundation name, embedded, own name, sha256 or file."
)
RELAX = typer.Option(True, "--relax/--no-relax", help="Relax cell and atoms first, keeping the symmetry.")
FMAX = typer.Option(1e-4, "--fmax", min=1e-8, help="Largest force left in each strained cell, eV/Å.")
OUT = typer.Option(None, "--out", help="Folder for the full document (JSON).")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(elastic)
    app.command()(eos)


def _start(path: Path, name: str, *, relax: bool) -> tuple[Structure, Potential, str]:
    """Return the crystal (relaxed where asked), the potential and its name."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.evaluation.relax import relax_atoms
    from phonosmith.potentials.base import require_elements
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.structures.io import read_structure

    structure = read_structure(path)
    ref = resolve(name)
    potential = load(ref)
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    require_elements(potential, [atoms], name)
    if relax:
        structure = AseAtomsAdaptor.get_structure(relax_atoms(atoms, potential).atoms)
    return structure, potential, ref.name


def _keep(document: Any, out: Path | None, name: str) -> None:
    from phonosmith.core.artefacts import write_atomic

    if out is not None:
        write_atomic(out / name, document.model_dump_json(indent=2).encode())


@explained
def elastic(
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    relax: bool = RELAX,
    fmax: float = FMAX,
    out: Path | None = OUT,
    json_output: bool = JSON_OPTION,
) -> None:
    """Elastic tensor, moduli, Born stability, sound velocities and Slack conductivity.

    Strains of ±0.5 and ±1 % as atomate2's ElasticMaker applies them, atoms relaxed in each, all cells in one batch.

    Example: phonosmith elastic Si.cif --potential embedded
    """
    from phonosmith.evaluation.mechanics import evaluate_elastic

    crystal, loaded, name = _start(structure, potential, relax=relax)
    document = evaluate_elastic(crystal, loaded, method=name, fmax=fmax)
    _keep(document, out, "elastic.json")
    if json_output:
        print_json(document)
        return
    fit = document.fit
    typer.echo(f"{document.formula} by {name}: elastic tensor (GPa)")
    for row in fit.tensor:
        typer.echo("  " + " ".join(f"{value:9.2f}" for value in row))
    if fit.moduli is not None:
        typer.echo(f"K = {fit.moduli.bulk_vrh:.2f} GPa, G = {fit.moduli.shear_vrh:.2f} GPa (Voigt-Reuss-Hill)")
    typer.echo(f"Born stable: {'yes' if fit.born_stable else 'NO'}; stress scatter {100 * fit.residual:.3f} %")
    if document.slack is not None:
        typer.echo(f"Slack conductivity at 300 K: {document.slack.kappa:.2f} W/(m K)")
    for warning in fit.warnings:
        typer.secho(f"Warning: {warning}", fg="yellow", err=True)


@explained
def eos(
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    relax: bool = RELAX,
    fmax: float = FMAX,
    out: Path | None = OUT,
    json_output: bool = JSON_OPTION,
) -> None:
    """Birch-Murnaghan equation of state over ±5 % volume in steps of 1 %.

    Atoms relax at each fixed volume; points the others cannot explain are left out and listed.

    Example: phonosmith eos Si.cif --potential embedded --json
    """
    from phonosmith.evaluation.mechanics import evaluate_eos

    crystal, loaded, name = _start(structure, potential, relax=relax)
    document = evaluate_eos(crystal, loaded, method=name, fmax=fmax)
    _keep(document, out, "eos.json")
    if json_output:
        print_json(document)
        return
    fit = document.fit
    typer.echo(
        f"{document.formula} by {name}: V0 = {fit.volume:.4f} Å³ per cell of {document.n_atoms} atoms, "
        f"B0 = {fit.bulk_modulus:.2f} GPa, B0' = {fit.bulk_modulus_derivative:.2f}, E0 = {fit.energy:.6f} eV"
    )
    for note in [*fit.reasons, *fit.warnings]:
        typer.secho(f"Warning: {note}", fg="yellow", err=True)
