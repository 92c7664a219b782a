"""Figures of errors and costs over all materials: learning curves, error boxes, cost saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phonosmith.analysis.choice import distinct_materials, in_order, largest_trainings
from phonosmith.analysis.columns import METRICS
from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.core.errors import InputError
from phonosmith.report.figures.style import (
    GREY,
    OKABE_ITO,
    escape_math,
    legend_above,
    line_style,
    log_axis,
    new_figure,
    styled,
    whole_ticks,
)

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


def _boxes(axes: Axes, row: dict[str, list[float]], names: list[str], *, outliers: bool) -> None:
    places = [place for place, name in enumerate(names) if name in row]
    drawn = axes.boxplot(
        [row[names[place]] for place in places],
        positions=places,
        widths=0.62,
        showfliers=outliers,
        patch_artist=True,
        medianprops={"color": "black", "lw": 1.3},
        flierprops={"marker": "o", "ms": 3, "mfc": "none", "mec": GREY, "mew": 0.7},
        whiskerprops={"lw": 0.8},
        capprops={"lw": 0.8},
    )
    for place, box in zip(places, drawn["boxes"], strict=True):
        box.set(facecolor=line_style(names[place]).colour, alpha=0.75, lw=0.8)
    axes.set_xticks(range(len(names)), [escape_math(name) for name in names], rotation=55, ha="right", fontsize=7.5)
    axes.set_xlim(-0.6, len(names) - 0.4)


@styled
def errors_figure(reports: Sequence[MaterialReport], *, outliers: bool) -> Figure:
    """Return box plots of each property's deviation from the reference, one box per strategy.

    Boxes are quartiles, whiskers reach to the last value within 1.5 quartile distances, lines are medians.
    ``outliers``: values beyond the whiskers are shown, not only counted in the boxes.
    """
    table = errors_by_strategy(reports)
    if not table:
        raise InputError("No potential was compared with a reference.", "Production mode has no errors to show.")
    names = in_order({name for row in table.values() for name in row})
    columns = min(4, len(table))
    rows = -(-len(table) // columns)
    figure = new_figure(6.6, 2.55 * rows)
    panels = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel().tolist()
    for panel, (name, row) in zip(panels, table.items(), strict=False):
        _boxes(panel, row, names, outliers=outliers)
        panel.set_title(name.replace("ω_max", r"$\omega_\mathrm{max}$").replace("C_v", "$C_v$"), fontsize=9)
        panel.set_ylabel(f"error ({PROPERTIES[name][0]})" if PROPERTIES[name][0] == "THz" else "deviation (%)")
        if name == "phonon MAE":
            panel.set_ylim(bottom=0)
        else:
            panel.axhline(0, color="0.5", lw=0.7, zorder=0)
    for panel in panels[len(table) :]:
        panel.set_axis_off()
    return figure


def force_errors(reports: Sequence[MaterialReport]) -> dict[str, dict[int, list[float]]]:
    """Return strategy -> number of training structures -> validation force MAE of each material, meV/Å."""
    table: dict[str, dict[int, dict[str, list[float]]]] = {}
    for report in reports:
        for entry in report.strategies:
            if entry.valid_force_mae is not None:
                row = table.setdefault(entry.strategy, {}).setdefault(entry.n_train, {})
                row.setdefault(report.material, []).append(entry.valid_force_mae)
    return {name: {size: _means(table[name][size]) for size in sorted(table[name])} for name in in_order(table)}


@styled
def learning_figure(reports: Sequence[MaterialReport]) -> Figure:
    """Return the validation force MAE against the training structures: medians over materials, quartiles as bands."""
    table = force_errors(reports)
    if not table:
        raise InputError("No training has validation errors.", "Nothing was trained yet.")
    figure = new_figure(6.4, 3.7)
    axes = figure.subplots()
    one_size = len({n for row in table.values() for n in row}) == 1
    for index, (name, row) in enumerate(table.items()):
        style = line_style(name)
        sizes = np.array(list(row), dtype=float)
        low, middle, high = np.array([np.percentile(values, [25, 50, 75]) for values in row.values()]).T
        if one_size:
            # bars side by side: one size makes no curve
            sizes = sizes + 0.12 * (index - (len(table) - 1) / 2)
            axes.errorbar(
                sizes, middle, [middle - low, high - middle], fmt=style.marker, color=style.colour, ms=6, capsize=3,
                label=escape_math(name),
            )  # fmt: skip
            continue
        axes.fill_between(sizes, low, high, color=style.colour, alpha=0.15, lw=0)
        look = {"color": style.colour, "ls": style.dashes, "marker": style.marker, "ms": 5}
        axes.plot(sizes, middle, label=escape_math(name), **look)
    base = [report.foundation.valid_force_mae for report in reports if report.foundation.valid_force_mae is not None]
    if base:
        axes.axhline(float(np.median(base)), color=line_style("foundation").colour, ls=(0, (4, 2)), label="foundation")
    log_axis(axes, "y")
    if one_size:
        (size,) = {n for row in table.values() for n in row}
        axes.set_xticks([size])
        axes.set_xlim(size - 0.5, size + 0.5)
    else:
        whole_ticks(axes.xaxis)
    axes.set(xlabel="training structures", ylabel="validation force MAE (meV/Å)")
    legend_above(figure, axes)
    return figure


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


@styled
def costs_figure(reports: Sequence[MaterialReport]) -> Figure:
    """Return core hours of displaced supercells and of the labels for materials with at least so many displaced cells.

    Boxes without outliers, dashed lines are means, bars below count the materials.
    """
    compared = costs_compared(reports)
    if not compared:
        raise InputError("No material has both costs.", "Reports carry costs since version 2.")
    cells, displaced, labels = np.array(compared, dtype=float).T
    steps = np.unique(cells)
    if len(steps) > 10:
        steps = np.unique(np.quantile(cells, np.linspace(0, 1, 10), method="lower"))
    figure = new_figure(6.4, 4.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    places = np.arange(len(steps))
    for values, colour, shift, name in (
        (displaced, OKABE_ITO["blue"], -0.19, "displaced supercells (reference phonons)"),
        (labels, OKABE_ITO["vermillion"], 0.19, "training and validation labels"),
    ):
        groups = [values[cells >= step] for step in steps]
        drawn = top.boxplot(
            groups, positions=places + shift, widths=0.32, showfliers=False, patch_artist=True,
            medianprops={"color": "black"},
        )  # fmt: skip
        for box in drawn["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        top.plot(places, [group.mean() for group in groups], "--", color=colour, marker="d", ms=4, label=name)
    log_axis(top, "y")
    top.set_ylabel("cost per material (core hours)")
    counts = [int((cells >= step).sum()) for step in steps]
    bars = bottom.bar(places, counts, color="0.75", width=0.7)
    bottom.bar_label(bars, fontsize=7.5)
    bottom.set(ylim=(0, 1.3 * max(counts)), ylabel="materials")
    bottom.set_xticks(places, [f"≥ {step:.0f}" for step in steps])
    bottom.set_xlabel("displaced cells the phonons need")
    legend_above(figure, top)
    return figure
