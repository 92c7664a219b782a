"""Statistics over materials: medians and quartiles, paired tests, bootstrap intervals, correlations, outliers.

Everything here takes plain numbers or frames of `analysis.queries` and knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, pearsonr, rankdata, spearmanr, wilcoxon

from phonosmith.core.errors import InputError

POTENTIAL = ["foundation", "cell", "strategy", "training_set"]
"""What tells apart potentials of one material but for the seed."""
FENCE = 1.5
"""Interquartile ranges beyond the quartiles at which a value becomes an outlier (Tukey, as in box plots)."""
RESAMPLES = 9999
EXACT_PAIRS = 50
LEVEL = 0.95
_NAN = float("nan")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the ``n`` values that are known.

    Quartiles by linear interpolation (numpy's default, Hyndman and Fan's type 7); nan without values.
    """

    n: int
    n_missing: int
    median: float
    q25: float
    q75: float

    @property
    def iqr(self) -> float:
        """Interquartile range q75 - q25."""
        return self.q75 - self.q25


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    if hasattr(values, "to_numpy"):
        values = values.to_numpy(dtype=float, na_value=np.nan)
    return np.asarray(values, dtype=float).ravel()


def spread(values: ArrayLike) -> Spread:
    """Return median and quartiles of the values that are not nan."""
    numbers = _numbers(values)
    known = numbers[~np.isnan(numbers)]
    low, middle, high = map(float, np.percentile(known, [25, 50, 75])) if len(known) else [_NAN] * 3
    return Spread(len(known), len(numbers) - len(known), middle, low, high)


