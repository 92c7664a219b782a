"""What a table or figure is about: one foundation, training set and cell; of several potentials which one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.core.errors import InputError

CELLS = ("primitive", "small", "large")
FOUNDATION = "foundation"
PUBLISHED_TRAINING_SET = "10"
"""Training structures behind the published tables."""
_ORDER = (
    FOUNDATION, "scratch", "transfer", "f", "freeze", "multihead", "delta", "lora", "pft", "delta+pft", "phonosmith",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What tables compare; the training set is the number of structures asked for or ``all``, empty for none."""

    foundation: str
    training_set: str
    cell: str

    def __str__(self) -> str:
        trained = f", {self.training_set} training structures" if self.training_set else ""
        return f"foundation {self.foundation}, {self.cell or 'unknown'} cells{trained}"


def choose(
    potentials: pd.DataFrame,
    foundation: str | None = None,
    training_set: str | None = None,
    cell: str | None = None,
) -> Choice:
    """Return what tables are about: what was asked, else what most potentials share.

    Of equally frequent training sets the published one of ten structures is taken, else the largest; of cells the
    larger.

    Raises
    ------
    InputError
        When nothing in the store is what was asked, naming what there is.
    """
    rows, values = potentials, {}
    for name, asked in (("foundation", foundation), ("cell", cell), ("training_set", training_set)):
        tuned = rows[rows["strategy"] != FOUNDATION]
        counts = (tuned if name == "training_set" or len(tuned) else rows)[name].value_counts().to_dict()
        if asked is not None and asked not in counts:
            there = ", ".join(sorted(map(str, counts))) or "nothing"
            raise InputError(f"No result has {name.replace('_', ' ')} {asked!r}.", f"The store holds {there}.")
        values[name] = asked if asked is not None else _most(counts, name)
        rows = rows[rows[name] == values[name]]
    return Choice(**values)


def _most(counts: dict[str, int], name: str) -> str:
    """Return the most frequent value; of training sets the largest, of cells the larger."""

    def weight(value: str) -> tuple[float, ...]:
        if name == "cell":
            return CELLS.index(value) if value in CELLS else -1, counts[value]
        size = float(value) if value.isdigit() else float("inf") if value == "all" else -1.0
        return counts[value], value == PUBLISHED_TRAINING_SET, size

    return max(counts, key=weight, default="")


def selected(potentials: pd.DataFrame, choice: Choice, *, every_cell: bool = False) -> pd.DataFrame:
    """Return the rows of the foundation and of every strategy with the chosen training set."""
    rows = potentials[potentials["foundation"] == choice.foundation]
    if not every_cell:
        rows = rows[rows["cell"] == choice.cell]
    return rows[(rows["strategy"] == FOUNDATION) | (rows["training_set"] == choice.training_set)]


def in_order(strategies: Iterable[str]) -> list[str]:
    """Return strategies as papers list them: foundation, scratch, transfer, ...; unknown ones last, by name."""
    places = {name: place for place, name in enumerate(_ORDER)}

    def place(name: str) -> tuple[int, str]:
        return places.get(name, places.get(re.sub(r"\d+$", "", name), len(places))), name

    return sorted(set(strategies), key=place)


def distinct_materials(reports: Sequence[MaterialReport]) -> list[MaterialReport]:
    """Return one report per material: other seeds, cells and foundations do not make it another crystal."""
    return list({report.material: report for report in reversed(reports)}.values())[::-1]


def largest_trainings(entries: Sequence[PotentialReport]) -> list[PotentialReport]:
    """Return for each strategy the entry with the most training structures, in the order given."""
    best: dict[str, PotentialReport] = {}
    for entry in entries:
        if entry.strategy not in best or entry.n_train > best[entry.strategy].n_train:
            best[entry.strategy] = entry
    return list(best.values())


def chosen_potential(report: MaterialReport) -> PotentialReport | None:
    """Return the potential a user would take: the first fit one (they are sorted by phonons), else the first."""
    return next((entry for entry in report.strategies if entry.verdict.fit), next(iter(report.strategies), None))


def all_entries(report: MaterialReport) -> list[PotentialReport]:
    """Return the foundation and every training."""
    return [report.foundation, *report.strategies]


def one_per_strategy(report: MaterialReport) -> list[tuple[str, PotentialReport]]:
    """Return foundation and each strategy's largest training, by the name figures use."""
    return [("foundation", report.foundation)] + [(e.strategy, e) for e in largest_trainings(report.strategies)]


def entry_name(entry: PotentialReport, report: MaterialReport) -> str:
    """Return the strategy, with its training structures where one strategy was trained on several sizes."""
    same = [other for other in report.strategies if other.strategy == entry.strategy]
    return f"{entry.strategy}, {entry.n_train} structures" if len(same) > 1 else entry.strategy
