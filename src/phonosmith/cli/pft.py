"""``phonosmith pft``: teach a foundation the force constants of many materials."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    FOUNDATION,
    JSON,
    SEED,
    SETTINGS,
    TRAINING,
    TRUST,
    WALLTIME,
    command,
    print_json,
    quiet_libraries,
    required_seed,
)
from phonosmith.cli.train import kept, show_training
from phonosmith.core.errors import InputError
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.harmonic.curvature import CurvatureTarget
    from phonosmith.potentials.base import Potential

VALID_SHARE = 0.1
"""Structures of replay that validate."""


@command("pft", TRAINING)
def pft(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with one material each as a subfolder or phonopy YAML (MDR database: phonopy_params.yaml.xz); "
            "energies.csv (material, energy_ev of the unit cell) where known."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for model.model, training.json, metrics.jsonl and the checkpoint.")],
    foundation: str = FOUNDATION,
    replay: Annotated[
        Path | None,
        typer.Option(help="Labelled structures of the foundation's training to co-train on; default: its own labels."),
    ] = None,
    cotrain: Annotated[bool, typer.Option("--cotrain/--no-cotrain", help="Steps on structures between.")] = True,
    holdout: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of materials that judge epochs.")] = 0.1,
    settings: list[str] | None = SETTINGS,
    seed: int = SEED,
    walltime: float | None = WALLTIME,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "",
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Teach a foundation the force constants of many materials; an unfinished training in the folder goes on.

    Example: phonosmith pft mdr --foundation MACE-MP-0b3 --replay mptrj-1000.xyz --out pft
    """
    since = time.perf_counter()
    from phonosmith.training.spec import make_spec, parse_settings

    own: dict[str, Any] = {"replay": "none", "e0": "foundation", "curvature_holdout": holdout}
    if not cotrain:
        own |= {"curvature_mode": "alone", "curvature_energy_weight": 20.0}
    required_seed(seed)
    spec = make_spec("pft", **own | parse_settings(settings or []))
    from phonosmith.harmonic.collection import read_collection
    from phonosmith.potentials.device import require_device
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.reference.importers.beside import calculations_beside
    from phonosmith.structures.extxyz import read_frames
    from phonosmith.training.finetune import prepare
    from phonosmith.training.loop import epoch_reporter
    from phonosmith.training.placement import asked_device
    from phonosmith.training.replay import draw

    require_device(asked_device(spec))
    given = None if replay is None else read_frames(replay, require=("energy", "forces"))
    with quiet_libraries():
        ref = resolve(foundation, trust=trust)
        with progress_bar("read", None) as move:
            found = read_collection(
                data,
                elements=ref.elements,
                calculations=calculations_beside,
                on_read=lambda done, total: move(done, total, "materials"),
            )
        potential = load(ref, dtype="float64", device="cpu")
        notes = [f"Left out {one}: {reason}" for one, reason in found.left_out.items()]
        if given is None:
            structures = _own_labels(potential, found.targets, spec.replay_size, seed, ref.name)
            notes.append(
                f"Co-training: {len(structures)} structures labelled by the foundation itself, no subset of its "
                "training data"
            )
        else:
            structures = draw(_known(given, ref.elements, replay), spec.replay_size, seed)
        n_valid = max(1, int(VALID_SHARE * len(structures)))
        training = prepare(
            potential,
            structures[n_valid:],
            structures[:n_valid],
            spec,
            curvature=found.targets,
            seed=seed,
            workdir=out,
            name=name or f"{ref.name}-pft",
        )
        with epoch_reporter(spec, training.name, show=True) as report:
            training.fitter.run(walltime=walltime, since=since, on_epoch=report)
        result = training.result()
        result.document.notes += notes
        document, files = kept(result, ref, out)
    if json_output:
        held = [target.source for target in training.assembly.judged]
        learnt = [target.source for target in training.assembly.targets]
        materials = {"learnt": learnt, "held_out": [one for one in held if one not in learnt]}
        content = document.model_dump(mode="json", exclude={"history"})
        print_json({**content, **files, "materials": materials | {"left_out": found.left_out}})
        return
    show_training(document, files["model_file"])
    curvature = document.curvature
    if curvature is not None:
        typer.echo(
            f"force constants of {len(training.assembly.targets)} materials: "
            f"{curvature.mae_before_ev_per_angstrom2:.4f} -> {curvature.mae_after_ev_per_angstrom2:.4f} eV/Å²"
        )
        if curvature.judged_before_ev_per_angstrom2 is not None:
            typer.echo(
                f"of {len(training.assembly.judged)} that judged: {curvature.judged_before_ev_per_angstrom2:.4f} -> "
                f"{curvature.judged_after_ev_per_angstrom2:.4f} eV/Å²"
            )
    for note in notes:
        typer.echo(note, err=True)


def _own_labels(potential: Potential, targets: list[CurvatureTarget], size: int, seed: int, name: str) -> list[Atoms]:
    """Return structures that the foundation labels itself, of the materials' elements first."""
    from phonosmith.flows.replay import elemental_pool, label_pool

    elements = sorted({symbol for target in targets for symbol in target.atoms.get_chemical_symbols()})
    pool = label_pool(potential, elemental_pool(potential.elements, elements, size, seed), name)
    if len(pool) < 3:
        raise InputError(f"Only {len(pool)} structures to co-train on could be made.", "Give some with --replay.")
    return pool


def _known(frames: list[Atoms], elements: list[str], source: Path | None) -> list[Atoms]:
    """Return structures of elements that the foundation knows."""
    known = [atoms for atoms in frames if set(atoms.get_chemical_symbols()) <= set(elements)]
    if len(known) < 3:
        raise InputError(
            f"{source}: {len(known)} of {len(frames)} structures hold only elements the foundation knows; "
            "3 are needed.",
            "Give labelled structures of the foundation's own training set.",
        )
    return known
