"""``phonosmith train``: fine-tune a foundation on labelled structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import JSON, TRUST, command, print_json, print_table, quiet_libraries, shown

if TYPE_CHECKING:
    from phonosmith.training.documents import TrainingDocument


@command("train")
def train(
    foundation: Annotated[str, typer.Option(help="Foundation: name, 'embedded', sha256 prefix or file.")],
    train: Annotated[Path, typer.Option(help="Labelled training structures (extended XYZ: energy, forces, stress).")],
    valid: Annotated[Path, typer.Option(help="Labelled validation structures.")],
    out: Annotated[Path, typer.Option(help="Folder for model.model, training.json, metrics.jsonl and the checkpoint.")],
    replay: Annotated[Path | None, typer.Option(help="Replay structures, labelled or not.")] = None,
    curvature: Annotated[Path | None, typer.Option(help="phonopy.yaml with force constants or forces.")] = None,
    strategy: str = typer.Option(
        "delta", help="scratch, transfer, freeze1..freeze5, multihead, delta, lora, pft, delta+pft."
    ),
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Of the strategy.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    walltime: float | None = typer.Option(None, min=1.0, help="Stop after so many seconds; run again to go on."),
    name: Annotated[str, typer.Option(help="Name of the model.")] = "",
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Fine-tune a foundation for one material; an unfinished training in the folder goes on."""
    from phonosmith.training.spec import make_spec, parse_settings

    spec = make_spec(strategy, **parse_settings(settings or []))
    from phonosmith.harmonic.curvature import curvature_target
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.potentials.device import require_device
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.reference.importers.beside import calculations_beside
    from phonosmith.structures.extxyz import read_frames
    from phonosmith.training.finetune import fine_tune

    labelled, checked = read_frames(train), read_frames(valid)
    replayed = None if replay is None else read_frames(replay)
    target = None
    if curvature is not None:
        phonon = load_harmonic(curvature, calculations=calculations_beside).phonon
        target = curvature_target(phonon, source=curvature.name)
    require_device(spec.device)
    with quiet_libraries():
        ref = resolve(foundation, trust=trust)
        result = fine_tune(
            load(ref, dtype="float64", device="cpu"),
            labelled,
            checked,
            spec,
            replay=replayed,
            curvature=target,
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


def _show(document: TrainingDocument, model_path: Path) -> None:
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
        f"{document.stop_reason}; wrote {model_path}"
    )
    if not document.finished:
        typer.secho("Not finished: run the same command again to go on.", fg="yellow")
    for finding in document.checks.findings:
        typer.secho(finding, fg="red", bold=True)
