"""Puts a campaign's reports together into the content of one page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from operator import itemgetter
from pathlib import Path

from pymatgen.core import Structure

from phonosmith.analysis.choice import chosen_potential, distinct_materials, one_per_strategy
from phonosmith.analysis.documents import Cost, MaterialReport
from phonosmith.analysis.table import DASH, Cell, Columns, Table, duration, number, whole
from phonosmith.core.artefacts import ArtefactStore
from phonosmith.report.charts.campaign import (
    costs_chart,
    crystals_chart,
    errors_chart,
    improvement_chart,
    learning_chart,
    verdicts_chart,
)
from phonosmith.report.charts.data import Chart
from phonosmith.report.charts.material import forces_chart
from phonosmith.report.figures.elements import elements_figure
from phonosmith.report.figures.phonons import many_bands_figure
from phonosmith.report.page.blocks import BLOCKS, Sheet
from phonosmith.report.page.content import Block, MaterialSection, Page, Picture
from phonosmith.report.page.crystal import Crystal, conventional_crystal
from phonosmith.report.page.files import FOLDER, Exporter
from phonosmith.report.page.phonons import Detail, LoadedPhonons, load_phonons, phonon_data
from phonosmith.report.page.pictures import Gallery
from phonosmith.report.page.potential_tables import (
    data_cell,
    overview_table,
    potentials_table,
    report_label,
    statistics_table,
)
from phonosmith.report.page.texts import formula_text, reason_of, slug, space_group_text, unique_slugs
from phonosmith.report.page.verdicts import grounds, headline, is_claim, name_text, reasons, tiles, verdict_badge

Progress = Callable[[int, int, str], None]
_STILL_SIDES = 3
_TOYS = (
    "materials without DFT have a fine-tuned potential that passes the test against what plays its part, which says "
    "nothing about the materials"
)


def _attempt(heading: str, make: Callable[[Sheet], Block], sheet: Sheet) -> Block:
    """Return a block, or one that says why it could not be made: a damaged part must not cost the page."""
    try:
        return replace(make(sheet), heading=heading)
    except Exception as error:  # noqa: BLE001 - documents can be damaged in many ways
        return Block(heading, problems=[f"This part could not be made: {reason_of(error)}"])


@dataclass(frozen=True)
class _Making:
    """What every section of one page is made with."""

    reports: Sequence[MaterialReport]
    artefacts: ArtefactStore
    root: Path
    files: bool

    def section(self, report: MaterialReport, name: str, label: str) -> MaterialSection:
        """Return one material's section; ``name``: that of its files and its place on the page."""
        gallery = Gallery(self.root / FOLDER / name / "figures" if self.files else None)
        detail = Detail.for_materials(len(self.reports))
        loaded = load_phonons(report, self.artefacts, detail)
        sheet = Sheet(report, gallery, loaded)
        parts = [_attempt(heading, make, sheet) for heading, make in BLOCKS.items()]
        if self.files:
            exporter = Exporter(self.root, name, self.artefacts)
            exporter.export(report)
            parts.append(Block("Downloads", links=exporter.links, problems=exporter.problems))
        still = _still(report, loaded, gallery, detail)
        if gallery.problems:
            parts.append(Block("Figures that could not be drawn", problems=gallery.problems))
        badges = [Cell(space_group_text(report.space_group))] if report.space_group else []
        badges += [Cell(f"sampling cell: {report.cell}")] if report.cell else []
        badges += [data_cell(report)]
        badges += [Cell("incomplete", tone="warn")] if report.missing else []
        shown = name_text(report, label)
        if report.formula != report.material:
            shown += f" ({formula_text(report.formula)})"
        return MaterialSection(
            anchor=f"material-{name}",
            heading=shown,
            verdict=verdict_badge(chosen_potential(report), report),
            badges=badges,
            headline=headline(report),
            grounds=grounds(report),
            tiles=tiles(report, self.reports),
            reasons=reasons(report),
            notes=report.notes,
            phonons=phonon_data(report, loaded, detail),
            crystal=_crystal(report),
            still=still,
            forces=forces_chart(report),
            potentials=potentials_table(report),
            blocks=[block for block in parts if not block.empty],
            missing=[block.heading.lower() for block in parts if block.empty],
        )


def _crystal(report: MaterialReport) -> Crystal | None:
    """Return the crystal to draw; a damaged one is said by the block about the structure."""
    try:
        return None if report.structure is None else conventional_crystal(Structure.from_dict(report.structure))
    except Exception:  # noqa: BLE001 - documents can be damaged in many ways
        return None


