"""``phonosmith train``: fine-tune a foundation on labelled structures."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    FOUNDATION,
    JSON,
    SETTINGS,
    TRAINING,
    TRUST,
    WALLTIME,
    command,
    listed,
    print_json,
    print_table,
    quiet_libraries,
    shown,
)
from phonosmith.core.errors import ConfigurationError, PhonosmithError, TrainingError
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.training.documents import TrainingDocument
    from phonosmith.training.finetune import Training, TrainingResult
    from phonosmith.training.spec import TrainSpec


@command("train", TRAINING)
def train(
    train: Annotated[Path, typer.Option(help="Labelled training structures (extended XYZ: energy, forces, stress).")],
    valid: Annotated[Path, typer.Option(help="Labelled validation structures.")],
    out: Annotated[Path, typer.Option(help="Folder for model.model, training.json, metrics.jsonl and the checkpoint.")],
    foundation: str = FOUNDATION,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Replay structures (extended XYZ; labels are kept). Without: simple crystals the foundation labels."
        ),
    ] = None,
    curvature: Annotated[Path | None, typer.Option(help="phonopy.yaml with force constants or forces.")] = None,
    strategy: str = typer.Option(
        "phonosmith",
        help="phonosmith, scratch, transfer, f1..f5, freeze1..freeze5, multihead, delta, lora, pft, delta+pft. "
        "Several as in transfer,delta: they train side by side, each into a folder of its own below --out.",
    ),
    settings: list[str] | None = SETTINGS,
    seed: Annotated[str, typer.Option(help="Seed of every random draw; several as in 0,1,2.")] = "0",
    walltime: float | None = WALLTIME,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "",
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Fine-tune a foundation for one material; an unfinished training in the folder goes on.

    Example: phonosmith train --foundation embedded --train train.xyz --valid valid.xyz --out model
    """
    since = time.perf_counter()
    from phonosmith.training.spec import make_spec, parse_settings

    overrides, strategies, seeds = parse_settings(settings or []), listed("strategy", [strategy]), parse_seeds(seed)
    specs = {one: make_spec(one, **overrides) for one in strategies}
    alone = len(strategies) == len(seeds) == 1
    from phonosmith.flows.replay import elemental_pool, label_pool
    from phonosmith.harmonic.curvature import curvature_target
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.potentials.device import require_device
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.reference.importers.beside import calculations_beside
    from phonosmith.structures.extxyz import read_frames
    from phonosmith.training.assemble import Groundwork
    from phonosmith.training.finetune import check_extras, prepare
    from phonosmith.training.loop import epoch_reporter
    from phonosmith.training.placement import asked_device

    labelled, checked = read_frames(train), read_frames(valid)
    replayed = None if replay is None else read_frames(replay)
    target = None
    if curvature is not None:
        phonon = load_harmonic(curvature, calculations=calculations_beside).phonon
        target = curvature_target(phonon, source=curvature.name)
    # data that no strategy uses are a mistake; those that some use are not for the others
    uses_replay = any(spec.uses_replay for spec in specs.values())
    uses_curvature = any(spec.uses_curvature for spec in specs.values())
    # filled where the foundation is known
    pool: list[Atoms] | None = [] if uses_replay and replayed is None else None
    replayed = pool if replayed is None else replayed
    extras = {
        one: (
            replayed if spec.uses_replay or not uses_replay else None,
            target if spec.uses_curvature or not uses_curvature else None,
        )
        for one, spec in specs.items()
    }
    for one, spec in specs.items():
        require_device(asked_device(spec))
        check_extras(spec, *extras[one])
    with quiet_libraries():
        ref = resolve(foundation, trust=trust)
        ground = Groundwork(load(ref, dtype="float64", device="cpu"))
        if pool is not None:
            elements = sorted({symbol for atoms in labelled for symbol in atoms.get_chemical_symbols()})
            size = max(spec.replay_size for spec in specs.values() if spec.uses_replay)
            structures = elemental_pool(ground.potential.elements, elements, size, seeds[0])
            pool += label_pool(ground.potential, structures, ref.name)

        def prepared(spec: TrainSpec, number: int, folder: Path) -> Training:
            own_replay, own_target = extras[spec.strategy]
            return prepare(
                ground,
                labelled,
                checked,
                spec,
                replay=own_replay,
                curvature=own_target,
                seed=number,
                workdir=folder,
                name=_model_name(name or ref.name, spec, number, alone=alone, named=bool(name)),
            )

        if alone:
            ((_, spec),) = specs.items()
            training = prepared(spec, seeds[0], out)
            with epoch_reporter(training.assembly.spec, training.name, show=True) as report:
                training.fitter.run(walltime=walltime, since=since, on_epoch=report)
            document, files = kept(training.result(), ref, out)
        else:
            members = [
                _Member(one, number, out / f"{one}-s{number}") for one, number in itertools.product(specs, seeds)
            ]
            _run_several(members, specs, prepared, ref, walltime=walltime, since=since)
    if not alone:
        _answer_several(members, json_output=json_output)
    elif json_output:
        print_json({**document.model_dump(mode="json", exclude={"history"}), **files})
    else:
        show_training(document, files["model_file"])


