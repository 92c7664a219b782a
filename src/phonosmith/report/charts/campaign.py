"""Charts over all materials of a campaign: what became of them, errors, costs, what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure

from phonosmith.analysis.choice import chosen_potential, distinct_materials, in_order, largest_trainings
from phonosmith.analysis.documents import MaterialReport
from phonosmith.core.errors import InputError
from phonosmith.report.charts.data import Axis, Chart, Panel, Series, quartiles, rounded
from phonosmith.report.charts.deviations import PROPERTIES, costs_compared, errors_by_strategy, force_errors
from phonosmith.report.page.texts import typeset
from phonosmith.structures.standard import standard_primitive

_SYSTEMS = (
    (2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal"), (167, "trigonal"),
    (194, "hexagonal"), (230, "cubic"),
)  # fmt: skip
_MOST_STEPS = 10
_MANY = 200
"""Materials whose points cannot be told apart any more: dots are drawn small, boxes with what lies outside only."""


def crystal_system(number: int | None) -> str | None:
    """Return the crystal system of an international space-group number."""
    if number is None or not 1 <= number <= 230:
        return None
    return next(name for last, name in _SYSTEMS if number <= last)


def atoms_per_primitive_cell(report: MaterialReport) -> int | None:
    """Return the atoms of the primitive cell, None where no structure was kept."""
    if report.structure is None:
        return None
    structure = Structure.from_dict(report.structure)
    try:
        return len(standard_primitive(structure))
    except InputError:
        return len(structure)


def _bars(name: str, look: str, names: Sequence[str], counts: Sequence[float]) -> Series:
    labels = [f"{one}: {count:g}" for one, count in zip(names, counts, strict=True)]
    return Series(name, look, [float(i) for i in range(len(names))], list(map(float, counts)), "bars", labels=labels)


def _named(names: Sequence[str], label: str = "") -> Axis:
    return Axis(label, ticks=[(float(place), name) for place, name in enumerate(names)])


def improvement_chart(reports: Sequence[MaterialReport], labels: Sequence[str], links: Sequence[str]) -> Chart | None:
    """Return the phonon error of each material's chosen potential against the foundation's."""
    many = len(reports) > _MANY
    series = {
        True: Series("fit", "delta", [], [], "dots", small=many),
        False: Series("not fit", "foundation", [], [], "dots", hollow=True, small=many),
    }
    limits = set()
    for report, label, link in zip(reports, labels, links, strict=True):
        base, chosen = report.foundation.phonons, chosen_potential(report)
        if base is not None and chosen is not None and chosen.phonons is not None:
            before, after, one = base.mae_thz, chosen.phonons.mae_thz, series[chosen.verdict.fit]
            one.x.extend(rounded([before]))
            one.y.extend(rounded([after]))
            one.labels.append(f"{label}: {before:.3f} to {after:.3f} THz ({chosen.strategy})")
            one.links.append(link)
            limits.add(chosen.verdict.thresholds.get("phonon_mae_thz"))
    drawn = [one for one in series.values() if one.x]
    if sum(len(one.x) for one in drawn) < 2:
        return None
    guides = [(limit, "limit") for limit in limits if limit is not None] if len(limits) == 1 else []
    before_axis, after_axis = (Axis(f"phonon MAE of the {which} (THz)", log=True) for which in ("foundation", "chosen"))
    return Chart(
        "improvement",
        "Phonon error before and after fine-tuning; a point opens its material, below the line tuning helped",
        "Phonon MAE of each material's chosen potential against the foundation's; the numbers are in the table.",
        [Panel(before_axis, after_axis, drawn, diagonal=True, y_guides=guides)],
    )


def verdict_counts(reports: Sequence[MaterialReport]) -> dict[str, tuple[int, int, int]]:
    """Return for each strategy how many materials it is fit and not fit for, and how many it failed on.

    Of several training-set sizes the largest counts.
    """
    outcomes: Counter[tuple[str, int]] = Counter()
    for report in reports:
        for entry in [report.foundation, *largest_trainings(report.strategies)]:
            outcomes[entry.strategy, 0 if entry.verdict.fit else 1] += 1
        outcomes.update((name, 2) for name in report.failed)
    names = in_order(name for name, _ in outcomes)
    return {name: (outcomes[name, 0], outcomes[name, 1], outcomes[name, 2]) for name in names}


def verdicts_chart(reports: Sequence[MaterialReport]) -> Chart | None:
    """Return verdicts by strategy; None for one material, whose verdicts are in its table."""
    if len(reports) < 2:
        return None
    counts = verdict_counts(reports)
    kinds = (("fit", "delta"), ("not fit", "foundation"), ("failed", "freeze1"))
    series = [
        _bars(kind, look, list(counts), values)
        for (kind, look), values in zip(kinds, zip(*counts.values(), strict=True), strict=True)
        if any(values)
    ]
    return Chart(
        "verdicts",
        "Verdicts by potential",
        f"Number of materials each potential is fit for, over {len(reports)} reports.",
        [Panel(_named(list(counts)), Axis("materials"), series)],
    )


def learning_chart(reports: Sequence[MaterialReport]) -> Chart | None:
    """Return the validation force MAE against the training structures: medians over materials, bars to the quartiles.

    None where there is one size only: one size makes no curve.
    """
    table = force_errors(reports)
    if len({size for row in table.values() for size in row}) < 2:
        return None
    series = []
    for name, row in table.items():
        spans = [quartiles(values) for values in row.values()]
        low, middle, high = (rounded(column) for column in zip(*spans, strict=True))
        words = [f"{size} structures: median of {len(values)} materials" for size, values in row.items()]
        series.append(Series(name, name, [float(size) for size in row], middle, "spans", low, high, words))
    return Chart(
        "learning",
        "Validation force error against training structures: medians and quartiles over materials",
        "Validation force error of each strategy against the number of training structures.",
        [Panel(Axis("training structures"), Axis("validation force MAE (meV/Å)", log=True), series)],
    )


def errors_chart(reports: Sequence[MaterialReport]) -> Chart | None:
    """Return each property's deviation from the reference by strategy, all materials as boxes; None for one."""
    table = errors_by_strategy(reports)
    if max((len(values) for row in table.values() for values in row.values()), default=0) < 2:
        return None
    names = in_order({name for row in table.values() for name in row})
    panels = []
    for key, row in table.items():
        unit = PROPERTIES[key][0]
        series = [
            Series(name, name, [float(names.index(name))] * len(row[name]), rounded(row[name]), "boxes")
            for name in names if name in row
        ]  # fmt: skip
        guides = [] if key == "phonon MAE" else [(0.0, "")]
        panels.append(Panel(_named(names), Axis(typeset(f"{key} ({unit})")), series, y_guides=guides))
    return Chart(
        "errors",
        "Deviations from the reference over materials: quartiles, whiskers to 1.5 quartile distances, "
        + ("points beyond them" if len(reports) > _MANY else "all points"),
        "Box plots of deviations from the reference by property and potential; medians and quartiles are in the table.",
        panels,
    )


