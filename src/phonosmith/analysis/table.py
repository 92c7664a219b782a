"""Tables for people and for programs: cells with what they are sorted by, written as Markdown, LaTeX, CSV or HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from phonosmith.analysis.columns import at
from phonosmith.core.artefacts import write_atomic

Tone = Literal["good", "bad", "warn", "plain"]
DASH = "–"
"""Stands for a number that does not exist."""
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|"})
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "Å": r"\AA{}", DASH: "--",
    "−": "$-$", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$", "×": r"$\times$", "³": "$^3$", "²": "$^2$",
    "Δ": r"$\Delta$", "ω": r"$\omega$", "ρ": r"$\rho$", "κ": r"$\kappa$", "Γ": r"$\Gamma$",
})  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of a table: text (always escaped), what it is sorted by (None: the text), link, badge or plain."""

    text: str
    key: float | str | None = None
    href: str = ""
    tone: Tone = "plain"

    def __str__(self) -> str:
        return self.text

    @property
    def is_number(self) -> bool:
        """Tell whether this is a number, or the dash in place of one."""
        return isinstance(self.key, int | float) or self.text == DASH


Columns = Sequence[tuple[str, str, Callable[[Any], Cell | str]]]
"""Name of a column, dotted path within an item (the item itself where empty), and how what is there is written."""


@dataclass(frozen=True)
class Table:
    """Rows under columns whose names include units; the first cell of each row is its header."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]

    @classmethod
    def of(cls, caption: str, items: Iterable[object], columns: Columns) -> Table:
        """Return a row for each item."""
        rows = [[write(at(item, path) if path else item) for _, path, write in columns] for item in items]
        return cls(caption, [name for name, _, _ in columns], rows)

    @property
    def numeric(self) -> frozenset[int]:
        """Columns of numbers: every cell sorts as one or says that there is none."""
        places = range(1, len(self.columns))
        return frozenset(i for i in places if self.rows and all(row[i].is_number for row in self.cells))

    @property
    def cells(self) -> list[list[Cell]]:
        """Every cell with all it has."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    @property
    def texts(self) -> list[list[str]]:
        """What is shown of every cell."""
        return [[str(cell) for cell in row] for row in self.rows]

    def drawn(self, layout: Literal["pipe", "latex_raw"], escape: Callable[[str], str]) -> str:
        """Return the table as Markdown or LaTeX: names to the left, numbers to the right."""
        # a table of no rows would have no columns either
        rows = [[escape(text) for text in row] for row in self.texts or [[""] * len(self.columns)]]
        frame = pd.DataFrame(rows, columns=[escape(name) for name in self.columns])
        sides = ["left", *["right"] * (len(self.columns) - 1)]
        return str(frame.to_markdown(index=False, tablefmt=layout, disable_numparse=True, colalign=sides))


@dataclass
class CampaignTable:
    """A table of results with everything a reader needs to understand it.

    Attributes
    ----------
    key, title
        File name without suffix; one line, units included.
    blocks
        The store's own rows first (without a caption), published ones of another data set after.
    data
        The same as numbers, one value per row; the column ``source`` keeps other data sets apart.
    notes
        How the numbers are defined and what to mind.
    """

    key: str
    title: str
    blocks: list[Table]
    data: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def csv(self) -> str:
        """Return the numbers as CSV."""
        return str(self.data.to_csv(index=False, lineterminator="\n"))

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"## {_markdown(self.title)}", ""]
        for block in self.blocks:
            if block.caption:
                lines += [f"Published, {_markdown(block.caption)}:", ""]
            lines += [block.drawn("pipe", _markdown), ""]
        lines += [f"- {_markdown(note)}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def latex(self) -> str:
        """Return the table as LaTeX that needs no package."""
        caption = " ".join([f"{self.title}.", *(f"{note}." for note in self.notes)]).replace("..", ".")
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{escape_latex(caption)}}}"]
        lines.append(f"\\label{{tab:{self.key.replace('_', '-')}}}")
        for block in self.blocks:
            if block.caption:
                lines.append(f"\\par\\smallskip Published, {escape_latex(block.caption)}:\\par")
            lines.append(block.drawn("latex_raw", escape_latex))
        return "\n".join([*lines, "\\end{table}"]) + "\n"


def _markdown(text: str) -> str:
    """Return text in which nothing is taken for Markdown or HTML."""
    return " ".join(text.translate(_MARKDOWN).split())


def escape_latex(text: str) -> str:
    """Return text in which LaTeX finds no commands; Greek letters and signs become mathematics."""
    return " ".join(text.split()).translate(_LATEX)


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> Cell:
    """Return a number with fixed decimals that sorts by its value; what is not known is a dash and sorts last."""
    if value is None or not math.isfinite(value):
        return Cell(DASH, math.inf)
    # adding zero takes the sign off what rounds to minus zero
    return Cell(f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}", float(value))


def fixed(digits: int = 3, *, signed: bool = False) -> Callable[[float | None], Cell]:
    """Return what writes numbers with so many decimals, see `number`."""
    return partial(number, digits=digits, signed=signed)


def significant(value: float | None, digits: int = 3) -> Cell:
    """Return a number with so many significant digits and no exponent."""
    if value is None or not math.isfinite(value) or value == 0:
        return number(value, 0)
    return number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def whole(value: int | None) -> Cell:
    """Return an integer with thin spaces between thousands."""
    return Cell(DASH, math.inf) if value is None else Cell(f"{value:,}".replace(",", "\u2009"), value)


def duration(seconds: float | None) -> Cell:
    """Return a time in the unit a reader would choose."""
    if seconds is None or not math.isfinite(seconds):
        return Cell(DASH, math.inf)
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < limit:
            return Cell(f"{seconds / size:.3g} {unit}", seconds)
    return Cell(f"{seconds / 86_400:.3g} d", seconds)


def tidy(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame; whole numbers stay whole where some are missing."""
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        known = [row[name] for row in rows if row.get(name) is not None]
        if known and all(isinstance(value, int) and not isinstance(value, bool) for value in known):
            frame[name] = frame[name].astype("Int64")
    return frame


def write_tables(tables: list[CampaignTable], folder: Path) -> list[Path]:
    """Write every table as .csv, .md and .tex, and all together as tables.md; return the files."""
    texts = {}
    for table in tables:
        texts[f"{table.key}.csv"] = table.csv()
        texts[f"{table.key}.md"] = table.markdown()
        texts[f"{table.key}.tex"] = table.latex()
    texts["tables.md"] = "\n".join(table.markdown() for table in tables)
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in texts]