@dataclass
class _Member:
    """One of several trainings and what became of it."""

    strategy: str
    seed: int
    folder: Path
    document: TrainingDocument | None = None
    files: dict[str, str] | None = None
    error: str = "not begun: the walltime was over"
    advice: str = "Run the same command again to go on."

    @property
    def label(self) -> str:
        return f"{self.strategy}, seed {self.seed}"


def parse_seeds(text: str) -> list[int]:
    """Return seeds from a list with commas."""
    words = listed("seed", [text])
    if wrong := next((word for word in words if not word.isdecimal()), None):
        raise ConfigurationError(f"--seed {text!r}: {wrong!r} is no seed.", "Give whole numbers from 0, e.g. 0,1,2.")
    return [int(word) for word in words]


def _model_name(base: str, spec: TrainSpec, seed: int, *, alone: bool, named: bool) -> str:
    if alone:
        return base if named else f"{base}-{spec.strategy}"
    return f"{base}-{spec.strategy}-s{seed}"


def kept(result: TrainingResult, ref: PotentialRef, folder: Path) -> tuple[TrainingDocument, dict[str, str]]:
    """Put a result into the store and its folder; return the document and the files."""
    result.register(ref)
    model_path, document_path = result.write(folder)
    return result.document, {"model_file": str(model_path), "training_file": str(document_path)}


def _run_several(
    members: list[_Member],
    specs: dict[str, TrainSpec],
    prepared: Callable[[TrainSpec, int, Path], Training],
    ref: PotentialRef,
    *,
    walltime: float | None,
    since: float,
) -> None:
    from phonosmith.training.packing import Outcome, Planned, SideBySide

    by_name = {member.label: member for member in members}
    # how many epochs `visits` means is known once a training is ready
    epochs = {member.label: specs[member.strategy].epochs for member in members}

    def plan(member: _Member) -> Planned:
        def ready() -> Training:
            training = prepared(specs[member.strategy], member.seed, member.folder)
            epochs[member.label] = training.assembly.spec.epochs
            return training

        return Planned(member.label, ready, walltime)

    def keep(outcome: Outcome) -> None:
        member = by_name[outcome.planned.name]
        if outcome.result is not None:
            member.document, member.files = kept(outcome.result, ref, member.folder)
        else:
            member.error, member.advice = f"{type(outcome.error).__name__}: {outcome.error}", ""
            if isinstance(outcome.error, PhonosmithError):
                member.error, member.advice = outcome.error.message, outcome.error.advice

    with progress_bar("train", sum(epochs.values())) as move:
        done = itertools.count(1)
        pack = SideBySide(on_epoch=lambda planned, _: move(next(done), sum(epochs.values()), planned.name), on_end=keep)
        pack.run([plan(member) for member in members], since=since)


def _answer_several(members: list[_Member], *, json_output: bool) -> None:
    """Print what became of several trainings; TrainingError where one has no result."""
    failed = [member for member in members if member.document is None]
    if json_output:
        print_json({"trainings": [_as_json(member) for member in members], "n_failed": len(failed)})
    for member in members:
        if not json_output and member.document is not None and member.files is not None:
            show_training(member.document, member.files["model_file"])
    for member in failed:
        typer.secho(f"{member.label}: {member.error}", fg="red", err=True)
        if member.advice:
            typer.secho(f"  -> {member.advice}", err=True)
    if failed:
        raise typer.Exit(TrainingError.exit_code)


def _as_json(member: _Member) -> dict[str, Any]:
    known = {"strategy": member.strategy, "seed": member.seed, "folder": str(member.folder)}
    if member.document is None or member.files is None:
        return {**known, "error": member.error, "advice": member.advice}
    return {**member.document.model_dump(mode="json", exclude={"history"}), **known, **member.files}


def show_training(document: TrainingDocument, model_file: str) -> None:
    """Print errors before and after, what became of the training and what was chosen on the way."""
    rows = []
    for split, errors in document.metrics.items():
        for stage, measured in (("before", errors.before), ("after", errors.after)):
            energy, force = measured.mae_energy_mev_per_atom, measured.mae_forces_mev_per_angstrom
            stress = shown(measured.mae_stress_mev_per_angstrom3, ".3f")
            rows.append((split, stage, f"{energy:.2f}", f"{force:.2f}", stress))
    title = f"{document.name}: {document.strategy}, {document.epochs_run} epochs, {document.seconds:.0f} s"
    print_table(("split", "", "E meV/atom", "F meV/Å", "S meV/Å³"), rows, title=title, left=2)
    typer.echo(
        f"best epoch {document.best_epoch}, {document.n_changed} of {document.n_parameters} parameters changed, "
        f"{document.stop_reason}; wrote {model_file}"
    )
    for note in document.notes:
        typer.echo(f"note: {note}")
    if not document.finished:
        typer.secho("Not finished: run the same command again to go on.", fg="yellow")
    for finding in document.checks.findings:
        typer.secho(finding, fg="red", bold=True)
