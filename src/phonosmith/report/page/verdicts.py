"""Can it be trusted? The verdict on a material in words, what it rests on, and its numbers beside their limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from phonosmith.analysis.choice import all_entries, chosen_potential, entry_name
from phonosmith.analysis.columns import METRICS
from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.analysis.table import Cell
from phonosmith.evaluation.verdict import LimitName
from phonosmith.potentials.registry import EMBEDDED
from phonosmith.report.card import DFT_CODES
from phonosmith.report.page.content import Tile
from phonosmith.report.page.texts import formula_text

Basis = Literal["dft", "stand-in", "potential", "production"]
_METRICS = {metric.name: metric for metric in METRICS}
_TILES: tuple[tuple[str, str, str, LimitName, str], ...] = (
    ("Phonon MAE", "phonon_mae_thz", "THz", "phonon_mae_thz", ".3f"),
    ("Highest frequency ω_max", "omega_max_error_percent", "%", "omega_max_percent", "+.2f"),
    ("Entropy S at 300 K", "entropy_error_percent", "%", "thermal_percent", "+.2f"),
    ("Validation force MAE", "valid_force_mae_mev_per_angstrom", "meV/Å", "force_mae_mev_per_angstrom", ".1f"),
    ("Phonons moved with the last labels", "phonon_change_thz", "THz", "phonon_change_thz", ".3f"),
    ("Forces in displaced cells", "check_force_error_percent", "%", "check_percent", ".1f"),
)


def basis_of(report: MaterialReport) -> Basis:
    """Return what a verdict rests on: DFT, a stand-in for its program, a potential in its place, or no phonons."""
    if report.rehearsal:
        return "stand-in"
    if (report.reference.split() or [""])[0].lower() not in DFT_CODES:
        return "potential"
    return "production" if report.mode == "production" else "dft"


def is_claim(report: MaterialReport) -> bool:
    """Tell whether a verdict says something about the material itself."""
    return basis_of(report) in ("dft", "production")


def name_text(report: MaterialReport, label: str = "") -> str:
    """Return the material's name, or a label that starts with it, with subscripts where the name is a formula."""
    text = label or report.material
    return (
        text.replace(report.material, formula_text(report.material), 1) if report.material == report.formula else text
    )


def headline(report: MaterialReport) -> str:
    """Return the verdict on a material in one sentence; a toy is never said to be trusted."""
    chosen, name = chosen_potential(report), name_text(report)
    if chosen is None:
        return "No potential was finished for this material."
    what, fit = entry_name(chosen, report), chosen.verdict.fit
    match basis_of(report):
        case "stand-in":
            done = "passes" if fit else "fails"
            return f"Rehearsal only: {what} {done} the test against a stand-in for DFT. This says nothing about {name}."
        case "potential":
            done = "reproduces" if fit else "does not reproduce"
            return (
                f"Not a verdict on {name}: {what} {done} the phonons of another potential, {report.reference}, "
                "which plays the part of DFT."
            )
        case "production":
            words = "may be used for" if fit else "must not be trusted for"
            return f"{what} {words} harmonic phonons of {name}, judged without reference phonons."
        case _:
            words = "can be trusted for" if fit else "must not be trusted for"
            return f"{what} {words} harmonic phonons of {name}."


def grounds(report: MaterialReport) -> list[str]:
    """Return what the verdict is based on, in sentences."""
    labels, chosen = report.labels, chosen_potential(report)
    counted = f"{labels.train.n_frames} training and {labels.valid.n_frames} validation labels"
    truth = report.reference_result.phonons
    lines = [] if chosen is None or chosen.verdict.fit else [f"Why not: {_why(chosen)}."]
    match basis_of(report):
        case "stand-in":
            lines.append(
                f"Based on made-up reference data: a program that stands in for VASP made {counted}. The numbers show "
                "that the pipeline works and say nothing about the material."
            )
        case "potential":
            lines.append(
                f"Based on {counted} by the potential {report.reference}, not on DFT. How well one potential imitates "
                "another is no evidence about the real crystal."
            )
        case _:
            lines.append(f"Based on {report.reference}: {counted}" + (
                f", and phonons from {truth.n_displacements} displaced cells of {truth.n_atoms_supercell} atoms."
                if truth is not None
                else "; no reference phonons. Judged by validation forces, by how much phonons still move with the "
                "training set, and by spot checks."
            ))  # fmt: skip
    if report.foundation.potential.name == EMBEDDED:
        lines.append(
            "The foundation is the small demonstration model that comes with this package, no published foundation."
        )
    return lines


def _why(entry: PotentialReport) -> str:
    return "; ".join(entry.verdict.reasons) or "no reason was recorded"


def reasons(report: MaterialReport) -> list[str]:
    """Return one sentence for each potential that is not fit."""
    lines = [
        f"{entry_name(one, report)} is not fit: {_why(one)}." for one in all_entries(report) if not one.verdict.fit
    ]
    return lines + [f"{name} has no result: its training or its phonons failed." for name in report.failed]


def same_but_seed(report: MaterialReport, reports: Sequence[MaterialReport]) -> list[MaterialReport]:
    """Return the reports of the same material, cell and foundation, of every seed."""

    def key(one: MaterialReport) -> tuple[str, str, str]:
        return one.material, one.cell, one.foundation.potential.sha256

    return [one for one in reports if key(one) == key(report)]


def _values(
    chosen: PotentialReport, seeds: Sequence[MaterialReport], value: Callable[[PotentialReport, MaterialReport], object]
) -> list[float]:
    """Return a number of the same training in every seed."""
    found = [
        value(entry, one)
        for one in seeds
        for entry in all_entries(one)
        if (entry.strategy, entry.n_train) == (chosen.strategy, chosen.n_train)
    ]
    return [float(one) for one in found if isinstance(one, int | float)]


def tiles(report: MaterialReport, reports: Sequence[MaterialReport]) -> list[Tile]:
    """Return the numbers the verdict rests on, each beside its limit, the foundation's and the spread over seeds."""
    chosen = chosen_potential(report)
    if chosen is None:
        return []
    limits, seeds, made = chosen.verdict.thresholds, same_but_seed(report, reports), []
    for title, column, unit, limit_name, form in _TILES:
        metric, limit = _METRICS[column], limits.get(limit_name)
        value = metric.value(chosen, report)
        if value is None or limit is None:
            continue
        before, spread = metric.value(report.foundation, report), _values(chosen, seeds, metric.value)
        lines = [f"limit {'±' if '+' in form else ''}{limit:g} {unit}"]
        if before is not None:
            lines.append(f"foundation {_signed(before, form)} {unit}")
        if len(spread) > 1:
            lines.append(f"{len(spread)} seeds: {_signed(min(spread), form)} to {_signed(max(spread), form)} {unit}")
        else:
            lines.append("one seed: spread not known")
        # the interval of a committee, where a report has one
        expected = chosen.expected_mae_thz if limit_name == "phonon_mae_thz" else None
        if expected is not None:
            lines.append(f"committee: {_signed(expected.low, form)} to {_signed(expected.high, form)} {unit}")
        made.append(Tile(title, _signed(value, form), unit, abs(value) <= limit, lines))
    return made


def _signed(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "−")


def verdict_badge(entry: PotentialReport | None, report: MaterialReport) -> Cell:
    """Return fit or not fit as a badge; only real evidence makes it green."""
    if entry is None:
        return Cell("no result", "2", tone="bad")
    if not entry.verdict.fit:
        return Cell("not fit", "1", tone="bad")
    return Cell("fit", "0", tone="good") if is_claim(report) else Cell("fit to a toy", "0", tone="warn")
