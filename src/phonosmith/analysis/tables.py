"""The tables of a campaign, each able to stand beside the published one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phonosmith.analysis import costs as cost
from phonosmith.analysis.choice import CELLS, FOUNDATION, Choice, choose, in_order, selected
from phonosmith.analysis.columns import METRICS
from phonosmith.analysis.published import Published
from phonosmith.analysis.statistics import distribution, over_seeds, spread
from phonosmith.analysis.table_format import DASH, Block, Table, median_and_iqr, number, significant, tidy
from phonosmith.evaluation.phonons.stability import StabilityConfusion, confusion

if TYPE_CHECKING:
    import pandas as pd

    from phonosmith.analysis.queries import Results

SOURCE = "this store"
QUARTILES = "IQR: 75th minus 25th percentile over materials, linear interpolation"
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


@dataclass
class Sources:
    """What tables are made of.

    Attributes
    ----------
    results
        Frames of a store.
    averaged
        One row per material and potential, seeds averaged.
    choice
        What is compared.
    published
        Figures to stand beside; None for none.
    """

    results: Results
    averaged: pd.DataFrame
    choice: Choice
    published: Published | None = None

    @classmethod
    def of(
        cls,
        results: Results,
        published: Published | None = None,
        *,
        foundation: str | None = None,
        training_set: str | None = None,
        cell: str | None = None,
    ) -> Sources:
        """Average over seeds and choose what is compared."""
        choice = choose(results.potentials, foundation, training_set, cell)
        return cls(results, over_seeds(results.potentials, _NUMBERS), choice, published)

    @property
    def rows(self) -> pd.DataFrame:
        """Rows of the choice: the foundation and every strategy, one per material."""
        return selected(self.averaged, self.choice)


def _strategies(rows: pd.DataFrame) -> list[str]:
    return in_order(list(rows["strategy"]))


def _spread_rows(
    groups: dict[str, dict[str, Any]], name: str, strategies: list[str], digits: int
) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Return text cells and numbers of spreads by row and strategy."""
    texts, data = [], []
    for row, found in groups.items():
        texts.append([row, *(median_and_iqr(found[one], digits) if one in found else DASH for one in strategies)])
        data += [
            {"source": SOURCE, name: row, "strategy": one, "n": item.n, "median": item.median}
            | {"q25": item.q25, "q75": item.q75, "iqr": item.iqr}
            for one, item in found.items()
        ]
    return texts, data


def _published_pairs(
    label: str, figures: dict[str, dict[str, tuple[float, float]]], name: str, words: dict[str, str], digits: int
) -> tuple[Block, list[dict[str, Any]]]:
    strategies = in_order([one for row in figures.values() for one in row])
    rows = [
        [
            words.get(row, row),
            *(
                f"{number(found[one][0], digits)} ({number(found[one][1], digits)})" if one in found else DASH
                for one in strategies
            ),
        ]
        for row, found in figures.items()
    ]
    data = [
        {"source": label, name: words.get(row, row), "strategy": one, "median": middle, "iqr": width}
        for row, found in figures.items()
        for one, (middle, width) in found.items()
    ]
    return Block([name, *strategies], rows, label), data


def phonon_mae_table(sources: Sources) -> Table | None:
    """Return median and IQR of the phonon MAE by cell and strategy (published table 1)."""
    rows = selected(sources.averaged, sources.choice, every_cell=True).dropna(subset=["phonon_mae_thz"])
    if not len(rows):
        return None
    strategies = _strategies(rows)
    there = set(rows["cell"])
    cells = [cell for cell in (*CELLS, *sorted(there - set(CELLS))) if cell in there]
    groups = {
        cell or "unknown": {
            one: spread(group["phonon_mae_thz"])
            for one, group in rows[rows["cell"] == cell].groupby("strategy", sort=False)
        }
        for cell in cells
    }
    texts, data = _spread_rows(groups, "cell", strategies, 3)
    blocks = [Block(["cell", *strategies], texts)]
    if sources.published:
        block, more = _published_pairs(sources.published.label, sources.published.phonon_mae, "cell", {}, 2)
        blocks, data = [*blocks, block], data + more
    title = f"Phonon MAE, median (IQR), THz: {sources.choice}"
    return Table("table1_phonon_mae", title, blocks, tidy(data), [QUARTILES, _counted(rows)])


def _counted(rows: pd.DataFrame) -> str:
    counts = rows.groupby("strategy")["material"].nunique()
    few, many = int(counts.min()), int(counts.max())
    if few == many:
        return "1 material" if many == 1 else f"{many} materials"
    return f"{few} to {many} materials, as far as results exist"


