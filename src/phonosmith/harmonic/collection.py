"""Force constants of many crystals from one folder, as the MDR phonon database keeps them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.errors import InputError, PhonosmithError
from phonosmith.core.reading import bare_name, read_bounded
from phonosmith.harmonic.curvature import CurvatureTarget, curvature_target
from phonosmith.harmonic.files import load_harmonic

if TYPE_CHECKING:
    from phonosmith.harmonic.files import Calculations

ENERGIES = "energies.csv"
"""Energies of unit cells, where they are known: columns ``material`` and ``energy_ev``."""


@dataclass
class Collection:
    """Force constants by material, and why others could not be read."""

    targets: list[CurvatureTarget] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def read_collection(
    folder: Path,
    *,
    elements: Sequence[str],
    calculations: Calculations | None = None,
    on_read: Callable[[int, int], None] | None = None,
) -> Collection:
    """Read the force constants of every material in a folder.

    A material is a subfolder, or a phonopy YAML file of its own, plain or compressed; what it may hold is what
    `phonosmith.harmonic.files.read_phonopy` reads (``phonopy_params.yaml.xz`` of the MDR database; ``phonopy.yaml``
    with ``FORCE_SETS``, ``FORCE_CONSTANTS`` or ``force_constants.hdf5`` beside it). Forces become force constants by
    symfc. A material that cannot be read or has other elements than ``elements`` is left out, and said.

    Parameters
    ----------
    on_read
        Called with the number of materials read and of all.

    Raises
    ------
    InputError
        When the folder is none, or not one material can be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", "Give a folder with a subfolder or phonopy YAML for each material.")
    entries = sorted(one for one in folder.iterdir() if not one.name.startswith(".") and _is_material(one))
    energies, found = read_energies(folder / ENERGIES), Collection()
    if strange := sorted(energies.keys() - {_name(entry) for entry in entries}):
        raise InputError(
            f"{folder / ENERGIES} has an energy of {strange[0]}, of which nothing else is there.", "Correct its name."
        )
    for count, entry in enumerate(entries, start=1):
        name = _name(entry)
        try:
            found.targets.append(_target(entry, name, elements, energies.get(name), calculations))
        except PhonosmithError as error:
            found.left_out[name] = error.message
        if on_read is not None:
            on_read(count, len(entries))
    if not found.targets:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(found.left_out.items())[:3])
        raise InputError(
            f"{folder} holds no force constants that can be learnt{': ' if reasons else ''}{reasons}.",
            "Give a folder with a subfolder or phonopy YAML for each material (unpack archives first).",
        )
    return found


def _is_material(entry: Path) -> bool:
    return entry.is_dir() or bare_name(entry.name).endswith((".yaml", ".yml"))


def _name(entry: Path) -> str:
    return entry.name if entry.is_dir() else Path(bare_name(entry.name)).stem


def _target(
    entry: Path, name: str, elements: Sequence[str], energy: float | None, calculations: Calculations | None
) -> CurvatureTarget:
    phonon = load_harmonic(entry, calculations=calculations).phonon
    if unknown := sorted(set(phonon.supercell.symbols) - set(elements)):
        raise InputError(f"the foundation does not know {', '.join(unknown)}.", "Leave it out.")
    cells = len(phonon.supercell) / len(phonon.unitcell)
    return replace(curvature_target(phonon, source=name), energy=None if energy is None else energy * cells)


def read_energies(path: Path) -> dict[str, float]:
    """Return energies of unit cells, eV, by material; none where there is no file."""
    if not path.is_file():
        return {}
    found: dict[str, float] = {}
    try:
        rows = csv.DictReader(io.StringIO(read_bounded(path).decode("utf-8-sig"), newline=""))
        if not {"material", "energy_ev"} <= set(rows.fieldnames or ()):
            raise InputError(f"{path} lacks the columns material and energy_ev.", "Name them in its first line.")
        for row in rows:
            value = _finite(row["energy_ev"])
            if value is None or row["material"] in found:
                what = "has two energies" if row["material"] in found else "has no number as energy_ev"
                raise InputError(f"{path}, line {rows.line_num}: {row['material']} {what}.", "Correct the line.")
            found[row["material"]] = value
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}.", "Give plain CSV.") from error
    return found


def _finite(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
