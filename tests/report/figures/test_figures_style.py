"""One look for all figures."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from helpers.synthetic import synthetic_reports
from phonosmith.analysis.choice import in_order
from phonosmith.report.figures.mechanics import energy_volume_figure
from phonosmith.report.figures.style import escape_math, figure_bytes, line_style, new_figure, webp_bytes


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


@pytest.fixture(scope="module")
def sides():
    (report,) = synthetic_reports(1, strategies=("transfer",))
    return [report.reference_result.eos, report.foundation.eos, report.strategies[0].eos]


def test_the_same_figure_gives_the_same_bytes(sides):
    first, second = (figure_bytes(energy_volume_figure(sides), "svg") for _ in range(2))
    assert first == second
    assert b"meV/atom" in first
    names = ["reference", "foundation", "transfer"]
    small = webp_bytes(energy_volume_figure(sides, names))
    pixels = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).reshape(-1, 3)
    for colour in ("#ffffff", *(line_style(name).colour for name in names)):
        # thin lines keep their colour: within half a step of sixteen
        assert np.abs(pixels - np.array(to_rgb(colour)) * 255).max(axis=1).min() <= 8.5, colour
    assert small[:4] == b"RIFF"
    assert len(small) < 0.5 * len(figure_bytes(energy_volume_figure(sides, names), "png", 130))


def test_notebooks_are_given_a_picture():
    figure = new_figure(2, 1)
    figure.add_subplot()
    assert Image.open(io.BytesIO(figure._repr_png_())).size == (220, 110)