def _errors_table(sources: Sources, key: str, title: str, metrics: dict[str, str]) -> Table | None:
    rows = sources.rows
    known = {name: words for name, words in metrics.items() if rows[name].notna().any()}
    if not known:
        return None
    strategies = _strategies(rows.dropna(subset=list(known), how="all"))
    groups = {
        words: {one: spread(group[name]) for one, group in rows.groupby("strategy", sort=False) if one in strategies}
        for name, words in known.items()
    }
    texts, data = _spread_rows(groups, "error", strategies, 1)
    blocks = [Block(["error", *strategies], texts)]
    if sources.published and set(metrics) & set(sources.published.phonon_errors):
        block, more = _published_pairs(sources.published.label, sources.published.phonon_errors, "error", metrics, 1)
        blocks, data = [*blocks, block], data + more
    return Table(key, f"{title}: {sources.choice}", blocks, tidy(data), [QUARTILES, _counted(rows)])


def phonon_error_table(sources: Sources) -> Table | None:
    """Return median and IQR of highest and mean frequency and DOS (published table 2)."""
    table = _errors_table(sources, "table2_phonon_errors", "Errors of frequencies and DOS, median (IQR)", _ERRORS)
    if table:
        table.notes.append("negative: below the reference; scaled: after scaling to the reference's highest frequency")
    return table


def property_table(sources: Sources) -> Table | None:
    """Return median and IQR of thermal and elastic properties (published figures 3 and 9)."""
    table = _errors_table(sources, "properties", "Errors of thermal and elastic properties, median (IQR)", _PROPERTIES)
    if table:
        found = distribution(sources.rows, [name for name in _PROPERTIES if sources.rows[name].notna().any()])
        within = {
            (_PROPERTIES[row["metric"]], row["strategy"]): (row["share_within"], row["n_outliers"])
            for row in found.to_dict("records")
        }
        pairs = [within[error, one] for error, one in zip(table.data["error"], table.data["strategy"], strict=True)]
        table.data = table.data.assign(share_within_5_percent=[p[0] for p in pairs], n_outliers=[p[1] for p in pairs])
    return table


def _judged(rows: pd.DataFrame, ending: str) -> dict[str, StabilityConfusion]:
    known = rows.dropna(subset=[f"stable{ending}", f"reference_stable{ending}"])
    return {
        one: confusion(map(bool, group[f"reference_stable{ending}"]), map(bool, group[f"stable{ending}"]))
        for one, group in known.groupby("strategy", sort=False)
    }


def stability_table(sources: Sources, *, practical: bool = False) -> Table | None:
    """Return the confusion matrix of dynamical stability (published table 3).

    Parameters
    ----------
    sources
        What to count.
    practical
        Judge by the practical threshold instead of the strict one.
    """
    found = _judged(sources.rows, "_practical" if practical else "")
    if not found:
        return None
    strategies = in_order(list(found))
    rows = [[words, *(str(getattr(found[one], name)) for one in strategies)] for name, words in _COUNTS.items()]
    for name in ("precision", "recall"):
        shares = [100 * getattr(found[one], name) for one in strategies]
        rows.append([f"{name} of unstable, %", *(number(share, 0) for share in shares)])
    data = [_confusion_row(SOURCE, one, found[one]) for one in strategies]
    blocks = [Block(["materials", *strategies], rows)]
    if sources.published and not practical:
        figures = sources.published.stability
        names = in_order(list(figures))
        theirs = [[words, *(str(getattr(figures[one], name)) for one in names)] for name, words in _COUNTS.items()]
        theirs += [
            [f"{name} of unstable, %", *(number(getattr(figures[one], name), 0) for one in names)]
            for name in ("precision", "recall")
        ]
        blocks.append(Block(["materials", *names], theirs, sources.published.label))
        data += [
            _confusion_row(
                sources.published.label,
                one,
                StabilityConfusion(**{name: getattr(figures[one], name) for name in _COUNTS}),
            )
            for one in names
        ]
    which = "practical" if practical else "strict"
    notes = ["commensurate q-points only, acoustic modes at Γ left out"]
    return Table(
        f"table3_stability{'_practical' if practical else ''}",
        f"Dynamical stability, {which} threshold: {sources.choice}",
        blocks,
        tidy(data),
        notes,
    )


def _confusion_row(source: str, strategy: str, found: StabilityConfusion) -> dict[str, Any]:
    counts = {name: getattr(found, name) for name in _COUNTS}
    shares = {f"{name}_percent": 100 * getattr(found, name) for name in ("precision", "recall")}
    return {"source": source, "strategy": strategy, **counts, **shares}


