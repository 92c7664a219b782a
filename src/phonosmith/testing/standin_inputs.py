"""What the stand-in reads: INCAR, POSCAR, KPOINTS, POTCAR and its own settings."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

STANDIN_FILE = Path("standin.json")
_VARIABLE = "PHONOSMITH_STANDIN_"
_INTEGERS = {
    "NSW", "IBRION", "ISIF", "ISMEAR", "NELM", "NELMIN", "ISPIN", "ISTART", "ICHARG", "LORBIT", "LMAXMIX", "NPAR",
    "NCORE", "KPAR", "ISYM", "NBANDS", "NELMDL", "NEDOS", "ISEARCH", "IMIX", "NSIM",
}  # fmt: skip
_FLOATS = {
    "ENCUT", "EDIFF", "EDIFFG", "SIGMA", "KSPACING", "ENAUG", "AMIX", "BMIX", "AMIN", "NELECT", "POTIM", "SYMPREC",
    "TIME", "AMIX_MAG", "BMIX_MAG",
}  # fmt: skip


@dataclass(frozen=True)
class PotcarHeader:
    """The fields of one data set that matter to the stand-in."""

    title: str
    element: str
    valence: float
    mass: float
    enmax: float


@dataclass
class Task:
    """One calculation: everything read from the folder."""

    incar: dict[str, Any]
    atoms: Any
    comment: str
    potcars: list[PotcarHeader]
    groups: list[tuple[str, int]]
    mesh_style: str
    mesh: tuple[int, int, int]
    kpoints: Any
    weights: Any
    settings: dict[str, Any]
    fault: str = ""
    n_electrons: float = 0.0

    def tag(self, name: str, default: Any) -> Any:
        """Return an INCAR tag or VASP's default."""
        return self.incar.get(name, default)


def read_settings() -> dict[str, Any]:
    """Return the stand-in's settings: file in the folder first, then environment, then defaults."""
    settings: dict[str, Any] = {
        "calculator": "morse",
        "calculator_kwargs": {},
        "fault": "",
        "gap": 1.0,
        "scf_steps": 8,
        "step_seconds": 0.0,
        "label": "",
    }
    for name, default in list(settings.items()):
        value = os.environ.get(_VARIABLE + name.upper())
        if value is not None:
            settings[name] = value if isinstance(default, str) else _parsed(value, _VARIABLE + name.upper())
    if STANDIN_FILE.is_file():
        found = _parsed(STANDIN_FILE.read_text(encoding="utf-8"), str(STANDIN_FILE))
        if not isinstance(found, dict) or (unknown := sorted(set(found) - set(settings))):
            told = f"has no settings {', '.join(unknown)}" if isinstance(found, dict) else "must hold one JSON object"
            stop(f"{STANDIN_FILE} {told}; known: {', '.join(settings)}.")
        settings |= found
    for name in ("gap", "scf_steps", "step_seconds"):
        if isinstance(settings[name], bool) or not isinstance(settings[name], int | float):
            stop(f"The stand-in's setting {name} is {settings[name]!r}, not a number.")
    return settings


def stop(message: str) -> NoReturn:
    """End with the exit code of bad input, saying why where VASP would."""
    print(f" {message}")
    sys.exit(2)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        stop(f"{where} is not valid JSON: {error}.")


def read_incar(path: Path) -> dict[str, Any]:
    """Read INCAR tags with their types."""
    tags = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        for part in re.split(r"[#!]", line)[0].split(";"):
            name, equals, value = part.partition("=")
            if equals:
                tags[name.strip().upper()] = _typed(name.strip().upper(), value.strip())
    return tags


def _typed(name: str, value: str) -> Any:
    if name in _INTEGERS:
        return int(float(value))
    if name in _FLOATS:
        return float(value)
    if name == "MAGMOM":
        numbers: list[float] = []
        for token in value.split():
            count, star, moment = token.partition("*")
            numbers += [float(moment)] * int(count) if star else [float(token)]
        return numbers
    if re.fullmatch(r"\.?(T|F|TRUE|FALSE)\.?", value, re.IGNORECASE):
        return value.strip(".").upper().startswith("T")
    return value


def read_potcar(path: Path) -> list[PotcarHeader]:
    """Read the header of each data set."""
    headers = []
    for block in path.read_text(encoding="utf-8", errors="replace").split("End of Dataset"):
        if not block.strip():
            continue
        numbers = [
            float(match.group(1)) if (match := re.search(rf"{key}\s*=\s*([\d.]+)", block)) else 0.0
            for key in ("ZVAL", "POMASS", "ENMAX")
        ]
        element = re.search(r"VRHFIN\s*=\s*(\w+)", block)
        title = block.strip("\n").split("\n")[0].strip()
        headers.append(PotcarHeader(title, element.group(1) if element else "?", *numbers))
    return headers


def k_mesh(incar: dict[str, Any], cell: Any) -> tuple[str, tuple[int, int, int]]:
    """Return style and subdivisions as VASP does: KPOINTS first, else KSPACING with 2π in |b|."""
    if Path("KPOINTS").is_file():
        lines = [line.strip() for line in Path("KPOINTS").read_text(encoding="utf-8").splitlines()]
        first, second, third = (int(token) for token in lines[3].split()[:3])
        return "Gamma" if lines[2][:1].upper() == "G" else "Monkhorst-Pack", (first, second, third)
    spacing = float(incar.get("KSPACING", 0.5))
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell).T, axis=1)
    first, second, third = (max(1, math.ceil(length / spacing - 1e-6)) for length in lengths)
    return "Gamma", (first, second, third)


def irreducible_kpoints(mesh: tuple[int, int, int], atoms: Any) -> tuple[Any, Any]:
    """Return fractional k-points and weights; the whole mesh where symmetry cannot be found."""
    import spglib

    try:
        mapping, grid = spglib.get_ir_reciprocal_mesh(
            mesh, (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        )
    except (TypeError, spglib.SpglibError):
        grid = np.array(list(np.ndindex(*mesh)))
        mapping = np.arange(len(grid))
    kept, counts = np.unique(mapping, return_counts=True)
    return grid[kept] / np.array(mesh, dtype=float), counts / counts.sum()


def read_task() -> Task:
    """Read the current folder; end as VASP does when POTCAR and POSCAR disagree."""
    from ase.io import read

    settings = read_settings()
    try:
        incar = read_incar(Path("INCAR"))
    except ValueError as error:
        stop(f"INCAR cannot be read: {error}.")
    try:
        atoms = read("POSCAR", format="vasp")
    except (ValueError, IndexError, KeyError, RuntimeError) as error:
        stop(f"POSCAR cannot be read: {error}.")
    potcars = read_potcar(Path("POTCAR"))
    groups = [(symbol, len(list(run))) for symbol, run in itertools.groupby(atoms.get_chemical_symbols())]
    elements = [header.element for header in potcars]
    if [symbol for symbol, _ in groups] != elements:
        stop(f"ERROR: POSCAR lists {groups}, POTCAR lists {elements}")
    style, mesh = k_mesh(incar, atoms.cell.array)
    kpoints, weights = irreducible_kpoints(mesh, atoms)
    return Task(
        incar=incar,
        atoms=atoms,
        comment=Path("POSCAR").read_text(encoding="utf-8").split("\n", 1)[0].strip(),
        potcars=potcars,
        groups=groups,
        mesh_style=style,
        mesh=mesh,
        kpoints=kpoints,
        weights=weights,
        settings=settings,
        n_electrons=sum(header.valence * count for header, (_, count) in zip(potcars, groups, strict=True)),
    )
