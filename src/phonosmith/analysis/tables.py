"""The tables of a campaign, each able to stand beside the published one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby

import pandas as pd
from jobflow import JobStore

from phonosmith.analysis import costs as cost
from phonosmith.analysis.choice import CELLS, FOUNDATION, Choice, choose, in_order, selected
from phonosmith.analysis.collection import Row
from phonosmith.analysis.columns import METRICS
from phonosmith.analysis.pathways import pathway_tables
from phonosmith.analysis.published import Pair, grandel2026
from phonosmith.analysis.queries import Phases, Results, read_phases, read_results
from phonosmith.analysis.statistics import (
    FENCE,
    correlation,
    learning_curve,
    outliers,
    over_seeds,
    paired_tests,
    spreads,
)
from phonosmith.analysis.table import DASH, CampaignTable, Cell, Columns, Table, fixed, number, significant, tidy
from phonosmith.core.failures import read_failures
from phonosmith.core.metadata import MATERIAL
from phonosmith.evaluation.modes.scores import score_phases
from phonosmith.evaluation.phonons.stability import StabilityConfusion, confusion

Rows = list[Row]
"""What becomes the data of a table: numbers with ``source`` and ``strategy``."""
SOURCE = "this store"
QUARTILES = "IQR: 75th minus 25th percentile over materials, linear interpolation"
WITHIN_PERCENT = 5.0
_NUMBERS = [metric.name for metric in METRICS if metric.kind != "integer"]
_MOST_FAILURES = 20
"""Failed jobs that tables name in their notes."""
_ERRORS = {
    "omega_max_error_percent": "Δω_max, %", "omega_mean_error_percent": "Δω_mean, %",
    "omega_mean_scaled_error_percent": "Δω_mean scaled, %", "dos_error_percent": "ΔDOS, %",
}  # fmt: skip
_PROPERTIES = {
    "heat_capacity_error_percent": "C_v, %", "entropy_error_percent": "S, %", "free_energy_error_percent": "F, %",
    "slack_error_percent": "κ (Slack), %", "bulk_modulus_error_percent": "B (E(V) curve), %",
    "bulk_modulus_vrh_error_percent": "B (VRH), %", "shear_modulus_error_percent": "G (VRH), %",
    "thermal_expansion_error_percent": "α at 300 K, %", "gruneisen_error_percent": "γ, %",
    "kappa_error_percent": "κ, %",
}  # fmt: skip
_COUNTS = {
    "true_stable": "stable, called stable", "stable_called_unstable": "stable, called unstable",
    "unstable_called_stable": "unstable, called stable", "true_unstable": "unstable, called unstable",
}  # fmt: skip
FORCE, PHONON = "valid_force_mae_mev_per_angstrom", "phonon_mae_thz"
CURVES = {
    FORCE: ("force", "meV/Å", 2),
    "valid_energy_mae_mev_per_atom": ("energy", "meV/atom", 3),
    "valid_stress_mae_mev_per_angstrom3": ("stress", "meV/Å³", 3),
    PHONON: ("phonon", "THz", 3),
}
"""Metrics that are followed with the size of the training set: word, unit, decimals."""


@dataclass
class Sources:
    """What tables are made of: frames of a store, what is compared, phases found."""

    results: Results
    choice: Choice
    phases: Phases

    @cached_property
    def averaged(self) -> pd.DataFrame:
        """One row per material and potential, seeds averaged."""
        return over_seeds(self.results.potentials, _NUMBERS)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Rows of the choice: the foundation and every strategy, one per material."""
        return selected(self.averaged, self.choice)

    @property
    def ordered(self) -> pd.DataFrame:
        """The same, strategies as papers list them."""
        return _ordered(self.rows)


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    places = {name: place for place, name in enumerate(in_order(rows["strategy"]))}
    return rows.sort_values("strategy", key=lambda column: column.map(places), kind="stable")


