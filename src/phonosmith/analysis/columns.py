"""Columns of the frames that queries return: name with unit, meaning, and where the number is in a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel

Kind = Literal["text", "integer", "number", "boolean"]
_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "text": ("str", str), "integer": ("Int64", int), "number": ("float64", (int, float)), "boolean": ("boolean", bool),
}  # fmt: skip
"""Type of a frame's column, and of the values a report may have there."""


@dataclass(frozen=True)
class Column:
    """One column of a frame: name (ending with the unit where there is one), unit, meaning."""

    name: str
    unit: str
    description: str
    kind: Kind = "number"


@dataclass(frozen=True)
class Metric(Column):
    """A number or judgement of one potential, found at a dotted path within its part of a report.

    ``relative_to``: path of the reference's value within the whole report (``report:``) or within the same part; the
    metric is then 100 (value - reference) / |reference|.
    """

    path: str = ""
    relative_to: str = ""

    def value(self, potential: Mapping[str, Any] | BaseModel, report: Mapping[str, Any] | BaseModel) -> Any:
        """Return the metric, None where a part is missing or the reference is zero."""
        ours = at(potential, self.path)
        if not self.relative_to:
            return ours
        whole, _, path = self.relative_to.rpartition(":")
        truth = at(report if whole else potential, path)
        return None if ours is None or not truth else 100 * (ours - truth) / abs(truth)


def at(document: Any, path: str) -> Any:
    """Return what a dotted path leads to through nested dictionaries or documents; None where it ends early."""
    for part in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(part)
        elif document is not None:
            document = getattr(document, part)
    return document


IDENTITY: tuple[Column, ...] = (
    Column("material", "", "name of the material", "text"),
    Column("formula", "", "reduced formula", "text"),
    Column("campaign", "", "campaign it belongs to", "text"),
    Column("mode", "", "comparison (reference phonons exist) or production", "text"),
    Column("foundation", "", "name of the foundation", "text"),
    Column("strategy", "", "training strategy, or 'foundation' for the potential as it came", "text"),
    Column("training_set", "", "training structures asked for, 'all' where no number was asked, '' untrained", "text"),
    Column("n_train", "", "training structures used", "integer"),
    Column("cell", "", "size of the sampling cell: primitive, small or large", "text"),
    Column("seed", "", "seed of every random draw", "integer"),
    Column("reference", "", "who played or was DFT", "text"),
    Column("rehearsal", "", "reference data made by the VASP stand-in", "boolean"),
    Column("potential_sha256", "", "identity of the potential", "text"),
)
"""What tells apart the rows of the frame of potentials."""


def _same(name: str, unit: str, path: str, description: str, kind: Kind = "number") -> Metric:
    return Metric(name, unit, description, kind, path)


def _answer(name: str, path: str, description: str) -> Metric:
    return Metric(name, "", description, "boolean", path)


def _percent(name: str, path: str, what: str, relative_to: str = "") -> Metric:
    """Return the error of a value; the reference's is found at the same path of its own result unless said."""
    relative_to = relative_to or f"report:reference_result.{path}"
    return Metric(f"{name}_error_percent", "percent", f"error of {what}", "number", path, relative_to)


METRICS: tuple[Metric, ...] = (
    _same("phonon_mae_thz", "THz", "phonons.mae_thz", "phonon MAE over mesh and branches"),
    _same("phonon_mae_low_thz", "THz", "expected_mae_thz.low", "lower end of what its committee leaves open"),
    _same("phonon_mae_high_thz", "THz", "expected_mae_thz.high", "upper end of it, which a verdict of fit needs"),
    _same("phonon_rmse_thz", "THz", "phonons.rmse_thz", "root mean square phonon error"),
    _same("phonon_scaled_rmse_thz", "THz", "phonons.scaled_rmse_thz", "RMSE after scaling to the highest frequency"),
    _same("omega_max_error_percent", "percent", "phonons.omega_max_error_percent", "error of the highest frequency"),
    _same("omega_mean_error_percent", "percent", "phonons.omega_mean_error_percent", "error of the mean frequency"),
    _percent(
        "omega_mean_scaled",
        "phonons.omega_mean_scaled_thz",
        "the mean frequency after scaling to the reference's highest (what the published table lists)",
        "phonons.reference.omega_mean_thz",
    ),
    _same("omega_min_error_thz", "THz", "phonons.omega_min_error_thz", "error of the lowest frequency"),
    _same("dos_error_percent", "percent", "phonons.dos_error_percent", "integrated difference of the DOS"),
    *(
        _percent(name, f"phonons.candidate.{name}", what, f"phonons.reference.{name}")
        for name, what in (
            ("heat_capacity", "C_v at the comparison's temperature"),
            ("entropy", "S at the comparison's temperature"),
            ("free_energy", "F at the comparison's temperature"),
            ("volume", "the volume of the relaxed cell"),
        )
    ),
    _answer("stable", "phonons.candidate.stable", "no commensurate mode below the strict threshold"),
    _answer("reference_stable", "phonons.reference.stable", "the same of the reference"),
    _answer("stable_practical", "phonons.candidate.stable_practical", "none below the practical one"),
    _answer("reference_stable_practical", "phonons.reference.stable_practical", "same of the reference"),
    _answer("same_space_group", "phonons.same_space_group", "relaxes to the reference's space group"),
    _percent("bulk_modulus", "eos.fit.bulk_modulus", "B0 of the E(V) curve"),
    _percent("bulk_modulus_vrh", "elastic.fit.moduli.bulk_vrh", "the Voigt-Reuss-Hill bulk modulus"),
    _percent("shear_modulus", "elastic.fit.moduli.shear_vrh", "the Voigt-Reuss-Hill shear modulus"),
    _percent("slack", "elastic.slack.kappa", "Slack's conductivity"),
    _percent("thermal_expansion", "qha.room.thermal_expansion_per_k", "thermal expansion at 300 K (quasi-harmonic)"),
    _percent("gruneisen", "qha.gruneisen.mean", "the mean Grüneisen parameter of the modes"),
    _percent("kappa", "kappa.result.kappa", "lattice thermal conductivity (relaxation-time approximation)"),
    _same("kappa_srme", "", "kappa.srme", "error of the conductivity mode by mode (SRME, 0 to 2)"),
    _same("valid_force_mae_mev_per_angstrom", "meV/Å", "valid_force_mae", "validation force MAE"),
    _same("valid_energy_mae_mev_per_atom", "meV/atom", "valid_energy_mae", "validation energy MAE"),
    _same("valid_stress_mae_mev_per_angstrom3", "meV/Å³", "valid_stress_mae", "validation stress MAE"),
    _same("train_force_mae_mev_per_angstrom", "meV/Å", "train_force_mae", "training force MAE"),
    _same("phonon_change_thz", "THz", "phonon_change_thz", "phonon MAE against the next smaller training set"),
    _same("check_force_error_percent", "percent", "check.relative_percent", "force error in displaced cells"),
    _same("training_seconds", "s", "training_seconds", "wall time of the training"),
    _same("phonon_seconds", "s", "summary.seconds", "wall time of the phonons"),
    _same("n_parameters", "", "n_parameters", "parameters of the model", "integer"),
    _same("n_changed", "", "n_changed", "parameters that differ from the foundation's", "integer"),
    _answer("improved", "improved", "validation loss below the foundation's"),
    _answer("fit", "verdict.fit", "verdict, by the limits that hold now: fit for phonons of this material"),
)
"""What is known about a potential."""

