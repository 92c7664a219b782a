"""Figures of phonons: bands with density of states, thermal curves, parity, one look for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.report.figures.style import OKABE_ITO, save_figure, styled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phonosmith.evaluation.phonons.bands import BandStructure
    from phonosmith.evaluation.phonons.comparison import ComparedPhonons
    from phonosmith.evaluation.phonons.mesh import MeshFrequencies

REFERENCE_COLOUR = OKABE_ITO["black"]
CANDIDATE_COLOUR = OKABE_ITO["vermillion"]
"""Told apart by every common colour vision and in grey print (dashed as well)."""
_GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "SIGMA": "Σ", "LAMBDA": "Λ"}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def point_label(name: str) -> str:
    """Return a high-symmetry label as it is printed: GAMMA -> Γ, H_2 -> H₂."""
    head, _, tail = name.partition("_")
    return _GREEK.get(head, head) + tail.translate(_SUBSCRIPTS)


def path_ticks(bands: BandStructure) -> tuple[list[float], list[str]]:
    """Return positions and labels of path corners; where the path jumps both names share one tick."""
    positions = [float(bands.distances[0][0])]
    labels = [point_label(bands.path.labels[0][0])]
    for index, (start, end) in enumerate(bands.path.labels):
        name = point_label(start)
        if index and name != labels[-1]:
            labels[-1] = f"{labels[-1]}|{name}"
        positions.append(float(bands.distances[index][-1]))
        labels.append(point_label(end))
    return positions, labels


def _draw_bands(axes: Axes, bands: BandStructure, onto: BandStructure, style: dict[str, Any], label: str) -> None:
    """Draw bands over the distances of another structure's path, so that both share corners."""
    for index, (distances, frequencies) in enumerate(zip(onto.distances, bands.frequencies, strict=True)):
        lines = axes.plot(distances, frequencies, **style)
        if index == 0:
            lines[0].set_label(label)


def draw_bands_and_dos(
    axes: tuple[Axes, Axes], found: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")
) -> None:
    """Draw bands of both sides over each other and their densities of states beside them, on one frequency axis."""
    left, right = axes
    styles: tuple[dict[str, Any], dict[str, Any]] = (
        {"color": REFERENCE_COLOUR, "lw": 1.0},
        {"color": CANDIDATE_COLOUR, "lw": 1.0, "ls": (0, (4, 2))},
    )
    _draw_bands(left, found.reference_bands, found.reference_bands, styles[0], names[0])
    _draw_bands(left, found.candidate_bands, found.reference_bands, styles[1], names[1])
    positions, labels = path_ticks(found.reference_bands)
    for position in positions[1:-1]:
        left.axvline(position, color="0.8", lw=0.6, zorder=0)
    left.axhline(0, color="0.6", lw=0.6, zorder=0)
    left.set_xticks(positions, labels)
    left.set_xlim(positions[0], positions[-1])
    left.set_ylabel("frequency (THz)")
    left.legend(loc="upper right", frameon=True, framealpha=0.9, fontsize="small")
    left.set_title(found.result.formula, loc="left", fontsize="medium")
    right.plot(found.reference_dos, found.dos_grid, **styles[0])
    right.plot(found.candidate_dos, found.dos_grid, **styles[1])
    right.fill_betweenx(
        found.dos_grid, found.reference_dos, found.candidate_dos, color=CANDIDATE_COLOUR, alpha=0.15, lw=0
    )
    right.axhline(0, color="0.6", lw=0.6, zorder=0)
    right.set_xlim(left=0)
    right.set_xlabel("DOS (1/THz)")
    right.set_title(f"ΔDOS {found.result.dos_error_percent:.0f} %", loc="left", fontsize="small")
    right.tick_params(labelleft=False)


def draw_parity(axes: Axes, found: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")) -> None:
    """Draw candidate against reference frequencies of the mesh, the diagonal, and the errors."""
    ours, theirs = found.reference_mesh.frequencies.ravel(), found.candidate_mesh.frequencies.ravel()
    axes.plot(ours, theirs, ".", ms=2, alpha=0.25, color=CANDIDATE_COLOUR, rasterized=True)
    low, high = min(ours.min(), theirs.min()), max(ours.max(), theirs.max())
    margin = 0.03 * (high - low)
    axes.plot([low, high], [low, high], color=REFERENCE_COLOUR, lw=0.8)
    axes.set_xlim(low - margin, high + margin)
    axes.set_yticks(axes.get_xticks())
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.set_aspect("equal")
    axes.set_xlabel(f"{names[0]} (THz)")
    axes.set_ylabel(f"{names[1]} (THz)")
    axes.set_title(
        f"MAE {found.result.mae_thz:.3f} THz, RMSE {found.result.rmse_thz:.3f} THz", loc="left", fontsize="small"
    )


def draw_thermal(
    axes: Sequence[Axes],
    sides: Sequence[MeshFrequencies],
    names: Sequence[str],
    temperatures: Sequence[float] = tuple(range(0, 801, 10)),
) -> None:
    """Draw C_v, S and F of one or more meshes against temperature on three axes."""
    if len(axes) != 3:
        raise InputError("Thermal curves need three axes.", "Give axes for C_v, S and F.")
    styles: list[dict[str, Any]] = [{"color": REFERENCE_COLOUR}, {"color": CANDIDATE_COLOUR, "ls": (0, (4, 2))}]
    for index, (side, name) in enumerate(zip(sides, names, strict=True)):
        found = thermal_properties(side.frequencies, side.weights, temperatures)
        style = styles[index] if index < len(styles) else {"color": f"C{index}"}
        for panel, values in zip(axes, (found.heat_capacity, found.entropy, found.free_energy), strict=True):
            panel.plot(temperatures, values, label=name, lw=1.2, **style)
    for panel, label in zip(axes, ("$C_v$ (J/K/mol)", "$S$ (J/K/mol)", "$F$ (kJ/mol)"), strict=True):
        panel.set_xlabel("temperature (K)")
        panel.set_ylabel(label)
        panel.set_xlim(min(temperatures), max(temperatures))
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")


@styled
def bands_figure(found: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")) -> Figure:
    """Return the figure of bands and densities of states."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3.4, 1])
    draw_bands_and_dos((left, right), found, names)
    return figure


@styled
def full_figure(found: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")) -> Figure:
    """Return one figure of bands, densities of states, parity and thermal curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 7.0), layout="constrained")
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1.25, 1])).tolist()
    left, middle = top.subplots(1, 2, sharey=True, width_ratios=[3.4, 1])
    draw_bands_and_dos((left, middle), found, names)
    panels = bottom.subplots(1, 4, width_ratios=[1.15, 1, 1, 1])
    draw_parity(panels[0], found, names)
    draw_thermal(panels[1:], (found.reference_mesh, found.candidate_mesh), names)
    return figure


def comparison_figure(
    found: ComparedPhonons, path: str | Path, names: tuple[str, str] = ("reference", "candidate")
) -> Path:
    """Write the full comparison of two sides to an image file."""
    return save_figure(full_figure(found, names), path)