def over_seeds(potentials: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return one row per material and potential of `queries.read_results`, with the metrics asked for.

    Values are means over seeds, of yes or no the answer most seeds give; a tie counts as no.
    """
    grouped = potentials.groupby(["material", *POTENTIAL], sort=False, dropna=False)
    table = grouped[[*metrics, "n_train"]].mean().reset_index()
    for name in metrics:
        if potentials[name].dtype == "boolean":
            share = table[name].astype("Float64")
            table[name] = (share > 0.5).astype("boolean").where(share.notna())
        else:
            table[name] = table[name].astype("float64")
    return table


@dataclass(frozen=True)
class PairedTest:
    """Two strategies compared material by material; differences are first minus second, in the unit of the metric.

    Attributes
    ----------
    n, n_better
        Materials with both values, and those for which the first is closer to zero.
    low, high
        Bootstrap interval of the median difference.
    p, p_holm
        Two-sided p of Wilcoxon's signed-rank test (nan for fewer than two materials), and the same after Holm's
        correction for the number of pairs tested together.
    """

    first: str
    second: str
    n: int
    median_difference: float
    low: float
    high: float
    n_better: int
    p: float
    p_holm: float = _NAN


def bootstrap_median(values: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a median of known numbers (nan for fewer than two)."""
    numbers = _numbers(values)
    if len(numbers) < 2:
        return _NAN, _NAN
    generator = np.random.default_rng(seed)
    interval = bootstrap(
        (numbers,), np.median, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=generator
    ).confidence_interval
    return float(interval.low), float(interval.high)


def signed_rank_p(differences: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; differences of zero are left out.

    Up to 50 differences the distribution of the rank sum is exact, ties included (each of the 2^n choices of signs
    is as likely as another); beyond, scipy's normal approximation.
    """
    numbers = _numbers(differences)
    numbers = numbers[numbers != 0]
    if not len(numbers):
        return 1.0
    if len(numbers) > EXACT_PAIRS:
        return float(wilcoxon(numbers, method="asymptotic").pvalue)
    # ranks of ties are halves: doubled they are whole
    ranks = np.rint(2 * rankdata(np.abs(numbers))).astype(int)
    ways = np.zeros(ranks.sum() + 1)
    ways[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(ways)
        shifted[rank:] = ways[: len(ways) - rank]
        ways = 0.5 * (ways + shifted)
    lower = min(int(ranks[numbers > 0].sum()), int(ranks[numbers < 0].sum()))
    return float(min(1.0, 2 * ways[: lower + 1].sum()))


def paired_test(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str] = ("first", "second"), *, seed: int = 0
) -> PairedTest:
    """Compare two strategies on the materials for which both have a value, signed errors by their size.

    Wilcoxon's test leaves out materials without any difference; when there is no difference at all p is 1.
    """
    ours, theirs = np.abs(_numbers(first)), np.abs(_numbers(second))
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} and {len(theirs)} values are no pairs.", "Give one value of each per material.")
    difference = ours - theirs
    difference = difference[~np.isnan(difference)]
    low, high = bootstrap_median(difference, seed=seed)
    p = signed_rank_p(difference) if len(difference) > 1 else _NAN
    return PairedTest(*names, len(difference), spread(difference).median, low, high, int((difference < 0).sum()), p)


def holm(p_values: ArrayLike) -> list[float]:
    """Return p-values after Holm's step-down correction; nan stays nan and does not count as a test."""
    values = _numbers(p_values)
    order = np.argsort(values, kind="stable")  # nan comes last
    factors = np.count_nonzero(~np.isnan(values)) - np.arange(len(values))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return [float(value) for value in corrected]


def paired_tests(table: pd.DataFrame, metric: str, *, seed: int = 0) -> pd.DataFrame:
    """Compare every pair of strategies in a table of one row per material and strategy; the columns of `PairedTest`."""
    wide = table.pivot_table(index="material", columns="strategy", values=metric, dropna=False)
    names = [name for name in dict.fromkeys(table["strategy"]) if name in wide.columns]
    tests = [paired_test(wide[a], wide[b], (a, b), seed=seed) for a, b in combinations(names, 2)]
    rows = pd.DataFrame([asdict(test) for test in tests], columns=list(PairedTest.__dataclass_fields__))
    return rows.assign(p_holm=holm(rows["p"]))


@dataclass(frozen=True)
class Correlation:
    """How ``n`` pairs of two metrics go together: correlations with two-sided p.

    ``pearson_log`` is that of the decimal logarithms, nan unless all values are positive.
    """

    n: int
    spearman: float = _NAN
    spearman_p: float = _NAN
    pearson: float = _NAN
    pearson_p: float = _NAN
    pearson_log: float = _NAN


def correlation(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Return rank and linear correlation of the pairs that are known; nan for fewer than three or a constant."""
    pairs = np.column_stack([_numbers(x), _numbers(y)])
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return Correlation(len(pairs))
    ranks, line = spearmanr(*pairs.T), pearsonr(*pairs.T)
    logs = pearsonr(*np.log10(pairs.T)).statistic if (pairs > 0).all() else _NAN
    return Correlation(len(pairs), *map(float, (*ranks, *line, logs)))


def spreads(table: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Return n, n_missing, median, q25, q75 and iqr of a metric in each group, in the order of the table."""
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        values = spread(group[metric])
        rows.append(dict(zip(by, key, strict=True)) | asdict(values) | {"iqr": values.iqr})
    return pd.DataFrame(rows, columns=[*by, *Spread.__dataclass_fields__, "iqr"])


def outliers(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the materials that lie more than 1.5 interquartile ranges beyond the quartiles of their strategy.

    The table has one row per material and strategy. Columns: material, strategy, metric, value, median, lower_fence,
    upper_fence; farthest from the fence first, equally far ones strategy by strategy.
    """
    rows = table[["material", "strategy"]].assign(metric=metric, value=_numbers(table[metric]))
    groups = spreads(table, metric, ["strategy"])
    groups["lower_fence"] = groups["q25"] - FENCE * groups["iqr"]
    groups["upper_fence"] = groups["q75"] + FENCE * groups["iqr"]
    groups["place"] = groups.index
    rows = rows.merge(groups.drop(columns=["n", "n_missing", "q25", "q75", "iqr"]), on="strategy", how="left")
    rows["beyond"] = np.maximum(rows["value"] - rows["upper_fence"], rows["lower_fence"] - rows["value"])
    rows = rows[rows["beyond"] > 0].sort_values(["beyond", "place"], ascending=[False, True], kind="stable")
    return rows.drop(columns=["beyond", "place"])


def learning_curve(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return median and quartiles of a metric against the size of the training set, strategy by strategy.

    The table has one row per material and potential (see `over_seeds`) of one foundation and cell. Columns: strategy,
    training_set, n_train (median; 0 for the foundation), n (materials), median, q25, q75, iqr; by strategy and size.
    """
    keys = ["strategy", "training_set"]
    curve = spreads(table, metric, keys).drop(columns="n_missing")
    curve.insert(2, "n_train", table.groupby(keys, sort=False)["n_train"].median().to_numpy())
    strategies = list(dict.fromkeys(table["strategy"]))
    return curve.sort_values(
        ["strategy", "n_train"],
        key=lambda column: column.map(strategies.index) if column.name == "strategy" else column,
    )
