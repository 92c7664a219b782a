"""Figures of followed modes: energy curves and maps with their minima, and pathways from phase to phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phonosmith.evaluation.modes.documents import FollowedMode, TransitionDoc
from phonosmith.report.figures.phonons import point_label
from phonosmith.report.figures.style import GREY, escape_math, line_style, new_figure, say_nothing_to_show, styled

MOST_PANELS = 6
"""Panels of one figure; what is left out is said in it."""
_COLUMNS = 3


def mode_title(mode: FollowedMode) -> str:
    """Return what a mode is called in a figure: high-symmetry point or wave vector, frequency."""
    place = point_label(mode.label) if mode.label else "q = (" + ", ".join(f"{value:.3g}" for value in mode.q) + ")"
    return f"{place}, {mode.frequency_thz:.2f} THz"


def grid_energies(mode: FollowedMode) -> np.ndarray[Any, Any]:
    """Return the energies of a mode in meV/atom in the shape of its grid, nan where not calculated."""
    return 1000 * np.array(mode.energies, dtype=float).reshape(mode.grid_shape)


def axis_cut(mode: FollowedMode) -> tuple[list[float], list[float]]:
    """Return amplitudes and energies (meV/atom) along the line through zero that comes closest to the lowest minimum.

    For one dimension that is the whole curve. For more, the line along one of the directions {-1, 0, 1}^d; amplitudes
    are distances from zero, Å√amu.
    """
    values, axis = grid_energies(mode), np.array(mode.amplitudes)
    half, dimension = len(axis) // 2, len(mode.grid_shape)
    way = np.eye(dimension, dtype=int)[0]
    if mode.minima and dimension > 1:
        target = np.array(mode.minima[0].amplitudes)
        ways = np.array([way for way in product((-1, 0, 1), repeat=dimension) if any(way)])
        way = ways[int(np.argmax(ways @ target / np.linalg.norm(ways, axis=1)))]
    offsets = np.arange(-half, half + 1)
    energies = np.array([values[tuple(half + j * way)] for j in offsets])
    known = np.isfinite(energies)
    return (axis * np.linalg.norm(way))[known].tolist(), energies[known].tolist()


def draw_curves(axes: Axes, modes: Sequence[tuple[str, FollowedMode]]) -> None:
    """Draw energy against amplitude of one mode by several methods; minima of one-dimensional modes are marked."""
    for name, mode in modes:
        style = line_style(name)
        look = {"color": style.colour, "ls": style.dashes, "marker": style.marker, "ms": 2.5, "lw": 1.0}
        axes.plot(*axis_cut(mode), label=escape_math(name), **look)
        if len(mode.grid_shape) == 1:
            for minimum in mode.minima:
                depth = 1000 * minimum.energy_ev_per_atom
                axes.plot(minimum.amplitudes, [depth], "o", mfc="none", color=style.colour, ms=8)
    axes.axhline(0, color=GREY, lw=0.6, zorder=0)
    axes.set(xlabel="amplitude (Å√amu)", ylabel="energy (meV/atom)")


def draw_map(axes: Axes, mode: FollowedMode) -> None:
    """Draw the energy over two amplitudes, minima marked; points that were not calculated stay white."""
    values, axis = grid_energies(mode), np.array(mode.amplitudes)
    known = values[np.isfinite(values)]
    low = float(known.min())
    # the walls rise far above the wells: colours end as high as the wells are deep
    high = max(float(np.percentile(known, 5)), 2 * abs(low)) if low < 0 else float(known.max())
    picture = axes.pcolormesh(axis, axis, values.T, cmap="viridis", vmin=low, vmax=high, shading="nearest")
    axes.figure.colorbar(picture, ax=axes, label="energy (meV/atom)", extend="max")
    for minimum in mode.minima:
        axes.plot(*minimum.amplitudes, "x", color="white", ms=7, mew=2.5)
        axes.plot(*minimum.amplitudes, "x", color="black", ms=6, mew=1.2)
    axes.set(aspect="equal", xlabel="amplitude 1 (Å√amu)", ylabel="amplitude 2 (Å√amu)")


def followed_groups(sides: Mapping[str, TransitionDoc]) -> list[list[tuple[str, FollowedMode]]]:
    """Return followed modes, those at one wave vector and of one size together over the methods, deepest first."""
    groups: dict[tuple[tuple[float, ...], int, int], list[tuple[str, FollowedMode]]] = {}
    for name, document in sides.items():
        seen: dict[tuple[tuple[float, ...], int], int] = {}
        for mode in document.modes:
            if mode.skipped or not mode.energies:
                continue
            key = tuple(round(value % 1, 3) for value in mode.q), mode.multiplicity
            seen[key] = seen.get(key, 0) + 1
            groups.setdefault((*key, seen[key]), []).append((name, mode))

    def depth(group: list[tuple[str, FollowedMode]]) -> float:
        return min([one.energy_ev_per_atom for _, mode in group for one in mode.minima], default=0.0)

    return sorted(groups.values(), key=depth)


@styled
def mode_energies_figure(sides: Mapping[str, TransitionDoc]) -> Figure:
    """Return energy curves of every followed mode, several methods over each other; one method's 2-D modes as maps."""
    groups = followed_groups(sides)
    shown = groups[:MOST_PANELS]
    if not shown:
        figure = new_figure(4.5, 2.5)
        say_nothing_to_show(figure.add_subplot(), "no imaginary mode was followed")
        return figure
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.3 * columns, 2.7 * rows)
    for place, group in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(mode_title(group[0][1]), loc="left")
        if len(group) == 1 and len(group[0][1].grid_shape) == 2:
            draw_map(axes, group[0][1])
        else:
            draw_curves(axes, group)
        if place == 1 and len(sides) > 1 and axes.get_legend_handles_labels()[0]:
            axes.legend()
    if len(groups) > len(shown):
        figure.supxlabel(f"{len(groups) - len(shown)} more modes are in the table", fontsize=8, color=GREY)
    return figure


