"""Phonons of a reference and its candidates over each other: bands, densities of states, thermal curves, parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from phonosmith.analysis.documents import PhononSummary
from phonosmith.core.artefacts import ArtefactStore
from phonosmith.core.errors import InputError, MismatchError
from phonosmith.evaluation.phonons.bands import BandPath, BandStructure, band_structure, standard_path
from phonosmith.evaluation.phonons.comparison import ComparedPhonons, with_charges_of
from phonosmith.evaluation.phonons.dos import density_of_states, frequency_grid
from phonosmith.evaluation.phonons.mesh import MeshFrequencies, mesh_frequencies
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.harmonic.matching import match_models
from phonosmith.harmonic.model import HarmonicModel, unpack_force_constants
from phonosmith.report.figures.style import GREY, escape_math, legend_above, line_style, new_figure, styled

Array = NDArray[np.float64]

POINTS = 41
"""q-points per segment of a drawn path: what 700 pixels can show."""
SMEARING_THZ = 0.12
"""Gaussian of a drawn density of states, THz: wider than that of the comparison because the mesh is coarser."""
TEMPERATURES = tuple(range(0, 801, 20))
_MESH_BUDGET = 40_000
_SHOWN_IMAGINARY_THZ = -0.05
_GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "SIGMA": "Σ", "LAMBDA": "Λ"}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Side:
    """Phonons of one potential, or of the reference; the name decides how it is drawn, the label what it is called.

    ``model`` and ``own_path``: where the curves came from, the path in this side's own primitive cell.
    """

    name: str
    bands: BandStructure
    mesh: MeshFrequencies
    dos: Array
    label: str = ""
    model: HarmonicModel | None = None
    own_path: BandPath | None = None


@dataclass(frozen=True)
class PhononCurves:
    """Curves of all sides, and why others were left out.

    The first side gives the path; the others were brought into its primitive cell. ``grid``: frequencies of every
    density of states, THz.
    """

    formula: str
    sides: list[Side]
    grid: Array
    left_out: dict[str, str] = field(default_factory=dict)


def load_model(summary: PhononSummary, artefacts: ArtefactStore) -> HarmonicModel:
    """Rebuild the phonons a report refers to from the artefact store, with their Born charges where they have some."""
    return unpack_force_constants(artefacts.get_bytes(summary.force_constants), nac=True)


def drawing_mesh(n_branches: int) -> int:
    """Return mesh numbers fine enough for a smooth density of states, coarser the more branches there are."""
    return int(np.clip(round((_MESH_BUDGET / n_branches) ** (1 / 3)), 6, 16))


def phonon_curves(models: Mapping[str, HarmonicModel], points: int = POINTS) -> PhononCurves:
    """Return bands, mesh frequencies and densities of states of several models of one crystal.

    The first of them, the reference where there is one, gives the path (with so many ``points`` per segment) and its
    Born charges to all, as in the comparison.
    """
    if not models:
        raise InputError("There are no phonons to draw.", "Pass at least one model.")
    base, *others = models
    first = models[base]
    path = standard_path(first, points)
    size = drawing_mesh(3 * len(first.phonon.primitive))
    bands, drawn, left_out = {base: band_structure(first, path)}, {base: first}, {}
    paths = {base: path}
    for name in others:
        try:
            drawn[name], match = with_charges_of(first, models[name], match_models(first, models[name]))
            bands[name] = band_structure(drawn[name], path, match)
            paths[name] = BandPath(tuple(match.to_candidate(segment) for segment in path.segments), path.labels)
        except MismatchError as error:
            left_out[name] = error.message
    meshes = {name: mesh_frequencies(drawn[name], size) for name in bands}
    grid = frequency_grid([mesh.frequencies for mesh in meshes.values()], SMEARING_THZ, SMEARING_THZ / 4)
    sides = [
        Side(
            name,
            bands[name],
            mesh,
            density_of_states(mesh.frequencies, mesh.weights, grid, SMEARING_THZ),
            model=drawn[name],
            own_path=paths[name],
        )
        for name, mesh in meshes.items()
    ]
    return PhononCurves(first.formula, sides, grid, left_out)


def compared_curves(compared: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")) -> PhononCurves:
    """Return the two sides of a comparison, called by the names given."""
    sides = [
        Side("reference", compared.reference_bands, compared.reference_mesh, compared.reference_dos, names[0]),
        Side("candidate", compared.candidate_bands, compared.candidate_mesh, compared.candidate_dos, names[1]),
    ]
    return PhononCurves(compared.result.formula, sides, compared.dos_grid)


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


def _line(name: str, place: int, width: float = 0.9) -> dict[str, Any]:
    """Return matplotlib's settings of a line: the reference wide below all, sides named first on top of the others."""
    style = line_style(name)
    return {
        "color": style.colour,
        "ls": style.dashes,
        "lw": 2.4 if name == "reference" else width,
        "zorder": 2 if name == "reference" else 2.9 - 0.05 * place,
    }


