"""Tables of the potentials of one material and of all materials: verdicts, errors, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from phonosmith.analysis.choice import chosen_potential, in_order, largest_trainings
from phonosmith.analysis.columns import at
from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.analysis.table import DASH, Cell, Columns, Table, duration, fixed, number, whole
from phonosmith.evaluation.phonons.committee import Interval
from phonosmith.report.figures.statistics import PROPERTIES, errors_by_strategy, property_errors
from phonosmith.report.page.content import space_group_text


def verdict_cell(entry: PotentialReport | None) -> Cell:
    """Return fit or not fit as a badge."""
    if entry is None:
        return Cell("no result", "2", tone="bad")
    return Cell("fit", "0", tone="good") if entry.verdict.fit else Cell("not fit", "1", tone="bad")


def entry_name(entry: PotentialReport, report: MaterialReport) -> str:
    """Return the strategy, with its training structures where one strategy was trained on several sizes."""
    same = [other for other in report.strategies if other.strategy == entry.strategy]
    return f"{entry.strategy}, {entry.n_train} structures" if len(same) > 1 else entry.strategy


def _share_changed(entry: PotentialReport) -> Cell:
    if not entry.n_parameters or entry.n_changed is None:
        return Cell(DASH, -1.0)
    share = 100 * entry.n_changed / entry.n_parameters
    return Cell(f"{share:.0f} %", share)


def _interval(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(DASH, float("inf"))
    return Cell(f"{interval.low:.3f} to {interval.high:.3f}", interval.high)


def potentials_table(report: MaterialReport) -> Table:
    """Return the errors and verdict of each potential of a material."""
    entries = all_entries(report)
    errors = [property_errors(entry, report) for entry in entries]
    properties = {
        name: (f"{name.removesuffix(', 300 K')}, {unit}", fixed(3) if unit == "THz" else fixed(2, signed=True))
        for name, (unit, _) in PROPERTIES.items()
        if any(name in row for row in errors)
    }
    moves = ("phonons moved with the last labels by, THz", "entry.phonon_change_thz", fixed())
    open_ends = ("MAE its committee leaves open, THz", "entry.expected_mae_thz", _interval)
    checks = ("forces in displaced cells off by, %", "entry.check.relative_percent", fixed(1))
    columns: Columns = [
        ("potential", "entry", lambda entry: entry_name(entry, report)), ("verdict", "entry", verdict_cell),
        *((words, f"errors.{name}", write) for name, (words, write) in properties.items()),
        *[open_ends] * any(entry.expected_mae_thz is not None for entry in entries),
        *[moves] * any(entry.phonon_change_thz is not None for entry in entries),
        *[checks] * any(entry.check is not None for entry in entries),
        ("force MAE, meV/Å", "entry.valid_force_mae", fixed(1)),
        ("energy MAE, meV/atom", "entry.valid_energy_mae", fixed(2)),
        ("stress MAE, meV/Å³", "entry.valid_stress_mae", fixed(3)), ("training structures", "entry.n_train", whole),
        ("training time", "entry.training_seconds", duration), ("weights changed", "entry", _share_changed),
    ]  # fmt: skip
    items = [{"entry": entry, "errors": row} for entry, row in zip(entries, errors, strict=True)]
    caption = f"Potentials of {report.material}: verdicts, and errors against {report.reference}"
    table = Table.of(caption, items, columns, sortable=True, numeric=range(2, len(columns)))
    lost: list[list[Cell | str]] = [[name, verdict_cell(None), *[DASH] * (len(columns) - 2)] for name in report.failed]
    return replace(table, rows=[*table.rows, *lost])


def reasons(report: MaterialReport) -> list[str]:
    """Return one sentence for each potential that is not fit."""
    lines = []
    for entry in all_entries(report):
        if not entry.verdict.fit:
            why = "; ".join(entry.verdict.reasons) or "no reason was recorded"
            lines.append(f"{entry_name(entry, report)} is not fit: {why}.")
    return lines + [f"{name} has no result: its training or its phonons failed." for name in report.failed]


def headline(report: MaterialReport) -> str:
    """Return the verdict on a material in one sentence."""
    chosen = chosen_potential(report)
    if chosen is None:
        return "No potential was finished for this material."
    name, base = entry_name(chosen, report), report.foundation.phonons
    verdict = "can be trusted" if chosen.verdict.fit else "must not be trusted"
    sentence = f"{name} {verdict} for harmonic phonons of {report.material}"
    if chosen.phonons is None:
        return f"{sentence}, judged without reference phonons (production mode)."
    sentence += f": phonon MAE {chosen.phonons.mae_thz:.3f} THz"
    if base is not None:
        sentence += f", foundation {base.mae_thz:.3f} THz"
    return f"{sentence}, reference {report.reference}."


def report_label(report: MaterialReport, reports: Sequence[MaterialReport]) -> str:
    """Return the material's name, with cell, foundation and seed where it is reported more than once."""
    same = [other for other in reports if other.material == report.material]
    parts = [
        (len({other.cell for other in same}), f"{report.cell or 'unnamed'} cell"),
        (len({other.foundation.potential.sha256 for other in same}), report.foundation.potential.name),
        (len({other.seed for other in same}), f"seed {report.seed}"),
    ]
    return ", ".join([report.material, *(words for count, words in parts if count > 1)])


