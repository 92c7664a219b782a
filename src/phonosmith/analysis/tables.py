"""The tables of a campaign, each able to stand beside the published one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from phonosmith.analysis import costs as cost
from phonosmith.analysis.choice import CELLS, FOUNDATION, Choice, choose, in_order, selected
from phonosmith.analysis.columns import METRICS
from phonosmith.analysis.published import Published, grandel2026
from phonosmith.analysis.queries import Phases, Results, read_phases, read_results
from phonosmith.analysis.statistics import (
    FENCE,
    correlation,
    learning_curve,
    outliers,
    over_seeds,
    paired_tests,
    spread,
    spreads,
)
from phonosmith.analysis.table import DASH, CampaignTable, Cell, Table, median_and_iqr, number, significant, tidy
from phonosmith.evaluation.modes.scores import score_phases
from phonosmith.evaluation.phonons.stability import StabilityConfusion, confusion

if TYPE_CHECKING:
    import pandas as pd
    from jobflow import JobStore

Rows = list[dict[str, Any]]
"""What becomes the data of a table: numbers with ``source`` and ``strategy``."""
SOURCE = "this store"
QUARTILES = "IQR: 75th minus 25th percentile over materials, linear interpolation"
WITHIN_PERCENT = 5.0
_NUMBERS = [metric.name for metric in METRICS if metric.kind != "integer"]
_ERRORS = {
    "omega_max_error_percent": "Δω_max, %",
    "omega_mean_error_percent": "Δω_mean, %",
    "omega_mean_scaled_error_percent": "Δω_mean scaled, %",
    "dos_error_percent": "ΔDOS, %",
}
_PROPERTIES = {
    "heat_capacity_error_percent": "C_v, %",
    "entropy_error_percent": "S, %",
    "free_energy_error_percent": "F, %",
    "slack_error_percent": "κ (Slack), %",
    "bulk_modulus_error_percent": "B (E(V) curve), %",
    "bulk_modulus_vrh_error_percent": "B (VRH), %",
    "shear_modulus_error_percent": "G (VRH), %",
}
_COUNTS = {
    "true_stable": "stable, called stable",
    "stable_called_unstable": "stable, called unstable",
    "unstable_called_stable": "unstable, called stable",
    "true_unstable": "unstable, called unstable",
}
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
    """What tables are made of.

    Attributes
    ----------
    results
        Frames of a store.
    choice
        What is compared.
    phases
        Phases found along imaginary modes.
    published
        Figures to stand beside; None for none.
    """

    results: Results
    choice: Choice
    phases: Phases
    published: Published | None = None

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
    places = {name: place for place, name in enumerate(in_order(list(rows["strategy"])))}
    return rows.sort_values("strategy", key=lambda column: column.map(places), kind="stable")


def _spread_rows(rows: pd.DataFrame, metric: str, head: str, name: str) -> Rows:
    """Return median and quartiles of a metric by strategy; ``head`` is the column that holds the row's name."""
    groups = spreads(rows, metric, ["strategy"]).drop(columns="n_missing")
    return [{"source": SOURCE, head: name, **row} for row in groups.to_dict("records")]


def _published_rows(sources: Sources, head: str, figures: Callable[[Published], dict[str, Any]]) -> Rows:
    """Return published medians and interquartile ranges by row and strategy."""
    if sources.published is None:
        return []
    return [
        {"source": sources.published.label, head: name, "strategy": one, "median": middle, "iqr": width}
        for name, row in figures(sources.published).items()
        for one, (middle, width) in row.items()
    ]


def _sources(data: Rows) -> list[tuple[str, Rows]]:
    """Return the rows of each source with the caption of its block."""
    return [("" if name == SOURCE else name, list(rows)) for name, rows in groupby(data, lambda row: row["source"])]


def _spread_blocks(data: Rows, head: str, digits: int, published_digits: int) -> list[Table]:
    """Return a block per source with a column per strategy: ``median (IQR)``, the median alone for a single value."""
    blocks = []
    for caption, rows in _sources(data):
        strategies = in_order([row["strategy"] for row in rows])
        texts = {}
        for row in rows:
            middle, width = (number(row[name], published_digits if caption else digits) for name in ("median", "iqr"))
            texts[row[head], row["strategy"]] = f"{middle}" if row.get("n", 2) < 2 else f"{middle} ({width})"
        lines = [
            [name, *(texts.get((name, one), DASH) for one in strategies)]
            for name in dict.fromkeys(row[head] for row in rows)
        ]
        blocks.append(Table(caption, [head, *strategies], lines))
    return blocks


