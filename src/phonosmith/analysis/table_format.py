"""A table for people and for programs: one object, written as CSV, Markdown or LaTeX."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.artefacts import write_atomic

if TYPE_CHECKING:
    import pandas as pd

    from phonosmith.analysis.statistics import Spread

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Å": r"\AA{}",
    "Δ": r"$\Delta$",
    "ω": r"$\omega$",
    "ρ": r"$\rho$",
    "κ": r"$\kappa$",
    "³": r"$^3$",
    "²": r"$^2$",
    "Γ": r"$\Gamma$",
    "–": "--",
}
DASH = "–"
"""Stands for a number that does not exist."""


@dataclass
class Block:
    """Rows under one heading: ours, or published ones of another data set.

    Attributes
    ----------
    header
        Column names, units included.
    rows
        Cells as text.
    label
        What the rows are; empty for the store's own.
    """

    header: list[str]
    rows: list[list[str]]
    label: str = ""


@dataclass
class Table:
    """A table with everything a reader needs to understand it.

    Attributes
    ----------
    key
        File name without suffix.
    title
        One line, units included.
    blocks
        The store's own rows first, published ones after.
    data
        The same as numbers, one value per row; the column ``source`` keeps other data sets apart.
    notes
        How the numbers are defined and what to mind.
    """

    key: str
    title: str
    blocks: list[Block]
    data: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def csv(self) -> str:
        """Return the numbers as CSV."""
        return str(self.data.to_csv(index=False, lineterminator="\n"))

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"## {_markdown(self.title)}", ""]
        for block in self.blocks:
            if block.label:
                lines += [f"Published, {_markdown(block.label)}:", ""]
            lines.append("| " + " | ".join(map(_markdown, block.header)) + " |")
            lines.append("|" + "|".join(["---", *["---:"] * (len(block.header) - 1)]) + "|")
            lines += ["| " + " | ".join(map(_markdown, row)) + " |" for row in block.rows]
            lines.append("")
        lines += [f"- {_markdown(note)}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def latex(self) -> str:
        """Return the table as LaTeX that needs no package."""
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{escape_latex(self._caption())}}}"]
        lines.append(f"\\label{{tab:{self.key.replace('_', '-')}}}")
        for block in self.blocks:
            if block.label:
                lines.append(f"\\par\\smallskip Published, {escape_latex(block.label)}:\\par")
            lines.append(f"\\begin{{tabular}}{{l{'r' * (len(block.header) - 1)}}}")
            lines += ["\\hline", _latex_row(block.header), "\\hline"]
            lines += [_latex_row(row) for row in block.rows]
            lines += ["\\hline", "\\end{tabular}"]
        lines.append("\\end{table}")
        return "\n".join(lines) + "\n"

    def _caption(self) -> str:
        return " ".join([f"{self.title}.", *(f"{note}." for note in self.notes)]).replace("..", ".")


def _markdown(text: str) -> str:
    """Return text in which nothing is taken for Markdown or HTML."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def escape_latex(text: str) -> str:
    """Return text in which LaTeX finds no commands; Greek letters and signs become mathematics."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_row(cells: list[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed decimals, a dash for none."""
    if value is None or value != value:  # noqa: PLR0124 - not a number
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits and no exponent, a dash for none."""
    if value is None or value != value or value == 0:  # noqa: PLR0124 - not a number
        return number(value, 0)
    return number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def median_and_iqr(found: Spread, digits: int = 2) -> str:
    """Return ``median (IQR)``; a single value has no range, no value is a dash."""
    if found.n < 2:
        return number(found.median, digits)
    return f"{number(found.median, digits)} ({number(found.iqr, digits)})"


def tidy(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame; whole numbers stay whole where some are missing."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    for name in frame.columns:
        known = [row[name] for row in rows if row.get(name) is not None]
        if known and all(isinstance(value, int) and not isinstance(value, bool) for value in known):
            frame[name] = frame[name].astype("Int64")
    return frame


def write_tables(tables: list[Table], folder: Path) -> list[Path]:
    """Write every table as .csv, .md and .tex, and all together as tables.md; return the files."""
    written = []
    for table in tables:
        for suffix, text in ((".csv", table.csv()), (".md", table.markdown()), (".tex", table.latex())):
            path = folder / f"{table.key}{suffix}"
            write_atomic(path, text.encode())
            written.append(path)
    path = folder / "tables.md"
    write_atomic(path, "\n".join(table.markdown() for table in tables).encode())
    return [*written, path]