def _with_sources(ours: Iterable[Row], theirs: Iterable[Row]) -> Rows:
    """Return the store's rows and published ones, each with its source."""
    label = grandel2026().label
    return [*({"source": SOURCE} | row for row in ours), *({"source": label} | row for row in theirs)]


def _by_source(data: Rows) -> list[tuple[str, Rows]]:
    """Return the rows of each source with the caption of its block."""
    return [("" if name == SOURCE else name, list(rows)) for name, rows in groupby(data, lambda row: row["source"])]


def _median_and_iqr(row: Row, digits: int) -> str:
    """Return ``median (IQR)``; a single value has no range, no value is a dash."""
    middle, width = number(row["median"], digits), number(row["iqr"], digits)
    return f"{middle}" if row.get("n", 2) < 2 else f"{middle} ({width})"


Lines = Mapping[str, tuple[str, int]]
"""What is said of each strategy: where it is in the data, its decimals."""


def _value_table(
    names: tuple[str, str, str], ours: Rows, theirs: Rows, lines: Lines, notes: list[str], other: Lines | None = None
) -> CampaignTable | None:
    """Return numbers with a column per strategy: key, title and first column; rows; lines (other published ones)."""
    key, title, head = names
    data = _with_sources(ours, theirs)
    blocks = []
    for caption, rows in _by_source(data):
        by_strategy = {row["strategy"]: row for row in rows}
        strategies = in_order(by_strategy)
        texts: list[list[Cell | str]] = [
            [words, *(number(by_strategy[one][name], digits) for one in strategies)]
            for words, (name, digits) in (other if other and caption else lines).items()
            if name in rows[0]
        ]
        blocks.append(Table(caption, [head, *strategies], texts))
    return CampaignTable(key, title, blocks, tidy(data), notes) if ours else None


def _p_value(p: float) -> Cell | str:
    return "< 0.001" if p < 0.001 else number(p, 3)


def _list_table(
    names: tuple[str, str], data: pd.DataFrame, columns: Columns, notes: Sequence[str] = ()
) -> CampaignTable:
    """Return a table (key, title) with a line for each row of the data."""
    blocks = [Table.of("", data.to_dict("records"), columns)]
    return CampaignTable(*names, blocks, data.assign(source=SOURCE), list(notes))


def _counted(rows: pd.DataFrame) -> list[str]:
    """Say how many materials the strategies have."""
    if not len(rows):
        return []
    counts = rows.groupby("strategy")["material"].nunique()
    few, many = int(counts.min()), int(counts.max())
    if few == many:
        return ["1 material" if many == 1 else f"{many} materials"]
    return [f"{few} to {many} materials, as far as results exist"]


def _spread_table(
    names: tuple[str, str, str],
    groups: Iterable[tuple[str, str, pd.DataFrame]],
    published: Mapping[str, Mapping[str, Pair]],
    digits: tuple[int, int],
    notes: list[str],
) -> CampaignTable | None:
    """Return median and IQR with a column per strategy.

    ``names``: key, title, first column; ``groups``: name, metric and rows of each line; ``published``: by line and
    strategy; ``digits``: of ours and of theirs; ``notes``: besides how quartiles are defined.
    """
    key, title, head = names
    ours = [
        {head: name} | row
        for name, metric, rows in groups
        for row in spreads(rows, metric, ["strategy"]).drop(columns="n_missing").to_dict("records")
    ]
    if not ours:
        return None
    theirs = [
        {head: name, "strategy": one, "median": middle, "iqr": width}
        for name, row in published.items()
        for one, (middle, width) in row.items()
    ]
    data = _with_sources(ours, theirs)
    blocks = []
    for caption, rows in _by_source(data):
        strategies = in_order(row["strategy"] for row in rows)
        texts = {(row[head], row["strategy"]): _median_and_iqr(row, digits[bool(caption)]) for row in rows}
        lines = dict.fromkeys(row[head] for row in rows)
        cells = [[line, *(texts.get((line, one), DASH) for one in strategies)] for line in lines]
        blocks.append(Table(caption, [head, *strategies], cells))
    return CampaignTable(key, title, blocks, tidy(data), [QUARTILES, *notes])


