"""``phonosmith phonons``: harmonic phonons of a structure with a potential."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import (
    EVALUATION,
    JSON,
    MIN_LENGTH,
    POTENTIAL,
    RELAX,
    STRUCTURE,
    SUPERCELL,
    TEMPERATURES,
    TRUST,
    asked_supercell,
    asked_temperatures,
    command,
    load_case,
    print_json,
)
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from phonosmith.evaluation.phonons.documents import PhononDoc
    from phonosmith.evaluation.thermal.effective import EffectivePhonons


@command("phonons", EVALUATION)
def phonons(
    out: Annotated[Path, typer.Option(help="Folder for phonopy.yaml (with forces) and phonons.json.")],
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    supercell: str | None = SUPERCELL,
    min_length: float | None = MIN_LENGTH,
    relax: bool = RELAX,
    mesh: Annotated[int, typer.Option(help="q-points along each axis for thermodynamics.")] = 20,
    temperature: list[str] | None = TEMPERATURES,
    effective: Annotated[
        bool | None,
        typer.Option(
            "--effective/--harmonic",
            help="Effective harmonic phonons at each --temperature (default: where harmonic ones are unstable).",
        ),
    ] = None,
    snapshots: Annotated[int, typer.Option(min=2, help="Displaced cells in each iteration of --effective.")] = 64,
    force_constants: Annotated[str, typer.Option(help="symfc or traditional.")] = "symfc",
    displacement: Annotated[float, typer.Option(help="Displacement, Å.")] = 0.01,
    born: Annotated[
        Path | None,
        typer.Option(
            help="Born charges for LO-TO: phonopy's BORN of this primitive cell, or a phonopy YAML with charges."
        ),
    ] = None,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Relax a crystal with a potential and compute its phonons in one go.

    With --temperature, a crystal whose harmonic phonons are imaginary gets its effective ones at that temperature too
    (self-consistent harmonic approximation). Imaginary ones there: nothing holds it together. Real ones do not yet make
    its sites stable: the curvature of the free energy about them does, and is judged too (supercells up to 128 atoms).

    Example: phonosmith phonons GeTe.cif --potential tuned --temperature 300 --out phonons
    """
    from phonosmith.core.errors import InputError
    from phonosmith.core.manifest import recorded
    from phonosmith.evaluation.phonons.documents import LARGE
    from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
    from phonosmith.evaluation.phonons.mesh import mesh_numbers
    from phonosmith.evaluation.phonons.summary import summarise_phonons, write_phonons
    from phonosmith.evaluation.thermal.effective import effective_harmonic

    if force_constants not in {"symfc", "traditional"}:
        raise InputError(f"Unknown --force-constants {force_constants!r}.", "Choose symfc or traditional.")
    if not 0 < displacement <= 0.5:
        raise InputError(f"--displacement {displacement} is not between 0 and 0.5 Å.", "Give e.g. 0.01.")
    # before the potential is asked for anything
    mesh_numbers(mesh)
    temperatures = asked_temperatures(temperature or ["300"])
    matrix = asked_supercell(supercell, min_length)
    case = load_case(structure, potential, trust=trust)
    result = evaluate_phonons(
        case.crystal,
        case.potential,
        supercell_matrix=matrix,
        min_length=min_length,
        relax=relax,
        mesh=mesh,
        temperatures=temperatures,
        displacement=displacement,
        fc_calculator="symfc" if force_constants == "symfc" else "traditional",
        ref=case.ref,
        born=born,
        progress=not json_output,
    )
    document = result.document
    files = write_phonons(result.model, document, out)
    wanted = temperature is not None and not document.stability.stable_practical if effective is None else effective
    at_temperature = []
    for kelvin in temperatures if wanted else []:
        with progress_bar("effective phonons") as progress:
            found = effective_harmonic(result.model, case.potential, kelvin, snapshots=snapshots, progress=progress)
        with recorded({"potential": case.ref.sha256}, found.summary.model_dump(mode="json")) as manifest:
            warm = summarise_phonons(found.model, manifest, mesh=mesh, temperatures=[kelvin], potential=case.ref)
        folder = out / f"effective-{kelvin:g}K"
        write_phonons(found.model, warm, folder)
        at_temperature.append((found, warm, folder))
    if json_output:
        payload = document.model_dump(mode="json", exclude={"structure", *LARGE}) | {"files": files}
        payload["effective"] = [
            found.summary.model_dump(mode="json")
            | {"stable": found.stable, "stability": warm.stability.model_dump(mode="json"), "files": str(folder)}
            | warm.model_dump(include={"omega_min_thz", "omega_max_thz"})
            for found, warm, folder in at_temperature
        ]
        print_json(payload)
        return
    typer.echo(
        f"{document.formula} {document.space_group}: "
        f"ω {document.omega_min_thz:.3f} to {document.omega_max_thz:.3f} THz, "
        f"mean {document.omega_mean_thz:.3f} THz; "
        + ("stable" if document.stability.stable else f"{document.stability.n_imaginary} imaginary modes")
    )
    if document.lo_to_splitting_thz is not None:
        typer.echo(f"LO-TO splitting at Γ {document.lo_to_splitting_thz:.3f} THz")
    heat = document.thermal
    for kelvin, c, s, f in zip(heat.temperatures, heat.heat_capacity, heat.entropy, heat.free_energy, strict=True):
        typer.echo(f"{kelvin:g} K: C_v {c:.3f} J/K/mol, S {s:.3f} J/K/mol, F {f:.4f} kJ/mol")
    for found, warm, folder in at_temperature:
        _show_effective(found, warm, folder)
    for path in files.values():
        typer.echo(str(path))


def _show_effective(found: EffectivePhonons, warm: PhononDoc, folder: Path) -> None:
    """Say what holds at a temperature."""
    summary, lowest = found.summary, found.summary.curvature
    imaginary = warm.stability.n_imaginary_practical
    words = f"{imaginary} imaginary modes" if imaginary else "no imaginary modes"
    if lowest is not None:
        words += f"; lowest mode of the free energy's curvature {lowest.omega_min_thz:.3f} THz"
    if found.stable is not None:
        words += ": stable there" if found.stable else ": not stable there"
    at = f"effective phonons at {summary.temperature:g} K"
    typer.echo(f"{at}: ω {warm.omega_min_thz:.3f} to {warm.omega_max_thz:.3f} THz; {words} ({folder})")
    if not summary.converged:
        note = f"not converged after {summary.iterations} iterations (drift {summary.drift_thz:.2f} THz)"
        typer.secho(f"Warning: {at} {note}: whether the crystal is stable there is not known.", fg="yellow", err=True)
