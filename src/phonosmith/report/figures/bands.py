"""Bands, densities of states and thermal curves of a reference and several potentials in one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.report.figures.phonons import path_ticks
from phonosmith.report.figures.style import GREY, escape_math, line_style, new_figure, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phonosmith.report.figures.phonon_curves import PhononCurves

TEMPERATURES = tuple(range(0, 801, 20))
_SHOWN_IMAGINARY_THZ = -0.05


def _line(name: str, place: int, width: float = 0.9) -> dict[str, Any]:
    """Return matplotlib's settings of a line; sides named first lie on top, the reference above all."""
    style = line_style(name)
    return {
        "color": style.colour,
        "ls": style.dashes,
        "lw": 1.3 if name == "reference" else width,
        "zorder": 3 if name == "reference" else 2.9 - 0.05 * place,
    }


def base_dos(curves: PhononCurves) -> float:
    """Return the highest density of states of the side that gives the path, 1/THz."""
    return float(curves.sides[0].dos.max())


def draw_many_bands(axes: tuple[Axes, Axes], curves: PhononCurves) -> None:
    """Draw bands of every side over one path and the densities of states beside them; imaginary modes below zero."""
    left, right = axes
    base = curves.sides[0].bands
    for place, side in enumerate(curves.sides):
        style = _line(side.name, place)
        for distances, frequencies in zip(base.distances, side.bands.frequencies, strict=True):
            left.plot(distances, frequencies, **style)
        left.plot([], [], label=escape_math(side.name), **style)
        right.plot(side.dos, curves.grid, **style)
    positions, labels = path_ticks(base)
    for position in positions[1:-1]:
        left.axvline(position, color="0.85", lw=0.6, zorder=0)
    left.set_xticks(positions, labels)
    left.set_xlim(positions[0], positions[-1])
    left.set_ylabel("frequency (THz)")
    lowest = min(side.bands.lowest for side in curves.sides)
    for panel in axes:
        panel.axhline(0, color="0.55", lw=0.6, zorder=0)
        if lowest < _SHOWN_IMAGINARY_THZ:
            panel.axhspan(1.08 * lowest, 0, color="0.93", lw=0, zorder=-1)
    if lowest < _SHOWN_IMAGINARY_THZ:
        left.annotate(
            "imaginary", (0.01, 0), xycoords=("axes fraction", "data"), xytext=(0, -3), textcoords="offset points",
            va="top", fontsize=7, color=GREY,
        )  # fmt: skip
        left.set_ylim(bottom=1.08 * lowest)
    # a flat spurious branch of one potential must not flatten everybody else's curve
    right.set_xlim(0, min(max(side.dos.max() for side in curves.sides), 2 * base_dos(curves)) * 1.05)
    right.set_xlabel("DOS (1/THz)")
    right.tick_params(labelleft=False)


@styled
def many_bands_figure(curves: PhononCurves) -> Figure:
    """Return the figure of bands and densities of states: reference black, potentials in their colours."""
    figure = new_figure(6.6, 3.9)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3.6, 1])
    draw_many_bands((left, right), curves)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(curves.sides), 6))
    return figure


def draw_many_thermal(axes: Sequence[Axes], curves: PhononCurves, temperatures: Sequence[float] = TEMPERATURES) -> None:
    """Draw C_v, S and F of every side against temperature on three axes."""
    for place, side in enumerate(curves.sides):
        found = thermal_properties(side.mesh.frequencies, side.mesh.weights, temperatures)
        for panel, values in zip(axes, (found.heat_capacity, found.entropy, found.free_energy), strict=True):
            panel.plot(temperatures, values, label=escape_math(side.name), **_line(side.name, place, 1.2))
    for panel, label in zip(axes, ("$C_v$ (J/K/mol)", "$S$ (J/K/mol)", "$F$ (kJ/mol)"), strict=True):
        panel.set_xlabel("temperature (K)")
        panel.set_ylabel(label)
        panel.set_xlim(min(temperatures), max(temperatures))


@styled
def many_thermal_figure(curves: PhononCurves) -> Figure:
    """Return the figure of harmonic thermodynamics, per mole of primitive cells."""
    figure = new_figure(6.6, 2.6)
    panels = np.asarray(figure.subplots(1, 3)).tolist()
    draw_many_thermal(panels, curves)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(curves.sides), 6))
    return figure
