"""Figure of the elements that a campaign's materials contain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pymatgen.core import Composition, Element

from phonosmith.analysis.choice import distinct_materials
from phonosmith.analysis.documents import MaterialReport
from phonosmith.report.figures.style import new_figure, styled


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
