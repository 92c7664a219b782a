"""What reference phonons, labels and trainings took, and what labels instead of phonons save."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jobflow import JobStore
from pymatgen.core import Structure

from phonosmith.analysis.columns import at
from phonosmith.analysis.queries import Results, find_reports, newest
from phonosmith.core.artefacts import write_atomic
from phonosmith.structures.cost import CostModel, calibrate, workload

THRESHOLDS = (1, 10, 20)
"""Numbers of displaced cells from which on savings are given, as published."""
_POINT_PATHS = (
    "uuid", "index", "completed_at", "output.schema_version", "output.material", "output.foundation.potential.sha256",
    "output.cell", "output.seed", "output.structure", "output.sampling.supercell_matrix", "output.reference",
    "output.rehearsal", "output.costs",
)  # fmt: skip


def cost_per_material(results: Results) -> pd.DataFrame:
    """Return what each material took, averaged over the reports (foundations, seeds) that share its calculations.

    Columns: material, cell, n_displaced_cells, label_core_hours, phonon_core_hours (the reference's displaced cells;
    nan where they were not paid for), saving_percent: 100 (1 - labels / phonons) in core-hours.
    """
    costs = results.costs
    keys = ["material", "foundation", "cell", "seed"]
    table = results.materials[[*keys, "n_displaced_cells"]]
    reference = (costs["stage"] == "phonon") & costs["name"].str.endswith(" reference")
    for name, chosen in (("label", costs["stage"] == "label"), ("phonon", reference)):
        sums = costs[chosen].groupby(keys)["core_hours"].sum().rename(f"{name}_core_hours")
        table = table.merge(sums.reset_index(), on=keys, how="left")
    columns = ["n_displaced_cells", "label_core_hours", "phonon_core_hours"]
    table = table.groupby(["material", "cell"], sort=False)[columns].mean().astype("float64").reset_index()
    table["saving_percent"] = 100 * (1 - table["label_core_hours"] / table["phonon_core_hours"])
    return table


def savings(per_material: pd.DataFrame, thresholds: Sequence[int] = THRESHOLDS) -> pd.DataFrame:
    """Return what labels instead of phonons save for materials with at least so many displaced cells.

    Columns: at_least, n, mean_phonon_core_hours, mean_label_core_hours, saving_percent (of the means: what a campaign
    over these materials saves) and median_saving_percent (of the materials).
    """
    known = per_material.dropna(subset=["label_core_hours", "phonon_core_hours", "n_displaced_cells"])
    rows = []
    for count in thresholds:
        group = known[known["n_displaced_cells"] >= count]
        phonons, labels = (float(group[name].mean()) for name in ("phonon_core_hours", "label_core_hours"))
        saving = 100 * (1 - labels / phonons) if phonons else float("nan")
        rows.append((count, len(group), phonons, labels, saving, float(group["saving_percent"].median())))
    columns = ["at_least", "n", "mean_phonon_core_hours", "mean_label_core_hours", "saving_percent"]
    return pd.DataFrame(rows, columns=[*columns, "median_saving_percent"])


def training_minutes(potentials: pd.DataFrame) -> pd.DataFrame:
    """Return mean and median training time (minutes) by strategy over all materials, seeds and sizes given."""
    tuned = potentials.dropna(subset=["training_seconds"])
    minutes = tuned.assign(minutes=tuned["training_seconds"] / 60).groupby("strategy", sort=False)["minutes"]
    return minutes.agg(n="count", mean_minutes="mean", median_minutes="median").reset_index()


@dataclass(frozen=True)
class CalibrationPoint:
    """A finished reference calculation that `plan` can learn from: undistorted supercell, mean of its core-hours."""

    material: str
    structure: Structure
    core_hours: float


def calibration_points(store: JobStore, campaign: str | None = None) -> tuple[list[CalibrationPoint], list[str]]:
    """Return the label calculations of VASP reports (no rehearsals), and why others could not be used."""
    notes: list[str] = []
    points = []
    for document in newest(find_reports(store, campaign, _POINT_PATHS, notes)):
        report = document["output"]
        if report.get("rehearsal") or not str(report.get("reference", "")).startswith("vasp"):
            continue
        name = str(report["material"])
        labels = [item for item in report.get("costs") or [] if item["stage"] == "label" and item["n_calculations"]]
        structure = _supercell(report, labels[0].get("n_atoms") if labels else None)
        if structure is None:
            notes.append(f"{name}: its labels do not say which cell they were calculated for")
            continue
        hours = labels[0]["wall_seconds"] * labels[0]["cores"] / 3600 / labels[0]["n_calculations"]
        points.append(CalibrationPoint(name, structure, hours))
    return points, notes


def _supercell(report: Mapping[str, Any], n_atoms: int | None) -> Structure | None:
    """Return the cell of the labels, None unless it has the number of atoms they had."""
    matrix, crystal = at(report, "sampling.supercell_matrix"), report.get("structure")
    if matrix is None or crystal is None or n_atoms is None:
        return None
    structure = crystal if isinstance(crystal, Structure) else Structure.from_dict(dict(crystal))
    for cell in (structure, structure.get_primitive_structure()):
        if round(abs(np.linalg.det(np.asarray(matrix, dtype=float)))) * len(cell) == n_atoms:
            return cell.make_supercell(matrix, in_place=False)
    return None


def calibrated_model(points: Sequence[CalibrationPoint], *, kspacing: float, encut: float) -> CostModel:
    """Return the cost model of `plan` fitted to finished calculations: its prefactor is the calibration factor.

    They had one k-point spacing (Å⁻¹) and plane-wave cutoff (eV).
    """
    from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS

    works = [workload(point.structure, kspacing=kspacing, encut=encut, potcars=PBE_54_SYMBOLS).work for point in points]
    return calibrate(works, [point.core_hours for point in points])


def write_calibration(points: Sequence[CalibrationPoint], folder: Path, *, kspacing: float) -> Path:
    """Write the file ``phonosmith plan --calibration`` reads, with a structure file for each point, and return it."""
    entries = []
    for number, point in enumerate(points):
        name = f"cell-{number:03d}.vasp"
        write_atomic(folder / name, point.structure.to(fmt="poscar").encode())
        entry = {"material": point.material, "structure": name, "core_hours": point.core_hours}
        entries.append(entry | {"kspacing": kspacing})
    path = folder / "calibration.json"
    write_atomic(path, json.dumps(entries, indent=1, ensure_ascii=False).encode())
    return path