def _still(report: MaterialReport, loaded: LoadedPhonons, gallery: Gallery, detail: Detail) -> list[Picture]:
    """Return the picture of the bands for readers whose browser runs no script."""
    if loaded.curves is None:
        return []
    curves = replace(loaded.curves, sides=loaded.curves.sides[:_STILL_SIDES])
    errors = [
        f"{name} {entry.phonons.mae_thz:.3f} THz"
        for name, entry in one_per_strategy(report)
        if entry.phonons is not None
    ]
    return gallery.draw(
        "bands",
        lambda: many_bands_figure(curves),
        f"Phonon bands and densities of states of {report.material}: {', '.join(side.name for side in curves.sides)}."
        + (f" Mean absolute errors: {', '.join(errors)}." if errors else ""),
        f"Phonon bands and density of states of {report.material}; reference black, imaginary modes below zero",
        dpi=detail.still_dpi,
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


def campaign_charts(reports: Sequence[MaterialReport], labels: Sequence[str], anchors: Sequence[str]) -> list[Chart]:
    """Return the charts over all materials; those that need several are left out for one."""
    drawn = [improvement_chart(reports, labels, anchors)]
    for name, group in variants(reports).items():
        for make in (verdicts_chart, errors_chart, learning_chart, costs_chart):
            chart = make(group)
            if chart is not None and name:
                key, caption = f"{chart.key}-{slug(name)}", f"{chart.caption} ({name})"
                chart = replace(chart, key=key, caption=caption, alt=f"{name}: {chart.alt}")
            drawn.append(chart)
    drawn.append(crystals_chart(reports))
    return [chart for chart in drawn if chart is not None]


def _elements(reports: Sequence[MaterialReport], gallery: Gallery) -> list[Picture]:
    return gallery.draw(
        "elements",
        lambda: elements_figure(reports),
        "Periodic table coloured by the number of materials each element occurs in.",
        "Elements by the number of materials that contain them",
    )


def _lead(reports: Sequence[MaterialReport]) -> list[str]:
    """Return what a campaign found in a sentence or two; toys are counted apart from evidence."""
    lines = []
    claims = [report for report in reports if is_claim(report)]
    for group, words, can in (
        (
            claims,
            "materials have a fine-tuned potential that can be trusted for harmonic phonons",
            "can be trusted for",
        ),
        ([report for report in reports if not is_claim(report)], _TOYS, "passes for"),
    ):
        if group:
            chosen = [chosen_potential(report) for report in group]
            fit = sum(entry is not None and entry.verdict.fit for entry in chosen)
            base = sum(report.foundation.verdict.fit for report in group)
            lines.append(f"{fit} of {len(group)} {words}; the foundation alone {can} {base}.")
    return lines


def _warnings(reports: Sequence[MaterialReport]) -> list[str]:
    """Return what holds for some materials and belongs on top; what a single one rests on is said in its section."""
    broken = [report.material for report in reports if not report.strategies]
    return [f"No potential was finished for {', '.join(broken)}."] if broken else []


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
    return [Table.of(caption, stages.items(), columns)] if stages else []


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
            ("settings", "manifest.settings_digest", lambda digest: digest or DASH),
            ("training data", "labels.train.sha256", str), ("foundation", "foundation.potential.name", str),
            ("foundation sha256", "foundation.potential.sha256", str),
        )  # fmt: skip
        tables.append(Table.of("What each verdict came from", reports, columns))
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
    reports = worst_first(reports)
    labels = [report_label(report, reports) for report in reports]
    show = progress or (lambda *_: None)
    making, sections = _Making(reports, artefacts, root, files), []
    for index, (report, label, name) in enumerate(zip(reports, labels, unique_slugs(labels), strict=True)):
        show(index, len(reports), report.material)
        sections.append(making.section(report, name, label))
    show(len(reports), len(reports), "")
    gallery = Gallery(root / FOLDER / "figures" if files else None)
    several, anchors = len(reports) > 1, [section.anchor for section in sections]
    statistics = [statistics_table(group, name) for name, group in variants(reports).items() if len(group) > 1]
    waiting = [[name, state] for name, state in unfinished.items()]
    return Page(
        title=title,
        lead=_lead(reports) if several else [],
        warnings=[*notes, *_warnings(reports)],
        overview=overview_table(reports, anchors) if several else None,
        statistics=[table for table in statistics if table is not None],
        unfinished=Table("Materials without a report yet", ("material", "state"), waiting) if waiting else None,
        charts=campaign_charts(reports, [section.heading for section in sections], anchors) if several else [],
        pictures=_elements(reports, gallery) if len(distinct_materials(reports)) > 1 else [],
        materials=sections,
        costs=_costs(reports),
        provenance=_provenance(reports),
        problems=gallery.problems,
        footer=f"Written by phonosmith {metadata.version('phonosmith')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
    )


def worst_first(reports: Sequence[MaterialReport]) -> list[MaterialReport]:
    """Return materials without a potential first, then those not fit, then the others; the larger error first."""

    def place(report: MaterialReport) -> tuple[bool, bool, float]:
        chosen = chosen_potential(report)
        mae = 0.0 if chosen is None or chosen.phonons is None else chosen.phonons.mae_thz
        return chosen is not None, chosen is not None and chosen.verdict.fit, -mae

    return sorted(reports, key=place)