def phonon_mae_table(sources: Sources) -> CampaignTable | None:
    """Return median and IQR of the phonon MAE by cell and strategy (published table 1)."""
    rows = selected(sources.averaged, sources.choice, every_cell=True).dropna(subset=[PHONON])
    cells = (*CELLS, *sorted(set(rows["cell"]) - set(CELLS)))
    groups = [(cell or "unknown", PHONON, rows[rows["cell"] == cell]) for cell in cells]
    names = "table1_phonon_mae", f"Phonon MAE, median (IQR), THz: {sources.choice}", "cell"
    return _spread_table(names, groups, grandel2026().phonon_mae, (3, 2), _counted(rows))


def _errors_table(sources: Sources, key: str, title: str, metrics: dict[str, str]) -> CampaignTable | None:
    rows = sources.rows
    known = [name for name in metrics if rows[name].notna().any()]
    # a strategy without any of them has no column
    shown = rows[rows["strategy"].isin(rows.dropna(subset=known, how="all")["strategy"])] if known else rows
    groups = [(metrics[name], name, shown) for name in known]
    theirs = {metrics[name]: row for name, row in grandel2026().phonon_errors.items() if name in metrics}
    return _spread_table((key, f"{title}: {sources.choice}", "error"), groups, theirs, (1, 1), _counted(rows))


def phonon_error_table(sources: Sources) -> CampaignTable | None:
    """Return median and IQR of highest and mean frequency and DOS (published table 2)."""
    table = _errors_table(sources, "table2_phonon_errors", "Errors of frequencies and DOS, median (IQR)", _ERRORS)
    if table:
        table.notes.append("negative: below the reference; scaled: after scaling to the reference's highest frequency")
    return table


def property_table(sources: Sources) -> CampaignTable | None:
    """Return median and IQR of thermal and elastic properties (published figures 3 and 9)."""
    table = _errors_table(sources, "properties", "Errors of thermal and elastic properties, median (IQR)", _PROPERTIES)
    if table:
        within: dict[tuple[str, str], float] = {}
        far: dict[tuple[str, str], int] = {}
        for metric, words in _PROPERTIES.items():
            known = sources.rows.dropna(subset=[metric])
            shares = (known[metric].abs() <= WITHIN_PERCENT).groupby(known["strategy"]).mean()
            within |= {(words, one): share for one, share in shares.items()}
            far |= {(words, one): count for one, count in outliers(known, metric)["strategy"].value_counts().items()}
        pairs = list(zip(table.data["error"], table.data["strategy"], strict=True))
        table.data = table.data.assign(
            share_within_5_percent=[within.get(pair, float("nan")) for pair in pairs],
            n_outliers=[far.get(pair, 0) for pair in pairs],
        )
    return table


def stability_table(sources: Sources, *, practical: bool = False) -> CampaignTable | None:
    """Return the confusion matrix of dynamical stability (published table 3), by the strict or practical threshold."""
    ending = "_practical" if practical else ""
    said, truth = f"stable{ending}", f"reference_stable{ending}"
    ours = [
        _confusion_row(one, confusion(map(bool, group[truth]), map(bool, group[said])))
        for one, group in sources.ordered.dropna(subset=[said, truth]).groupby("strategy", sort=False)
    ]
    theirs = [] if practical else [
        _confusion_row(one, StabilityConfusion(*(getattr(figures, name) for name in _COUNTS)))
        for one, figures in grandel2026().stability.items()
    ]  # fmt: skip
    lines = {words: (name, 0) for name, words in _COUNTS.items()}
    lines |= {f"{name} of unstable, %": (f"{name}_percent", 0) for name in ("precision", "recall")}
    title = f"Dynamical stability, {'practical' if practical else 'strict'} threshold: {sources.choice}"
    notes = ["commensurate q-points only, acoustic modes at Γ left out"]
    return _value_table((f"table3_stability{ending}", title, "materials"), ours, theirs, lines, notes)


