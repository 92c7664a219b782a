"""What a report page is made of, before it becomes HTML: texts, tables, pictures, links."""

from __future__ import annotations

from dataclasses import dataclass, field

from phonosmith.analysis.table import Cell, Table
from phonosmith.report.charts.data import Chart
from phonosmith.report.page.crystal import Crystal
from phonosmith.report.page.phonons import PhononData


@dataclass(frozen=True)
class Picture:
    """An embedded picture: ``data:`` address, what it shows for those who cannot see it, caption, size in pixels."""

    source: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Tile:
    """One number a verdict rests on: what, value, unit, whether within its limit, and lines of what to read it by."""

    title: str
    value: str
    unit: str
    good: bool
    lines: list[str]


@dataclass(frozen=True)
class Link:
    """A file to download."""

    text: str
    href: str


@dataclass
class Block:
    """One part of a material's section."""

    heading: str = ""
    texts: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Tell whether there is anything to show."""
        return not any((self.texts, self.facts, self.tables, self.charts, self.links, self.problems))


@dataclass
class MaterialSection:
    """One material's part of the page: the answer first, then what it was made from."""

    anchor: str
    heading: str
    verdict: Cell
    badges: list[Cell]
    headline: str
    grounds: list[str]
    tiles: list[Tile]
    reasons: list[str]
    notes: list[str]
    phonons: PhononData | None
    crystal: Crystal | None
    still: list[Picture]
    forces: Chart | None
    potentials: Table | None
    blocks: list[Block]
    missing: list[str]

    @property
    def charts(self) -> list[Chart]:
        """All charts of the section."""
        return [*([self.forces] if self.forces else []), *(chart for block in self.blocks for chart in block.charts)]


@dataclass
class Page:
    """The whole page, or one of several: ``ways`` lead to the others."""

    title: str
    ways: list[Link]
    lead: list[str]
    warnings: list[str]
    overview: Table | None
    statistics: list[Table]
    unfinished: Table | None
    charts: list[Chart]
    pictures: list[Picture]
    materials: list[MaterialSection]
    costs: list[Table]
    provenance: list[Table]
    problems: list[str]
    footer: str
