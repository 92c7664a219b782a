"""Figures of one material: what they show, and in which style."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from pymatgen.core import Lattice, Structure

from helpers.model_crystals import spring_crystal
from helpers.synthetic import synthetic_reports
from phonosmith.analysis.choice import in_order
from phonosmith.core.errors import InputError
from phonosmith.harmonic.model import HarmonicModel
from phonosmith.report.figures.material import drawn_cell, ladder_figure, structure_figure, training_figure
from phonosmith.report.figures.mechanics import elastic_figure, independent_constants
from phonosmith.report.figures.phonons import drawing_mesh, many_bands_figure, many_thermal_figure, phonon_curves
from phonosmith.report.figures.style import escape_math, figure_bytes, line_style, webp_bytes


@pytest.fixture(scope="module")
def report():
    return synthetic_reports(1, strategies=("transfer", "delta"), sizes=(4, 10))[0]


def springs(factor, **settings):
    phonon, constants = spring_crystal(3, **settings)
    phonon.force_constants = factor * constants
    return HarmonicModel(phonon, "symfc", "springs")


def test_bands_of_several_potentials_share_the_path_of_the_first():
    curves = phonon_curves({"reference": springs(1.0), "delta": springs(1.21), "scratch": springs(-0.04)})
    assert [side.name for side in curves.sides] == ["reference", "delta", "scratch"]
    reference, delta, scratch = curves.sides
    # frequencies go with the root of the force constants
    assert delta.bands.highest == pytest.approx(1.1 * reference.bands.highest)
    assert scratch.bands.lowest == pytest.approx(-0.2 * reference.bands.highest)
    step = curves.grid[1] - curves.grid[0]
    for side in curves.sides:
        assert side.dos.sum() * step == pytest.approx(3, abs=1e-3)
    left, right = many_bands_figure(curves).axes
    black = [line for line in left.lines if line.get_color() == "#000000"]
    assert max(np.max(line.get_ydata()) for line in black if len(line.get_ydata())) == pytest.approx(
        reference.bands.highest
    )
    assert left.get_ylim()[0] < scratch.bands.lowest
    assert right.get_ylim() == left.get_ylim()
    panels = many_thermal_figure(curves).axes
    assert [panel.get_ylabel() for panel in panels] == ["$C_v$ (J/K/mol)", "$S$ (J/K/mol)", "$F$ (kJ/mol)"]


def test_a_side_of_another_crystal_is_left_out_by_name():
    curves = phonon_curves({"reference": springs(1.0), "other": springs(1.0, symbol="Cu")})
    assert [side.name for side in curves.sides] == ["reference"]
    assert list(curves.left_out) == ["other"]
    with pytest.raises(InputError, match="no phonons"):
        phonon_curves({})


def test_meshes_get_coarser_with_branches():
    assert [drawing_mesh(n) for n in (3, 6, 24, 120)] == [16, 16, 12, 7]


def test_the_drawn_cell_has_its_faces_filled():
    rocksalt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    atoms = drawn_cell(rocksalt.get_primitive_structure())
    # 14 at corners and face centres of one kind, 13 on edges and in the centre of the other
    assert sorted(atoms.symbols.count(name) for name in ("Na", "Cl")) == [13, 14]
    assert len(structure_figure(rocksalt).axes) == 2


def test_the_ladder_shows_chosen_steps(report):
    (axes,) = ladder_figure(report.sampling).axes
    marked = [line for line in axes.lines if line.get_marker() == "o"]
    shown = [(np.array(line.get_xdata()) - 1).tolist() for line in marked]
    assert shown == report.sampling.selected_steps
    hollow = [line.get_markerfacecolor() == "white" for line in marked]
    assert hollow == [factor == 1.0 for factor in report.sampling.volume_factors]


def test_training_marks_the_weights_kept(report):
    entries = report.strategies
    left, _ = training_figure(entries).axes
    marks = [line for line in left.lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in marks] == [entry.curve.best_epoch for entry in entries]
    assert "meV/Å" in left.get_ylabel()
    with pytest.raises(InputError, match="no training curves"):
        training_figure([report.foundation])


def test_elastic_constants_shown_are_the_independent_ones(report):
    cubic = np.diag([160.0, 160, 160, 80, 80, 80])
    cubic[:3, :3] += 60 - 60 * np.eye(3)
    assert independent_constants(cubic.tolist()) == [(0, 0), (3, 3), (0, 1)]
    hexagonal = cubic.copy()
    hexagonal[2, 2], hexagonal[0, 2], hexagonal[2, 0], hexagonal[1, 2], hexagonal[2, 1] = 180, 40, 40, 40, 40
    hexagonal[5, 5] = 50
    assert independent_constants(hexagonal.tolist()) == [(0, 0), (2, 2), (3, 3), (5, 5), (0, 1), (0, 2)]
    sides = [report.reference_result.elastic, report.foundation.elastic]
    left, right = elastic_figure(sides, ["reference", "foundation"]).axes
    assert left.lines[0].get_ydata()[-2] == pytest.approx(sides[0].fit.moduli.bulk_vrh)
    assert right.lines[1].get_ydata()[0] == pytest.approx(sides[1].slack.kappa)


def test_styles_tell_potentials_apart():
    from phonosmith.training.spec import PRESETS

    looks = [
        (style.colour, str(style.dashes), style.marker)
        for style in map(line_style, ["reference", "foundation", *PRESETS])
    ]
    assert len(set(looks)) == len(looks)
    assert line_style("mine") == line_style("mine")
    assert in_order({"delta", "other", "foundation", "freeze2", "scratch"}) == [
        "foundation", "scratch", "freeze2", "delta", "other",
    ]  # fmt: skip
    assert escape_math("a$b$") == r"a\$b\$"


def test_the_same_figure_gives_the_same_bytes(report):
    first, second = (figure_bytes(ladder_figure(report.sampling), "svg") for _ in range(2))
    assert first == second
    assert b"meV/atom" in first
    small = webp_bytes(ladder_figure(report.sampling))
    pixels = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).reshape(-1, 3)
    for colour in ("#ffffff", "#0072B2", "#56B4E9", "#E69F00", "#D55E00"):
        # thin lines keep their colour: within half a step of sixteen
        assert np.abs(pixels - np.array(to_rgb(colour)) * 255).max(axis=1).min() <= 8.5, colour
    assert small[:4] == b"RIFF"
    assert len(small) < 0.5 * len(figure_bytes(ladder_figure(report.sampling), "png", 130))
