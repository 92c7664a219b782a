"""Statistics against scipy, pandas, matplotlib, enumeration and known synthetic medians."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib.cbook import boxplot_stats

from helpers.synthetic import store_reports, synthetic_reports
from helpers.synthetic_targets import target
from phonosmith.analysis import statistics
from phonosmith.analysis.queries import read_results
from phonosmith.core.errors import InputError
from phonosmith.engines.store.sqlite import open_embedded_jobstore

RNG = np.random.default_rng(7)
SKEWED = RNG.lognormal(size=23)


def test_quartiles_are_those_of_pandas_and_scipy():
    found = statistics.spread([*SKEWED, np.nan])
    series = pd.Series(SKEWED)
    assert (found.n, found.n_missing) == (23, 1)
    assert found.median == series.median()
    assert (found.q25, found.q75) == (series.quantile(0.25), series.quantile(0.75))
    assert found.iqr == pytest.approx(scipy.stats.iqr(SKEWED), rel=1e-14)
    empty = statistics.spread([np.nan])
    assert (empty.n, empty.n_missing) == (0, 1)
    assert np.isnan([empty.median, empty.iqr]).all()


def test_seeds_become_their_mean_and_strategies_keep_their_median(tmp_path):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store_reports(store, synthetic_reports(6, seeds=3, sizes=(5, 10)))
    found = read_results(store).potentials
    assert len(found) == 6 * 3 * 9
    table = statistics.over_seeds(found, ["phonon_mae_thz", "stable"])
    assert len(table) == 6 * 9
    chosen = table.query("strategy == 'delta' and training_set == '5'")
    result = statistics.spread(chosen["phonon_mae_thz"])
    assert (result.median, result.iqr) == pytest.approx(target("phonon_mae_thz", "delta", 5), rel=1e-12)
    assert table["stable"].dtype == "boolean"
    assert table.query("strategy == 'delta'")["stable"].sum() == 10


def test_a_tie_of_seeds_counts_as_no_and_unknown_stays_unknown():
    rows = [("a", True), ("a", False), ("b", None), ("c", True), ("c", None)]
    frame = pd.DataFrame(
        {
            "material": [name for name, _ in rows],
            "foundation": "f",
            "cell": "large",
            "strategy": "delta",
            "training_set": "10",
            "n_train": pd.array([10] * 5, dtype="Int64"),
            "stable": pd.array([value for _, value in rows], dtype="boolean"),
        }
    )
    found = statistics.over_seeds(frame, ["stable"]).set_index("material")["stable"]
    assert not found["a"]
    assert found.isna()["b"]
    assert found["c"]


def test_bootstrap_agrees_with_scipy():
    ours = statistics.bootstrap_median(SKEWED)
    theirs = scipy.stats.bootstrap(
        (SKEWED,), np.median, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # two sets of draws: the ends of an interval of a median of 23 values lie on the same few data points
    assert ours == pytest.approx(tuple(theirs), abs=0.1)
    assert ours == statistics.bootstrap_median(SKEWED)
    assert np.isnan(statistics.bootstrap_median([1.0])).all()


def test_wilcoxon_is_exact_by_enumeration():
    first, second = np.array([0.1, 0.2, 0.15, 0.3, 0.05, 0.4]), np.array([0.25, 0.5, 0.1, 0.7, 0.35, 0.9])
    found = statistics.paired_test(first, second, ("delta", "scratch"))
    difference = first - second
    ranks = scipy.stats.rankdata(np.abs(difference))
    observed = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    sums = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) for signs in product((0, 1), repeat=6)]
    exact = np.mean([min(value, ranks.sum() - value) <= observed for value in sums])
    assert found.p == pytest.approx(exact)
    assert found.n_better == 5
    assert found.median_difference == pytest.approx(np.median(difference))
    assert found.low < found.median_difference < found.high


@pytest.mark.parametrize("count", [2, 9, 30, 50, 80])
def test_signed_ranks_agree_with_scipy(count):
    values = np.random.default_rng(count).normal(0.3, 1, count)
    method = "exact" if count <= statistics.EXACT_PAIRS else "asymptotic"
    expected = scipy.stats.wilcoxon(values, method=method).pvalue
    assert statistics.signed_rank_p([*values, 0.0]) == pytest.approx(expected, rel=1e-9)


def test_ties_are_exact_by_enumeration():
    values = np.array([0.1, -0.1, 0.2, 0.2, 0.2, -0.3, 0.4])
    ranks = scipy.stats.rankdata(np.abs(values))
    observed = min(ranks[values > 0].sum(), ranks[values < 0].sum())
    sums = np.array([np.dot(signs, ranks) for signs in product((0, 1), repeat=7)])
    assert statistics.signed_rank_p(values) == pytest.approx(2 * np.mean(sums <= observed))


def test_signed_errors_are_compared_by_size_and_missing_pairs_left_out():
    found = statistics.paired_test([-1.0, np.nan, 2.0, -0.5], [3.0, 1.0, -4.0, np.nan])
    assert (found.n, found.n_better, found.median_difference) == (2, 2, -2.0)
    same = statistics.paired_test([1.0, 2.0], [1.0, -2.0])
    assert same.p == 1.0
    assert np.isnan(statistics.paired_test([1.0], [2.0]).p)
    with pytest.raises(InputError, match="no pairs"):
        statistics.paired_test([1.0], [2.0, 3.0])


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.04: times 3, 2, 1 and never falling
    assert statistics.holm([0.04, 0.01, np.nan, 0.02])[:2] == pytest.approx([0.04, 0.03])
    assert statistics.holm([0.04, 0.01, np.nan, 0.02])[3] == pytest.approx(0.04)
    assert np.isnan(statistics.holm([0.04, np.nan])[1])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_pairs_of_strategies():
    table = pd.DataFrame(
        {
            "material": ["a", "b", "c"] * 3,
            "strategy": ["foundation"] * 3 + ["delta"] * 3 + ["scratch"] * 3,
            "mae": [0.3, 0.4, 0.5, 0.1, 0.1, np.nan, 0.3, 0.2, 0.1],
        }
    )
    found = statistics.paired_tests(table, "mae")
    assert found[["first", "second"]].to_numpy().tolist() == [
        ["foundation", "delta"],
        ["foundation", "scratch"],
        ["delta", "scratch"],
    ]
    assert found["n"].tolist() == [2, 3, 2]
    assert found["median_difference"].tolist() == pytest.approx([0.25, 0.2, -0.15])
    assert (found["p_holm"] >= found["p"]).all()


def test_correlation_by_ranks():
    x, y = SKEWED, SKEWED**2
    y[0], y[1] = y[1], y[0]
    found = statistics.correlation([*x, 1.0], [*y, np.nan])
    ranks = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
    squares = ((ranks[0] - ranks[1]) ** 2).sum()
    # the textbook formula without ties
    assert found.spearman == pytest.approx(1 - 6 * squares / (23 * (23**2 - 1)))
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.n == 23
    assert statistics.correlation(x, SKEWED**3).pearson_log == pytest.approx(1)
    assert np.isnan(statistics.correlation([1, 2], [1, 2]).spearman)
    assert np.isnan(statistics.correlation([1, 1, 1], [1, 2, 3]).pearson)
    assert np.isnan(statistics.correlation([-1, 2, 3], [1, 2, 3]).pearson_log)


def test_outliers_are_those_of_a_box_plot():
    values = np.concatenate([SKEWED, [12.0, -6.0]])
    table = pd.DataFrame({"material": [f"m{i}" for i in range(25)], "strategy": "delta", "error": values})
    found = statistics.outliers(table, "error")
    (expected,) = boxplot_stats(values)
    assert sorted(found["value"]) == pytest.approx(sorted(expected["fliers"]))
    assert found["material"].iloc[0] == "m23"
    assert statistics.outliers(table.head(0), "error").empty


def test_learning_curve_of_known_medians(campaign, reports):
    table = statistics.over_seeds(read_results(campaign).potentials, ["valid_force_mae_mev_per_angstrom"])
    curve = statistics.learning_curve(table.query("cell == 'large'"), "valid_force_mae_mev_per_angstrom")
    assert curve["strategy"].drop_duplicates().iloc[0] == "foundation"
    for row in curve.to_dict("records"):
        expected = target("valid_force_mae", row["strategy"], int(row["n_train"]))
        assert (row["median"], row["q75"] - row["q25"]) == pytest.approx(expected, rel=1e-12)
        assert row["n"] == 3
    assert curve.query("strategy == 'delta'")["n_train"].tolist() == [5, 10]


def test_spreads_are_those_of_each_group():
    table = pd.DataFrame({"strategy": ["b"] * 4 + ["a"], "error": [-4.0, 0.0, 5.0, np.nan, 9.0]})
    first, second = statistics.spreads(table, "error", ["strategy"]).to_dict("records")
    assert first == {"strategy": "b", "n": 3, "n_missing": 1, "median": 0.0, "q25": -2.0, "q75": 2.5, "iqr": 4.5}
    assert (second["strategy"], second["median"], second["iqr"]) == ("a", 9.0, 0.0)
