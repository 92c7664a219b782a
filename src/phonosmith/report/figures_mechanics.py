"""Figures of mechanical properties: energy against volume of a reference and its candidates, in the look of phonons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.evaluation.eos import birch_murnaghan_energy
from phonosmith.report.figures_phonons import CANDIDATE_COLOUR, REFERENCE_COLOUR, save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phonosmith.evaluation.mechanics import EosDoc

_MEV = 1000.0


def _style(index: int) -> tuple[str, Any, str]:
    """Return colour, dashes and marker of a side: the first is the reference, the second the candidate."""
    first: list[tuple[str, Any, str]] = [(REFERENCE_COLOUR, "-", "o"), (CANDIDATE_COLOUR, (0, (4, 2)), "s")]
    return first[index] if index < len(first) else (f"C{index - len(first)}", (0, (1, 1)), "^Dv<>"[index % 5])


def draw_energy_volume(axes: Axes, sides: Sequence[EosDoc], names: Sequence[str] | None = None) -> None:
    """Draw energy against volume per atom of one or more equations of state of one material.

    Each energy counts from the minimum of its own fit, since methods differ in their zero. Filled points entered the
    fit; crosses did not: outliers, and volumes whose atoms did not relax. The equilibrium volumes are marked below.

    Parameters
    ----------
    axes
        Where to draw.
    sides
        The reference first, then candidates.
    names
        In the legend; the method of each document unless given.
    """
    if not sides:
        raise InputError("There is no equation of state to draw.", "Pass at least one document.")
    if len({side.formula for side in sides}) > 1:
        raise MismatchError(
            f"Equations of state of {', '.join(side.formula for side in sides)} do not belong in one figure.",
            "Draw one material at a time.",
        )
    labels = list(names) if names is not None else [side.method or f"side {i}" for i, side in enumerate(sides, 1)]
    left_out = False
    for index, (side, name) in enumerate(zip(sides, labels, strict=True)):
        colour, dashes, marker = _style(index)
        fit, atoms = side.fit, side.n_atoms
        volumes, energies = np.array(side.volumes) / atoms, _MEV * (np.array(side.energies) - fit.energy) / atoms
        out = np.array([i in fit.excluded or not side.converged[i] for i in range(len(volumes))])
        span = np.ptp(volumes)
        grid = np.linspace(volumes.min() - 0.02 * span, volumes.max() + 0.02 * span, 200)
        curve = birch_murnaghan_energy(grid * atoms, 0.0, fit.volume, fit.bulk_modulus, fit.bulk_modulus_derivative)
        axes.plot(
            grid,
            _MEV * curve / atoms,
            color=colour,
            ls=dashes,
            lw=1.1,
            label=f"{name}: $V_0$ = {fit.volume / atoms:.3f} Å³, $B_0$ = {fit.bulk_modulus:.1f} GPa",
        )
        axes.plot(volumes[~out], energies[~out], marker, color=colour, ms=4)
        if out.any():
            axes.plot(volumes[out], energies[out], "x", color=colour, ms=8, mew=1.6)
            left_out = True
        axes.axvline(fit.volume / atoms, ymax=0.06, color=colour, ls=dashes, lw=1.1)
    if left_out:
        axes.plot([], [], "x", color="0.4", ms=7, mew=1.4, label="left out of the fit")
    axes.set_xlabel("volume (Å³/atom)")
    axes.set_ylabel("energy above minimum (meV/atom)")
    axes.set_title(sides[0].formula, loc="left", fontsize="medium")
    # room for the legend above the curves, and for the marks of the volumes below
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.06 * high), high + 0.08 * (high - low) * (1 + len(axes.get_legend_handles_labels()[1])))
    axes.legend(frameon=False, fontsize="small", loc="upper center")


def energy_volume_figure(sides: Sequence[EosDoc], names: Sequence[str] | None = None) -> Figure:
    """Return the figure of energy against volume."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    draw_energy_volume(figure.subplots(), sides, names)
    return figure


def eos_figure(sides: Sequence[EosDoc], path: str | Path, names: Sequence[str] | None = None) -> Path:
    """Write energy against volume of one or more methods to an image file."""
    return save_figure(energy_volume_figure(sides, names), path)
