"""Charts over materials: the numbers they show are those that went into the reports."""

from collections import Counter

import numpy as np
import pytest
from pymatgen.core import Composition

from helpers.synthetic import synthetic_reports, target
from phonosmith.report.charts.campaign import (
    costs_chart,
    crystal_system,
    crystals_chart,
    errors_chart,
    improvement_chart,
    learning_chart,
    verdict_counts,
    verdicts_chart,
)
from phonosmith.report.charts.deviations import costs_compared, errors_by_strategy, force_errors, property_errors
from phonosmith.report.figures.elements import element_counts, elements_figure
from phonosmith.report.page.page import campaign_charts, variants, worst_first


@pytest.fixture(scope="module")
def reports():
    return synthetic_reports(9, strategies=("transfer", "delta"), sizes=(4, 10))


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "triclinic"), (2, "triclinic"), (3, "monoclinic"), (16, "orthorhombic"), (74, "orthorhombic"),
     (75, "tetragonal"), (143, "trigonal"), (168, "hexagonal"), (194, "hexagonal"), (195, "cubic"), (230, "cubic"),
     (None, None), (231, None)],
)  # fmt: skip
def test_crystal_systems_by_the_international_tables(number, name):
    assert crystal_system(number) == name
    if name is not None:
        from pymatgen.symmetry.groups import SpaceGroup

        assert SpaceGroup.from_int_number(number).crystal_system == name


def test_crystals_and_elements_count_materials_once(reports):
    twice = [*reports, *(report.model_copy(update={"seed": 1}) for report in reports)]
    assert [sum(panel.series[0].y) for panel in crystals_chart(twice).panels] == [9, 9]
    counts = element_counts(twice)
    assert counts == Counter(symbol for report in reports for symbol in Composition(report.formula).as_dict())
    shown = [text.get_text() for text in elements_figure(twice).axes[0].texts]
    assert {"H", "Si", "Lr"} <= set(shown)
    assert str(max(counts.values())) in shown


def test_verdicts_count_the_largest_training_and_failures(reports):
    lost = [report.model_copy(update={"failed": ["pft"]}) for report in reports]
    counts = verdict_counts(lost)
    assert list(counts) == ["foundation", "transfer", "delta", "pft"]
    assert counts["pft"] == (0, 0, 9)
    fit = sum(entry.verdict.fit for report in reports for entry in report.strategies if
              (entry.strategy, entry.n_train) == ("delta", 10))  # fmt: skip
    assert counts["delta"] == (fit, 9 - fit, 0)
    (panel,) = verdicts_chart(lost).panels
    assert {one.name: one.y[-1] for one in panel.series} == {"fit": 0, "not fit": 0, "failed": 9}


def test_improvement_links_each_material_worst_first(reports):
    ordered = worst_first(reports)
    chosen = [next((one for one in report.strategies if one.verdict.fit), report.strategies[0]) for report in ordered]
    fits = [entry.verdict.fit for entry in chosen]
    assert fits == sorted(fits)
    for fit in (False, True):
        errors = [one.phonons.mae_thz for one in chosen if one.verdict.fit is fit]
        assert errors == sorted(errors, reverse=True)
    names = [f"m{i}" for i in range(9)]
    (panel,) = improvement_chart(ordered, names, names).panels
    points = {link: (x, y) for one in panel.series for x, y, link in zip(one.x, one.y, one.links, strict=True)}
    for report, entry, name in zip(ordered, chosen, names, strict=True):
        expected = report.foundation.phonons.mae_thz, entry.phonons.mae_thz
        assert points[name] == pytest.approx(expected, rel=1e-4)
    assert panel.diagonal
    assert panel.y_guides == [(0.1, "limit")]


def test_learning_curves_show_medians_and_quartiles(reports):
    (panel,) = learning_chart(reports).panels
    lines = {one.name: one for one in panel.series}
    for size, shown in zip(lines["delta"].x, lines["delta"].y, strict=True):
        assert shown == pytest.approx(target("valid_force_mae", "delta", int(size))[0], rel=1e-4)
    for low, high, size in zip(lines["transfer"].low, lines["transfer"].high, lines["transfer"].x, strict=True):
        assert high - low == pytest.approx(target("valid_force_mae", "transfer", int(size))[1], rel=0.2)
    assert panel.y.log
    assert lines["delta"].labels[-1].endswith("of 9 materials")


def test_errors_are_relative_to_the_reference(reports):
    table = errors_by_strategy(reports)
    for name, metric in (("phonon MAE", "phonon_mae_thz"), ("C_v, 300 K", "heat_capacity_percent"),
                         ("K", "bulk_modulus_percent"), ("κ Slack", "slack_percent")):  # fmt: skip
        middle, spread = target(metric, "delta", 10)
        low, median, high = np.percentile(table[name]["delta"], [25, 50, 75])
        assert median == pytest.approx(middle, abs=2e-3 * max(1, abs(middle)))
        assert high - low == pytest.approx(spread, rel=2e-2)
    found = property_errors(reports[0].foundation, reports[0])
    sides = reports[0].foundation.phonons
    change = sides.candidate.free_energy - sides.reference.free_energy
    assert found["F, 300 K"] == pytest.approx(100 * change / abs(sides.reference.free_energy))
    first = errors_chart(reports).panels[0]
    drawn = next(one for one in first.series if one.name == "delta")
    assert sorted(drawn.y) == pytest.approx(sorted(table["phonon MAE"]["delta"]), rel=1e-4)


def test_seeds_of_a_material_are_averaged_and_variants_kept_apart():
    seeds = synthetic_reports(4, strategies=("delta",), seeds=3)
    found = errors_by_strategy(seeds)["phonon MAE"]["delta"]
    assert len(found) == 4
    first = [report.strategies[0].phonons.mae_thz for report in seeds[:3]]
    assert len(set(first)) == 3
    assert found[0] == pytest.approx(np.mean(first))
    assert [len(row) for row in force_errors(seeds)["delta"].values()] == [4]
    assert list(variants(seeds)) == [""]
    mixed = variants(synthetic_reports(2, strategies=("delta",), cells=("small", "large"), foundations=("a", "b")))
    assert {name: len(group) for name, group in mixed.items()} == {
        "small cell, a": 2, "large cell, a": 2, "small cell, b": 2, "large cell, b": 2,
    }  # fmt: skip


def test_costs_are_core_hours(reports):
    rows = costs_compared(reports)
    assert len(rows) == 9
    for report, (cells, displaced, labels) in zip(reports, rows, strict=True):
        by_stage = {
            cost.name.split()[0]: cost for cost in report.costs if "reference" in cost.name or cost.stage == "label"
        }
        for stage, value in (("phonon", displaced), ("label", labels)):
            assert value == pytest.approx(by_stage[stage].wall_seconds * by_stage[stage].cores / 3600)
        assert cells == report.reference_result.phonons.n_displacements
    (panel,) = costs_chart(reports).panels
    assert sorted(panel.series[1].y) == pytest.approx(sorted(row[2] for row in rows), rel=1e-4)


def test_one_material_gets_no_figure_over_materials():
    alone = synthetic_reports(1, strategies=("delta",))
    assert [make(alone) for make in (verdicts_chart, errors_chart, learning_chart, costs_chart, crystals_chart)] == [
        None
    ] * 5
    blind = synthetic_reports(2, strategies=("delta",), mode="production")
    assert {chart.key for chart in campaign_charts(blind, ["a", "b"], ["a", "b"])} == {"verdicts", "crystals"}
