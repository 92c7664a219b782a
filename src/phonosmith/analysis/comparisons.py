"""Tables about differences: learning curves, verdicts, paired tests, correlations, outliers by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from phonosmith.analysis.choice import FOUNDATION, in_order
from phonosmith.analysis.statistics import FENCE, correlation, learning_curve, outliers, paired_tests
from phonosmith.analysis.table_format import DASH, Block, Table, number, tidy
from phonosmith.analysis.tables import QUARTILES, SOURCE, Sources

FORCE, PHONON = "valid_force_mae_mev_per_angstrom", "phonon_mae_thz"
CURVES = {
    FORCE: ("force", "meV/Å", 2),
    "valid_energy_mae_mev_per_atom": ("energy", "meV/atom", 3),
    "valid_stress_mae_mev_per_angstrom3": ("stress", "meV/Å³", 3),
    PHONON: ("phonon", "THz", 3),
}
"""Metrics that are followed with the size of the training set: word, unit, decimals."""


def learning_table(sources: Sources, metric: str) -> Table | None:
    """Return median and IQR of an error against the size of the training set (published figures 2b and 8)."""
    word, unit, digits = CURVES[metric]
    chosen = sources.averaged[
        (sources.averaged["foundation"] == sources.choice.foundation)
        & (sources.averaged["cell"] == sources.choice.cell)
    ]
    known = chosen.dropna(subset=[metric])
    if not len(known[known["strategy"] != FOUNDATION]):
        return None
    curve = learning_curve(known, metric)
    order = {name: place for place, name in enumerate(in_order(list(curve["strategy"])))}
    curve = curve.sort_values(["strategy", "n_train"], key=lambda c: c.map(order) if c.name == "strategy" else c)
    rows = [
        [row["strategy"], number(row["n_train"], 0), str(row["n"]), number(row["median"], digits)]
        + [number(row[name], digits) for name in ("q25", "q75")]
        for row in curve.to_dict("records")
    ]
    header = ["strategy", "training structures", "materials", f"median, {unit}", f"q25, {unit}", f"q75, {unit}"]
    data = curve.assign(iqr=curve["q75"] - curve["q25"], source=SOURCE)
    where = f"foundation {sources.choice.foundation}, {sources.choice.cell} cells"
    title = f"{word.capitalize()} MAE against the size of the training set, {unit}: {where}"
    return Table(f"learning_curve_{word}", title, [Block(header, rows)], data, [QUARTILES])


def verdict_table(sources: Sources) -> Table | None:
    """Return for how many materials each strategy is fit for phonons."""
    rows = sources.rows.dropna(subset=["fit"])
    if not len(rows):
        return None
    data = [
        {"source": SOURCE, "strategy": one, "n": len(group), "n_fit": int(group["fit"].sum())}
        for one, group in rows.groupby("strategy", sort=False)
    ]
    order = {name: place for place, name in enumerate(in_order([row["strategy"] for row in data]))}
    data.sort(key=lambda row: order[row["strategy"]])
    texts = [
        [row["strategy"], str(row["n"]), str(row["n_fit"]), number(100 * row["n_fit"] / row["n"], 0)] for row in data
    ]
    title = f"Verdicts, fit for phonons of the material: {sources.choice}"
    return Table("verdicts", title, [Block(["strategy", "materials", "fit", "fit, %"], texts)], tidy(data))


def paired_table(sources: Sources, metric: str = PHONON) -> Table | None:
    """Return Wilcoxon tests and bootstrap intervals of the differences between strategies."""
    word, unit, digits = CURVES[metric]
    rows = sources.rows
    order = {name: place for place, name in enumerate(in_order(list(rows["strategy"])))}
    rows = rows.sort_values("strategy", key=lambda column: column.map(order), kind="stable")
    found = paired_tests(rows.dropna(subset=[metric]), metric)
    found = found[found["n"] > 0]
    if not len(found):
        return None
    texts = [
        [
            f"{row['first']} − {row['second']}",
            str(row["n"]),
            number(row["median_difference"], digits),
            f"{number(row['low'], digits)} to {number(row['high'], digits)}" if row["n"] > 1 else DASH,
            str(row["n_better"]),
            _p(row["p"]),
            _p(row["p_holm"]),
        ]
        for row in found.to_dict("records")
    ]
    header = ["difference", "materials", f"median, {unit}", f"95 % interval, {unit}", "first better", "p", "p (Holm)"]
    notes = [
        "paired by material; p: Wilcoxon's signed-rank test, two-sided; Holm: corrected for all pairs of the table",
        "interval: percentile bootstrap of the median difference, 9999 resamples",
    ]
    title = f"{word.capitalize()} MAE of strategies compared material by material: {sources.choice}"
    return Table(f"paired_tests_{word}", title, [Block(header, texts)], found.assign(source=SOURCE), notes)


def _p(value: float) -> str:
    if value != value:  # noqa: PLR0124 - not a number
        return DASH
    return "< 0.001" if value < 0.001 else number(value, 3)


def correlation_table(sources: Sources) -> Table | None:
    """Return how force and phonon errors go together, by strategy and over all fine-tuned potentials."""
    rows = sources.rows.dropna(subset=[FORCE, PHONON])
    if not len(rows):
        return None
    groups: list[tuple[str, Any]] = [(one, rows[rows["strategy"] == one]) for one in in_order(list(rows["strategy"]))]
    groups.append(("all fine-tuned", rows[rows["strategy"] != FOUNDATION]))
    data = [
        {"source": SOURCE, "potentials": name, **asdict(correlation(group[FORCE], group[PHONON]))}
        for name, group in groups
    ]
    texts = [
        [
            row["potentials"],
            str(row["n"]),
            number(row["spearman"]),
            _p(row["spearman_p"]),
            number(row["pearson"]),
            _p(row["pearson_p"]),
            number(row["pearson_log"]),
        ]
        for row in data
    ]
    header = ["potentials", "pairs", "Spearman", "p", "Pearson", "p", "Pearson of logarithms"]
    title = f"Validation force MAE and phonon MAE: {sources.choice}"
    return Table("correlation_force_phonon", title, [Block(header, texts)], tidy(data))


def outlier_table(sources: Sources) -> Table | None:
    """Return the materials whose errors lie outside the fences of their strategy, by name."""
    import pandas as pd

    metrics = {
        PHONON: ("phonon MAE, THz", 3), "omega_max_error_percent": ("Δω_max, %", 1),
        "dos_error_percent": ("ΔDOS, %", 1), "heat_capacity_error_percent": ("C_v, %", 1),
        "entropy_error_percent": ("S, %", 1), "free_energy_error_percent": ("F, %", 1),
        "slack_error_percent": ("κ (Slack), %", 1), "bulk_modulus_error_percent": ("B (E(V) curve), %", 1),
        "shear_modulus_error_percent": ("G (VRH), %", 1), FORCE: ("force MAE, meV/Å", 1),
    }  # fmt: skip
    rows = sources.rows
    found = [outliers(rows, name) for name in metrics if rows[name].notna().any()]
    if not found:
        return None
    data = pd.concat(found, ignore_index=True)
    texts = []
    for row in data.to_dict("records"):
        word, digits = metrics[row["metric"]]
        fences = f"{number(row['lower_fence'], digits)} to {number(row['upper_fence'], digits)}"
        texts.append([row["material"], row["strategy"], word, number(row["value"], digits), fences])
    rule = f"outlier: more than {FENCE:g} IQR below the first or above the third quartile of its strategy"
    header = ["material", "strategy", "metric", "value", "fences"]
    notes = [rule] if texts else [rule, "there is none"]
    return Table("outliers", f"Outliers: {sources.choice}", [Block(header, texts)], data.assign(source=SOURCE), notes)


COMPARISON_TABLES: tuple[Callable[[Sources], Table | None], ...] = (
    verdict_table,
    *(lambda sources, metric=metric: learning_table(sources, metric) for metric in CURVES),
    lambda sources: paired_table(sources, PHONON),
    lambda sources: paired_table(sources, FORCE),
    correlation_table,
    outlier_table,
)
"""Everything that compares strategies."""
