"""Charts of imaginary modes, phases and forgetting hold the numbers of the documents."""

import numpy as np
import pytest

from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.forgetting.documents import ForgettingDoc, ForgettingSet
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, Phase, TransitionDoc
from phonosmith.report.charts.beyond import forgetting_chart, mode_energies_chart, pathways_chart

INITIAL = Phase(space_group="Fm-3m", space_group_number=225, n_atoms_primitive=2, energy_difference_ev_per_atom=0.0)
FINAL = Phase(space_group="P4_2/mnm", space_group_number=136, n_atoms_primitive=6, energy_difference_ev_per_atom=-0.02)
DISPLACED = FINAL.model_copy(update={"energy_difference_ev_per_atom": -0.005})


def mode(dimension, **changes):
    axis = np.linspace(-2, 2, 5)
    radius = sum(values**2 for values in np.meshgrid(*[axis] * dimension, indexing="ij"))
    start = GridMinimum(amplitudes=[1.0] + [0.0] * (dimension - 1), energy_ev_per_atom=-0.005)
    content = {
        "q": [0.5, 0.0, 0.5], "label": "X", "frequency_thz": -1.9, "multiplicity": dimension, "band_indices": [0],
        "exact": True, "grid_shape": [5] * dimension, "amplitudes": axis.tolist(), "minima": [start],
        "energies": (0.01 * (radius**2 / 2 - radius)).ravel().tolist(),
        "pathways": [Pathway(start=start, displaced=DISPLACED, final=FINAL, converged=True, n_steps=3)],
    }  # fmt: skip
    return FollowedMode(**(content | changes))


def document(*modes):
    return TransitionDoc(formula="GeTe", method="m", initial=INITIAL, modes=list(modes), phases=[], manifest=Manifest())


def test_a_mode_of_several_methods_is_curves_with_their_minima():
    (panel,) = mode_energies_chart({"reference": document(mode(1)), "delta": document(mode(1))}, "GeTe").panels
    lines = [one for one in panel.series if one.kind == "line"]
    assert [one.name for one in lines] == ["reference", "delta"]
    assert lines[0].x == [-2, -1, 0, 1, 2]
    assert lines[0].y == pytest.approx([40, -5, 0, -5, 40])
    assert [(one.x, one.y) for one in panel.series if one.kind == "dots"] == [([1.0], [-5.0])] * 2
    assert mode_energies_chart({"delta": document()}, "GeTe") is None


def test_a_pair_of_modes_of_one_method_is_a_map():
    energies = mode(2).energies
    energies[0] = None
    (panel,) = mode_energies_chart({"delta": document(mode(2, energies=energies))}, "GeTe").panels
    cells, minima = panel.series
    assert cells.kind == "map"
    table = dict(zip(zip(cells.x, cells.y, strict=True), cells.values, strict=True))
    assert table[-2, -2] is None
    assert table[1, 0] == pytest.approx(-5)
    assert table[-2, 1] == pytest.approx(10 * (25 / 2 - 5))
    assert table[1, -2] == table[-2, 1]
    assert (minima.x, minima.y) == ([1.0], [0.0])


def test_ways_lead_from_the_crystal_to_the_phases():
    lost = Pathway(start=mode(1).minima[0], displaced=DISPLACED, final=None, converged=False, n_steps=0)
    chart = pathways_chart({"delta": document(mode(1)), "none": document(mode(1, pathways=[lost]))}, "GeTe")
    (panel,) = chart.panels
    (way,) = panel.series
    assert way.y == pytest.approx([0, -5, -20])
    assert way.names == ["Fm-3m (2)", "P4₂/mnm (6)", "P4₂/mnm (6)"]
    assert [words for _, words in panel.x.ticks] == ["initial", "displaced", "relaxed"]
    assert pathways_chart({"none": document(mode(1, pathways=[lost]))}, "GeTe") is None


def test_forgetting_has_bars_where_something_is_known():
    sets = [
        ForgettingSet(name="strain 8 %", kind="strain", n_structures=4, truth="reference", foundation_force_mae=80.0,
                      tuned_force_mae=20.0),
        ForgettingSet(name="Ge", kind="other", n_structures=4, truth="foundation", tuned_force_mae=120.0),
        ForgettingSet(name="empty", kind="far", n_structures=4, truth="reference"),
    ]  # fmt: skip
    one = ForgettingDoc(potential_sha256="a", foundation_sha256="b", sets=sets, manifest=Manifest())
    other = ForgettingDoc(potential_sha256="c", foundation_sha256="b", sets=sets[:1], manifest=Manifest())
    (panel,) = forgetting_chart([one, other], ["delta", "transfer"]).panels  # no energies: one panel
    assert [words for _, words in panel.x.ticks] == ["strain 8 %", "Ge (drift)"]
    assert {series.name: series.y for series in panel.series} == {
        "foundation": [80, None], "delta": [20, 120], "transfer": [20, None],
    }  # fmt: skip
    assert panel.y.log
    assert forgetting_chart([one.model_copy(update={"sets": sets[2:]})], ["delta"]) is None
