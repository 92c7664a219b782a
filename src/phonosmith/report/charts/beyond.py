"""Charts of what lies beyond a material's own phonons: imaginary modes and their phases, errors on other structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from phonosmith.evaluation.forgetting.documents import ForgettingDoc
from phonosmith.evaluation.modes.documents import FollowedMode, Phase, TransitionDoc
from phonosmith.report.charts.data import Axis, Chart, Panel, Series, rounded
from phonosmith.report.figures.forgetting import QUANTITIES, every_set
from phonosmith.report.figures.modes import MOST_PANELS, axis_cut, followed_groups, grid_energies, mode_title
from phonosmith.report.page.texts import space_group_text, typeset

_MODES = ("delta", "transfer", "multihead", "scratch", "foundation", "delta+pft")
_STAGES = ("initial", "displaced", "relaxed")


def mode_energies_chart(sides: Mapping[str, TransitionDoc], material: str) -> Chart | None:
    """Return energies along every followed mode, several methods over each other; one method's 2-D modes as maps."""
    groups = followed_groups(sides)
    if not groups:
        return None
    panels = [
        _map(group[0][1]) if len(group) == 1 and len(group[0][1].grid_shape) == 2 else _curves(group)
        for group in groups[:MOST_PANELS]
    ]
    more = f"; {len(groups) - MOST_PANELS} more are in the table" if len(groups) > MOST_PANELS else ""
    return Chart(
        "modes",
        f"Energy along imaginary modes, minima marked; in maps blue lies below the crystal, red above{more}",
        f"Energy along the imaginary modes of {material} by {', '.join(sides)}; depths are in the table.",
        panels,
    )


def _curves(group: Sequence[tuple[str, FollowedMode]]) -> Panel:
    series = []
    for name, mode in group:
        amplitudes, energies = axis_cut(mode)
        series.append(Series(name, name, rounded(amplitudes), rounded(energies)))
        if len(mode.grid_shape) == 1 and mode.minima:
            depths = [1000 * one.energy_ev_per_atom for one in mode.minima]
            places = [one.amplitudes[0] for one in mode.minima]
            words = [typeset(f"minimum, {depth:.2f} meV/atom") for depth in depths]
            series.append(Series(name, name, rounded(places), rounded(depths), "dots", hollow=True, labels=words))
    title = typeset(mode_title(group[0][1]))
    return Panel(Axis(f"amplitude (Å√amu) of {title}"), Axis("energy (meV/atom)"), series, y_guides=[(0.0, "")])


def _map(mode: FollowedMode) -> Panel:
    axis, energies = np.array(mode.amplitudes), grid_energies(mode)
    first, second = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    values = rounded(energies.ravel())
    words = ["not calculated" if value is None else typeset(f"{value:.2f} meV/atom") for value in values]
    minima = [one for one in mode.minima if len(one.amplitudes) == 2]
    series = [Series("energy", "delta", rounded(first), rounded(second), "map", values=values, labels=words)]
    if minima:
        x, y = (rounded(one.amplitudes[place] for one in minima) for place in range(2))
        depths = [typeset(f"{1000 * one.energy_ev_per_atom:.2f} meV/atom") for one in minima]
        series.append(Series("minima", "reference", x, y, "dots", hollow=True, labels=depths))
    return Panel(Axis(f"amplitude 1 (Å√amu) of {typeset(mode_title(mode))}"), Axis("amplitude 2 (Å√amu)"), series)


def _phase_text(phase: Phase) -> str:
    return f"{space_group_text(phase.space_group)} ({phase.n_atoms_primitive})"


def pathways_chart(sides: Mapping[str, TransitionDoc], material: str) -> Chart | None:
    """Return the ways from the crystal over displaced ones to relaxed phases with their energies, a panel per method.

    None where no way led to a phase.
    """
    panels = []
    for name, document in sides.items():
        series = [
            _way(number, mode, document.initial, pathway.displaced, pathway.final)
            for number, mode in enumerate(document.modes)
            for pathway in mode.pathways
            if pathway.final is not None
        ]
        if series:
            ticks = [(float(place), words) for place, words in enumerate(_STAGES)]
            label = f"{name}: energy (meV/atom)"
            panels.append(Panel(Axis("", ticks=ticks), Axis(label), series, y_guides=[(0.0, "")]))
    if not panels:
        return None
    return Chart(
        "pathways",
        "Pathways to other phases: space group and atoms of the primitive cell, energy above the crystal",
        f"Energies of the phases that the modes of {material} lead to, by {', '.join(sides)}; they are in the table.",
        panels,
    )


def _way(number: int, mode: FollowedMode, *phases: Phase) -> Series:
    # the crystal itself is the zero of energy
    energies = [0.0, *(1000 * phase.energy_difference_ev_per_atom for phase in phases[1:])]
    names = [_phase_text(phase) for phase in phases]
    return Series(
        typeset(mode_title(mode)),
        _MODES[number % len(_MODES)],
        [0.0, 1.0, 2.0],
        rounded(energies),
        "spans",
        labels=[typeset(f"{name}, {energy:+.2f} meV/atom") for name, energy in zip(names, energies, strict=True)],
        names=names,
    )


def forgetting_chart(documents: Sequence[ForgettingDoc], names: Sequence[str]) -> Chart | None:
    """Return force and energy errors on sets the potentials were not tuned on, the foundation's beside them.

    A set without a reference has no bar of the foundation: there the foundation is the truth, and the others' bars are
    their drift from it.
    """
    panels = []
    for quantity, label in QUANTITIES.items():
        rows = every_set(documents)
        columns = {"foundation": [getattr(one, f"foundation_{quantity}") for one in rows]}
        for name, document in zip(names, documents, strict=True):
            tuned = {one.name: getattr(one, f"tuned_{quantity}") for one in reversed(document.sets)}
            columns[name] = [tuned.get(one.name) for one in rows]
        # errors range over orders of magnitude, and the axis is logarithmic
        known = {name: [value or None for value in values] for name, values in columns.items()}
        kept = [place for place in range(len(rows)) if any(values[place] for values in known.values())]
        if not kept:
            continue
        ticks = [
            (float(new), rows[old].name + " (drift)" * (rows[old].truth == "foundation"))
            for new, old in enumerate(kept)
        ]
        places = [float(place) for place in range(len(kept))]
        series = [
            Series(name, name, list[float | None](places), rounded(values[place] for place in kept), "bars")
            for name, values in known.items()
            if any(values[place] for place in kept)
        ]
        panels.append(Panel(Axis("", ticks=ticks), Axis(label, log=True), series))
    if not panels:
        return None
    return Chart(
        "forgetting",
        "Errors where the potentials were not tuned; drift: from the foundation, where nothing else is known",
        f"Force and energy errors of {', '.join(names)} on structures they were not tuned on, beside the foundation's; "
        "the values are in the table.",
        panels,
    )
