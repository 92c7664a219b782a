"""Charts of one material: what they show."""

import numpy as np
import pytest

from helpers.synthetic import synthetic_reports
from phonosmith.report.charts.data import as_data, look, rounded
from phonosmith.report.charts.material import (
    elastic_chart,
    energy_volume_chart,
    forces_chart,
    independent_constants,
    labels_chart,
    ladder_chart,
    training_chart,
)
from phonosmith.training.documents import ForceParity


@pytest.fixture(scope="module")
def report():
    return synthetic_reports(1, strategies=("transfer", "delta"), sizes=(4, 10))[0]


def test_the_ladder_shows_chosen_steps(report):
    (panel,) = ladder_chart(report.sampling).panels
    marked = [one for one in panel.series if one.kind == "dots"]
    assert [(np.array(one.x) - 1).tolist() for one in marked] == report.sampling.selected_steps
    assert [one.hollow for one in marked] == [factor == 1.0 for factor in report.sampling.volume_factors]


def test_training_marks_the_weights_kept(report):
    left, _, phonons = training_chart(report.strategies, report.foundation).panels
    marks = [one for one in left.series if one.kind == "dots"]
    assert [one.x for one in marks] == [[entry.curve.best_epoch] for entry in report.strategies]
    assert "meV/Å" in left.y.label
    # phonons are known of the foundation and of the weights kept
    for one, entry in zip(phonons.series, report.strategies, strict=True):
        assert one.x == [0, entry.curve.best_epoch]
        assert one.y == pytest.approx([report.foundation.phonons.mae_thz, entry.phonons.mae_thz], rel=1e-4)
    anew = [entry.model_copy(update={"strategy": "scratch"}) for entry in report.strategies[:1]]
    assert training_chart(anew, report.foundation).panels[2].series[0].x == [anew[0].curve.best_epoch]
    alone = [entry.model_copy(update={"phonons": None}) for entry in report.strategies]
    assert len(training_chart(alone, report.foundation).panels) == 2


def test_errors_against_labels_are_curves_where_there_are_several_sizes_else_points(report):
    forces, phonons = labels_chart(report).panels
    line = next(one for one in phonons.series if one.name == "delta")
    sizes = {one.n_train: one.phonons.mae_thz for one in report.strategies if one.strategy == "delta"}
    assert line.x == [0, 4, 10]
    assert line.y == pytest.approx([report.foundation.phonons.mae_thz, sizes[4], sizes[10]], rel=1e-4)
    assert len(forces.series) == 2
    (once,) = synthetic_reports(1, strategies=("transfer", "delta"))
    (panel,) = labels_chart(once).panels
    assert {one.name: (*one.x, *one.y) for one in panel.series} == {
        one.strategy: pytest.approx((one.valid_force_mae, one.phonons.mae_thz), rel=1e-4)
        for one in [once.foundation, *once.strategies]
    }


def test_forces_are_those_of_the_chosen_potential(report):
    assert forces_chart(report) is None
    chosen = next((one for one in report.strategies if one.verdict.fit), report.strategies[0])
    parity = ForceParity(label=[1.0, -2.0], before=[0.5, -1.0], after=[1.1, -2.1], n_components=7)
    entries = [one.model_copy(update={"parity": parity if one is chosen else None}) for one in report.strategies]
    (panel,) = forces_chart(report.model_copy(update={"strategies": entries})).panels
    assert [(one.x, one.y) for one in panel.series] == [([1.0, -2.0], [0.5, -1.0]), ([1.0, -2.0], [1.1, -2.1])]
    assert panel.diagonal


def test_elastic_constants_shown_are_the_independent_ones(report):
    cubic = np.diag([160.0, 160, 160, 80, 80, 80])
    cubic[:3, :3] += 60 - 60 * np.eye(3)
    assert independent_constants(cubic.tolist()) == [(0, 0), (3, 3), (0, 1)]
    hexagonal = cubic.copy()
    hexagonal[2, 2], hexagonal[0, 2], hexagonal[2, 0], hexagonal[1, 2], hexagonal[2, 1] = 180, 40, 40, 40, 40
    hexagonal[5, 5] = 50
    assert independent_constants(hexagonal.tolist()) == [(0, 0), (2, 2), (3, 3), (5, 5), (0, 1), (0, 2)]
    sides = [("reference", report.reference_result.elastic), ("foundation", report.foundation.elastic)]
    left, right = elastic_chart(sides).panels
    assert left.series[0].y[-2] == pytest.approx(sides[0][1].fit.moduli.bulk_vrh)
    assert right.series[1].y == pytest.approx([sides[1][1].slack.kappa], rel=1e-4)


def test_energies_count_from_the_minimum_of_the_fit(report):
    side = report.reference_result.eos
    left_out = side.model_copy(update={"converged": [False, *side.converged[1:]]})
    (panel,) = energy_volume_chart([("reference", left_out)]).panels
    curve, kept, out = panel.series
    assert (len(kept.x), out.x, out.hollow) == (10, [pytest.approx(side.volumes[0] / side.n_atoms, rel=1e-4)], True)
    # synthetic points lie on their own curve, whose minimum is zero
    assert min(curve.y) == pytest.approx(0, abs=0.05)
    assert kept.y == pytest.approx(np.interp(kept.x, curve.x, curve.y), abs=0.05)


def test_data_leaves_out_defaults_and_keeps_what_is_switched_off(report):
    data = as_data(training_chart(report.strategies, report.foundation))
    line = data["panels"][0]["series"][0]
    assert set(line) == {"name", "look", "x", "y"}
    assert rounded([1 / 3, float("nan"), None]) == [0.33333, None, None]
    assert look("reference") == ["black", "", "o"]
    assert look("foundation") == ["vermillion", "8 4", "s"]
