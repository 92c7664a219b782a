"""Statistics over materials: medians and quartiles, paired tests, bootstrap intervals, correlations, outliers.

Everything here takes plain numbers or frames of `analysis.queries` and knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

POTENTIAL = ["foundation", "cell", "strategy", "training_set"]
"""What tells apart potentials of one material but for the seed."""
FENCE = 1.5
"""Interquartile ranges beyond the quartiles at which a value becomes an outlier (Tukey, as in box plots)."""
RESAMPLES = 9999
EXACT_PAIRS = 50
LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the values that are known.

    Attributes
    ----------
    n, n_missing
        Values used and values unknown.
    median, q25, q75
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
        return np.asarray(values.to_numpy(dtype=float, na_value=np.nan)).ravel()
    return np.asarray(values, dtype=float).ravel()


def spread(values: ArrayLike) -> Spread:
    """Return median and quartiles of the values that are not nan."""
    numbers = _numbers(values)
    known = numbers[~np.isnan(numbers)]
    missing = len(numbers) - len(known)
    if not len(known):
        return Spread(0, missing, *[float("nan")] * 3)
    low, middle, high = np.percentile(known, [25, 50, 75])
    return Spread(len(known), missing, float(middle), float(low), float(high))


def over_seeds(potentials: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return one row per material and potential: means over seeds, of yes or no the answer most seeds give.

    Parameters
    ----------
    potentials
        Frame of `queries.read_results`.
    metrics
        Columns to keep. A tie between seeds counts as no.
    """
    grouped = potentials.groupby(["material", *POTENTIAL], sort=False, dropna=False)
    numbers = {name: potentials[name].dtype != "boolean" for name in metrics}
    table = grouped[[*metrics, "n_train"]].agg(dict.fromkeys([*metrics, "n_train"], "mean")).reset_index()
    for name, number in numbers.items():
        if not number:
            share = table[name].astype("Float64")
            table[name] = (share > 0.5).astype("boolean").where(share.notna())
        else:
            table[name] = table[name].astype("float64")
    return table


@dataclass(frozen=True)
class PairedTest:
    """Two strategies compared material by material; differences are first minus second.

    Attributes
    ----------
    first, second
        What is compared.
    n
        Materials with both values.
    median_difference, low, high
        Median of the differences and its bootstrap interval, in the unit of the metric.
    n_better
        Materials for which the first is closer to zero.
    p
        Two-sided p of Wilcoxon's signed-rank test; nan for fewer than two materials.
    p_holm
        p after Holm's correction for the number of pairs tested together.
    """

    first: str
    second: str
    n: int
    median_difference: float
    low: float
    high: float
    n_better: int
    p: float
    p_holm: float = float("nan")


