"""Puts a campaign's reports together into the content of one page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from operator import itemgetter
from pathlib import Path

from phonosmith.analysis.choice import chosen_potential, distinct_materials
from phonosmith.analysis.documents import Cost, MaterialReport
from phonosmith.analysis.table import DASH, Cell, Columns, Table, duration, number, whole
from phonosmith.core.artefacts import ArtefactStore
from phonosmith.report.figures.campaign import crystals_figure, elements_figure, verdicts_figure
from phonosmith.report.figures.statistics import (
    costs_compared,
    costs_figure,
    errors_by_strategy,
    errors_figure,
    force_errors,
    learning_figure,
)
from phonosmith.report.page.blocks import BLOCKS, Sheet, load_curves
from phonosmith.report.page.content import Block, MaterialSection, Page, Picture, slug, space_group_text, unique_slugs
from phonosmith.report.page.files import FOLDER, Exporter
from phonosmith.report.page.pictures import Gallery, reason_of
from phonosmith.report.page.potential_tables import (
    data_cell,
    headline,
    overview_table,
    potentials_table,
    reasons,
    report_label,
    statistics_table,
)

Progress = Callable[[int, int, str], None]


def _attempt(heading: str, make: Callable[[Sheet], Block], sheet: Sheet) -> Block:
    """Return a block, or one that says why it could not be made: a damaged part must not cost the page."""
    try:
        return replace(make(sheet), heading=heading)
    except Exception as error:  # noqa: BLE001 - documents can be damaged in many ways
        return Block(heading, problems=[f"This part could not be made: {reason_of(error)}"])


def _section(
    report: MaterialReport, name: str, label: str, artefacts: ArtefactStore, root: Path, *, files: bool
) -> MaterialSection:
    gallery = Gallery(root / FOLDER / name / "figures" if files else None)
    sheet = Sheet(report, gallery, *load_curves(report, artefacts))
    parts = [_attempt(heading, make, sheet) for heading, make in BLOCKS.items()]
    if files:
        exporter = Exporter(root, name, artefacts)
        exporter.export(report)
        parts.append(Block("Downloads", links=exporter.links, problems=exporter.problems))
    if gallery.problems:
        parts.append(Block("Figures that could not be drawn", problems=gallery.problems))
    badges = [Cell(space_group_text(report.space_group))] if report.space_group else []
    badges += [Cell(f"{report.cell} cell")] if report.cell else []
    badges += [data_cell(report)] if report.rehearsal or report.mode == "production" else []
    badges += [Cell("incomplete")] if report.missing else []
    return MaterialSection(
        anchor=f"material-{name}",
        heading=label if report.formula == report.material else f"{label} ({report.formula})",
        badges=badges,
        headline=headline(report),
        reasons=reasons(report),
        notes=report.notes,
        potentials=potentials_table(report),
        blocks=[block for block in parts if not block.empty],
        missing=[block.heading.lower() for block in parts if block.empty],
    )


def variants(reports: Sequence[MaterialReport]) -> dict[str, list[MaterialReport]]:
    """Return reports by sampling cell and foundation, whose errors must not be mixed; one kind has no name."""
    groups: dict[tuple[str, str], list[MaterialReport]] = defaultdict(list)
    for report in reports:
        groups[report.cell, report.foundation.potential.name].append(report)
    cells, foundations = ({key[place] for key in groups} for place in range(2))
    return {
        ", ".join([f"{cell or 'unnamed'} cell"] * (len(cells) > 1) + [foundation] * (len(foundations) > 1)): group
        for (cell, foundation), group in groups.items()
    }


def campaign_pictures(reports: Sequence[MaterialReport], gallery: Gallery) -> list[Picture]:
    """Return the figures over all materials; those that need several are left out for one."""
    pictures: list[Picture] = []
    for name, group in variants(reports).items():
        drawn = variant_pictures(group, gallery, f"-{slug(name)}" if name else "")
        if name:
            drawn = [replace(one, caption=f"{one.caption} ({name})", alt=f"{name}: {one.alt}") for one in drawn]
        pictures += drawn
    n = len(distinct_materials(reports))
    if n > 1:
        pictures += gallery.draw(
            "crystals",
            lambda: crystals_figure(reports),
            f"Crystal systems of {n} materials and atoms in their primitive cells.",
            "Crystal systems and sizes of primitive cells",
        )
        pictures += gallery.draw(
            "elements",
            lambda: elements_figure(reports),
            "Periodic table coloured by the number of materials each element occurs in.",
            "Elements by the number of materials that contain them",
        )
    return pictures


def variant_pictures(reports: Sequence[MaterialReport], gallery: Gallery, ending: str) -> list[Picture]:
    """Return the figures of errors and costs of one sampling cell and foundation."""
    n = len(distinct_materials(reports))
    pictures: list[Picture] = []
    forces = force_errors(reports)
    if len(reports) > 1:
        pictures += gallery.draw(
            f"verdicts{ending}",
            lambda: verdicts_figure(reports),
            f"Verdicts by potential over {n} materials, and phonon errors of each material's chosen potential against "
            "the foundation's. The numbers are in the table of verdicts.",
            "Verdicts by potential; phonon errors of the chosen potential against the foundation's",
        )
    if forces and (len(reports) > 1 or len({size for row in forces.values() for size in row}) > 1):
        pictures += gallery.draw(
            f"learning{ending}",
            lambda: learning_figure(reports),
            "Validation force error of each strategy against the number of training structures.",
            "Force error against training structures: medians and quartiles over materials",
        )
    errors = errors_by_strategy(reports)
    if max((len(values) for row in errors.values() for values in row.values()), default=0) > 1:
        for outliers, words in ((False, "without outliers"), (True, "with outliers")):
            pictures += gallery.draw(
                f"errors-{words.replace(' ', '-')}{ending}",
                partial(errors_figure, reports, outliers=outliers),
                f"Box plots of deviations from the reference by property and potential, {words}; medians and quartiles "
                "are in the table above.",
                f"Deviations from the reference over materials, {words}",
            )
    if costs_compared(reports):
        pictures += gallery.draw(
            f"costs{ending}",
            lambda: costs_figure(reports),
            "Core hours of displaced supercells and of labels for materials that need at least so many displaced "
            "cells.",
            "Cost of reference phonons and of labels against the number of displaced cells",
        )
    return pictures


def _lead(reports: Sequence[MaterialReport]) -> list[str]:
    """Return what the campaign found in a sentence or two."""
    chosen = [chosen_potential(report) for report in reports]
    fit = sum(entry is not None and entry.verdict.fit for entry in chosen)
    base = sum(report.foundation.verdict.fit for report in reports)
    if len(reports) == 1:
        text = f"{'A' if fit else 'No'} fine-tuned potential can be trusted for harmonic phonons of this material"
        return [f"{text}; the foundation {'can' if base else 'cannot'}."]
    text = f"{fit} of {len(reports)} materials have a fine-tuned potential that can be trusted for harmonic phonons"
    return [f"{text}; the foundation alone can be trusted for {base}."]


_REHEARSAL = (
    "have reference data made by a stand-in for the DFT program. They show that the pipeline works and say nothing "
    "about the materials."
)
_PRODUCTION = (
    "were judged without reference phonons, by validation forces, by how much phonons still move with the training "
    "set, and by spot checks."
)


def _warnings(reports: Sequence[MaterialReport]) -> tuple[list[Cell], list[str]]:
    badges, lines = [], []
    for badge, name, words, marked in (
        ("rehearsal data", "Rehearsal", _REHEARSAL, [report.rehearsal for report in reports]),
        ("production mode", "Production mode", _PRODUCTION, [report.mode == "production" for report in reports]),
    ):
        if any(marked):
            badges.append(Cell(badge, tone="warn"))
            which = "All materials" if all(marked) else f"{sum(marked)} of {len(reports)} materials"
            lines.append(f"{name}: {which} {words}")
    broken = [report.material for report in reports if not report.strategies]
    if broken:
        lines.append(f"No potential was finished for {', '.join(broken)}.")
    return badges, lines


def _costs(reports: Sequence[MaterialReport]) -> list[Table]:
    stages: dict[str, list[Cost]] = defaultdict(list)
    for report in reports:
        for cost in report.costs:
            stages[cost.stage].append(cost)
    columns: Columns = (
        ("stage", "", itemgetter(0)), ("jobs", "", lambda row: whole(len(row[1]))),
        ("calculations", "", lambda row: whole(sum(cost.n_calculations for cost in row[1]))),
        ("wall time, all jobs", "", lambda row: duration(sum(cost.wall_seconds for cost in row[1]))),
        ("core hours", "", lambda row: number(sum(cost.wall_seconds * cost.cores / 3600 for cost in row[1]), 2)),
    )  # fmt: skip
    caption = "What the campaign took, by stage"
    return [Table.of(caption, stages.items(), columns, sortable=True, numeric=range(1, 5))] if stages else []


def _provenance(reports: Sequence[MaterialReport]) -> list[Table]:
    versions: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        for name, version in report.manifest.packages.items():
            versions[name].add(version)
    tables = []
    if versions:
        rows = [[name, ", ".join(sorted(all_of))] for name, all_of in sorted(versions.items())]
        tables.append(Table("Versions of the software that made the reports", ("package", "version"), rows))
    if reports:
        columns: Columns = (
            ("material", "", lambda report: report_label(report, reports)),
            ("report made", "manifest.started", lambda when: when or DASH),
            ("settings", "manifest.settings_digest", lambda digest: digest[:12] or DASH),
            ("training data", "labels.train.short", str), ("foundation", "foundation.potential.name", str),
            ("foundation sha256", "foundation.potential.short", str),
        )  # fmt: skip
        tables.append(Table.of("What each verdict came from (first digits of hashes)", reports, columns, sortable=True))
    return tables


def build_page(
    reports: Sequence[MaterialReport],
    artefacts: ArtefactStore,
    root: Path,
    title: str,
    unfinished: Mapping[str, str],
    notes: Sequence[str],
    progress: Progress | None,
    *,
    files: bool,
) -> Page:
    """Return the content of a page that will lie in the folder ``root``; the rest as `write_report` takes it."""
    labels = [report_label(report, reports) for report in reports]
    show = progress or (lambda *_: None)
    sections = []
    for index, (report, label, name) in enumerate(zip(reports, labels, unique_slugs(labels), strict=True)):
        show(index, len(reports), report.material)
        sections.append(_section(report, name, label, artefacts, root, files=files))
    show(len(reports), len(reports), "")
    gallery = Gallery(root / FOLDER / "figures" if files else None)
    badges, warnings = _warnings(reports)
    statistics = [statistics_table(group, name) for name, group in variants(reports).items() if len(group) > 1]
    waiting = [[name, state] for name, state in unfinished.items()]
    return Page(
        title=title,
        badges=badges,
        lead=_lead(reports) if reports else [],
        warnings=[*notes, *warnings],
        overview=overview_table(reports, [section.anchor for section in sections]) if reports else None,
        statistics=[table for table in statistics if table is not None],
        unfinished=Table("Materials without a report yet", ("material", "state"), waiting) if waiting else None,
        pictures=campaign_pictures(reports, gallery) if reports else [],
        materials=sections,
        costs=_costs(reports),
        provenance=_provenance(reports),
        problems=gallery.problems,
        footer=f"Written by phonosmith {metadata.version('phonosmith')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
    )
