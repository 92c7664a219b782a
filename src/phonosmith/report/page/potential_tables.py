"""Tables of the potentials of one material and of all materials: verdicts, errors, reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from phonosmith.analysis.choice import all_entries, chosen_potential, entry_name, in_order
from phonosmith.analysis.columns import at
from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.analysis.table import DASH, Cell, Columns, Table, duration, fixed, number, whole
from phonosmith.evaluation.phonons.committee import Interval
from phonosmith.report.charts.deviations import PROPERTIES, errors_by_strategy, property_errors
from phonosmith.report.page.texts import space_group_text
from phonosmith.report.page.verdicts import basis_of, name_text, verdict_badge


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
        ("potential", "entry", lambda entry: entry_name(entry, report)),
        ("verdict", "entry", lambda entry: verdict_badge(entry, report)),
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
    table = Table.of(caption, items, columns)
    lost: list[list[Cell | str]] = [
        [name, verdict_badge(None, report), *[DASH] * (len(columns) - 2)] for name in report.failed
    ]
    return replace(table, rows=[*table.rows, *lost])


def report_labels(reports: Sequence[MaterialReport]) -> list[str]:
    """Return each material's name, with cell, foundation and seed where it is reported more than once."""
    groups: dict[str, list[MaterialReport]] = defaultdict(list)
    for report in reports:
        groups[report.material].append(report)
    return [_label(report, groups[report.material]) for report in reports]


def _label(report: MaterialReport, same: Sequence[MaterialReport]) -> str:
    parts = [
        (len({other.cell for other in same}), f"{report.cell or 'unnamed'} cell"),
        (len({other.foundation.potential.sha256 for other in same}), report.foundation.potential.name),
        (len({other.seed for other in same}), f"seed {report.seed}"),
    ]
    return ", ".join([report.material, *(words for count, words in parts if count > 1)])


def overview_table(reports: Sequence[MaterialReport], labels: Sequence[str], links: Sequence[str]) -> Table:
    """Return one line per material with its verdict, linked to its section."""

    def verdict(item: dict[str, Any]) -> Cell:
        return verdict_badge(item["best"], item["report"])

    def better(item: dict[str, MaterialReport | PotentialReport | None]) -> Cell:
        mae, base = at(item, "best.phonons.mae_thz"), at(item, "report.foundation.phonons.mae_thz")
        return number(base / mae if mae and base is not None else None, 1)

    columns: Columns = (
        ("material", "name", lambda cell: cell), ("verdict", "", verdict),
        ("potential", "best.strategy", lambda name: name or DASH), ("phonon MAE, THz", "best.phonons.mae_thz", fixed()),
        ("foundation, THz", "report.foundation.phonons.mae_thz", fixed()), ("times better", "", better),
        ("ω_max, %", "best.phonons.omega_max_error_percent", fixed(2, signed=True)),
        ("force MAE, meV/Å", "best.valid_force_mae", fixed(1)), ("space group", "report", _space_group_cell),
        ("training structures", "best.n_train", whole), ("data", "report", data_cell),
    )  # fmt: skip
    items = [
        {"name": Cell(name_text(report, label), href=link), "report": report, "best": chosen_potential(report)}
        for report, label, link in zip(reports, labels, links, strict=True)
    ]
    caption = "Verdict on each material: the best potential that is fit, or the best there is"
    return Table.of(caption, items, columns)


def _space_group_cell(report: MaterialReport) -> Cell:
    return Cell(space_group_text(report.space_group) or DASH, str(report.space_group_number or 999))


_DATA = {
    "dft": Cell("DFT", tone="good"), "stand-in": Cell("rehearsal, not DFT", tone="warn"),
    "potential": Cell("a potential, not DFT", tone="warn"), "production": Cell("production", tone="warn"),
}  # fmt: skip


def data_cell(report: MaterialReport) -> Cell:
    """Return where the truth of a material's verdict comes from."""
    return _DATA[basis_of(report)]


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
    return Table(caption, columns, rows)
