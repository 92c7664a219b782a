"""The composition of a phonopy file, seen without parsing all of it."""

from __future__ import annotations

import re
from pathlib import Path

from ase.formula import Formula

from phonosmith.core.errors import InputError
from phonosmith.core.reading import read_bounded
from phonosmith.reference.datasets.geometry import reduced_formula

_UNIT_CELL = re.compile(r"^unit_cell:\n(.*?)(?=^\S)", re.MULTILINE | re.DOTALL)
_SYMBOL = re.compile(r"symbol:\s*([A-Z][a-z]?)")


def quick_formula(path: Path) -> str | None:
    """Return the composition of a phonopy YAML without parsing all of it; None when it cannot be seen."""
    try:
        text = read_bounded(path).decode("utf-8", errors="replace")
    except InputError:
        return None
    block = _UNIT_CELL.search(text)
    symbols = _SYMBOL.findall(block.group(1)) if block else []
    return reduced_formula(Formula.from_list(symbols)) if symbols else None
