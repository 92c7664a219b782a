"""Deviations from the reference and costs over all materials, one value per material."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from phonosmith.analysis.choice import distinct_materials, in_order, largest_trainings
from phonosmith.analysis.columns import METRICS
from phonosmith.analysis.documents import MaterialReport, PotentialReport

PROPERTIES = {
    "phonon MAE": ("THz", "phonon_mae_thz"),
    "ω_max": ("%", "omega_max_error_percent"),
    "C_v, 300 K": ("%", "heat_capacity_error_percent"),
    "S, 300 K": ("%", "entropy_error_percent"),
    "F, 300 K": ("%", "free_energy_error_percent"),
    "K": ("%", "bulk_modulus_vrh_error_percent"),
    "G": ("%", "shear_modulus_error_percent"),
    "κ Slack": ("%", "slack_error_percent"),
}
"""What is shown of a potential: unit, and the column of `analysis.columns` that defines it."""
_METRICS = {metric.name: metric for metric in METRICS}


def property_errors(entry: PotentialReport, report: MaterialReport) -> dict[str, float]:
    """Return the deviations of one potential from the reference by the names of ``PROPERTIES``; what lacks is absent.

    The phonon MAE in THz, everything else in percent of the reference's magnitude.
    """
    values = {name: _METRICS[column].value(entry, report) for name, (_, column) in PROPERTIES.items()}
    return {name: float(value) for name, value in values.items() if value is not None and np.isfinite(value)}


def errors_by_strategy(reports: Sequence[MaterialReport]) -> dict[str, dict[str, list[float]]]:
    """Return property -> strategy -> deviations, one per material: several seeds are averaged first.

    Of several training-set sizes the largest counts.
    """
    table: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in PROPERTIES}
    for report in reports:
        for entry in [report.foundation, *largest_trainings(report.strategies)]:
            for name, value in property_errors(entry, report).items():
                table[name].setdefault(entry.strategy, {}).setdefault(report.material, []).append(value)
    return {name: {strategy: _means(values) for strategy, values in row.items()} for name, row in table.items() if row}


def _means(by_material: Mapping[str, list[float]]) -> list[float]:
    return [float(np.mean(values)) for values in by_material.values()]


def force_errors(reports: Sequence[MaterialReport]) -> dict[str, dict[int, list[float]]]:
    """Return strategy -> number of training structures -> validation force MAE of each material, meV/Å."""
    table: dict[str, dict[int, dict[str, list[float]]]] = {}
    for report in reports:
        for entry in report.strategies:
            if entry.valid_force_mae is not None:
                row = table.setdefault(entry.strategy, {}).setdefault(entry.n_train, {})
                row.setdefault(report.material, []).append(entry.valid_force_mae)
    return {name: {size: _means(table[name][size]) for size in sorted(table[name])} for name in in_order(table)}


def costs_compared(reports: Sequence[MaterialReport]) -> list[tuple[int, float, float]]:
    """Return displaced cells, core hours of the reference's phonons, and of the labels of materials with both."""
    rows = []
    for report in distinct_materials(reports):
        phonons = report.reference_result.phonons
        sums = {"phonon": 0.0, "label": 0.0}
        for cost in report.costs:
            if cost.stage == "label" or (cost.stage == "phonon" and cost.name.endswith(" reference")):
                sums[cost.stage] += cost.wall_seconds * cost.cores
        if phonons is not None and all(sums.values()):
            rows.append((phonons.n_displacements, sums["phonon"] / 3600, sums["label"] / 3600))
    return rows
