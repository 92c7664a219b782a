"""``phonosmith from-phonons``: a training set out of a finished phonon calculation, without another DFT run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from phonosmith.cli.common import JSON_OPTION, command, print_json

if TYPE_CHECKING:
    from phonosmith.harmonic.oracle import Shapes

PHONONS = typer.Argument(..., help="phonopy.yaml (plain or .xz; FORCE_SETS inside or beside it) with forces.")
OUT = typer.Option(..., "--out", help="Folder for train.xyz, valid.xyz and phonopy.yaml of the small supercell.")
MIN_LENGTH = typer.Option(9.0, "--min-length", min=3.0, help="Shortest edge of the training supercell, Å.")
N_TRAIN = typer.Option(8, "--train", min=1, help="Displaced training cells.")
N_VALID = typer.Option(3, "--valid", min=1, help="Displaced validation cells.")
SHAPES = typer.Option("varied", "--shapes", help="varied: every cell of another shape; one: all alike.")
DISPLACEMENT = typer.Option(0.03, "--displacement", help="Mean displacement, Å: keep it small, labels are harmonic.")
STRESS_FREE = typer.Option(True, help="The calculation's cell was relaxed: label the perfect cell with zero stress.")
SEED = typer.Option(0, "--seed", help="Of the displacements.")

FILES = ("train.xyz", "valid.xyz", "phonopy.yaml")


def _shapes(text: str) -> Shapes:
    from phonosmith.core.errors import InputError

    if text not in ("varied", "one"):
        raise InputError(f"--shapes {text} is unknown.", "Choose varied or one.")
    return cast("Shapes", text)


@command("from-phonons")
def from_phonons(
    phonons: Path = PHONONS,
    out: Path = OUT,
    min_length: float = MIN_LENGTH,
    n_train: int = N_TRAIN,
    n_valid: int = N_VALID,
    shapes: str = SHAPES,
    displacement: float = DISPLACEMENT,
    stress_free: bool = STRESS_FREE,
    seed: int = SEED,
    json_output: bool = JSON_OPTION,
) -> None:
    """Turn force constants you already have into labelled cells to fine-tune with.

    Energies and forces of small displacements follow from the force constants; cells too large to train on are brought
    to smaller supercells, of different shape so that together they see many wave vectors.

    Example: phonosmith from-phonons phonopy.yaml --out data && phonosmith train --foundation MACE-MP-0b3
    --train data/train.xyz --valid data/valid.xyz --curvature data/phonopy.yaml --strategy delta+pft --out model
    """
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.harmonic.files import load_harmonic, phonopy_yaml
    from phonosmith.harmonic.oracle import dataset_from_phonons
    from phonosmith.reference.importers.beside import calculations_beside
    from phonosmith.structures.extxyz import write_frames

    data = dataset_from_phonons(
        load_harmonic(phonons, calculations=calculations_beside),
        min_length=min_length,
        n_train=n_train,
        n_valid=n_valid,
        shapes=_shapes(shapes),
        displacement=displacement,
        relaxed_cell=stress_free,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_frames(out / "train.xyz", data.train)
    write_frames(out / "valid.xyz", data.valid)
    write_atomic(out / "phonopy.yaml", phonopy_yaml(data.phonon).encode())
    summary = {
        "n_train": len(data.train),
        "n_valid": len(data.valid),
        "n_atoms": len(data.train[0]),
        "supercell_matrix": data.phonon.supercell_matrix,
        "mean_displacement": displacement,
        "files": [str(out / name) for name in FILES],
    }
    if json_output:
        print_json(summary)
        return
    typer.echo(
        f"{summary['n_train']} training and {summary['n_valid']} validation cells of {summary['n_atoms']} atoms:"
    )
    for name in summary["files"]:
        typer.echo(f"  {name}")
