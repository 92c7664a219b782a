"""Figures of phonons: what they show, and that they are written whole."""

import numpy as np
import pytest

from helpers.model_crystals import spring_crystal
from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
from phonosmith.harmonic.model import HarmonicModel
from phonosmith.report.figures.phonons import bands_figure, full_figure, point_label
from phonosmith.report.figures.style import save_figure


@pytest.fixture(scope="module")
def found():
    sides = []
    for factor in (1.0, 1.21):
        phonon, constants = spring_crystal(3)
        phonon.force_constants = factor * constants
        sides.append(HarmonicModel(phonon, "symfc", "springs"))
    return compare_phonons_in_full(*sides, mesh=4)


def test_labels():
    assert point_label("GAMMA") == "Γ"
    assert point_label("H_2") == "H₂"
    assert point_label("SIGMA_0") == "Σ₀"


def test_bands_hold_both_sides_over_the_same_corners(found):
    left, right = bands_figure(found, ("PBE", "MACE")).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["PBE", "MACE"]
    highest = sorted({round(float(np.max(line.get_ydata())), 6) for line in left.lines if len(line.get_ydata()) > 2})
    assert highest[-1] == pytest.approx(found.candidate_bands.highest, abs=1e-5)
    labels = [label.get_text() for label in left.get_xticklabels()]
    assert labels[0] == "Γ"
    assert any("|" in label for label in labels)
    assert left.get_ylim() == right.get_ylim()


def test_thermal_and_parity_show_the_data(found):
    figure = full_figure(found)
    parity = next(axes for sub in figure.subfigs for axes in sub.axes if "MAE" in axes.get_title(loc="left"))
    x, y = parity.lines[0].get_data()
    assert y == pytest.approx(1.1 * x, abs=1e-6)
    capacity = next(axes for sub in figure.subfigs for axes in sub.axes if "C_v" in axes.get_ylabel())
    # near 3 R for one atom, less by the quantum correction 3 R x²/12 with x = hν/kT of about 0.55 at 800 K
    assert capacity.lines[0].get_ydata()[-1] == pytest.approx(24.94 * (1 - 0.55**2 / 12), abs=0.1)


def test_files(found, tmp_path):
    assert save_figure(full_figure(found), tmp_path / "a.svg").read_text().startswith("<?xml")
    with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf"):
        save_figure(full_figure(found), tmp_path / "a.bmp")
