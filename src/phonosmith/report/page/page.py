"""Puts a campaign's reports together into the content of one page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import pairwise
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
from phonosmith.report.page.content import Block, Link, MaterialSection, Page, Picture
from phonosmith.report.page.crystal import Crystal, conventional_crystal
from phonosmith.report.page.files import FOLDER, Exporter
from phonosmith.report.page.phonons import Detail, LoadedPhonons, load_phonons, phonon_data
from phonosmith.report.page.pictures import Gallery
from phonosmith.report.page.potential_tables import (
    data_cell,
    overview_table,
    potentials_table,
    report_labels,
    statistics_table,
)
from phonosmith.report.page.texts import formula_text, reason_of, slug, space_group_text, unique_slugs
from phonosmith.report.page.verdicts import grounds, headline, is_claim, name_text, reasons, tiles, verdict_badge

Progress = Callable[[int, int, str], None]
_STILL_SIDES = 3
_PLACE = "material-"
MOST_ON_A_PAGE = 200
"""Materials of one file; more are on pages of their own, that of the campaign leads to them."""
PART = 40
"""Materials of such a page."""
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

    by_material: Mapping[str, Sequence[MaterialReport]]
    artefacts: ArtefactStore
    root: Path
    files: bool

    def section(self, report: MaterialReport, name: str, label: str, detail: Detail) -> MaterialSection:
        """Return one material's section; ``name``: that of its files and its place on the page."""
        gallery = Gallery(self.root / FOLDER / name / "figures" if self.files else None)
        loaded = load_phonons(report, self.artefacts, detail)
        sheet = Sheet(report, loaded)
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
        return MaterialSection(
            anchor=_PLACE + name,
            heading=shown_name(report, label),
            verdict=verdict_badge(chosen_potential(report), report),
            badges=badges,
            headline=headline(report),
            grounds=grounds(report),
            tiles=tiles(report, self.by_material[report.material]),
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


def campaign_charts(reports: Sequence[MaterialReport], labels: Sequence[str], links: Sequence[str]) -> list[Chart]:
    """Return the charts over all materials; those that need several are left out for one."""
    drawn = [improvement_chart(reports, labels, links)]
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


def _versions(reports: Sequence[MaterialReport]) -> list[Table]:
    versions: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        for name, version in report.manifest.packages.items():
            versions[name].add(version)
    rows = [[name, ", ".join(sorted(all_of))] for name, all_of in sorted(versions.items())]
    caption = "Versions of the software that made the reports"
    return [Table(caption, ("package", "version"), rows)] if rows else []


def _sources(reports: Sequence[MaterialReport], labels: Sequence[str]) -> Table:
    columns: Columns = (
        ("material", "label", str), ("report made", "report.manifest.started", lambda when: when or DASH),
        ("settings", "report.manifest.settings_digest", lambda digest: digest or DASH),
        ("training data", "report.labels.train.sha256", str), ("foundation", "report.foundation.potential.name", str),
        ("foundation sha256", "report.foundation.potential.sha256", str),
    )  # fmt: skip
    rows = [{"label": label, "report": report} for label, report in zip(labels, reports, strict=True)]
    return Table.of("What each verdict came from", rows, columns)


@dataclass(frozen=True)
class Part:
    """Materials that share a page: reports, what they are called, and the places of their sections."""

    file: str
    reports: list[MaterialReport]
    labels: list[str]
    names: list[str]

    @property
    def places(self) -> list[str]:
        """Return the place of each section on its page."""
        return [_PLACE + name for name in self.names]


def parts_of(reports: Sequence[MaterialReport], file: str) -> list[Part]:
    """Return the materials of a campaign, worst first, on one page or, where they are very many, on several."""
    ordered = worst_first(reports)
    labels = report_labels(ordered)
    names = unique_slugs(labels)
    count = 1 if len(ordered) <= MOST_ON_A_PAGE else -(-len(ordered) // PART)
    ends = [round(index * len(ordered) / count) for index in range(count + 1)]
    stem, dot, suffix = file.rpartition(".")
    return [
        Part(file if count == 1 else f"{stem}-part-{index + 1:03d}{dot}{suffix}", ordered[a:b], labels[a:b], names[a:b])
        for index, (a, b) in enumerate(pairwise(ends))
    ]


@dataclass(frozen=True)
class Campaign:
    """What all pages of a campaign are made from; see `write_report`."""

    parts: list[Part]
    artefacts: ArtefactStore
    root: Path
    title: str
    unfinished: Mapping[str, str]
    notes: Sequence[str]
    progress: Progress | None
    files: bool

    def pages(self, file: str) -> Iterator[tuple[str, Page]]:
        """Yield the pages with their files, that of the whole campaign last: what it leads to is then there."""
        if len(self.parts) == 1:
            part = self.parts[0]
            sections = self._sections(part, 0)
            yield file, self.whole([f"#{place}" for place in part.places], sections)
            return
        links = []
        for index, part in enumerate(self.parts):
            ways = [Link("All materials", file)]
            for words, other in (("Previous part", index - 1), ("Next part", index + 1)):
                ways += [Link(words, self.parts[other].file)] if 0 <= other < len(self.parts) else []
            yield part.file, self._part(part, index, ways)
            links += [f"{part.file}#{place}" for place in part.places]
        yield file, self.whole(links, [])

    def _sections(self, part: Part, done: int) -> list[MaterialSection]:
        reports = [report for other in self.parts for report in other.reports]
        by_material: dict[str, list[MaterialReport]] = defaultdict(list)
        for report in reports:
            by_material[report.material].append(report)
        show, making = self.progress or (lambda *_: None), _Making(by_material, self.artefacts, self.root, self.files)
        sections = []
        for index, (report, label, name) in enumerate(zip(part.reports, part.labels, part.names, strict=True)):
            show(done + index, len(reports), report.material)
            sections.append(making.section(report, name, label, Detail.for_materials(len(part.reports))))
        if done + len(part.reports) == len(reports):
            show(len(reports), len(reports), "")
        return sections

    def _part(self, part: Part, index: int, ways: list[Link]) -> Page:
        places = [f"#{place}" for place in part.places]
        done = sum(len(other.reports) for other in self.parts[:index])
        return Page(
            title=f"{self.title}, part {index + 1} of {len(self.parts)}",
            ways=ways,
            lead=[],
            warnings=[],
            overview=overview_table(part.reports, part.labels, places) if len(part.reports) > 1 else None,
            statistics=[],
            unfinished=None,
            charts=[],
            pictures=[],
            materials=self._sections(part, done),
            costs=[],
            provenance=[_sources(part.reports, part.labels)],
            problems=[],
            footer=_footer(),
        )

    def whole(self, links: Sequence[str], sections: list[MaterialSection]) -> Page:
        """Return the page of all materials: with their sections, or, where those are on pages of their own, without."""
        reports = [report for part in self.parts for report in part.reports]
        labels = [label for part in self.parts for label in part.labels]
        gallery = Gallery(self.root / FOLDER / "figures" if self.files else None)
        several = len(reports) > 1
        statistics = [statistics_table(group, name) for name, group in variants(reports).items() if len(group) > 1]
        waiting = [[name, state] for name, state in self.unfinished.items()]
        headings = [shown_name(report, label) for report, label in zip(reports, labels, strict=True)]
        return Page(
            title=self.title,
            ways=[],
            lead=_lead(reports) if several else [],
            warnings=[*self.notes, *_warnings(reports)],
            overview=overview_table(reports, labels, links) if several else None,
            statistics=[table for table in statistics if table is not None],
            unfinished=Table("Materials without a report yet", ("material", "state"), waiting) if waiting else None,
            charts=campaign_charts(reports, headings, links) if several else [],
            pictures=_elements(reports, gallery) if len(distinct_materials(reports)) > 1 else [],
            materials=sections,
            costs=_costs(reports),
            provenance=[*_versions(reports), *([_sources(reports, labels)] if sections else [])],
            problems=gallery.problems,
            footer=_footer(),
        )


def _footer() -> str:
    return f"Written by phonosmith {metadata.version('phonosmith')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."


def shown_name(report: MaterialReport, label: str) -> str:
    """Return what a material is called on its page: its label, and its formula where that is another."""
    shown = name_text(report, label)
    return shown if report.formula == report.material else f"{shown} ({formula_text(report.formula)})"


def worst_first(reports: Sequence[MaterialReport]) -> list[MaterialReport]:
    """Return materials without a potential first, then those not fit, then the others; the larger error first."""

    def place(report: MaterialReport) -> tuple[bool, bool, float]:
        chosen = chosen_potential(report)
        mae = 0.0 if chosen is None or chosen.phonons is None else chosen.phonons.mae_thz
        return chosen is not None, chosen is not None and chosen.verdict.fit, -mae

    return sorted(reports, key=place)
