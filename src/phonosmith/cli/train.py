"""``phonosmith train``: fine-tune a foundation on labelled structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from phonosmith.cli.common import JSON_OPTION, TRUST_OPTION, command, print_json, print_table, quiet_libraries

if TYPE_CHECKING:
    from phonosmith.training.documents import TrainingDocument

_FOUNDATION = typer.Option(..., "--foundation", help="Foundation: name, 'embedded', sha256 prefix or file.")
_TRAIN = typer.Option(..., "--train", help="Labelled training structures (extended XYZ: energy, forces, stress).")
_VALID = typer.Option(..., "--valid", help="Labelled validation structures.")
_REPLAY = typer.Option(None, "--replay", help="Replay structures; unlabelled ones are labelled by the foundation.")
_CURVATURE = typer.Option(None, "--curvature", help="phonopy.yaml with force constants, or displacements and forces.")
_STRATEGY = typer.Option(
    "delta", "--strategy", help="scratch, transfer, freeze1..freeze5, multihead, delta, lora, pft, delta+pft."
)
_SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Change one setting of the strategy; repeatable.")
_SEED = typer.Option(0, "--seed", help="Seed of every random draw.")
_OUT = typer.Option(..., "--out", help="Folder for model.model, training.json, metrics.jsonl and the checkpoint.")
_WALLTIME = typer.Option(None, "--walltime", min=1.0, help="Stop after so many seconds; run again to go on.")
_NAME = typer.Option("", "--name", help="Name of the model.")


@command("train")
def train(
    foundation: str = _FOUNDATION,
    train: Path = _TRAIN,
    valid: Path = _VALID,
    replay: Path | None = _REPLAY,
    curvature: Path | None = _CURVATURE,
    strategy: str = _STRATEGY,
    settings: list[str] = _SET,
    seed: int = _SEED,
    out: Path = _OUT,
    walltime: float | None = _WALLTIME,
    name: str = _NAME,
    trust: bool = TRUST_OPTION,
    json_output: bool = JSON_OPTION,
) -> None:
    """Fine-tune a foundation for one material; an unfinished training in the folder goes on."""
    from phonosmith.training.spec import make_spec, parse_settings

    spec = make_spec(strategy, **parse_settings(settings))
    frames = {
        key: _frames(path, key)
        for key, path in (("train", train), ("valid", valid), ("replay", replay))
        if path is not None
    }
    phonon = _phonon(curvature) if curvature is not None else None
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.training.finetune import fine_tune, resolve_device

    resolve_device(spec.device)
    with quiet_libraries():
        ref = resolve(foundation, trust=trust)
        result = fine_tune(
            load(ref, dtype="float64", device="cpu"),
            frames["train"],
            frames["valid"],
            spec,
            replay=frames.get("replay"),
            curvature=phonon,
            seed=seed,
            workdir=out,
            walltime=walltime,
            progress=True,
            name=name or f"{ref.name}-{strategy}",
        )
        result.register(ref)
        model_path, document_path = result.write(out)
    if json_output:
        content = result.document.model_dump(mode="json", exclude={"history"})
        print_json({**content, "model_file": str(model_path), "training_file": str(document_path)})
    else:
        _show(result.document, model_path)


def _frames(path: Path, role: str) -> list[Any]:
    from phonosmith.core.errors import InputError
    from phonosmith.structures.extxyz import read_frames

    if not path.is_file():
        raise InputError(f"The {role} file {path} does not exist.", f"Give an extended XYZ file with --{role}.")
    return read_frames(path)


def _phonon(path: Path) -> Any:
    from phonosmith.core.errors import InputError
    from phonosmith.harmonic.curvature import curvature_target
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.reference.importers.beside import calculations_beside

    if not path.exists():
        raise InputError(f"The curvature file {path} does not exist.", "Give a phonopy.yaml with --curvature.")
    return curvature_target(load_harmonic(path, calculations=calculations_beside).phonon, source=path.name)


def _show(document: TrainingDocument, model_path: Path) -> None:
    rows = []
    for split, errors in document.metrics.items():
        for stage, measured in (("before", errors.before), ("after", errors.after)):
            stress = measured.mae_stress_mev_per_angstrom3
            energy, force = measured.mae_energy_mev_per_atom, measured.mae_forces_mev_per_angstrom
            rows.append((split, stage, f"{energy:.2f}", f"{force:.2f}", "-" if stress is None else f"{stress:.3f}"))
    title = f"{document.name}: {document.strategy}, {document.epochs_run} epochs, {document.seconds:.0f} s"
    print_table(("split", "", "E meV/atom", "F meV/Å", "S meV/Å³"), rows, title=title, left=2)
    typer.echo(
        f"best epoch {document.best_epoch}, {document.n_changed} of {document.n_parameters} parameters changed, "
        f"{document.stop_reason}; wrote {model_path}"
    )
    if not document.finished:
        typer.secho("Not finished: run the same command again to go on.", fg="yellow")
    for finding in document.checks.findings:
        typer.secho(finding, fg="red", bold=True)