def _value_blocks(data: Rows, head: str, lines: Mapping[str, tuple[str, int]]) -> list[Table]:
    """Return a block per source with a column per strategy and a line per number: its key in the data, its decimals."""
    blocks = []
    for caption, rows in _sources(data):
        by_strategy = {row["strategy"]: row for row in rows}
        strategies = in_order(list(by_strategy))
        texts: list[list[Cell | str]] = [
            [words, *(number(by_strategy[one][key], digits) for one in strategies)]
            for words, (key, digits) in lines.items()
            if key in rows[0]
        ]
        blocks.append(Table(caption, [head, *strategies], texts))
    return blocks


def phonon_mae_table(sources: Sources) -> CampaignTable | None:
    """Return median and IQR of the phonon MAE by cell and strategy (published table 1)."""
    rows = selected(sources.averaged, sources.choice, every_cell=True).dropna(subset=["phonon_mae_thz"])
    there = set(rows["cell"])
    data: Rows = []
    for cell in (*CELLS, *sorted(there - set(CELLS))):
        data += _spread_rows(rows[rows["cell"] == cell], "phonon_mae_thz", "cell", cell or "unknown")
    if not data:
        return None
    data += _published_rows(sources, "cell", lambda published: published.phonon_mae)
    title = f"Phonon MAE, median (IQR), THz: {sources.choice}"
    notes = [QUARTILES, _counted(rows)]
    return CampaignTable("table1_phonon_mae", title, _spread_blocks(data, "cell", 3, 2), tidy(data), notes)


def _counted(rows: pd.DataFrame) -> str:
    counts = rows.groupby("strategy")["material"].nunique()
    few, many = int(counts.min()), int(counts.max())
    if few == many:
        return "1 material" if many == 1 else f"{many} materials"
    return f"{few} to {many} materials, as far as results exist"


def _errors_table(sources: Sources, key: str, title: str, metrics: dict[str, str]) -> CampaignTable | None:
    known = {name: words for name, words in metrics.items() if sources.rows[name].notna().any()}
    if not known:
        return None
    rows = sources.rows
    shown = set(rows.dropna(subset=list(known), how="all")["strategy"])
    data: Rows = []
    for name, words in known.items():
        data += _spread_rows(rows[rows["strategy"].isin(shown)], name, "error", words)
    data += _published_rows(
        sources,
        "error",
        lambda published: {metrics[name]: row for name, row in published.phonon_errors.items() if name in metrics},
    )
    notes = [QUARTILES, _counted(rows)]
    return CampaignTable(key, f"{title}: {sources.choice}", _spread_blocks(data, "error", 1, 1), tidy(data), notes)


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
            within |= {
                (words, one): float((values.abs() <= WITHIN_PERCENT).mean())
                for one, values in known.groupby("strategy")[metric]
            }
            far |= {(words, one): count for one, count in outliers(known, metric)["strategy"].value_counts().items()}
        pairs = list(zip(table.data["error"], table.data["strategy"], strict=True))
        table.data = table.data.assign(
            share_within_5_percent=[within.get(pair, float("nan")) for pair in pairs],
            n_outliers=[far.get(pair, 0) for pair in pairs],
        )
    return table


def stability_table(sources: Sources, *, practical: bool = False) -> CampaignTable | None:
    """Return the confusion matrix of dynamical stability (published table 3), by the strict or practical threshold."""
    ours, theirs = (f"{name}{'_practical' if practical else ''}" for name in ("stable", "reference_stable"))
    data = [
        _confusion_row(SOURCE, one, confusion(map(bool, group[theirs]), map(bool, group[ours])))
        for one, group in sources.ordered.dropna(subset=[ours, theirs]).groupby("strategy", sort=False)
    ]
    if not data:
        return None
    if sources.published and not practical:
        data += [
            _confusion_row(
                sources.published.label, one, StabilityConfusion(*(getattr(figures, name) for name in _COUNTS))
            )
            for one, figures in sources.published.stability.items()
        ]
    lines = {words: (name, 0) for name, words in _COUNTS.items()}
    lines |= {f"{name} of unstable, %": (f"{name}_percent", 0) for name in ("precision", "recall")}
    which = "practical" if practical else "strict"
    return CampaignTable(
        f"table3_stability{'_practical' if practical else ''}",
        f"Dynamical stability, {which} threshold: {sources.choice}",
        _value_blocks(data, "materials", lines),
        tidy(data),
        ["commensurate q-points only, acoustic modes at Γ left out"],
    )