SHARED = ("material", "formula", "campaign", "mode", "foundation", "cell", "seed", "reference", "rehearsal")
"""What all rows of a report have in common."""
MATERIAL: tuple[Column, ...] = (
    *(column for column in IDENTITY if column.name in SHARED),
    Column("space_group", "", "international symbol", "text"),
    Column("space_group_number", "", "international number", "integer"),
    Column("n_atoms", "", "atoms in the cell of the report", "integer"),
    Column("n_potentials", "", "fine-tuned potentials with a result", "integer"),
    Column("n_failed", "", "strategies without a result", "integer"),
    Column("best", "", "strategy with the smallest phonon MAE", "text"),
    Column("gain", "", "phonon MAE of the foundation over that of the best strategy"),
    Column("n_labels_excluded", "", "labels the audit left out", "integer"),
    Column("n_labels_failed", "", "frames without a label", "integer"),
    Column("n_displaced_cells", "", "displaced cells of the phonons", "integer"),
    Column("uuid", "", "job whose output the report is", "text"),
    Column("completed_at", "", "when that job ended, ISO 8601", "text"),
)
"""One row per report."""

_KEYS = tuple(column for column in IDENTITY if column.name in ("material", "campaign", "foundation", "cell", "seed"))
COST: tuple[Column, ...] = (
    *_KEYS,
    Column("stage", "", "sample, label, train, phonon, ...", "text"),
    Column("name", "", "job", "text"),
    Column("wall_seconds", "s", "wall time of all its calculations"),
    Column("cores", "", "processor cores", "integer"),
    Column("gpus", "", "GPUs", "integer"),
    Column("core_hours", "core-hours", "wall time times cores"),
    Column("gpu_hours", "GPU-hours", "wall time times GPUs"),
    Column("n_atoms", "", "atoms of one calculation", "integer"),
    Column("n_calculations", "", "calculations in it", "integer"),
)
"""One row per job, or group of equal jobs, of a report."""

FAILURE: tuple[Column, ...] = (
    *_KEYS,
    Column("what", "", "strategy (and training structures asked) without a result", "text"),
)
"""One row per strategy without a result."""


def frame(columns: Iterable[Column], rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame with fixed columns and types, units in ``attrs['units']``; also for no rows."""
    columns = list(columns)
    # one pass over the rows, in C: a campaign of ten thousand materials has five million numbers
    values = pd.DataFrame(rows, columns=[column.name for column in columns], dtype=object)
    table = pd.DataFrame({column.name: _typed(column, values[column.name]) for column in columns})
    table.attrs["units"] = {column.name: column.unit for column in columns}
    return table


def _typed(column: Column, values: pd.Series[Any]) -> Any:
    """Return values with the type of their column; missing text is empty."""
    missing = values.isna()
    if column.kind == "text":
        return values.where(~missing, "")
    return pd.array(values.mask(missing, None).to_numpy(), dtype=_KINDS[column.kind][0])


def checked(column: Column, value: Any) -> Any:
    """Return a value of the column's kind; another one raises a TypeError that names the column."""
    right = isinstance(value, _KINDS[column.kind][1]) and isinstance(value, bool) == (column.kind == "boolean")
    if value is not None and not right:
        raise TypeError(f"{column.name} is {value!r}, not a {column.kind}")
    return value
