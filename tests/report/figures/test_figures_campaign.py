"""Figures over materials: the numbers they show are those that went into the reports."""

import numpy as np
import pytest

from helpers.synthetic import synthetic_reports, target
from phonosmith.core.errors import InputError
from phonosmith.report.figures.campaign import (
    crystal_system,
    crystals_figure,
    element_counts,
    elements_figure,
    verdict_counts,
    verdicts_figure,
)
from phonosmith.report.figures.statistics import (
    costs_compared,
    costs_figure,
    errors_by_strategy,
    errors_figure,
    force_errors,
    learning_figure,
    property_errors,
)
from phonosmith.report.page.page import variants


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
    left, right = crystals_figure(twice).axes
    assert sum(bar.get_width() for bar in left.patches) == 9
    assert sum(bar.get_height() for bar in right.patches) == 9
    counts = element_counts(twice)
    from collections import Counter

    from pymatgen.core import Composition

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
    assert len(verdicts_figure(lost).axes) == 2


def test_learning_curves_show_medians_and_quartiles(reports):
    (axes,) = learning_figure(reports).axes
    lines = {line.get_label(): line for line in axes.lines}
    for size, shown in zip(*lines["delta"].get_data(), strict=True):
        assert shown == pytest.approx(target("valid_force_mae", "delta", int(size))[0], rel=1e-6)
    (band, *_) = list(axes.collections)
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    median, width = target("valid_force_mae", "transfer", 4)
    assert high == pytest.approx(median + width / 2, rel=0.2)
    assert 0 < low < median
    assert axes.get_yscale() == "log"


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


def test_boxes_with_and_without_outliers(reports):
    far = reports[0].strategies[-1].model_copy(deep=True)
    changed = []
    for report in reports:
        strategies = [
            entry if entry.strategy != "delta" or report is not reports[0]
            else far.model_copy(update={"strategy": "delta", "n_train": 99,
                                        "phonons": far.phonons.model_copy(update={"mae_thz": 50.0})})
            for entry in report.strategies
        ]  # fmt: skip
        changed.append(report.model_copy(update={"strategies": strategies}))
    tops = [errors_figure(changed, outliers=shown).axes[0].get_ylim()[1] for shown in (False, True)]
    assert tops[0] < 5 < 50 < tops[1]


def test_costs_are_core_hours_of_materials_that_need_at_least_so_many_cells(reports):
    rows = costs_compared(reports)
    assert len(rows) == 9
    for report, (cells, displaced, labels) in zip(reports, rows, strict=True):
        by_stage = {
            cost.name.split()[0]: cost for cost in report.costs if "reference" in cost.name or cost.stage == "label"
        }
        assert displaced == pytest.approx(by_stage["phonon"].wall_seconds * by_stage["phonon"].cores / 3600)
        assert labels == pytest.approx(by_stage["label"].wall_seconds * by_stage["label"].cores / 3600)
        assert cells == report.reference_result.phonons.n_displacements
    top, bottom = costs_figure(reports).axes
    heights = [bar.get_height() for bar in bottom.patches]
    assert heights[0] == 9
    assert heights == sorted(heights, reverse=True)
    means = top.lines[-1].get_ydata()
    assert means[0] == pytest.approx(np.mean([row[2] for row in rows]))


def test_nothing_to_draw_is_an_error_with_words():
    blind = synthetic_reports(2, strategies=("delta",), mode="production")
    with pytest.raises(InputError, match="compared with a reference"):
        errors_figure(blind, outliers=True)
    with pytest.raises(InputError, match="both costs"):
        costs_figure(blind)
