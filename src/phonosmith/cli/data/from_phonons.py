"""``phonosmith from-phonons``: a training set out of a finished phonon calculation, without another DFT run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from phonosmith.cli.common import DATA, JSON, SEED, answer, command
from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from phonosmith.harmonic.oracle import Shapes


@command("from-phonons", DATA, formerly={"train": "n-train", "valid": "n-valid"})
def from_phonons(
    phonons: Annotated[Path, typer.Argument(help="phonopy.yaml (plain or .xz; FORCE_SETS beside it) with forces.")],
    out: Annotated[Path, typer.Option(help="Folder for train.xyz, valid.xyz and phonopy.yaml of the small supercell.")],
    min_length: Annotated[float, typer.Option(min=3.0, help="Shortest edge of the perfect supercell, Å.")] = 9.0,
    n_train: Annotated[int, typer.Option(min=1, help="Displaced training cells.")] = 32,
    n_valid: Annotated[int, typer.Option(min=1, help="Displaced validation cells.")] = 4,
    shapes: Annotated[str, typer.Option(help="varied: each cell another shape; one: all alike.")] = "varied",
    displacement: float = typer.Option(0.02, help="Mean displacement, Å: keep it small, labels are harmonic."),
    most_atoms: Annotated[int, typer.Option(min=1, help="In a cell of another shape, or four primitive cells.")] = 40,
    stress_free: bool = typer.Option(True, help="The cell was relaxed: label its stress as zero."),
    seed: int = SEED,
    json_output: bool = JSON,
) -> None:
    """Turn force constants you already have into labelled cells to fine-tune with.

    Energies and forces of small displacements follow from the force constants; cells too large to train on are brought
    to smaller supercells, of different shape so that together they see many wave vectors.

    Example: phonosmith from-phonons phonopy.yaml --out data && phonosmith train --foundation MACE-MP-0b3
    --train data/train.xyz --valid data/valid.xyz --out model
    """
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.harmonic.files import load_harmonic, phonopy_yaml
    from phonosmith.harmonic.oracle import dataset_from_phonons
    from phonosmith.reference.importers.beside import calculations_beside
    from phonosmith.structures.extxyz import write_frames

    if shapes not in ("varied", "one"):
        raise InputError(f"--shapes {shapes} is unknown.", "Choose varied or one.")
    data = dataset_from_phonons(
        load_harmonic(phonons, calculations=calculations_beside),
        min_length=min_length,
        n_train=n_train,
        n_valid=n_valid,
        shapes=cast("Shapes", shapes),
        displacement=displacement,
        most_atoms=most_atoms,
        relaxed_cell=stress_free,
        seed=seed,
    )
    files = [out / name for name in ("train.xyz", "valid.xyz", "phonopy.yaml")]
    write_frames(files[0], data.train)
    write_frames(files[1], data.valid)
    write_atomic(files[2], phonopy_yaml(data.phonon).encode())
    summary = {
        "n_train": len(data.train),
        "n_valid": len(data.valid),
        "n_atoms": len(data.train[0]),
        "supercell_matrix": data.phonon.supercell_matrix,
        "mean_displacement": displacement,
        "files": [str(file) for file in files],
        "notes": list(data.notes),
    }
    cells = f"{summary['n_train']} training and {summary['n_valid']} validation cells"
    head = f"{cells} of at most {summary['n_atoms']} atoms:"
    lines = [f"note: {note}" for note in data.notes]
    words = "\n".join(["\n  ".join([head, *map(str, files)]), *lines])
    answer(summary, lambda: typer.echo(words), json_output=json_output)
