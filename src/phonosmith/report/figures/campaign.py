"""Figures over all materials of a campaign: what they are made of, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pymatgen.core import Composition, Element, Structure

from phonosmith.analysis.choice import chosen_potential, distinct_materials, in_order, largest_trainings
from phonosmith.analysis.documents import MaterialReport
from phonosmith.core.errors import InputError
from phonosmith.report.figures.style import (
    GREY,
    OKABE_ITO,
    escape_math,
    log_axis,
    new_figure,
    say_nothing_to_show,
    styled,
    whole_ticks,
)
from phonosmith.structures.standard import standard_primitive

_SYSTEMS = (
    (2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal"), (167, "trigonal"),
    (194, "hexagonal"), (230, "cubic"),
)  # fmt: skip


def crystal_system(number: int | None) -> str | None:
    """Return the crystal system of an international space-group number."""
    if number is None or not 1 <= number <= 230:
        return None
    return next(name for last, name in _SYSTEMS if number <= last)


def atoms_per_primitive_cell(report: MaterialReport) -> int | None:
    """Return the atoms of the primitive cell, None where no structure was kept."""
    if report.structure is None:
        return None
    structure = Structure.from_dict(report.structure)
    try:
        return len(standard_primitive(structure))
    except InputError:
        return len(structure)


@styled
def crystals_figure(reports: Sequence[MaterialReport]) -> Figure:
    """Return how many materials each crystal system has, and how large their primitive cells are."""
    materials = distinct_materials(reports)
    systems = Counter(filter(None, (crystal_system(report.space_group_number) for report in materials)))
    sizes = [size for size in (atoms_per_primitive_cell(report) for report in materials) if size is not None]
    figure = new_figure(6.6, 2.9)
    left, right = figure.subplots(1, 2)
    names = [name for _, name in _SYSTEMS]
    bars = left.barh(names, [systems[name] for name in names], color=OKABE_ITO["blue"], height=0.7)
    left.bar_label(bars, padding=3, fontsize=8)
    left.invert_yaxis()
    left.set(xlabel="materials", xlim=(0, 1.12 * max([1, *systems.values()])))
    whole_ticks(left.xaxis, most=5)
    if not sizes:
        say_nothing_to_show(right, "No structures were kept.")
        return figure
    width = max(1, int(np.ceil(max(sizes) / 20)))
    edges = np.arange(0.5, max(sizes) + width + 0.5, width)
    right.hist(sizes, edges, color=OKABE_ITO["sky"], edgecolor="white", lw=0.8)
    right.set(xlabel="atoms in the primitive cell", ylabel="materials")
    whole_ticks(right.xaxis, right.yaxis)
    return figure


def element_counts(reports: Sequence[MaterialReport]) -> dict[str, int]:
    """Return the number of materials each element occurs in."""
    counts: Counter[str] = Counter()
    for report in distinct_materials(reports):
        counts.update({element.symbol for element in Composition(report.formula).elements})
    return dict(counts)


def _cell(number: int) -> tuple[float, float, str]:
    """Return column, row and symbol of an element; lanthanides and actinides lie below the table."""
    element = Element.from_Z(number)
    if element.is_lanthanoid or element.is_actinoid:
        first = 57 if element.is_lanthanoid else 89
        return number - first + 3, 8.4 + element.is_actinoid, element.symbol
    return element.group, element.row, element.symbol


@styled
def elements_figure(reports: Sequence[MaterialReport]) -> Figure:
    """Return the periodic table with each element coloured by the number of materials it occurs in.

    Drawn here because pymatviz, which the published figure used, draws with plotly: a still image would need a browser
    on the machine that writes the report, and some twenty packages of notebook widgets.
    """
    counts = element_counts(reports)
    figure = new_figure(6.6, 4.0)
    axes = figure.subplots()
    norm = mpl.colors.Normalize(0, max(counts.values(), default=1))
    # without the palest blues, which could not be told from the cells of absent elements
    shades = mpl.colors.ListedColormap(mpl.colormaps["Blues"](np.linspace(0.25, 1, 128)))
    for number in range(1, 104):
        column, row, symbol = _cell(number)
        count = counts.get(symbol, 0)
        colour = shades(norm(count)) if count else "#f3f3f3"
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 0.94, 0.94, fc=colour, ec="none"))
        ink = "0.55" if not count else "white" if norm(count) > 0.5 else "black"
        look: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
        height, weight = (row - 0.04, "bold") if count else (row + 0.12, "normal")
        axes.text(column - 0.03, height, symbol, fontsize=8, weight=weight, **look)
        if count:
            axes.text(column - 0.03, row + 0.3, str(count), fontsize=6, **look)
    axes.set(xlim=(0.4, 18.6), ylim=(10, 0.4), aspect="equal")
    axes.set_axis_off()
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, shades), ax=axes, orientation="horizontal", shrink=0.4, aspect=30)
    bar.set_label("materials that contain the element")
    bar.locator = mpl.ticker.MaxNLocator(integer=True, nbins=6)
    bar.update_ticks()
    bar.outline.set_visible(False)
    return figure


def verdict_counts(reports: Sequence[MaterialReport]) -> dict[str, tuple[int, int, int]]:
    """Return for each strategy how many materials it is fit and not fit for, and how many it failed on.

    Of several training-set sizes the largest counts.
    """
    outcomes: Counter[tuple[str, int]] = Counter()
    for report in reports:
        for entry in [report.foundation, *largest_trainings(report.strategies)]:
            outcomes[entry.strategy, 0 if entry.verdict.fit else 1] += 1
        outcomes.update((name, 2) for name in report.failed)
    names = in_order(name for name, _ in outcomes)
    return {name: (outcomes[name, 0], outcomes[name, 1], outcomes[name, 2]) for name in names}


def _chosen_pairs(reports: Sequence[MaterialReport]) -> list[tuple[float, float, bool]]:
    chosen = [(report.foundation.phonons, chosen_potential(report)) for report in reports]
    return [
        (base.mae_thz, entry.phonons.mae_thz, entry.verdict.fit)
        for base, entry in chosen
        if base is not None and entry is not None and entry.phonons is not None
    ]


@styled
def verdicts_figure(reports: Sequence[MaterialReport]) -> Figure:
    """Return verdicts by strategy, and the phonon error of each material's chosen potential against the foundation's.

    Chosen is the best potential that is fit, or the best there is.
    """
    counts = verdict_counts(reports)
    figure = new_figure(6.6, max(2.9, 1.3 + 0.26 * len(counts)))
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    names = [escape_math(name) for name in counts]
    start = np.zeros(len(names))
    looks = (("fit", OKABE_ITO["blue"], ""), ("not fit", OKABE_ITO["orange"], "///"), ("failed", GREY, "xxx"))
    for widths, (label, colour, hatch) in zip(np.array(list(counts.values())).T, looks, strict=True):
        if widths.any():
            bars = left.barh(
                names, widths, left=start, color=colour, hatch=hatch, ec="white", lw=0.6, height=0.72, label=label
            )
            labels = [str(width) if width else "" for width in widths]
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"}
            left.bar_label(bars, labels, label_type="center", fontsize=7.5, bbox=box)
            start += widths
    for text in left.texts:
        text.set_visible(bool(text.get_text()))
    left.invert_yaxis()
    left.set_xlabel("materials")
    whole_ticks(left.xaxis, most=6)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    pairs = _chosen_pairs(reports)
    if not pairs:
        say_nothing_to_show(right, "No reference phonons to compare with.")
        return figure
    errors, fit = np.array([pair[:2] for pair in pairs]), np.array([pair[2] for pair in pairs])
    ends = 0.7 * errors.min(), 1.4 * errors.max()
    right.plot(ends, ends, color="0.6", lw=0.8, label="equal")
    right.plot(errors[fit, 0], errors[fit, 1], "o", ms=5, color=OKABE_ITO["blue"], label="fit")
    right.plot(errors[~fit, 0], errors[~fit, 1], "s", ms=5, mfc="white", color=OKABE_ITO["vermillion"], label="not fit")
    log_axis(right, "x")
    log_axis(right, "y")
    right.set(xlabel="phonon MAE of the foundation (THz)", ylabel="phonon MAE of the chosen (THz)")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=0.8, handletextpad=0.3)
    return figure
