"""Does a file hold the material its name claims? Compositions against expectations, siblings and twins."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ase import Atoms
from ase.formula import Formula

from phonosmith.core.errors import InputError
from phonosmith.core.reading import COMPRESSED, bare_name, read_bounded

_KNOWN_STEMS = (
    ".phonopy.yaml",
    ".phonopy_params.yaml",
    ".phonopy_disp.yaml",
    ".vasprun.xml",
    ".OUTCAR",
    ".extxyz",
    ".xyz",
)
_UNIT_CELL = re.compile(r"^unit_cell:\n(.*?)(?=^\S)", re.MULTILINE | re.DOTALL)
_SYMBOL = re.compile(r"symbol:\s*([A-Z][a-z]?)")


def reduced_formula(symbols: Sequence[str] | str | Atoms) -> str:
    """Return a composition's reduced formula with elements in Hill order, equal for equal compositions.

    Parameters
    ----------
    symbols
        Chemical symbols, a formula such as ``PbSe``, or a configuration.
    """
    if isinstance(symbols, Atoms):
        formula = symbols.symbols.formula
    elif isinstance(symbols, str):
        formula = Formula(symbols)
    else:
        formula = Formula.from_list(list(symbols))
    return str(formula.reduce()[0].format("hill"))


def identity_of(name: str) -> str:
    """Return the material a path names: the file's prefix, or its folder where the file has a program's plain name."""
    pure = PurePosixPath(bare_name(name))
    for ending in _KNOWN_STEMS:
        if pure.name.endswith(ending) and len(pure.name) > len(ending):
            return pure.name.removesuffix(ending)
    return pure.parent.name or pure.name


def read_expectations(items: Sequence[str]) -> dict[str, str]:
    """Return expected reduced formulas by material.

    Parameters
    ----------
    items
        Each ``name=Formula``, a CSV file with a column of names (id, material, mp_id, name) and one named formula, or a
        JSON file with a mapping or a list of such records.
    """
    found: dict[str, str] = {}
    for item in items:
        if "=" in item and not Path(item).exists():
            name, _, formula = item.partition("=")
            found[name.strip()] = _checked(formula.strip(), item)
            continue
        path = Path(item)
        text = read_bounded(path).decode("utf-8", errors="replace")
        try:
            records = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
        except ValueError as error:
            raise InputError(f"{path} is neither JSON nor CSV: {error}.", "Give name=Formula.") from error
        if isinstance(records, Mapping):
            records = [{"id": key, "formula": value} for key, value in records.items()]
        for record in records:
            key = next((record[k] for k in ("id", "material", "mp_id", "name", "material_id") if record.get(k)), None)
            if not key or not record.get("formula"):
                raise InputError(f"{path} has no columns 'id' and 'formula'.", "Give name=Formula.")
            found[str(key)] = _checked(str(record["formula"]), str(path))
    return found


def _checked(formula: str, where: str) -> str:
    try:
        return reduced_formula(formula)
    except (ValueError, KeyError, SyntaxError) as error:
        raise InputError(f"{formula!r} in {where} is not a chemical formula.", "Write e.g. mp-2201=PbSe.") from error


def expectation_problem(name: str, found: str, expected: Mapping[str, str]) -> str | None:
    """Say that a file holds another composition than expected, or None."""
    candidates = [identity_of(name), *PurePosixPath(name).parts]
    for key in candidates:
        if key in expected and expected[key] != found:
            return f"its composition {found} is not the expected {expected[key]} of {key}"
    return None


def sibling_problem(path: Path, found: str) -> str | None:
    """Compare a phonopy file with files of the same name in neighbouring folders (reference beside candidate).

    Two data sets of one material, side by side, have one composition; where they do not, one carries a wrong name.
    """
    stem = bare_name(path.name)
    if stem in {name.lstrip(".") for name in _KNOWN_STEMS} or not path.parent.parent.is_dir():
        return None
    for folder in sorted(path.parent.parent.iterdir()):
        if not folder.is_dir() or folder.resolve() == path.parent.resolve():
            continue
        for ending in ("", *COMPRESSED):
            sibling = folder / f"{stem}{ending}"
            if sibling.is_file():
                other = quick_formula(sibling)
                if other is not None and other != found:
                    return f"its composition {found} disagrees with {folder.name}/{sibling.name}, which holds {other}"
    return None


def quick_formula(path: Path) -> str | None:
    """Return the composition of a phonopy YAML without parsing all of it; None when it cannot be seen."""
    try:
        text = read_bounded(path).decode("utf-8", errors="replace")
    except InputError:
        return None
    block = _UNIT_CELL.search(text)
    symbols = _SYMBOL.findall(block.group(1)) if block else []
    return reduced_formula(symbols) if symbols else None
