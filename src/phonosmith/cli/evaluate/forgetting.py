"""``phonosmith forgetting``: what fine-tuning cost on structures it did not see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import (
    EVALUATION,
    FOUNDATION,
    JSON,
    POTENTIAL,
    SEED,
    STRUCTURE,
    TRUST,
    answer,
    command,
    load_case,
    print_table,
)

if TYPE_CHECKING:
    from phonosmith.evaluation.forgetting.documents import ForgettingDoc


def _show(document: ForgettingDoc) -> None:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"

    def pair(before: float | None, after: float | None) -> str:
        return f"{number(before)}→{number(after)}"

    typer.echo("Mean absolute errors, foundation→fine-tuned")
    rows = []
    for one in document.sets:
        force = pair(one.foundation_force_mae, one.tuned_force_mae)
        energy = pair(one.foundation_energy_mae, one.tuned_energy_mae)
        stress = pair(one.foundation_stress_mae, one.tuned_stress_mae)
        rows.append((one.name, str(one.n_structures), one.truth, force, energy, stress))
    print_table(("set", " n", " truth", " force\nmeV/Å", " energy\nmeV/atom", " stress\nmeV/Å³"), rows)
    for reason in document.skipped:
        typer.echo(f"skipped: {reason}")


@command("forgetting", EVALUATION, formerly={"count": "n-frames"})
def forgetting(
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    foundation: str = FOUNDATION,
    reference: str | None = typer.Option(None, help="Potential that plays DFT (drift from the foundation instead)."),
    frames: Annotated[Path | None, typer.Option(help="Extended XYZ of other materials, labelled or not.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Extended XYZ of the replay pool.")] = None,
    n_frames: Annotated[int, typer.Option(min=1, help="Structures in each random set.")] = 4,
    seed: int = SEED,
    figure: Annotated[Path | None, typer.Option(help="Image of the errors as bars (.png, .svg, .pdf).")] = None,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Errors of a fine-tuned potential where it was not tuned, beside the foundation's.

    The same material far from equilibrium, strained and at outer volumes; other materials; given frames.

    Example: phonosmith forgetting Si.cif --potential si-delta --foundation embedded --reference embedded-reference
    """
    from phonosmith.evaluation.forgetting.errors import evaluate_forgetting
    from phonosmith.evaluation.forgetting.sets import default_sets
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.report.figures.style import image_format, save_figure
    from phonosmith.structures.extxyz import read_frames

    if figure is not None:
        image_format(figure)
    case = load_case(structure, potential, trust=trust)
    sets = default_sets(
        case.crystal,
        seed,
        count=n_frames,
        given=read_frames(frames) if frames is not None else (),
        replay=read_frames(replay) if replay is not None else (),
    )
    given = {"foundation": foundation} | ({} if reference is None else {"reference": reference})
    refs = {"potential": case.ref} | {role: resolve(name, trust=trust) for role, name in given.items()}
    document = evaluate_forgetting(
        case.potential,
        load(refs["foundation"]),
        sets,
        load(refs["reference"]) if "reference" in refs else None,
        potential_sha256=refs["potential"].sha256,
        foundation_sha256=refs["foundation"].sha256,
        inputs={role: ref.sha256 for role, ref in refs.items()},
        settings={"count": n_frames, "sets": [one.name for one in sets]},
        seed=seed,
    )
    if figure is not None:
        from phonosmith.report.figures.forgetting import forgetting_figure

        save_figure(forgetting_figure([document], [refs["potential"].name]), figure)
    answer(document, lambda: _show(document), json_output=json_output)
