"""Which rows a table is about: one foundation, one training set, one cell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

CELLS = ("primitive", "small", "large")
FOUNDATION = "foundation"
_ORDER = (FOUNDATION, "scratch", "transfer", "freeze", "multihead", "delta", "lora", "pft", "delta+pft")


@dataclass(frozen=True)
class Choice:
    """What tables compare.

    Attributes
    ----------
    foundation
        Name of the foundation.
    training_set
        Training structures asked for, or ``all``; empty where nothing was trained.
    cell
        Size of the sampling cell.
    """

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
    """Return what tables are about: what was asked, else what most potentials share (ties: larger sets, larger cells).

    Raises
    ------
    InputError
        When nothing in the store is what was asked, naming what there is.
    """
    chosen = potentials
    found: dict[str, str] = {}
    for name, asked in (("foundation", foundation), ("cell", cell), ("training_set", training_set)):
        tuned = chosen[chosen["strategy"] != FOUNDATION]
        rows = tuned if name == "training_set" or len(tuned) else chosen
        counts = rows[name].value_counts().to_dict()
        if asked is not None and asked not in counts:
            there = ", ".join(sorted(map(str, counts))) or "nothing"
            raise InputError(f"No result has {name.replace('_', ' ')} {asked!r}.", f"The store holds {there}.")
        found[name] = asked if asked is not None else _most(counts, name)
        if name != "training_set":
            chosen = chosen[chosen[name] == found[name]]
    return Choice(**found)


def _most(counts: dict[str, int], name: str) -> str:
    """Return the most frequent value; of training sets the largest, of cells the larger."""
    if not counts:
        return ""
    if name == "cell":
        return max(counts, key=lambda value: (CELLS.index(value) if value in CELLS else -1, counts[value]))
    return max(counts, key=lambda value: (counts[value], _size(value)))


def _size(training_set: str) -> float:
    return float(training_set) if training_set.isdigit() else float("inf") if training_set == "all" else -1.0


def selected(potentials: pd.DataFrame, choice: Choice, *, every_cell: bool = False) -> pd.DataFrame:
    """Return the rows of the foundation and of every strategy with the chosen training set."""
    rows = potentials[potentials["foundation"] == choice.foundation]
    if not every_cell:
        rows = rows[rows["cell"] == choice.cell]
    return rows[(rows["strategy"] == FOUNDATION) | (rows["training_set"] == choice.training_set)]


def in_order(strategies: list[str]) -> list[str]:
    """Return strategies as papers list them: foundation, scratch, transfer, ...; unknown ones last, by name."""
    known = {name: place for place, name in enumerate(_ORDER)}

    def place(name: str) -> tuple[int, str]:
        return known.get(name, known.get(re.sub(r"\d+$", "", name), len(known))), name

    return sorted(dict.fromkeys(strategies), key=place)