def _confusion_row(source: str, strategy: str, counted: StabilityConfusion) -> dict[str, Any]:
    counts = {name: getattr(counted, name) for name in _COUNTS}
    shares = {f"{name}_percent": 100 * getattr(counted, name) for name in ("precision", "recall")}
    return {"source": source, "strategy": strategy, **counts, **shares}


def phase_table(sources: Sources) -> CampaignTable | None:
    """Return precision, recall and F1 of the phases found along imaginary modes (published table 4)."""
    data: Rows = []
    for one in in_order(list(sources.phases.by_strategy)):
        scores = score_phases(sources.phases.reference, sources.phases.by_strategy[one])
        shares = {"precision_percent": scores.precision, "recall_percent": scores.recall}
        percents = {name: None if share is None else 100 * share for name, share in shares.items()}
        counts = {"f1": scores.f1, "n_precision": scores.n_precision, "n_recall": scores.n_recall}
        data.append({"source": SOURCE, "strategy": one, **percents, **counts})
    if not data:
        return None
    if sources.published:
        data += [
            {"source": sources.published.label, "strategy": one, "f1": figures.f1}
            | {"precision_percent": figures.precision, "recall_percent": figures.recall}
            for one, figures in sources.published.phases.items()
        ]
    lines = {
        "precision, %": ("precision_percent", 0), "recall, %": ("recall_percent", 0), "F1": ("f1", 2),
        "materials in precision": ("n_precision", 0), "materials in recall": ("n_recall", 0),
    }  # fmt: skip
    words = "equal in space group and atoms of the primitive cell, the initial phase left out on both sides"
    title = f"New phases along imaginary modes: {sources.choice}"
    blocks = _value_blocks(data, "new phases", lines)
    return CampaignTable("table4_new_phases", title, blocks, tidy(data), [words, *sources.phases.notes])


