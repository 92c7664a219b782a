"""``phonosmith score-phases``: the phases a potential finds against those of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.output import JSON_OPTION, explained, print_json

if TYPE_CHECKING:
    from phonosmith.evaluation.modes.scores import PhaseScores


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print_table(found: PhaseScores) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("material", "found", "made up", "missed", "precision", "recall", "F1")
    for name, score in found.per_material.items():
        lists = (score.true_positives, score.false_positives, score.false_negatives)
        numbers = (score.precision, score.recall, score.f1)
        table.add_row(name, *(", ".join(phases) or "-" for phases in lists), *map(_number, numbers))
    console = Console()
    console.print(table)
    console.print(
        f"precision {_number(found.precision)} (mean of {found.n_precision}), recall {_number(found.recall)} "
        f"(mean of {found.n_recall}), F1 {_number(found.f1)}"
    )


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(name="score-phases")
    @explained
    def score_phases(
        reference: Annotated[
            Path, typer.Argument(help="YAML of the reference's phases, or its transition document (JSON)")
        ],
        candidate: Annotated[Path, typer.Argument(help="the same of the potential")],
        json_output: bool = JSON_OPTION,
    ) -> None:
        """Compare sets of phases: precision, recall and F1, per material and averaged.

        A phase is found when space group and atoms of the primitive cell agree; the initial phase does not count. Each
        material of a file reads: GeTe: {initial: [Fm-3m, 2], final: [[R3m, 2], [Pmmn, 4]]}.

        Example: phonosmith score-phases dft.yaml mace.yaml
        """
        from phonosmith.evaluation.modes.scores import read_phase_file
        from phonosmith.evaluation.modes.scores import score_phases as score

        found = score(read_phase_file(reference), read_phase_file(candidate))
        for side, names in (("reference", found.only_in_reference), ("candidate", found.only_in_candidate)):
            if names:
                typer.secho(f"Only in the {side}, not scored: {', '.join(names)}", fg="yellow", err=True)
        if json_output:
            print_json(found)
        else:
            _print_table(found)
