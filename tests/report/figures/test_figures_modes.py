"""Figures of followed modes hold the numbers of the documents."""

import numpy as np
import pytest

from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, Phase, TransitionDoc
from phonosmith.report.figures.modes import (
    axis_cut,
    draw_map,
    grid_energies,
    mode_energies_figure,
    mode_title,
    pathways_figure,
)
from phonosmith.report.figures.style import figure_bytes, new_figure

INITIAL = Phase(space_group="Fm-3m", space_group_number=225, n_atoms_primitive=2, energy_difference_ev_per_atom=0.0)
FINAL = Phase(space_group="R3m", space_group_number=160, n_atoms_primitive=2, energy_difference_ev_per_atom=-0.02)


def mode(dimension=1, label="X", **options):
    axis = np.linspace(-2, 2, 5)
    grid = np.meshgrid(*[axis] * dimension, indexing="ij")
    radius = sum(values**2 for values in grid)
    energies = (0.01 * (radius**2 / 2 - radius)).ravel().tolist()
    start = GridMinimum(amplitudes=[1.0] + [0.0] * (dimension - 1), energy_ev_per_atom=-0.005)
    displaced = FINAL.model_copy(update={"energy_difference_ev_per_atom": -0.005})
    pathway = Pathway(start=start, displaced=displaced, final=FINAL, converged=True, n_steps=3)
    content = {
        "q": [0.5, 0.0, 0.5], "label": label, "frequency_thz": -1.9, "multiplicity": dimension, "band_indices": [0],
        "exact": True, "n_atoms": 4, "grid_shape": [5] * dimension, "amplitudes": axis.tolist(), "energies": energies,
        "minima": [start], "pathways": [pathway],
    }  # fmt: skip
    return FollowedMode(**(content | options))


def document(*modes):
    phases = [FINAL] if modes else []
    return TransitionDoc(
        formula="GeTe", method="m", initial=INITIAL, modes=list(modes), phases=phases, manifest=Manifest()
    )


def test_curve_is_the_stored_one():
    amplitudes, energies = axis_cut(mode())
    assert amplitudes == [-2, -1, 0, 1, 2]
    assert energies == pytest.approx([40, -5, 0, -5, 40])


def test_cut_goes_through_the_minimum():
    corner = mode(2, minima=[GridMinimum(amplitudes=[1.0, 1.0], energy_ev_per_atom=-0.001)])
    amplitudes, energies = axis_cut(corner)
    assert amplitudes == pytest.approx(np.sqrt(2) * np.array([-2, -1, 0, 1, 2]))
    assert energies == pytest.approx(np.diag(grid_energies(corner)))


def test_points_that_were_not_calculated_are_left_out():
    holes = mode(energies=[0.04, None, 0.0, -0.005, 0.04])
    assert axis_cut(holes)[0] == [-2, 0, 1, 2]


def test_map_marks_minima_and_spans_the_grid():
    axes = new_figure(3, 3).add_subplot()
    draw_map(axes, mode(2))
    marked = [tuple(line.get_xydata()[0]) for line in axes.lines]
    assert (1.0, 0.0) in marked
    assert axes.collections[0].get_array().size == 25
    assert axes.collections[0].get_clim()[0] == pytest.approx(-5)


def test_one_panel_per_mode_and_methods_over_each_other():
    figure = mode_energies_figure({"reference": document(mode()), "delta": document(mode(), mode(2, label="W"))})
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panels) == 2
    assert {len(axes.lines) for axes in panels if axes.get_ylabel() == "energy (meV/atom)"} == {5}
    assert mode_title(mode(label="GAMMA")).startswith("Γ, -1.90")


def test_pathways_name_phases_with_energies():
    figure = pathways_figure({"reference": document(mode()), "delta": document()})
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("Fm-3m (2)") == 2
    assert texts.count("R3m (2)") == 2
    assert "no other phase" in texts
    levels = {round(float(line.get_ydata()[0]), 6) for line in figure.axes[0].lines}
    assert {0.0, -5.0, -20.0} <= levels


def test_nothing_to_show_is_said():
    for figure in (mode_energies_figure({"delta": document()}), mode_energies_figure({}), pathways_figure({})):
        assert figure_bytes(figure, "png")[:4] == b"\x89PNG"
    skipped = mode(skipped="too large", energies=[], grid_shape=[], amplitudes=[])
    assert "no imaginary mode" in mode_energies_figure({"delta": document(skipped)}).axes[0].texts[0].get_text()


def test_same_document_gives_the_same_bytes():
    sides = {"delta": document(mode(), mode(2, label="W"), mode(3, label="GAMMA"))}
    assert figure_bytes(mode_energies_figure(sides), "svg") == figure_bytes(mode_energies_figure(sides), "svg")