def _confusion_row(strategy: str, counted: StabilityConfusion) -> Row:
    counts = {name: getattr(counted, name) for name in _COUNTS}
    shares = {f"{name}_percent": 100 * getattr(counted, name) for name in ("precision", "recall")}
    return {"strategy": strategy} | counts | shares


def phase_table(sources: Sources) -> CampaignTable | None:
    """Return precision, recall and F1 of the phases found along imaginary modes (published table 4)."""
    ours: Rows = []
    for one in in_order(sources.phases.by_strategy):
        scores = score_phases(sources.phases.reference, sources.phases.by_strategy[one])
        shares = {"precision_percent": scores.precision, "recall_percent": scores.recall}
        percents = {name: None if share is None else 100 * share for name, share in shares.items()}
        counts = {"f1": scores.f1, "n_precision": scores.n_precision, "n_recall": scores.n_recall}
        ours.append({"strategy": one} | percents | counts)
    theirs: Rows = [
        {"strategy": one, "f1": figures.f1, "precision_percent": figures.precision, "recall_percent": figures.recall}
        for one, figures in grandel2026().phases.items()
    ]
    lines = {
        "precision, %": ("precision_percent", 0), "recall, %": ("recall_percent", 0), "F1": ("f1", 2),
        "materials in precision": ("n_precision", 0), "materials in recall": ("n_recall", 0),
    }  # fmt: skip
    words = "equal in space group and atoms of the primitive cell, the initial phase left out on both sides"
    names = "table4_new_phases", f"New phases along imaginary modes: {sources.choice}", "new phases"
    return _value_table(names, ours, theirs, lines, [words, *sources.phases.notes])


def foundation_table(sources: Sources) -> CampaignTable | None:
    """Return median and IQR of the phonon MAE of every foundation (published table 5)."""
    rows = sources.averaged[sources.averaged["strategy"] == FOUNDATION].dropna(subset=[PHONON])
    if not len(rows):
        return None
    # a foundation's own phonons do not depend on the sampling cell
    rows = rows.groupby(["foundation", "material"])[PHONON].mean().reset_index()
    ours = spreads(rows, PHONON, ["foundation"])[["foundation", "n", "median", "iqr"]]
    theirs = [
        {"foundation": one, "median": middle, "iqr": width}
        for one, (middle, width) in grandel2026().foundations.items()
    ]
    data = _with_sources(ours.to_dict("records"), theirs)
    blocks = [
        Table(
            caption, [row["foundation"] for row in rows], [[_median_and_iqr(row, 2 if caption else 3) for row in rows]]
        )
        for caption, rows in _by_source(data)
    ]
    title = "Phonon MAE of foundations, median (IQR), THz"
    return CampaignTable("table5_foundations", title, blocks, tidy(data), [QUARTILES])


def cost_table(sources: Sources) -> CampaignTable | None:
    """Return what labels save against reference phonons, by number of displaced cells (published section 3.6)."""
    per_material = cost.cost_per_material(sources.results)
    saved = cost.savings(per_material[per_material["cell"] == sources.choice.cell])
    saved = saved[saved["n"] > 0]
    if not len(saved):
        return None
    columns: Columns = (
        ("displaced cells", "at_least", lambda count: f"≥ {count}"), ("materials", "n", str),
        ("phonons, core-h", "mean_phonon_core_hours", significant),
        ("labels, core-h", "mean_label_core_hours", significant),
        ("saving, %", "saving_percent", fixed(0)), ("median saving, %", "median_saving_percent", fixed(0)),
    )  # fmt: skip
    notes = [
        "means per material; labels include validation frames; saving: 1 − labels / phonons of the means",
        "median saving: median of the materials' savings",
    ]
    names = "costs", f"Cost of reference phonons and of labels, {sources.choice.cell} cells"
    table = _list_table(names, saved, columns, notes)
    label, figures = grandel2026().label, grandel2026().cost
    theirs: Rows = [{"at_least": count, "saving_percent": saving} for count, saving in figures.saving_percent.items()]
    table.data = tidy([*table.data.to_dict("records"), *({"source": label} | row for row in theirs)])
    # published means are of all materials
    hours = {"phonon": figures.phonon_hours, "label": figures.label_hours}
    means = {f"mean_{name}_core_hours": wall * figures.cores for name, wall in hours.items()}
    shown = [row | {"n": DASH} | (means if row["at_least"] == 1 else {}) for row in theirs]
    table.blocks.append(Table.of(label, shown, columns))
    return table


