"""``phonosmith sample``: the configurations a fine-tuning needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import (
    DATA,
    FOUNDATION,
    JSON,
    SEED,
    TRUST,
    answer,
    checked_options,
    command,
    load_case,
    print_table,
)
from phonosmith.core.errors import InputError
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from phonosmith.sampling.documents import SamplingDoc


@command("sample", DATA)
def sample(
    structure: Annotated[Path, typer.Argument(help="Relaxed crystal: CIF, POSCAR, ...")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    foundation: str = FOUNDATION,
    cell: Annotated[str, typer.Option(help="Size of the cell: primitive, small or large.")] = "large",
    seed: int = SEED,
    max_steps: Annotated[int, typer.Option(help="Steps of a relaxation before it is continued.")] = 1000,
    fmax: Annotated[float, typer.Option(help="Relaxations end at this force, eV/Å.")] = 1e-4,
    displacement: Annotated[float, typer.Option(help="Mean rattle displacement, Å.")] = 0.1,
    strain: Annotated[float, typer.Option(help="Largest change of a length or angle, relative.")] = 0.02,
    max_atoms: Annotated[int, typer.Option(help="Atom cap of the supercell.")] = 500,
    relax_cell: str = typer.Option("fixed", help="Cell while relaxing: fixed (volume and strain stay), shape or full."),
    trust: bool = TRUST,
    figure: Annotated[Path | None, typer.Option(help="Also draw the energy ladder into this file (.svg).")] = None,
    json_output: bool = JSON,
) -> None:
    """Draw fine-tuning configurations: supercell, rattle, strain, volumes, relaxations, energy-spaced frames.

    Writes train.xyz (outermost first, so that any prefix is a nested training set), valid.xyz and sampling.json. The
    frames carry no labels: run 'phonosmith label' next.

    Example: phonosmith sample Si.cif --foundation MACE-MP-0b3 --cell large --seed 7 --out si
    """
    from phonosmith.core.artefacts import default_artefacts, write_atomic
    from phonosmith.sampling.documents import SamplingSettings
    from phonosmith.sampling.jobs import store_frames
    from phonosmith.sampling.protocol import sample_configurations
    from phonosmith.structures.extxyz import format_frames, require_writable

    settings = checked_options(
        SamplingSettings,
        "sample",
        "sampled",
        cell=cell,
        max_steps=max_steps,
        fmax=fmax,
        mean_displacement=displacement,
        strain=strain,
        max_atoms=max_atoms,
        relax_cell=relax_cell,
    )
    if figure is not None and figure.suffix.lower() != ".svg":
        raise InputError(f"--figure {figure} is no name of an SVG file.", "End it in .svg.")
    require_writable(out / "train.xyz")
    case = load_case(structure, foundation, trust=trust)
    most = max_steps * settings.max_rounds
    with progress_bar("relaxing", most) as show:
        result = sample_configurations(
            case.crystal,
            case.potential,
            settings,
            seed,
            reference=case.ref,
            on_step=lambda step, moving: show(step, most, f"relaxing, {moving} still moving"),
        )
    document = store_frames(result, default_artefacts())
    files = {
        "train.xyz": format_frames(result.train),
        "valid.xyz": format_frames(result.valid),
        "sampling.json": document.model_dump_json(indent=1) + "\n",
    }
    for name, text in files.items():
        write_atomic(out / name, text.encode())
    if figure is not None:
        from phonosmith.sampling.figure import energy_ladder_svg

        write_atomic(figure, energy_ladder_svg(document))
    payload = {
        "supercell_matrix": document.supercell.matrix,
        **document.supercell.model_dump(include={"n_atoms", "lengths", "angles"}),
        "mean_displacement_angstrom": [item.mean_displacement for item in document.configurations],
        "volume_factors": [item.volume_factor for item in document.configurations],
        **{name: getattr(document, name) for name in ("n_train", "n_valid", "converged")},
        "n_steps": [item.n_steps for item in document.configurations],
        **document.model_dump(include={"formula", "seed", "train_digests", "valid_digests", "warnings"}),
        "potential": case.ref.sha256,
        "files": [str(out / name) for name in files],
    }
    answer(payload, lambda: _show(document, out), json_output=json_output)


def _show(document: SamplingDoc, out: Path) -> None:
    edges = " × ".join(f"{length:.2f}" for length in document.supercell.lengths)
    typer.echo(f"{document.formula}: {document.supercell.n_atoms} atoms, {edges} Å")
    rows = []
    for one in document.configurations:
        converged = "yes" if one.converged else "[yellow]no[/yellow]"
        rows.append((f"{one.volume_factor:.3f}", f"{one.mean_displacement:.4f}", str(one.n_steps), converged))
    print_table(("volume", " mean displacement / Å", " steps", " converged"), rows)
    typer.echo(f"{document.n_train} training and {document.n_valid} validation frames in {out}")
    for warning in document.warnings:
        typer.echo(f"{typer.style('!', fg='yellow')} {warning}")