def foundation_table(sources: Sources) -> Table | None:
    """Return median and IQR of the phonon MAE of every foundation (published table 5)."""
    rows = sources.averaged[sources.averaged["strategy"] == FOUNDATION].dropna(subset=["phonon_mae_thz"])
    # a foundation's own phonons do not depend on the sampling cell
    rows = rows.groupby(["foundation", "material"], sort=False)["phonon_mae_thz"].mean().reset_index()
    if not len(rows):
        return None
    found = {one: spread(group["phonon_mae_thz"]) for one, group in rows.groupby("foundation")}
    blocks = [Block(list(found), [[median_and_iqr(item, 3) for item in found.values()]])]
    data: list[dict[str, Any]] = [
        {"source": SOURCE, "foundation": one, "n": item.n, "median": item.median, "iqr": item.iqr}
        for one, item in found.items()
    ]
    if sources.published:
        figures = sources.published.foundations
        texts = [f"{number(middle)} ({number(width)})" for middle, width in figures.values()]
        blocks.append(Block(list(figures), [texts], sources.published.label))
        data += [
            {"source": sources.published.label, "foundation": one, "median": middle, "iqr": width}
            for one, (middle, width) in figures.items()
        ]
    return Table("table5_foundations", "Phonon MAE of foundations, median (IQR), THz", blocks, tidy(data), [QUARTILES])


def cost_table(sources: Sources) -> Table | None:
    """Return what labels save against reference phonons, by number of displaced cells (published section 3.6)."""
    per_material = cost.cost_per_material(sources.results)
    found = cost.savings(per_material[per_material["cell"] == sources.choice.cell])
    found = found[found["n"] > 0]
    if not len(found):
        return None
    header = ["displaced cells", "materials", "phonons, core-h", "labels, core-h", "saving, %", "median saving, %"]
    rows = [
        [f"≥ {row['at_least']}", str(row["n"])]
        + [significant(row[name]) for name in ("mean_phonon_core_hours", "mean_label_core_hours")]
        + [number(row[name], 0) for name in ("saving_percent", "median_saving_percent")]
        for row in found.to_dict("records")
    ]
    blocks, data = [Block(header, rows)], found.assign(source=SOURCE)
    if sources.published:
        figures = sources.published.cost
        hours = [f"{figures.phonon_hours * figures.cores:.0f}", f"{figures.label_hours * figures.cores:.0f}"]
        theirs = [
            [f"≥ {count}", DASH, *(hours if count == 1 else [DASH, DASH]), number(saving, 0), DASH]
            for count, saving in figures.saving_percent.items()
        ]
        blocks.append(Block(header, theirs, sources.published.label))
        more = [
            {"source": sources.published.label, "at_least": count, "saving_percent": saving}
            for count, saving in figures.saving_percent.items()
        ]
        data = tidy([*data.to_dict("records"), *more])
    notes = [
        "means per material; labels include validation frames; saving: 1 − labels / phonons of the means",
        "median saving: median of the materials' savings",
    ]
    return Table("costs", f"Cost of reference phonons and of labels, {sources.choice.cell} cells", blocks, data, notes)


def training_cost_table(sources: Sources) -> Table | None:
    """Return training times by strategy (published section 3.6)."""
    found = cost.training_minutes(selected(sources.results.potentials, sources.choice))
    if not len(found):
        return None
    by_name = {row["strategy"]: row for row in found.to_dict("records")}
    names = in_order(list(by_name))
    header = ["training, min", *names]
    rows = [
        ["mean", *(number(by_name[one]["mean_minutes"]) for one in names)],
        ["median", *(number(by_name[one]["median_minutes"]) for one in names)],
    ]
    blocks, data = [Block(header, rows)], found.assign(source=SOURCE)
    if sources.published:
        figures = sources.published.cost.training_minutes
        theirs = in_order(list(figures))
        texts = [["mean, one A100", *(number(figures[one], 1) for one in theirs)]]
        blocks.append(Block(["training, min", *theirs], texts, sources.published.label))
        more = [{"source": sources.published.label, "strategy": one, "mean_minutes": figures[one]} for one in theirs]
        data = tidy([*data.to_dict("records"), *more])
    return Table("training_times", f"Training times: {sources.choice}", blocks, data)


PAPER_TABLES: tuple[Callable[[Sources], Table | None], ...] = (
    phonon_mae_table,
    phonon_error_table,
    stability_table,
    lambda sources: stability_table(sources, practical=True),
    foundation_table,
    property_table,
    cost_table,
    training_cost_table,
)
"""Everything that needs the frames alone."""