def costs_chart(reports: Sequence[MaterialReport]) -> Chart | None:
    """Return core hours of displaced supercells and of labels against the displaced cells; None for one material."""
    compared = costs_compared(reports)
    if len(compared) < 2:
        return None
    cells, displaced, labels = np.array(sorted(compared), dtype=float).T
    names = {"displaced supercells (reference phonons)": ("foundation", displaced), "labels": ("delta", labels)}
    series = [
        Series(name, look, cells.tolist(), rounded(values), "dots", hollow=look == "foundation")
        for name, (look, values) in names.items()
    ]
    return Chart(
        "costs",
        "What reference phonons and labels took, material by material",
        "Core hours of displaced supercells and of labels against the number of displaced cells a material needs.",
        [Panel(Axis("displaced cells the phonons need"), Axis("cost (core hours)", log=True), series)],
    )


def crystals_chart(reports: Sequence[MaterialReport]) -> Chart | None:
    """Return how many materials each crystal system has, and how large their primitive cells are."""
    materials = distinct_materials(reports)
    if len(materials) < 2:
        return None
    systems = Counter(filter(None, (crystal_system(report.space_group_number) for report in materials)))
    sizes = [size for size in map(atoms_per_primitive_cell, materials) if size is not None]
    names = [name for _, name in _SYSTEMS if systems[name]]
    panels = [
        Panel(_named(names), Axis("materials"), [_bars("crystal system", "delta", names, [systems[n] for n in names])])
    ]
    if sizes:
        width = max(1, -(-max(sizes) // _MOST_STEPS))
        edges = list(range(1, max(sizes) + 1, width))
        counts = [sum(edge <= size < edge + width for size in sizes) for edge in edges]
        steps = [str(edge) if width == 1 else f"{edge} to {edge + width - 1}" for edge in edges]
        panels.append(
            Panel(
                _named(steps, "atoms in the primitive cell"),
                Axis("materials"),
                [_bars("atoms", "transfer", steps, counts)],
            )
        )
    return Chart(
        "crystals",
        f"Crystal systems and primitive cells of {len(materials)} materials",
        "Bars: materials by crystal system, and by the number of atoms in their primitive cells.",
        panels,
    )
