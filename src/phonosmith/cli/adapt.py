"""``phonosmith adapt``: label a few configurations at a time, where potentials disagree, until phonons stand still."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    ENGINE_POTENTIAL,
    FOUNDATION,
    JSON,
    PROTOCOL,
    REHEARSAL,
    SEED,
    SETTINGS,
    STRUCTURE,
    TRAINING,
    TRUST,
    answer,
    command,
    print_table,
    quiet_libraries,
    reference_engine,
    shown,
)
from phonosmith.core.errors import PhonosmithError

if TYPE_CHECKING:
    from phonosmith.analysis.learning import AdaptiveReport


@command("adapt", TRAINING)
def adapt(
    out: Annotated[Path, typer.Option(help="Folder for the run, the model (model.model) and adaptive.json.")],
    engine: Annotated[str, typer.Option(help="Who computes: vasp, forcefield or gpaw.")],
    structure: Path = STRUCTURE,
    foundation: str = FOUNDATION,
    potential: str | None = ENGINE_POTENTIAL,
    protocol: Path | None = PROTOCOL,
    rehearsal: bool = REHEARSAL,
    strategy: Annotated[str, typer.Option(help="A strategy that trains on labels alone.")] = "transfer",
    settings: list[str] | None = SETTINGS,
    cell: Annotated[str, typer.Option(help="Size of the labelled cells: primitive, small or large.")] = "small",
    committee: Annotated[
        int, typer.Option(min=1, help="Trainings per round; all but one go without a part of the labels.")
    ] = 3,
    layer: Annotated[int, typer.Option(min=1, help="Training labels of the first round.")] = 3,
    step: Annotated[int, typer.Option(min=1, help="Training labels of every later round.")] = 1,
    n_valid: Annotated[int, typer.Option(min=1, help="Validation labels, made in the first round.")] = 1,
    spread: Annotated[
        float | None,
        typer.Option(min=0, help="THz the committee's phonons may differ by at the end (what the verdict needs)."),
    ] = None,
    max_rounds: Annotated[int | None, typer.Option(min=1, help="Rounds at most (until all is labelled).")] = None,
    min_length: Annotated[float, typer.Option(min=1, help="Shortest edge of the phonon supercell, Å.")] = 20.0,
    mesh: Annotated[int, typer.Option(min=2, help="q-points along each axis of phonon comparisons.")] = 20,
    seed: int = SEED,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Spend as few DFT labels as the phonons need: label, train a committee, label where it disagrees, repeat.

    Everything is sampled first (cheap). Each round labels the configurations in which the forces of the committee are
    furthest apart, and ends when its phonons agree. No reference phonons are needed. Interrupt it as you like: the same
    command goes on where it stopped.

    Example: phonosmith adapt Si.cif --foundation embedded --engine forcefield --potential embedded-reference --out si
    """
    out = out.resolve()
    from phonosmith.analysis.learning import AdaptiveReport
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.core.identity import fix_identities
    from phonosmith.engines.local.session import carry_out, open_folder_store
    from phonosmith.flows.adaptive import AdaptiveMaker
    from phonosmith.potentials.registry import export_plain, resolve
    from phonosmith.structures.reading import read_structure
    from phonosmith.training.spec import parse_settings

    crystal = read_structure(structure)
    symbols = {site.specie.symbol for site in crystal}
    computing = reference_engine(engine, protocol, potential, symbols, rehearsal=rehearsal, trust=trust)
    maker = AdaptiveMaker(
        engine=computing,
        strategy=strategy,
        training=parse_settings(settings or []),
        sampling={"cell": cell},
        options={
            "first": layer,
            "step": step,
            "n_valid": n_valid,
            "committee": committee,
            "spread_thz": spread,
            "max_rounds": max_rounds,
        },
        min_length=min_length,
        mesh=mesh,
        seed=seed,
    )
    with quiet_libraries():
        flow = fix_identities(maker.make(crystal, resolve(foundation, trust=trust)))
    outcome = carry_out(out, flow, progress=not json_output or os.isatty(2), again=lambda _: None)
    if outcome.interrupted:
        raise KeyboardInterrupt
    summary = outcome.summary
    for row in summary.failed:
        typer.secho(f"Failed: {row.name}: {row.error} (see {row.folder})", fg="red", err=True)
    if not summary.ok:
        raise PhonosmithError(
            f"{len(summary.failed)} jobs failed, and the labels made so far do not decide anything yet.",
            "Mend the cause named above and run the same command again: what is done is kept.",
        )
    store = open_folder_store(out)
    report = AdaptiveReport.model_validate(store.get_output(flow.output.uuid, load=True))
    store.close()
    files = [out / "adaptive.json", out / "model.model"]
    write_atomic(files[0], (report.model_dump_json(indent=1) + "\n").encode())
    export_plain(report.potential, files[1])
    payload = _payload(report, files)
    answer(payload, lambda: _show(payload), json_output=json_output)


def _payload(report: AdaptiveReport, files: list[Path]) -> dict[str, Any]:
    return {
        "material": report.material,
        "formula": report.formula,
        "strategy": report.strategy,
        "labels_used": report.n_labels,
        "labels_of_the_protocol": report.n_labels_protocol,
        "stopped": report.stopped,
        "stopped_because": report.reason,
        "verdict": "fit" if report.verdict.fit else "not fit",
        "reasons": report.verdict.reasons,
        "potential": report.potential.sha256,
        "history": [
            {
                "round": one.number,
                "labels": one.n_labels,
                "asked": one.asked,
                "largest_force_std_ev_per_angstrom": max(one.force_std.values(), default=None),
                "expected_mae_thz": one.committee and one.committee.mae_thz.model_dump(),
                "spread_thz": one.spread_thz,
                "phonon_change_thz": one.phonon_change_thz,
                "valid_force_mae_mev_per_angstrom": one.valid_force_mae,
                "verdict": "fit" if one.verdict.fit else "not fit",
            }
            for one in report.rounds
        ],
        "files": [str(file) for file in files],
    }


def _show(payload: dict[str, Any]) -> None:
    print_table(
        ("round", "labels", "spread\nTHz", "MAE up to\nTHz", "change\nTHz", "force MAE\nmeV/Å", " verdict"),
        [
            (
                str(one["round"]),
                str(one["labels"]),
                shown(one["spread_thz"], ".3f"),
                shown(one["expected_mae_thz"] and one["expected_mae_thz"]["high"], ".3f"),
                shown(one["phonon_change_thz"], ".3f"),
                shown(one["valid_force_mae_mev_per_angstrom"], ".1f"),
                one["verdict"],
            )
            for one in payload["history"]
        ],
        title=f"{payload['formula']}: {payload['labels_used']} labels of {payload['labels_of_the_protocol']}",
        left=0,
    )
    typer.echo(f"Ended because {payload['stopped_because']}.")
    for reason in payload["reasons"]:
        typer.echo(f"  not fit: {reason}")
    for file in payload["files"]:
        typer.echo(f"  {file}")
