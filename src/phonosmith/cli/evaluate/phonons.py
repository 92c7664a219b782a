"""``phonosmith phonons``: harmonic phonons of a structure with a potential."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phonosmith.cli.common import (
    JSON,
    MIN_LENGTH,
    NO_RELAX,
    POTENTIAL,
    STRUCTURE,
    SUPERCELL,
    TRUST,
    asked_supercell,
    command,
    load_case,
    print_json,
)


@command("phonons")
def phonons(
    out: Annotated[Path, typer.Option(help="Folder for phonopy.yaml (with forces) and phonons.json.")],
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    supercell: str | None = SUPERCELL,
    min_length: float | None = MIN_LENGTH,
    no_relax: bool = NO_RELAX,
    mesh: Annotated[int, typer.Option(help="q-points along each axis for thermodynamics")] = 20,
    temperature: Annotated[list[float] | None, typer.Option(help="K; repeat for several [default: 300]")] = None,
    force_constants: Annotated[str, typer.Option(help="symfc or traditional")] = "symfc",
    displacement: Annotated[float, typer.Option(help="Å")] = 0.01,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Relax a crystal with a potential and compute its phonons in one go."""
    from phonosmith.core.errors import InputError
    from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
    from phonosmith.evaluation.phonons.mesh import mesh_numbers
    from phonosmith.evaluation.phonons.summary import write_phonons

    if force_constants not in {"symfc", "traditional"}:
        raise InputError(f"Unknown --force-constants {force_constants!r}.", "Choose symfc or traditional.")
    if not 0 < displacement <= 0.5:
        raise InputError(f"--displacement {displacement} is not between 0 and 0.5 Å.", "Give e.g. 0.01.")
    # before the potential is asked for anything
    mesh_numbers(mesh)
    if wrong := [value for value in temperature or () if not 0 <= value < float("inf")]:
        raise InputError(f"--temperature {wrong[0]} cannot be.", "Give K, 0 or more.")
    matrix = asked_supercell(supercell, min_length)
    case = load_case(structure, potential, trust=trust)
    result = evaluate_phonons(
        case.crystal,
        case.potential,
        supercell_matrix=matrix,
        min_length=min_length,
        relax=not no_relax,
        mesh=mesh,
        temperatures=temperature or [300.0],
        displacement=displacement,
        fc_calculator="symfc" if force_constants == "symfc" else "traditional",
        ref=case.ref,
        progress=not json_output,
    )
    document = result.document
    files = write_phonons(result.model, document, out)
    if json_output:
        print_json(document.model_dump(mode="json", exclude={"structure"}) | {"files": files})
        return
    typer.echo(
        f"{document.formula} {document.space_group}: "
        f"ω {document.omega_min_thz:.3f} to {document.omega_max_thz:.3f} THz, "
        f"mean {document.omega_mean_thz:.3f} THz; "
        + ("stable" if document.stability.stable else f"{document.stability.n_imaginary} imaginary modes")
    )
    heat = document.thermal
    for kelvin, c, s, f in zip(heat.temperatures, heat.heat_capacity, heat.entropy, heat.free_energy, strict=True):
        typer.echo(f"{kelvin:g} K: C_v {c:.3f} J/K/mol, S {s:.3f} J/K/mol, F {f:.4f} kJ/mol")
    for path in files.values():
        typer.echo(str(path))