def foundation_table(sources: Sources) -> CampaignTable | None:
    """Return median and IQR of the phonon MAE of every foundation (published table 5)."""
    rows = sources.averaged[sources.averaged["strategy"] == FOUNDATION].dropna(subset=["phonon_mae_thz"])
    # a foundation's own phonons do not depend on the sampling cell
    rows = rows.groupby(["foundation", "material"], sort=False)["phonon_mae_thz"].mean().reset_index()
    if not len(rows):
        return None
    ours = {one: spread(group["phonon_mae_thz"]) for one, group in rows.groupby("foundation")}
    blocks = [Table("", list(ours), [[median_and_iqr(item, 3) for item in ours.values()]])]
    data: Rows = [
        {"source": SOURCE, "foundation": one, "n": item.n, "median": item.median, "iqr": item.iqr}
        for one, item in ours.items()
    ]
    if sources.published:
        theirs = sources.published.foundations
        texts = [f"{number(middle, 2)} ({number(width, 2)})" for middle, width in theirs.values()]
        blocks.append(Table(sources.published.label, list(theirs), [texts]))
        data += [
            {"source": sources.published.label, "foundation": one, "median": middle, "iqr": width}
            for one, (middle, width) in theirs.items()
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
    header = ["displaced cells", "materials", "phonons, core-h", "labels, core-h", "saving, %", "median saving, %"]
    rows: list[list[Cell | str]] = [
        [f"≥ {row['at_least']}", str(row["n"])]
        + [significant(row[name]) for name in ("mean_phonon_core_hours", "mean_label_core_hours")]
        + [number(row[name], 0) for name in ("saving_percent", "median_saving_percent")]
        for row in saved.to_dict("records")
    ]
    blocks, data = [Table("", header, rows)], saved.assign(source=SOURCE)
    if sources.published:
        figures = sources.published.cost
        hours = [f"{figures.phonon_hours * figures.cores:.0f}", f"{figures.label_hours * figures.cores:.0f}"]
        theirs: list[list[Cell | str]] = [
            [f"≥ {count}", DASH, *(hours if count == 1 else [DASH, DASH]), number(saving, 0), DASH]
            for count, saving in figures.saving_percent.items()
        ]
        blocks.append(Table(sources.published.label, header, theirs))
        more = [
            {"source": sources.published.label, "at_least": count, "saving_percent": saving}
            for count, saving in figures.saving_percent.items()
        ]
        data = tidy([*data.to_dict("records"), *more])
    notes = [
        "means per material; labels include validation frames; saving: 1 − labels / phonons of the means",
        "median saving: median of the materials' savings",
    ]
    title = f"Cost of reference phonons and of labels, {sources.choice.cell} cells"
    return CampaignTable("costs", title, blocks, data, notes)


def training_cost_table(sources: Sources) -> CampaignTable | None:
    """Return training times by strategy (published section 3.6)."""
    minutes = cost.training_minutes(selected(sources.results.potentials, sources.choice)).assign(source=SOURCE)
    if not len(minutes):
        return None
    data: Rows = minutes.to_dict("records")
    head, lines = "training, min", {"mean": ("mean_minutes", 2), "median": ("median_minutes", 2)}
    blocks = _value_blocks(data, head, lines)
    if sources.published:
        figures = sources.published.cost.training_minutes
        theirs: Rows = [
            {"source": sources.published.label, "strategy": one, "mean_minutes": figures[one]}
            for one in in_order(list(figures))
        ]
        blocks += _value_blocks(theirs, head, {"mean, one A100": ("mean_minutes", 1)})
        data += theirs
    return CampaignTable("training_times", f"Training times: {sources.choice}", blocks, tidy(data))


def learning_table(sources: Sources, metric: str) -> CampaignTable | None:
    """Return median and IQR of an error against the size of the training set (published figures 2b and 8)."""
    word, unit, digits = CURVES[metric]
    trained = sources.averaged[
        (sources.averaged["foundation"] == sources.choice.foundation)
        & (sources.averaged["cell"] == sources.choice.cell)
    ]
    known = trained.dropna(subset=[metric])
    if not len(known[known["strategy"] != FOUNDATION]):
        return None
    curve = learning_curve(_ordered(known), metric)
    rows = [
        [row["strategy"], number(row["n_train"], 0), str(row["n"])]
        + [number(row[name], digits) for name in ("median", "q25", "q75")]
        for row in curve.to_dict("records")
    ]
    header = ["strategy", "training structures", "materials", f"median, {unit}", f"q25, {unit}", f"q75, {unit}"]
    data = curve.assign(source=SOURCE)
    where = f"foundation {sources.choice.foundation}, {sources.choice.cell} cells"
    title = f"{word.capitalize()} MAE against the size of the training set, {unit}: {where}"
    return CampaignTable(f"learning_curve_{word}", title, [Table("", header, rows)], data, [QUARTILES])


def verdict_table(sources: Sources) -> CampaignTable | None:
    """Return for how many materials each strategy is fit for phonons."""
    rows = sources.ordered.dropna(subset=["fit"])
    if not len(rows):
        return None
    data = [
        {"source": SOURCE, "strategy": one, "n": len(group), "n_fit": int(group["fit"].sum())}
        for one, group in rows.groupby("strategy", sort=False)
    ]
    texts = [
        [row["strategy"], str(row["n"]), str(row["n_fit"]), number(100 * row["n_fit"] / row["n"], 0)] for row in data
    ]
    title = f"Verdicts, fit for phonons of the material: {sources.choice}"
    return CampaignTable("verdicts", title, [Table("", ["strategy", "materials", "fit", "fit, %"], texts)], tidy(data))


def paired_table(sources: Sources, metric: str = PHONON) -> CampaignTable | None:
    """Return Wilcoxon tests and bootstrap intervals of the differences between strategies."""
    word, unit, digits = CURVES[metric]
    tests = paired_tests(sources.ordered.dropna(subset=[metric]), metric)
    tests = tests[tests["n"] > 0]
    if not len(tests):
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
        for row in tests.to_dict("records")
    ]
    header = ["difference", "materials", f"median, {unit}", f"95 % interval, {unit}", "first better", "p", "p (Holm)"]
    notes = [
        "paired by material; p: Wilcoxon's signed-rank test, two-sided; Holm: corrected for all pairs of the table",
        "interval: percentile bootstrap of the median difference, 9999 resamples",
    ]
    title = f"{word.capitalize()} MAE of strategies compared material by material: {sources.choice}"
    return CampaignTable(f"paired_tests_{word}", title, [Table("", header, texts)], tests.assign(source=SOURCE), notes)


