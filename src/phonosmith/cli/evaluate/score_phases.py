"""``phonosmith score-phases``: the phases a potential finds against those of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import EVALUATION, JSON, answer, command, print_table, shown

if TYPE_CHECKING:
    from phonosmith.evaluation.modes.scores import PhaseScores


def _show(scores: PhaseScores) -> None:
    rows = []
    for name, one in scores.per_material.items():
        phases = [", ".join(s) or "-" for s in (one.true_positives, one.false_positives, one.false_negatives)]
        rows.append((name, *phases, *(shown(value, ".2f") for value in (one.precision, one.recall, one.f1))))
    print_table(("material", " found", " made up", " missed", " precision", " recall", " F1"), rows)
    precision, recall, f1 = (shown(value, ".2f") for value in (scores.precision, scores.recall, scores.f1))
    means = (f"(mean of {scores.n_precision})", f"(mean of {scores.n_recall})")
    typer.echo(f"precision {precision} {means[0]}, recall {recall} {means[1]}, F1 {f1}")


@command("score-phases", EVALUATION)
def score_phases(
    reference: Annotated[Path, typer.Argument(help="The reference's phases: YAML, or transitions.json.")],
    candidate: Annotated[Path, typer.Argument(help="The same of the potential.")],
    json_output: bool = JSON,
) -> None:
    """Compare sets of phases: precision, recall and F1, per material and averaged.

    A phase is found when space group and atoms of the primitive cell agree; the initial phase does not count. Each
    material of a file reads: GeTe: {initial: [Fm-3m, 2], final: [[R3m, 2], [Pmmn, 4]]}.

    Example: phonosmith score-phases dft.yaml mace.yaml
    """
    from phonosmith.evaluation.modes.scores import read_phase_file
    from phonosmith.evaluation.modes.scores import score_phases as score

    scores = score(read_phase_file(reference), read_phase_file(candidate))
    for side, names in (("reference", scores.only_in_reference), ("candidate", scores.only_in_candidate)):
        if names:
            typer.secho(f"Only in the {side}, not scored: {', '.join(names)}", fg="yellow", err=True)
    answer(scores, lambda: _show(scores), json_output=json_output)