def training_cost_table(sources: Sources) -> CampaignTable | None:
    """Return training times by strategy (published section 3.6)."""
    minutes = cost.training_minutes(selected(sources.results.potentials, sources.choice))
    published = grandel2026().cost.training_minutes
    theirs: Rows = [{"strategy": one, "mean_minutes": published[one]} for one in in_order(published)]
    names = "training_times", f"Training times: {sources.choice}", "training, min"
    lines, other = (
        {"mean": ("mean_minutes", 2), "median": ("median_minutes", 2)},
        {"mean, one A100": ("mean_minutes", 1)},
    )
    table = _value_table(names, minutes.to_dict("records"), theirs, lines, [], other)
    if table:
        table.data = table.data.assign(source=table.data.pop("source"))
    return table


def learning_table(sources: Sources, metric: str) -> CampaignTable | None:
    """Return median and IQR of an error against the size of the training set (published figures 2b and 8)."""
    word, unit, digits = CURVES[metric]
    rows = sources.averaged.dropna(subset=[metric])
    rows = rows[(rows["foundation"] == sources.choice.foundation) & (rows["cell"] == sources.choice.cell)]
    if not (rows["strategy"] != FOUNDATION).any():
        return None
    columns: Columns = (
        ("strategy", "strategy", str), ("training structures", "n_train", fixed(0)), ("materials", "n", str),
        *((f"{name}, {unit}", name, fixed(digits)) for name in ("median", "q25", "q75")),
    )  # fmt: skip
    where = f"foundation {sources.choice.foundation}, {sources.choice.cell} cells"
    title = f"{word.capitalize()} MAE against the size of the training set, {unit}: {where}"
    return _list_table((f"learning_curve_{word}", title), learning_curve(_ordered(rows), metric), columns, [QUARTILES])


def verdict_table(sources: Sources) -> CampaignTable | None:
    """Return for how many materials each strategy is fit for phonons."""
    rows = sources.ordered.dropna(subset=["fit"])
    if not len(rows):
        return None
    data = rows.groupby("strategy", sort=False)["fit"].agg(n="size", n_fit="sum").reset_index()
    data.insert(0, "source", SOURCE)
    columns: Columns = (
        ("strategy", "strategy", str), ("materials", "n", str), ("fit", "n_fit", str),
        ("fit, %", "", lambda row: number(100 * row["n_fit"] / row["n"], 0)),
    )  # fmt: skip
    names = "verdicts", f"Verdicts, fit for phonons of the material: {sources.choice}"
    return _list_table(names, data, columns)


