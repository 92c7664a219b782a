"""Figure of forgetting: errors of a potential and of its foundation on every set it was not tuned on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phonosmith.evaluation.forgetting.documents import ForgettingDoc, ForgettingSet
from phonosmith.report.figures.style import GREY, escape_math, line_style, new_figure, say_nothing_to_show, styled

QUANTITIES = {"force_mae": "force MAE (meV/Å)", "energy_mae": "energy MAE (meV/atom)"}
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")


def every_set(documents: Sequence[ForgettingDoc]) -> list[ForgettingSet]:
    """Return every set once, in the order of the documents; where two have it, as the first has it."""
    sets: dict[str, ForgettingSet] = {}
    for one in (one for document in documents for one in document.sets):
        sets.setdefault(one.name, one)
    return list(sets.values())


def draw_forgetting(
    axes: Axes, documents: Sequence[ForgettingDoc], names: Sequence[str], quantity: str = "force_mae"
) -> None:
    """Draw horizontal bars: one group per set, the foundation first, then every potential.

    A set without a reference has no bar of the foundation: there the foundation is the truth, and the others' bars are
    their drift from it. Errors range over orders of magnitude, so the axis is logarithmic. ``names``: strategy of each
    document; ``quantity``: ``force_mae`` or ``energy_mae``.
    """
    rows = every_set(documents)
    columns = [[getattr(one, f"foundation_{quantity}") for one in rows]]
    for document in documents:
        tuned = {one.name: getattr(one, f"tuned_{quantity}") for one in reversed(document.sets)}
        columns.append([tuned.get(one.name) for one in rows])
    values = np.array(columns, dtype=float)
    shown = np.isfinite(values).any(axis=0)
    rows, values = [one for one, keep in zip(rows, shown, strict=True) if keep], values[:, shown]
    positive = values[np.isfinite(values) & (values > 0)]
    if not rows or not len(positive):
        say_nothing_to_show(axes, "no set with errors to compare")
        return
    height = 0.8 / len(columns)
    places = np.arange(len(rows), dtype=float)
    for index, name in enumerate(["foundation", *names]):
        axes.barh(
            places + (index - (len(columns) - 1) / 2) * height,
            values[index],
            height=0.92 * height,
            color=line_style(name).colour,
            hatch=_HATCHES[index % len(_HATCHES)],
            edgecolor="white",
            lw=0.3,
            label=escape_math(name),
        )
    axes.set(xscale="log", xlim=(0.5 * positive.min(), 2 * positive.max()))
    labels = [escape_math(one.name) + ("*" if one.truth == "foundation" else "") for one in rows]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlabel(QUANTITIES[quantity])
    axes.grid(axis="x", which="major", color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    if any(one.truth == "foundation" for one in rows):
        axes.text(1, 1.01, "* drift from the foundation", ha="right", transform=axes.transAxes, color=GREY, size=8)


@styled
def forgetting_figure(documents: Sequence[ForgettingDoc], names: Sequence[str]) -> Figure:
    """Return the figure of force and energy errors of one or more potentials of one material."""
    rows = max(len(every_set(documents)), 1)
    figure = new_figure(7.2, 1.0 + 0.16 * rows * (len(documents) + 2))
    left, right = figure.subplots(1, 2, sharey=False)
    draw_forgetting(left, documents, names)
    draw_forgetting(right, documents, names, "energy_mae")
    handles, labels = left.get_legend_handles_labels()
    if not handles:
        handles, labels = right.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    return figure
