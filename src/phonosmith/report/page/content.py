"""What a report page is made of, before it becomes HTML: texts, tables, pictures, links."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from phonosmith.analysis.table import Cell, Table


@dataclass(frozen=True)
class Picture:
    """An embedded picture: ``data:`` address, what it shows for those who cannot see it, caption, size in pixels."""

    source: str
    alt: str
    caption: str
    width: int
    height: int


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
    pictures: list[Picture] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Tell whether there is anything to show."""
        return not any((self.texts, self.facts, self.tables, self.pictures, self.links, self.problems))


@dataclass
class MaterialSection:
    """One material's part of the page."""

    anchor: str
    heading: str
    badges: list[Cell]
    headline: str
    reasons: list[str]
    notes: list[str]
    potentials: Table | None
    blocks: list[Block]
    missing: list[str]


@dataclass
class Page:
    """The whole page."""

    title: str
    badges: list[Cell]
    lead: list[str]
    warnings: list[str]
    overview: Table | None
    statistics: list[Table]
    unfinished: Table | None
    pictures: list[Picture]
    materials: list[MaterialSection]
    costs: list[Table]
    provenance: list[Table]
    problems: list[str]
    footer: str


def space_group_text(symbol: str) -> str:
    """Return an international symbol with its screw axes as subscripts: P4_2/mnm -> P4₂/mnm."""
    return re.sub(r"_(\d)", lambda match: "₀₁₂₃₄₅₆₇₈₉"[int(match[1])], symbol)


def slug(text: str) -> str:
    """Return a name that is safe in addresses and file names: lower-case letters, digits, dots and hyphens."""
    plain = re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-.")
    return plain[:60] or "material"


def unique_slugs(names: Sequence[str]) -> list[str]:
    """Return one slug per name, numbered where two names give the same."""
    slugs: list[str] = []
    for name in names:
        base = slug(name)
        free = (text for number in count(1) if (text := base if number == 1 else f"{base}-{number}") not in slugs)
        slugs.append(next(free))
    return slugs


def file_size(size: int) -> str:
    """Return a size in bytes as a reader would say it."""
    for limit, unit, divisor in ((1e3, "B", 1), (1e6, "kB", 1e3), (1e9, "MB", 1e6)):
        if size < limit:
            return f"{size / divisor:.3g} {unit}"
    return f"{size / 1e9:.3g} GB"