def draw_bands(axes: tuple[Axes, Axes], curves: PhononCurves) -> None:
    """Draw bands of every side over one path and the densities of states beside them; imaginary modes below zero."""
    left, right = axes
    base = curves.sides[0].bands
    for place, side in enumerate(curves.sides):
        style = _line(side.name, place)
        for distances, frequencies in zip(base.distances, side.bands.frequencies, strict=True):
            left.plot(distances, frequencies, **style)
        left.plot([], [], label=escape_math(side.label or side.name), **style)
        right.plot(side.dos, curves.grid, **style)
    positions, labels = path_ticks(base)
    for position in positions[1:-1]:
        left.axvline(position, color="0.85", lw=0.6, zorder=0)
    left.set_xticks(positions, labels)
    left.set(xlim=(positions[0], positions[-1]), ylabel="frequency (THz)")
    for panel in axes:
        panel.axhline(0, color="0.55", lw=0.6, zorder=0)
    lowest = min(side.bands.lowest for side in curves.sides)
    if lowest < _SHOWN_IMAGINARY_THZ:
        for panel in axes:
            panel.axhspan(1.08 * lowest, 0, color="0.93", lw=0, zorder=-1)
        left.annotate(
            "imaginary", (0.01, 0), xycoords=("axes fraction", "data"), xytext=(0, -3), textcoords="offset points",
            va="top", fontsize=7, color=GREY,
        )  # fmt: skip
        left.set_ylim(bottom=1.08 * lowest)
    # a flat spurious branch of one potential must not flatten everybody else's curve
    highest = min(max(side.dos.max() for side in curves.sides), 2 * float(curves.sides[0].dos.max()))
    right.set(xlim=(0, 1.05 * highest), xlabel="DOS (1/THz)")
    right.tick_params(labelleft=False)


@styled
def many_bands_figure(curves: PhononCurves) -> Figure:
    """Return the figure of bands and densities of states: reference black, potentials in their colours."""
    figure = new_figure(6.6, 3.9)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3.6, 1])
    draw_bands((left, right), curves)
    legend_above(figure, left)
    return figure


def draw_thermal(axes: Sequence[Axes], curves: PhononCurves) -> None:
    """Draw C_v, S and F of every side against temperature on three axes."""
    for place, side in enumerate(curves.sides):
        thermal = thermal_properties(side.mesh.frequencies, side.mesh.weights, TEMPERATURES)
        for panel, values in zip(axes, (thermal.heat_capacity, thermal.entropy, thermal.free_energy), strict=True):
            panel.plot(TEMPERATURES, values, label=escape_math(side.label or side.name), **_line(side.name, place, 1.2))
    for panel, label in zip(axes, ("$C_v$ (J/K/mol)", "$S$ (J/K/mol)", "$F$ (kJ/mol)"), strict=True):
        panel.set(xlabel="temperature (K)", ylabel=label, xlim=(TEMPERATURES[0], TEMPERATURES[-1]))


def _draw_compared(axes: tuple[Axes, Axes], compared: ComparedPhonons, curves: PhononCurves) -> None:
    """Draw bands and densities of states of two sides, the difference of the densities shaded."""
    draw_bands(axes, curves)
    left, right = axes
    left.legend(loc="upper right", frameon=True, framealpha=0.9, fontsize="small")
    left.set_title(compared.result.formula, loc="left", fontsize="medium")
    ours, theirs = (side.dos for side in curves.sides)
    right.fill_betweenx(curves.grid, ours, theirs, color=line_style("candidate").colour, alpha=0.15, lw=0)
    right.set_title(f"ΔDOS {compared.result.dos_error_percent:.0f} %", loc="left", fontsize="small")


def _draw_parity(axes: Axes, compared: ComparedPhonons, curves: PhononCurves) -> None:
    """Draw candidate against reference frequencies of the mesh, the diagonal, and the errors."""
    ours, theirs = (side.mesh.frequencies.ravel() for side in curves.sides)
    axes.plot(ours, theirs, ".", ms=2, alpha=0.25, color=line_style("candidate").colour, rasterized=True)
    low, high = min(ours.min(), theirs.min()), max(ours.max(), theirs.max())
    margin = 0.03 * (high - low)
    axes.plot([low, high], [low, high], color=line_style("reference").colour, lw=0.8)
    axes.set_xlim(low - margin, high + margin)
    axes.set_yticks(axes.get_xticks())
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
    axes.set(xlabel=f"{curves.sides[0].label} (THz)", ylabel=f"{curves.sides[1].label} (THz)")
    errors = f"MAE {compared.result.mae_thz:.3f} THz, RMSE {compared.result.rmse_thz:.3f} THz"
    axes.set_title(errors, loc="left", fontsize="small")


@styled
def bands_figure(compared: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")) -> Figure:
    """Return the figure of bands and densities of states of two sides."""
    figure = new_figure(7.2, 3.8)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3.4, 1])
    _draw_compared((left, right), compared, compared_curves(compared, names))
    return figure


@styled
def parity_figure(compared: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")) -> Figure:
    """Return the figure of candidate against reference frequencies."""
    figure = new_figure(4.2, 4.2)
    _draw_parity(figure.subplots(), compared, compared_curves(compared, names))
    return figure


@styled
def full_figure(compared: ComparedPhonons, names: tuple[str, str] = ("reference", "candidate")) -> Figure:
    """Return one figure of bands, densities of states, parity and thermal curves of two sides."""
    curves = compared_curves(compared, names)
    figure = new_figure(9.5, 7.0)
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1.25, 1])).tolist()
    left, middle = top.subplots(1, 2, sharey=True, width_ratios=[3.4, 1])
    _draw_compared((left, middle), compared, curves)
    panels = bottom.subplots(1, 4, width_ratios=[1.15, 1, 1, 1])
    _draw_parity(panels[0], compared, curves)
    draw_thermal(panels[1:], curves)
    panels[1].legend(frameon=False, fontsize="small", loc="lower right")
    return figure
