"""Tables of the potentials of one material and of all materials: verdicts, errors, reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phonosmith.analysis.choice import chosen_potential, in_order, largest_trainings
from phonosmith.analysis.table import DASH, Cell, Table, duration, number, whole
from phonosmith.report.figures.statistics import PROPERTIES, errors_by_strategy, property_errors
from phonosmith.report.page.content import slug, space_group_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phonosmith.analysis.documents import MaterialReport, PotentialReport


def verdict_cell(entry: PotentialReport | None) -> Cell:
    """Return fit or not fit as a badge."""
    if entry is None:
        return Cell("no result", "2", tone="bad")
    return Cell("fit", "0", tone="good") if entry.verdict.fit else Cell("not fit", "1", tone="bad")


def entry_name(entry: PotentialReport, report: MaterialReport) -> str:
    """Return the strategy, with its training structures where one strategy was trained on several sizes."""
    same = [other for other in report.strategies if other.strategy == entry.strategy]
    return f"{entry.strategy}, {entry.n_train} structures" if len(same) > 1 else entry.strategy


def potentials_table(report: MaterialReport) -> Table:
    """Return the errors and verdict of each potential of a material."""
    entries = [report.foundation, *report.strategies]
    errors = [property_errors(entry, report) for entry in entries]
    shown = {
        name: f"{name.removesuffix(', 300 K')}, {unit}"
        for name, (unit, _) in PROPERTIES.items()
        if any(name in row for row in errors)
    }
    moves = any(entry.phonon_change_thz is not None for entry in entries)
    checked = any(entry.check is not None for entry in entries)
    columns = [
        "potential", "verdict", *shown.values(),
        *["phonons moved with the last labels by, THz"] * moves, *["forces in displaced cells off by, %"] * checked,
        "force MAE, meV/Å", "energy MAE, meV/atom",
        "stress MAE, meV/Å³", "training structures", "training time", "weights changed",
    ]  # fmt: skip
    rows = []
    for entry, row in zip(entries, errors, strict=True):
        changed = Cell(DASH, -1.0)
        if entry.n_parameters and entry.n_changed is not None:
            share = 100 * entry.n_changed / entry.n_parameters
            changed = Cell(f"{share:.0f} %", share)
        rows.append(
            [
                Cell(entry_name(entry, report)),
                verdict_cell(entry),
                *(
                    number(row.get(key), 3 if "THz" in unit else 2, signed="THz" not in unit)
                    for key, unit in shown.items()
                ),
                *[number(entry.phonon_change_thz)] * moves,
                *[number(None if entry.check is None else entry.check.relative_percent, 1)] * checked,
                number(entry.valid_force_mae, 1),
                number(entry.valid_energy_mae, 2),
                number(entry.valid_stress_mae, 3),
                whole(entry.n_train),
                duration(entry.training_seconds),
                changed,
            ]
        )
    rows += [[Cell(name), verdict_cell(None), *[Cell(DASH)] * (len(columns) - 2)] for name in report.failed]
    caption = f"Potentials of {report.material}: verdicts, and errors against {report.reference}"
    return Table(caption, columns, rows, sortable=True, numeric=frozenset(range(2, len(columns))))


def reasons(report: MaterialReport) -> list[str]:
    """Return one sentence for each potential that is not fit."""
    lines = []
    for entry in [report.foundation, *report.strategies]:
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
    if len(same) < 2:
        return report.material
    parts = [report.material]
    if len({other.cell for other in same}) > 1:
        parts.append(f"{report.cell or 'unnamed'} cell")
    if len({other.foundation.potential.sha256 for other in same}) > 1:
        parts.append(report.foundation.potential.name)
    if len({other.seed for other in same}) > 1:
        parts.append(f"seed {report.seed}")
    return ", ".join(parts)


def overview_table(reports: Sequence[MaterialReport], anchors: Sequence[str]) -> Table:
    """Return one line per material with its verdict, linked to its section."""
    columns = [
        "material", "verdict", "potential", "phonon MAE, THz", "foundation, THz", "times better", "ω_max, %",
        "force MAE, meV/Å", "space group", "training structures", "data",
    ]  # fmt: skip
    rows = []
    for report, anchor in zip(reports, anchors, strict=True):
        entry = chosen_potential(report)
        ours = None if entry is None else entry.phonons
        base = None if report.foundation.phonons is None else report.foundation.phonons.mae_thz
        mae = None if ours is None else ours.mae_thz
        symbol = Cell(space_group_text(report.space_group) or DASH, float(report.space_group_number or 999))
        rows.append(
            [
                Cell(report_label(report, reports), href=f"#{anchor}"),
                verdict_cell(entry),
                Cell(DASH if entry is None else entry.strategy),
                number(mae),
                number(base),
                number(base / mae if mae and base is not None else None, 1),
                number(None if ours is None else ours.omega_max_error_percent, 2, signed=True),
                number(None if entry is None else entry.valid_force_mae, 1),
                symbol,
                whole(None if entry is None else entry.n_train),
                data_cell(report),
            ]
        )
    caption = "Verdict on each material: the best potential that is fit, or the best there is"
    return Table(caption, columns, rows, sortable=True, numeric=frozenset({3, 4, 5, 6, 7, 9}))


def data_cell(report: MaterialReport) -> Cell:
    """Return where the truth of a material's verdict comes from."""
    if report.rehearsal:
        return Cell("rehearsal", tone="warn")
    if report.mode == "production":
        return Cell("production", tone="warn")
    return Cell("compared")


def _median_and_quartiles(values: Sequence[float], digits: int, *, signed: bool) -> Cell:
    low, middle, high = np.percentile(values, [25, 50, 75])
    sign = "+" if signed else ""
    # a line may break before the quartiles, never within them
    text = f"{middle:{sign}.{digits}f} [{low:{sign}.{digits}f},\u00a0{high:{sign}.{digits}f}]"
    return Cell(text, float(middle))


def statistics_table(reports: Sequence[MaterialReport], variant: str = "") -> Table | None:
    """Return medians and quartiles of each strategy's deviations over all materials (of one cell and foundation)."""
    errors = errors_by_strategy(reports)
    names = in_order({name for row in errors.values() for name in row})
    if not names:
        return None
    units = {name: PROPERTIES[name][0] for name in errors}
    rows = []
    for name in names:
        cells = [Cell(name), whole(max(len(row.get(name, ())) for row in errors.values()))]
        for key, row in errors.items():
            percent = units[key] == "%"
            values = row.get(name)
            cells.append(
                Cell(DASH, float("inf"))
                if not values
                else _median_and_quartiles(values, 1 if percent else 3, signed=percent)
            )
        rows.append(cells)
    columns = ["potential", "materials", *(f"{key}, {units[key]}" for key in errors)]
    of = f" ({variant})" if variant else ""
    caption = f"Deviation from the reference over all materials{of}: median [first and third quartile]"
    return Table(caption, columns, rows, sortable=True, numeric=frozenset(range(1, len(columns))))


def one_per_strategy(report: MaterialReport) -> list[tuple[str, PotentialReport]]:
    """Return foundation and each strategy's largest training, by the name figures use."""
    return [("foundation", report.foundation)] + [(e.strategy, e) for e in largest_trainings(report.strategies)]


def anchor_of(slugged: str) -> str:
    """Return the address of a material's section within the page."""
    return f"material-{slug(slugged)}"
