"""Figures of mechanical properties: energy against volume and elastic constants of a reference and its candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.evaluation.mechanics.documents import EosDoc
from phonosmith.evaluation.mechanics.eos import birch_murnaghan_energy
from phonosmith.report.figures.style import (
    NAMED,
    REFERENCE,
    LineStyle,
    escape_math,
    line_style,
    new_figure,
    styled,
)

_MEV = 1000.0


def _style(index: int, name: str) -> LineStyle:
    """Return how a side is drawn: the first is the reference, an unnamed second one the candidate."""
    if index == 0:
        return REFERENCE
    return line_style("foundation" if index == 1 and name not in NAMED else name)


@styled
def energy_volume_figure(sides: Sequence[EosDoc], names: Sequence[str] | None = None) -> Figure:
    """Return energy against volume per atom of one or more equations of state of one material, the reference first.

    Each energy counts from the minimum of its own fit, since methods differ in their zero. Filled points entered the
    fit; crosses did not: outliers, and volumes whose atoms did not relax. The equilibrium volumes are marked below.
    Names in the legend are the methods of the documents unless given.
    """
    if not sides:
        raise InputError("There is no equation of state to draw.", "Pass at least one document.")
    if len({side.formula for side in sides}) > 1:
        raise MismatchError(
            f"Equations of state of {', '.join(side.formula for side in sides)} do not belong in one figure.",
            "Draw one material at a time.",
        )
    figure = new_figure(5.2, 3.8 + 0.16 * max(len(sides) - 2, 0))
    axes = figure.subplots()
    labels = list(names) if names is not None else [side.method or f"side {i}" for i, side in enumerate(sides, 1)]
    left_out = False
    for index, (side, name) in enumerate(zip(sides, labels, strict=True)):
        style = _style(index, name)
        look = {"color": style.colour, "ls": style.dashes, "lw": 1.1}
        fit, atoms = side.fit, side.n_atoms
        volumes, energies = np.array(side.volumes) / atoms, _MEV * (np.array(side.energies) - fit.energy) / atoms
        out = np.array([i in fit.excluded or not side.converged[i] for i in range(len(volumes))])
        span = np.ptp(volumes)
        grid = np.linspace(volumes.min() - 0.02 * span, volumes.max() + 0.02 * span, 200)
        curve = birch_murnaghan_energy(grid * atoms, 0.0, fit.volume, fit.bulk_modulus, fit.bulk_modulus_derivative)
        label = f"{escape_math(name)}: $V_0$ = {fit.volume / atoms:.3f} Å³, $B_0$ = {fit.bulk_modulus:.1f} GPa"
        axes.plot(grid, _MEV * curve / atoms, label=label, **look)
        axes.plot(volumes[~out], energies[~out], style.marker, color=style.colour, ms=4)
        if out.any():
            axes.plot(volumes[out], energies[out], "x", color=style.colour, ms=8, mew=1.6)
            left_out = True
        axes.axvline(fit.volume / atoms, ymax=0.06, **look)
    if left_out:
        axes.plot([], [], "x", color="0.4", ms=7, mew=1.4, label="left out of the fit")
    axes.set(xlabel="volume (Å³/atom)", ylabel="energy above minimum (meV/atom)")
    axes.set_title(escape_math(sides[0].formula), loc="left", fontsize="medium")
    # room for the legend above the curves, and for the marks of the volumes below
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.06 * high), high + 0.08 * (high - low) * (1 + len(axes.get_legend_handles_labels()[1])))
    axes.legend(frameon=False, fontsize="small", loc="upper center")
    return figure
