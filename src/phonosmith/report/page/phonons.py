"""Bands, densities of states and modes of one material as the page's script draws them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from phonosmith.analysis.choice import chosen_potential, one_per_strategy
from phonosmith.analysis.documents import MaterialReport, PhononSummary
from phonosmith.core.artefacts import ArtefactStore
from phonosmith.core.errors import PhonosmithError
from phonosmith.harmonic.model import HarmonicModel
from phonosmith.report.charts.data import Packed, pack
from phonosmith.report.figures.phonons import PhononCurves, load_model, path_ticks, phonon_curves, point_label
from phonosmith.report.page.crystal import Crystal, Modes, modes_along, primitive_crystal
from phonosmith.report.page.texts import reason_of

MOST_DRAWN = 7
"""Sides of one figure, the reference included; more cannot be told apart."""
_RESOLUTION_THZ = 1e-3
_DOS_STEPS = 1500


@dataclass(frozen=True)
class Detail:
    """How much of each material's phonons a page carries: a page of many materials carries less of each."""

    points: int
    sides: int
    mode_bytes: int
    still_dpi: int

    @classmethod
    def for_materials(cls, number: int) -> Detail:
        """Return what keeps pages of 200 materials within 15 MB."""
        if number <= 5:
            return cls(41, MOST_DRAWN, 60_000, 130)
        return cls(31, 3, 20_000, 90) if number <= 40 else cls(21, 3, 6_000, 50)


@dataclass(frozen=True)
class BandSide:
    """One side of the figure: bands (a row per branch, THz) over all points of the path, density of states (1/THz)."""

    name: str
    look: str
    bands: Packed
    dos: Packed
    role: str = ""
    mae: float | None = None
    branch_mae: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class PhononData:
    """What the interactive figure of a material is drawn from.

    ``ticks``: places (1/Å) and names of corners. ``segments``: names and wave vectors of both ends of each, with its
    first and last place. ``dos_grid``: first frequency and step, THz. ``cell``: the primitive one of the first side.
    """

    points: int
    ticks: list[tuple[float, str]]
    segments: list[tuple[str, str, list[float], list[float], float, float]]
    sides: list[BandSide]
    dos_grid: tuple[float, float]
    cell: Crystal
    modes: list[Modes]


@dataclass(frozen=True)
class LoadedPhonons:
    """Curves of the sides that are drawn, and why others are not."""

    curves: PhononCurves | None
    problems: list[str]


def drawn_sides(report: MaterialReport, most: int) -> dict[str, PhononSummary]:
    """Return the phonons to draw by name: reference, chosen potential, foundation, then the others."""
    chosen, entries = chosen_potential(report), one_per_strategy(report)
    first = [] if chosen is None else [(name, entry) for name, entry in entries if name == chosen.strategy]
    rest = [pair for pair in entries[1:] if pair not in first]
    drawn = {"reference": report.reference_result.phonons}
    drawn |= {name: entry.summary for name, entry in [*first, entries[0], *rest]}
    known = {name: summary for name, summary in drawn.items() if summary is not None}
    return dict(list(known.items())[:most])


def load_phonons(report: MaterialReport, artefacts: ArtefactStore, detail: Detail) -> LoadedPhonons:
    """Return the phonons of a material; force constants that are not there become sentences."""
    models: dict[str, HarmonicModel] = {}
    problems = []
    for name, summary in drawn_sides(report, detail.sides).items():
        try:
            models[name] = load_model(summary, artefacts)
        except PhonosmithError as error:
            problems.append(f"The phonons of {name} cannot be drawn: {error.message}")
    if not models:
        return LoadedPhonons(None, problems)
    try:
        curves = phonon_curves(models, detail.points)
    except Exception as error:  # noqa: BLE001 - numerical libraries fail in many ways; the page goes on and says it
        problems.append(f"The phonons of {report.material} cannot be drawn: {reason_of(error)}")
        return LoadedPhonons(None, problems)
    problems += [f"{name} is not drawn: {why}" for name, why in curves.left_out.items()]
    return LoadedPhonons(curves, problems)


def phonon_data(report: MaterialReport, loaded: LoadedPhonons, detail: Detail) -> PhononData | None:
    """Return the interactive figure of a material's phonons, None where nothing can be drawn."""
    if loaded.curves is None:
        return None
    curves, chosen = loaded.curves, chosen_potential(report)
    first, grid = curves.sides[0], curves.grid
    if first.model is None:
        return None
    base, after = curves.sides[0].bands, None if chosen is None else chosen.strategy
    roles = {"reference": "reference", "foundation": "before", after: "after"}
    compared = {name: entry.phonons for name, entry in one_per_strategy(report) if entry.phonons is not None}
    positions, names = path_ticks(base)
    segments = [
        (point_label(ends[0]), point_label(ends[1]), q[0].tolist(), q[-1].tolist(), float(places[0]), float(places[-1]))
        for ends, q, places in zip(base.path.labels, base.path.segments, base.distances, strict=True)
    ]
    # the truth and what would be used in its place; a reader of one wants to see the other
    moving = [side for side in curves.sides if side is first or side.name == after]
    modes = [
        modes_along(side.name, side.model, side.own_path, detail.mode_bytes)
        for side in moving
        if side.model is not None and side.own_path is not None
    ]
    return PhononData(
        points=detail.points,
        ticks=list(zip(positions, names, strict=True)),
        segments=segments,
        sides=[
            BandSide(
                name=side.name,
                look=side.name,
                bands=pack(np.concatenate(side.bands.frequencies).T, _RESOLUTION_THZ),
                dos=pack(side.dos, float(side.dos.max()) / _DOS_STEPS),
                role=roles.get(side.name, ""),
                mae=compared[side.name].mae_thz if side.name in compared else None,
                branch_mae=compared[side.name].branch_mae_thz if side.name in compared else [],
            )
            for side in curves.sides
        ],
        dos_grid=(float(grid[0]), float(grid[1] - grid[0])),
        cell=primitive_crystal(first.model),
        modes=[found for found in modes if found is not None],
    )