def overview_table(reports: Sequence[MaterialReport], anchors: Sequence[str]) -> Table:
    """Return one line per material with its verdict, linked to its section."""

    def better(item: dict[str, MaterialReport | PotentialReport | None]) -> Cell:
        mae, base = at(item, "best.phonons.mae_thz"), at(item, "report.foundation.phonons.mae_thz")
        return number(base / mae if mae and base is not None else None, 1)

    columns: Columns = (
        ("material", "name", lambda cell: cell), ("verdict", "best", verdict_cell),
        ("potential", "best.strategy", lambda name: name or DASH), ("phonon MAE, THz", "best.phonons.mae_thz", fixed()),
        ("foundation, THz", "report.foundation.phonons.mae_thz", fixed()), ("times better", "", better),
        ("ω_max, %", "best.phonons.omega_max_error_percent", fixed(2, signed=True)),
        ("force MAE, meV/Å", "best.valid_force_mae", fixed(1)), ("space group", "report", _space_group_cell),
        ("training structures", "best.n_train", whole), ("data", "report", data_cell),
    )  # fmt: skip
    items = [
        {"name": Cell(report_label(report, reports), href=f"#{anchor}"), "report": report}
        | {"best": chosen_potential(report)}
        for report, anchor in zip(reports, anchors, strict=True)
    ]
    caption = "Verdict on each material: the best potential that is fit, or the best there is"
    return Table.of(caption, items, columns, sortable=True, numeric=(3, 4, 5, 6, 7, 9))


def _space_group_cell(report: MaterialReport) -> Cell:
    return Cell(space_group_text(report.space_group) or DASH, float(report.space_group_number or 999))


def data_cell(report: MaterialReport) -> Cell:
    """Return where the truth of a material's verdict comes from."""
    if report.rehearsal:
        return Cell("rehearsal", tone="warn")
    if report.mode == "production":
        return Cell("production", tone="warn")
    return Cell("compared")


def _median_and_quartiles(values: Sequence[float] | None, digits: int, sign: str) -> Cell:
    if not values:
        return Cell(DASH, float("inf"))
    quartiles = np.percentile(values, [25, 50, 75])
    low, middle, high = (f"{value:{sign}.{digits}f}" for value in quartiles)
    # a line may break before the quartiles, never within them
    return Cell(f"{middle} [{low},\u00a0{high}]", float(quartiles[1]))


def statistics_table(reports: Sequence[MaterialReport], variant: str = "") -> Table | None:
    """Return medians and quartiles of each strategy's deviations over all materials (of one cell and foundation)."""
    errors = errors_by_strategy(reports)
    names = in_order({name for row in errors.values() for name in row})
    if not names:
        return None
    units = {name: PROPERTIES[name][0] for name in errors}
    forms = {key: (1, "+") if unit == "%" else (3, "") for key, unit in units.items()}
    rows: list[list[Cell | str]] = [
        [
            name,
            whole(max(len(row.get(name, ())) for row in errors.values())),
            *(_median_and_quartiles(row.get(name), *forms[key]) for key, row in errors.items()),
        ]
        for name in names
    ]
    columns = ["potential", "materials", *(f"{key}, {units[key]}" for key in errors)]
    of = f" ({variant})" if variant else ""
    caption = f"Deviation from the reference over all materials{of}: median [first and third quartile]"
    return Table(caption, columns, rows, sortable=True, numeric=frozenset(range(1, len(columns))))


def all_entries(report: MaterialReport) -> list[PotentialReport]:
    """Return the foundation and every training."""
    return [report.foundation, *report.strategies]


def one_per_strategy(report: MaterialReport) -> list[tuple[str, PotentialReport]]:
    """Return foundation and each strategy's largest training, by the name figures use."""
    return [("foundation", report.foundation)] + [(e.strategy, e) for e in largest_trainings(report.strategies)]