def _p(value: float) -> Cell | str:
    return "< 0.001" if value < 0.001 else number(value, 3)


def correlation_table(sources: Sources) -> CampaignTable | None:
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
            number(row["spearman"], 2),
            _p(row["spearman_p"]),
            number(row["pearson"], 2),
            _p(row["pearson_p"]),
            number(row["pearson_log"], 2),
        ]
        for row in data
    ]
    header = ["potentials", "pairs", "Spearman", "p", "Pearson", "p", "Pearson of logarithms"]
    title = f"Validation force MAE and phonon MAE: {sources.choice}"
    return CampaignTable("correlation_force_phonon", title, [Table("", header, texts)], tidy(data))


def outlier_table(sources: Sources) -> CampaignTable | None:
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
    known = [outliers(rows, name) for name in metrics if rows[name].notna().any()]
    if not known:
        return None
    data = pd.concat(known, ignore_index=True)
    texts = []
    for row in data.to_dict("records"):
        word, digits = metrics[row["metric"]]
        fences = f"{number(row['lower_fence'], digits)} to {number(row['upper_fence'], digits)}"
        texts.append([row["material"], row["strategy"], word, number(row["value"], digits), fences])
    rule = f"outlier: more than {FENCE:g} IQR below the first or above the third quartile of its strategy"
    header = ["material", "strategy", "metric", "value", "fences"]
    notes = [rule] if texts else [rule, "there is none"]
    return CampaignTable(
        "outliers", f"Outliers: {sources.choice}", [Table("", header, texts)], data.assign(source=SOURCE), notes
    )


TABLES: tuple[Callable[[Sources], CampaignTable | None], ...] = (
    phonon_mae_table,
    phonon_error_table,
    stability_table,
    lambda sources: stability_table(sources, practical=True),
    phase_table,
    foundation_table,
    property_table,
    cost_table,
    training_cost_table,
    verdict_table,
    *(lambda sources, metric=metric: learning_table(sources, metric) for metric in CURVES),
    lambda sources: paired_table(sources, PHONON),
    lambda sources: paired_table(sources, FORCE),
    correlation_table,
    outlier_table,
)
"""In the order they are shown."""


@dataclass
class CampaignTables:
    """Tables of a store, with what they are about.

    Attributes
    ----------
    tables
        Those for which there are results, published ones beside them where asked.
    choice
        Foundation, training set and cell compared; None for a store without results.
    results
        The frames they were made of.
    notes
        What was left out, and why.
    """

    tables: list[CampaignTable]
    choice: Choice | None
    results: Results
    notes: list[str] = field(default_factory=list)


def campaign_tables(
    store: JobStore,
    campaign: str | None = None,
    *,
    foundation: str | None = None,
    training_set: str | None = None,
    cell: str | None = None,
    published: bool = True,
) -> CampaignTables:
    """Return every table the reports in a job store allow.

    Parameters
    ----------
    store
        Any job store.
    campaign
        Only reports of this campaign.
    foundation, training_set, cell
        What to compare; what most results share when None.
    published
        Let published figures of another data set stand beside the tables that have a counterpart.

    Raises
    ------
    InputError
        When no result has what was asked.
    """
    results = read_results(store, campaign)
    notes = list(results.notes)
    if results.empty:
        return CampaignTables([], None, results, [*notes, "the store holds no report of a material yet"])
    figures = grandel2026() if published else None
    choice = choose(results.potentials, foundation, training_set, cell)
    sources = Sources(results, choice, read_phases(store, choice, campaign), figures)
    tables = [table for build in TABLES if (table := build(sources)) is not None]
    others = sorted(set(results.potentials["foundation"]) - {choice.foundation})
    if others:
        notes.append(f"results of other foundations are in table 5 only: {', '.join(others)}")
    if (results.materials["rehearsal"].fillna(value=False)).any():
        notes.append("some reference data are rehearsals: numbers of the VASP stand-in, not of DFT")
    if figures:
        notes.append(f"published figures beside the tables: {figures.citation}, another data set")
    return CampaignTables(tables, choice, results, notes)