def committee_table(sources: Sources) -> CampaignTable | None:
    """Return what the committees of several seeds leave open about each phonon MAE."""
    rows = sources.results.potentials.dropna(subset=["phonon_mae_high_thz"])
    if not len(rows):
        return None
    which = ["material", "foundation", "cell", "strategy", "training_set"]
    columns = {"n": ("seed", "nunique"), "n_fit": ("fit", "sum"), "phonon_mae_thz": ("phonon_mae_thz", "mean")}
    columns |= {f"phonon_mae_{end}_thz": (f"phonon_mae_{end}_thz", "first") for end in ("low", "high")}
    data = rows.groupby(which, sort=False).agg(**columns).reset_index()

    def interval(row: Row) -> str:
        return " to ".join(str(number(row[f"phonon_mae_{end}_thz"], 3)) for end in ("low", "high"))

    shown: Columns = (
        *((name.replace("_", " "), name, str) for name in which), ("seeds", "n", str),
        ("phonon MAE (mean), THz", "phonon_mae_thz", fixed()), ("interval, THz", "", interval), ("fit", "n_fit", str),
    )  # fmt: skip
    rule = "interval: where one more training of the kind falls in four of five cases (without reference: the truth)"
    names = "committees", "How sure: phonon MAE that the committees of seeds leave open"
    return _list_table(names, data, shown, [rule])


def paired_table(sources: Sources, metric: str) -> CampaignTable | None:
    """Return Wilcoxon tests and bootstrap intervals of the differences between strategies."""
    word, unit, digits = CURVES[metric]
    tests = paired_tests(sources.ordered.dropna(subset=[metric]), metric)
    tests = tests[tests["n"] > 0]
    if not len(tests):
        return None

    def interval(row: Row) -> str:
        return f"{number(row['low'], digits)} to {number(row['high'], digits)}" if row["n"] > 1 else DASH

    columns: Columns = (
        ("difference", "", lambda row: f"{row['first']} − {row['second']}"), ("materials", "n", str),
        (f"median, {unit}", "median_difference", fixed(digits)), (f"95 % interval, {unit}", "", interval),
        ("first better", "n_better", str), ("p", "p", _p_value), ("p (Holm)", "p_holm", _p_value),
    )  # fmt: skip
    notes = [
        "paired by material; p: Wilcoxon's signed-rank test, two-sided; Holm: corrected for all pairs of the table",
        "interval: percentile bootstrap of the median difference, 9999 resamples",
    ]
    title = f"{word.capitalize()} MAE of strategies compared material by material: {sources.choice}"
    return _list_table((f"paired_tests_{word}", title), tests, columns, notes)


def correlation_table(sources: Sources) -> CampaignTable | None:
    """Return how force and phonon errors go together, by strategy and over all fine-tuned potentials.

    Several potentials of one crystal are no independent pairs: such a group has correlations, but no p.
    """
    rows = sources.rows.dropna(subset=[FORCE, PHONON])
    if not len(rows):
        return None
    groups = {one: rows[rows["strategy"] == one] for one in in_order(rows["strategy"])}
    groups["all fine-tuned"] = rows[rows["strategy"] != FOUNDATION]
    data = []
    for name, group in groups.items():
        found = correlation(group[FORCE], group[PHONON])
        if group["material"].duplicated().any():
            found = replace(found, spearman_p=float("nan"), pearson_p=float("nan"))
        data.append({"source": SOURCE, "potentials": name, **asdict(found)})
    columns: Columns = (
        ("potentials", "potentials", str), ("pairs", "n", str), ("Spearman", "spearman", fixed(2)),
        ("p", "spearman_p", _p_value), ("Pearson", "pearson", fixed(2)), ("p", "pearson_p", _p_value),
        ("Pearson of logarithms", "pearson_log", fixed(2)),
    )  # fmt: skip
    names = "correlation_force_phonon", f"Validation force MAE and phonon MAE: {sources.choice}"
    notes = ["p only where every pair is another crystal: several potentials of one crystal are not independent"]
    return _list_table(names, tidy(data), columns, notes)


