"""Figures of how one material's potentials were made: crystal, relaxation ladder, training curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.data.colors import jmol_colors
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure
from pymatgen.core import Structure

from phonosmith.analysis.documents import PotentialReport, SamplingSummary
from phonosmith.core.errors import InputError
from phonosmith.report.figures.style import (
    OKABE_ITO,
    escape_math,
    legend_above,
    line_style,
    log_axis,
    new_figure,
    styled,
    whole_ticks,
)
from phonosmith.structures.standard import standard_conventional

_VIEWS = (("along a", "-90x,-90y,0z"), ("oblique", "-78x,-18y,-3z"))
_RUNGS = tuple(OKABE_ITO[name] for name in ("blue", "sky", "black", "orange", "vermillion", "green", "purple"))
_MOST_DRAWN_ATOMS = 400


def drawn_cell(structure: Structure) -> Atoms:
    """Return the conventional cell with the atoms on its faces repeated, as crystals are usually drawn.

    The cell is taken as it comes when its symmetry is not found.
    """
    try:
        cell = standard_conventional(structure).to_ase_atoms(msonable=False)
    except InputError:
        cell = structure.to_ase_atoms(msonable=False)
    cell.wrap(eps=1e-3)
    drawn = cell.copy()
    drawn.set_pbc(False)
    fractions = cell.get_scaled_positions(wrap=False)
    for axis in range(3):
        on_face = np.abs(fractions[:, axis]) < 1e-2
        images = fractions[on_face] + np.eye(3)[axis]
        extra = drawn[on_face]
        extra.set_scaled_positions(images)
        drawn += extra
        fractions = np.vstack([fractions, images])
    return drawn


@styled
def structure_figure(structure: Structure) -> Figure:
    """Return two views of the crystal, one colour per element (the colours of Jmol), with the cell's edges."""
    atoms = drawn_cell(structure)
    if len(atoms) > _MOST_DRAWN_ATOMS:
        raise InputError(f"A cell of {len(atoms)} atoms is too large to draw.", f"At most {_MOST_DRAWN_ATOMS} atoms.")
    figure = new_figure(5.6, 2.9)
    panels = np.asarray(figure.subplots(1, 2)).tolist()
    for panel, (name, rotation) in zip(panels, _VIEWS, strict=True):
        plot_atoms(atoms, panel, radii=0.42, rotation=rotation, show_unit_cell=2)
        panel.set_axis_off()
        panel.set_title(name, fontsize="small")
    for symbol in dict.fromkeys(site.specie.symbol for site in structure):
        colour = jmol_colors[atomic_numbers[symbol]]
        panels[0].plot([], [], "o", ms=9, mfc=colour, mec="0.2", mew=0.6, label=symbol)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure


@styled
def ladder_figure(sampling: SamplingSummary) -> Figure:
    """Return the relaxations that configurations were taken from: energy against step, chosen frames as circles."""
    figure = new_figure(5.6, 3.3)
    axes = figure.subplots()
    for index, factor in enumerate(sampling.volume_factors):
        colour = _RUNGS[index % len(_RUNGS)]
        steps, energies = np.array(sampling.steps[index]) + 1, 1000 * np.array(sampling.energies[index])
        chosen = np.array(sampling.selected_steps[index]) + 1
        axes.plot(steps, energies, color=colour, label=f"{100 * (factor - 1):+g} % volume")
        validation = abs(factor - 1) < 1e-9
        axes.plot(
            chosen, 1000 * np.array(sampling.selected_energies[index]),
            "o", ms=6, color=colour, mfc="white" if validation else colour,
        )  # fmt: skip
    axes.set(xscale="log", xlabel="step of the relaxation + 1", ylabel="energy above the last step (meV/atom)")
    axes.set_title(f"{sampling.cell} cell, {sampling.n_atoms} atoms; open circles: validation", loc="left")
    axes.legend()
    return figure


@styled
def training_figure(entries: Sequence[PotentialReport]) -> Figure:
    """Return validation force error and loss of each training against the epoch; a mark shows the weights kept."""
    drawn = [(entry, entry.curve) for entry in entries if entry.curve is not None and entry.curve.epoch]
    if not drawn:
        raise InputError("There are no training curves to draw.", "Reports keep them since version 2.")
    figure = new_figure(6.6, 3.0)
    left, right = figure.subplots(1, 2)
    for entry, curve in drawn:
        style = line_style(entry.strategy)
        epochs = np.array(curve.epoch)
        for panel, values in ((left, curve.valid_force_mae), (right, curve.valid_loss)):
            column = np.array(values, dtype=float)
            label = escape_math(entry.strategy)
            panel.plot(epochs, column, label=label, color=style.colour, ls=style.dashes)
            kept = epochs == curve.best_epoch
            panel.plot(epochs[kept], column[kept], style.marker, color=style.colour, ms=6)
    for panel, label in ((left, "validation force MAE (meV/Å)"), (right, "validation loss (each strategy's own)")):
        log_axis(panel, "y")
        whole_ticks(panel.xaxis, most=7)
        panel.set(xlabel="epoch (0: the start)", ylabel=label)
    legend_above(figure, left)
    return figure