@styled
def pathways_figure(sides: Mapping[str, TransitionDoc]) -> Figure:
    """Return pathways initial → displaced → final with energies, one panel per method."""
    figure = new_figure(4.2 * max(len(sides), 1), 3.6)
    if not sides:
        say_nothing_to_show(figure.add_subplot(), "nothing was followed")
        return figure
    for place, (name, document) in enumerate(sides.items(), start=1):
        axes = figure.add_subplot(1, len(sides), place, sharey=figure.axes[0] if figure.axes else None)
        _draw_pathways(axes, document)
        axes.set_title(escape_math(name), loc="left")
    figure.axes[0].set_ylabel("energy above the start (meV/atom)")
    return figure


def _draw_pathways(axes: Axes, document: TransitionDoc) -> None:
    initial = f"{document.initial.space_group} ({document.initial.n_atoms_primitive})"
    axes.plot([-0.25, 0.25], [0, 0], color="black", lw=2)
    labels: list[tuple[int, float, str]] = [(0, 0.0, initial)]
    for number, mode in enumerate(document.modes):
        colour, title = f"C{number % 10}", mode_title(mode)
        for displaced, final in ((pathway.displaced, pathway.final) for pathway in mode.pathways):
            if final is None:
                continue
            level = 0.0
            for place, phase in enumerate((displaced, final), start=1):
                before, level = level, 1000 * phase.energy_difference_ev_per_atom
                axes.plot([place - 0.75, place - 0.25], [before, level], color=colour, lw=0.8, ls=":")
                axes.plot([place - 0.25, place + 0.25], [level] * 2, color=colour, lw=2, label=title)
                labels.append((place, level, f"{phase.space_group} ({phase.n_atoms_primitive})"))
                title = ""
    _write_labels(axes, labels)
    axes.set_xticks([0, 1, 2], ["initial", "displaced", "relaxed"])
    axes.set_xlim(-0.4, 2.4)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left")
    else:
        axes.text(1.5, 0, "no other phase", ha="center", va="bottom", color=GREY)


def _write_labels(axes: Axes, labels: list[tuple[int, float, str]]) -> None:
    """Write names above their levels, equal ones once, each at least one line above the one below it."""
    low, high = axes.get_ylim()
    line = 0.06 * (high - low)
    for column in range(3):
        last = -np.inf
        for energy, name in sorted({(round(energy, 2), name) for place, energy, name in labels if place == column}):
            height = max(energy + 0.2 * line, last + line)
            axes.text(column, height, name, ha="center", va="bottom", fontsize=7)
            last = height
    axes.set_ylim(low, high + 2 * line)