def outlier_table(sources: Sources) -> CampaignTable | None:
    """Return the materials whose errors lie outside the fences of their strategy, by name."""
    properties = {name: (words, 1) for name, words in _PROPERTIES.items() if name != "bulk_modulus_vrh_error_percent"}
    metrics = {
        PHONON: ("phonon MAE, THz", 3), "omega_max_error_percent": ("Δω_max, %", 1),
        "dos_error_percent": ("ΔDOS, %", 1), **properties, FORCE: ("force MAE, meV/Å", 1),
    }  # fmt: skip
    rows = sources.rows
    known = [outliers(rows, name) for name in metrics if rows[name].notna().any()]
    if not known:
        return None

    data = pd.concat(known, ignore_index=True)

    def fences(row: Row) -> str:
        return " to ".join(str(number(row[f"{side}_fence"], metrics[row["metric"]][1])) for side in ("lower", "upper"))

    columns: Columns = (
        ("material", "material", str), ("strategy", "strategy", str),
        ("metric", "metric", lambda name: metrics[name][0]),
        ("value", "", lambda row: number(row["value"], metrics[row["metric"]][1])), ("fences", "", fences),
    )  # fmt: skip
    rule = f"outlier: more than {FENCE:g} IQR below the first or above the third quartile of its strategy"
    notes = [rule] if len(data) else [rule, "there is none"]
    return _list_table(("outliers", f"Outliers: {sources.choice}"), data, columns, notes)


TABLES: tuple[Callable[[Sources], CampaignTable | None], ...] = (
    phonon_mae_table,
    phonon_error_table,
    stability_table,
    partial(stability_table, practical=True),
    phase_table,
    foundation_table,
    property_table,
    cost_table,
    training_cost_table,
    verdict_table,
    committee_table,
    *(partial(learning_table, metric=metric) for metric in CURVES),
    *(partial(paired_table, metric=metric) for metric in (PHONON, FORCE)),
    correlation_table,
    outlier_table,
)
"""In the order they are shown."""


@dataclass
class CampaignTables:
    """Tables of a store, what they are about (None without results), the frames, what was left out and why."""

    tables: list[CampaignTable]
    choice: Choice | None
    results: Results
    notes: list[str] = field(default_factory=list)


def _failure_notes(store: JobStore) -> list[str]:
    """Return which jobs have no result and why, the first of them."""
    failed = sorted(read_failures(store).values(), key=lambda one: (str(one.described.get(MATERIAL)), one.job))
    said = [f"{one.job} ({one.described.get(MATERIAL) or 'no material'}) failed: {one.error}" for one in failed]
    more = [f"{len(said) - _MOST_FAILURES} more jobs failed, see phonosmith status"]
    return said[:_MOST_FAILURES] + (more if len(said) > _MOST_FAILURES else [])


def campaign_tables(
    store: JobStore,
    campaign: str | None = None,
    *,
    foundation: str | None = None,
    training_set: str | None = None,
    cell: str | None = None,
    published: bool = True,
) -> CampaignTables:
    """Return every table the reports in a job store, or of one campaign, allow.

    Foundation, training set and cell compared are what most results share unless given; published figures of another
    data set stand beside the tables that have a counterpart.

    Raises
    ------
    InputError
        When no result has what was asked.
    """
    results = read_results(store, campaign)
    notes = [*results.notes, *_failure_notes(store)]
    if results.empty:
        return CampaignTables([], None, results, [*notes, "the store holds no report of a material yet"])
    choice = choose(results.potentials, foundation, training_set, cell)
    sources = Sources(results, choice, read_phases(store, choice, campaign))
    tables = [table for build in TABLES if (table := build(sources)) is not None]
    tables += pathway_tables(sources.phases, choice, SOURCE)
    others = sorted(set(results.potentials["foundation"]) - {choice.foundation})
    if others:
        notes.append(f"results of other foundations are in table 5 only: {', '.join(others)}")
    if (results.materials["rehearsal"].fillna(value=False)).any():
        notes.append("some reference data are rehearsals: numbers of the VASP stand-in, not of DFT")
    if published:
        notes.append(f"published figures beside the tables: {grandel2026().citation}, another data set")
    else:
        for table in tables:
            table.blocks = [block for block in table.blocks if not block.caption]
            table.data = table.data[table.data["source"] == SOURCE]
    return CampaignTables(tables, choice, results, notes)