def bootstrap_median(
    values: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a median (nan for fewer than two values).

    Parameters
    ----------
    values
        Numbers without nan.
    level
        Confidence level.
    resamples
        Draws with replacement.
    seed
        Of the draws.
    """
    numbers = _numbers(values)
    if len(numbers) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = np.median(numbers[rng.integers(0, len(numbers), (resamples, len(numbers)))], axis=1)
    low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def signed_rank_p(differences: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; differences of zero are left out.

    Up to 50 differences the distribution of the rank sum is exact, ties included (each of the 2^n choices of signs
    is as likely as another); beyond, scipy's normal approximation.
    """
    from scipy.stats import rankdata, wilcoxon

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
    """Compare two strategies on the materials for which both have a value.

    Parameters
    ----------
    first, second
        Errors in the same order of materials; signed errors are compared by their size.
    names
        What they are.
    seed
        Of the bootstrap.

    Notes
    -----
    Wilcoxon's test leaves out materials without any difference; when there is no difference at all p is 1.
    """
    ours, theirs = np.abs(_numbers(first)), np.abs(_numbers(second))
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} and {len(theirs)} values are no pairs.", "Give one value of each per material.")
    both = ~(np.isnan(ours) | np.isnan(theirs))
    difference = ours[both] - theirs[both]
    low, high = bootstrap_median(difference, seed=seed)
    p = signed_rank_p(difference) if len(difference) > 1 else float("nan")
    middle = float(np.median(difference)) if len(difference) else float("nan")
    return PairedTest(*names, len(difference), middle, low, high, int((difference < 0).sum()), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction; nan stays nan and does not count as a test."""
    values = np.asarray(p_values, dtype=float)
    corrected = np.full(len(values), np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    highest = 0.0
    for rank, index in enumerate(tested[np.argsort(values[tested], kind="stable")]):
        highest = max(highest, min(1.0, (len(tested) - rank) * values[index]))
        corrected[index] = highest
    return [float(value) for value in corrected]


def paired_tests(table: pd.DataFrame, metric: str, *, seed: int = 0) -> pd.DataFrame:
    """Compare every pair of strategies, the foundation included, by one metric.

    Parameters
    ----------
    table
        One row per material and strategy (see `over_seeds`), one training set and cell.
    metric
        Column.
    seed
        Of the bootstrap.
    """
    from dataclasses import replace
    from itertools import combinations

    import pandas as pd

    wide = table.pivot_table(index="material", columns="strategy", values=metric, dropna=False)
    order = list(dict.fromkeys(table["strategy"]))
    names = [name for name in order if name in wide.columns]
    found = [paired_test(wide[a], wide[b], (a, b), seed=seed) for a, b in combinations(names, 2)]
    corrected = holm([test.p for test in found])
    rows = [asdict(replace(test, p_holm=p)) for test, p in zip(found, corrected, strict=True)]
    return pd.DataFrame(rows, columns=list(PairedTest.__dataclass_fields__))


@dataclass(frozen=True)
class Correlation:
    """How two metrics go together.

    Attributes
    ----------
    n
        Pairs.
    spearman, spearman_p
        Rank correlation and its two-sided p.
    pearson, pearson_p
        Linear correlation and its two-sided p.
    pearson_log
        Linear correlation of the decimal logarithms; nan unless all values are positive.
    """

    n: int
    spearman: float
    spearman_p: float
    pearson: float
    pearson_p: float
    pearson_log: float


def correlation(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Return rank and linear correlation of the pairs that are known; nan for fewer than three or a constant."""
    from scipy.stats import pearsonr, spearmanr

    first, second = _numbers(x), _numbers(y)
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    nan = float("nan")
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(len(first), nan, nan, nan, nan, nan)
    ranks, line = spearmanr(first, second), pearsonr(first, second)
    positive = bool((first > 0).all() and (second > 0).all())
    logs = float(pearsonr(np.log10(first), np.log10(second)).statistic) if positive else nan
    return Correlation(
        len(first), float(ranks.statistic), float(ranks.pvalue), float(line.statistic), float(line.pvalue), logs
    )


def outliers(table: pd.DataFrame, metric: str, by: Sequence[str] = ("strategy",)) -> pd.DataFrame:
    """Return the materials that lie more than 1.5 interquartile ranges beyond the quartiles of their group.

    Parameters
    ----------
    table
        One row per material and potential.
    metric
        Column.
    by
        Columns that make the groups.

    Returns
    -------
    pandas.DataFrame
        material, the grouping columns, metric, value, median, lower and upper fence; farthest from the fence first.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for key, group in table.groupby(list(by), sort=False):
        found = spread(group[metric])
        low, high = found.q25 - FENCE * found.iqr, found.q75 + FENCE * found.iqr
        for material, value in zip(group["material"], _numbers(group[metric]), strict=True):
            if value < low or value > high:
                names = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
                rows.append(
                    {"material": material, **names, "metric": metric, "value": float(value)}
                    | {"median": found.median, "lower_fence": low, "upper_fence": high}
                )
    columns = ["material", *by, "metric", "value", "median", "lower_fence", "upper_fence"]
    rows.sort(key=lambda row: -max(row["value"] - row["upper_fence"], row["lower_fence"] - row["value"]))
    return pd.DataFrame(rows, columns=columns)


def learning_curve(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return median and quartiles of a metric against the size of the training set, strategy by strategy.

    Parameters
    ----------
    table
        One row per material and potential (see `over_seeds`), one foundation and cell.
    metric
        Column.

    Returns
    -------
    pandas.DataFrame
        strategy, training_set, n_train (median), n (materials), median, q25, q75; by strategy and size. The foundation
        has size 0.
    """
    import pandas as pd

    rows = []
    for (strategy, asked), group in table.groupby(["strategy", "training_set"], sort=False):
        found = spread(group[metric])
        used = float(np.median(_numbers(group["n_train"])))
        rows.append(
            {"strategy": strategy, "training_set": asked, "n_train": used, "n": found.n}
            | {"median": found.median, "q25": found.q25, "q75": found.q75}
        )
    columns = ["strategy", "training_set", "n_train", "n", "median", "q25", "q75"]
    order = {name: place for place, name in enumerate(dict.fromkeys(table["strategy"]))}
    rows.sort(key=lambda row: (order[row["strategy"]], row["n_train"]))
    return pd.DataFrame(rows, columns=columns)


def distribution(table: pd.DataFrame, metrics: Sequence[str], within: float = 5.0) -> pd.DataFrame:
    """Return how errors of each strategy are distributed.

    Parameters
    ----------
    table
        One row per material and strategy.
    metrics
        Columns.
    within
        Also give the share of materials whose error is at most so large (in the unit of the metric).

    Returns
    -------
    pandas.DataFrame
        metric, strategy, n, n_missing, median, q25, q75, iqr, mean, minimum, maximum, share_within, n_outliers.
    """
    import pandas as pd

    rows = []
    for metric in metrics:
        lost = outliers(table, metric)
        for strategy, group in table.groupby("strategy", sort=False):
            found = spread(group[metric])
            values = _numbers(group[metric])
            values = values[~np.isnan(values)]
            some = len(values) > 0
            rows.append(
                {"metric": metric, "strategy": strategy, **asdict(found), "iqr": found.iqr}
                | {"mean": float(values.mean()) if some else float("nan")}
                | {"minimum": float(values.min()) if some else float("nan")}
                | {"maximum": float(values.max()) if some else float("nan")}
                | {"share_within": float((np.abs(values) <= within).mean()) if some else float("nan")}
                | {"n_outliers": int((lost["strategy"] == strategy).sum())}
            )
    columns = ["metric", "strategy", "n", "n_missing", "median", "q25", "q75", "iqr"]
    return pd.DataFrame(rows, columns=[*columns, "mean", "minimum", "maximum", "share_within", "n_outliers"])
