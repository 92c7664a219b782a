"""Bars of forgetting show the numbers of the documents."""

import pytest

from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.forgetting.documents import ForgettingDoc, ForgettingSet
from phonosmith.report.figures.forgetting import forgetting_figure
from phonosmith.report.figures.style import line_style, save_figure


def document(scale, *, energy=2.0, truth="reference"):
    def one(name, force):
        return ForgettingSet(
            name=name,
            kind="far",
            n_structures=3,
            truth=truth,
            foundation_force_mae=force if truth == "reference" else None,
            tuned_force_mae=None if force is None else scale * force,
            foundation_energy_mae=energy if truth == "reference" else None,
            tuned_energy_mae=scale * energy,
        )

    sets = [one("rattled 0.3 Å", 100.0), one("EOS outside ±6 %", None)]
    return ForgettingDoc(potential_sha256="a", foundation_sha256="b", sets=sets, manifest=Manifest())


def widths(axes):
    return [[bar.get_width() for bar in container] for container in axes.containers]


def test_bars_are_the_errors():
    figure = forgetting_figure([document(0.5), document(3.0)], ["delta", "transfer"])
    force, energy = figure.axes
    # the equation of state has no forces to compare
    assert widths(force) == [[100.0], [50.0], [300.0]]
    assert widths(energy) == [[2.0, 2.0], [1.0, 1.0], [6.0, 6.0]]
    assert [label.get_text() for label in force.get_yticklabels()] == ["rattled 0.3 Å"]
    from matplotlib.colors import to_hex

    colours = [to_hex(container[0].get_facecolor()).upper() for container in force.containers]
    assert colours == [line_style(name).colour for name in ("foundation", "delta", "transfer")]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["foundation", "delta", "transfer"]


def test_drift_is_marked_and_has_no_foundation_bar():
    force = forgetting_figure([document(0.5, truth="foundation")], ["delta"]).axes[0]
    assert force.get_yticklabels()[0].get_text() == "rattled 0.3 Å*"
    shown = [width for container in widths(force) for width in container]
    assert shown[1] == 50.0
    assert shown[0] != shown[0]
    assert any("drift from the foundation" in text.get_text() for text in force.texts)


@pytest.mark.parametrize("documents", [[], [document(0.0, energy=0.0)]])
def test_nothing_to_compare(documents, tmp_path):
    names = ["delta"] * len(documents)
    axes = forgetting_figure(documents, names).axes[1]
    if not documents:
        assert "no set" in axes.texts[0].get_text()
    assert save_figure(forgetting_figure(documents, names), tmp_path / "a.png").stat().st_size > 1000
