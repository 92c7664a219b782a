"""One static HTML file per campaign: opens offline, on a phone and with a screen reader, and loads nothing."""

from __future__ import annotations

import base64
import glob
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from phonosmith.analysis.documents import MaterialReport
from phonosmith.analysis.table import Cell
from phonosmith.core.artefacts import ArtefactStore, default_artefacts, write_atomic
from phonosmith.core.errors import InputError
from phonosmith.report.charts.data import as_data, looks, pack_bytes
from phonosmith.report.page.content import MaterialSection, Page
from phonosmith.report.page.page import Campaign, Progress, parts_of
from phonosmith.report.page.texts import typeset

_TEMPLATES = Path(__file__).with_name("templates")
_SCRIPTS = ("chart", "phonons", "crystal", "tables", "report")
_DIGEST = re.compile("[0-9a-f]{64}")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


@dataclass(frozen=True)
class WrittenReport:
    """The HTML file, its bytes, the number of files beside it, what could not be made, and the seconds it took.

    ``parts``: pages of a very large campaign beside the file, and ``size`` the bytes of all.
    """

    path: Path
    size: int
    files: int
    problems: list[str]
    seconds: float
    parts: int = 0


def _source_hash(text: str) -> str:
    """Return the name a content security policy knows a script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _packed(value: object) -> str:
    """Return data for the script as compressed JSON in base64: a quarter of the text, and nothing to be escaped."""
    text = json.dumps(as_data(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return pack_bytes(text.encode())


def _section_data(section: MaterialSection) -> str:
    return _packed({"phonons": section.phonons, "crystal": section.crystal, "charts": section.charts})


def _look_data(page: Page) -> str:
    charts = [chart for section in page.materials for chart in section.charts]
    sides = [side.look for section in page.materials if section.phonons is not None for side in section.phonons.sides]
    return _packed(looks([*charts, *page.charts], sides))


def _shown(cell: Cell) -> str:
    """Return the text of a cell with the sign for minus where it is a number."""
    return cell.text.replace("-", "\N{MINUS SIGN}") if isinstance(cell.key, int | float) else cell.text


def _sort_key(cell: Cell) -> str:
    """Return what a column is sorted by where the text does not say it."""
    return (
        ""
        if cell.key is None or _NUMBER.fullmatch(cell.text)
        else f"{cell.key:.6g}"
        if isinstance(cell.key, float)
        else str(cell.key)
    )


def render(page: Page) -> str:
    """Return the HTML of a page; only this package's own script and style may act in it."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    # one script with one hash: the parts share a scope
    parts = [(_TEMPLATES / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    # every text is escaped whatever the template's name ends in
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "shown": _shown,
        "typeset": typeset,
        # no line ends within a unit such as meV/Å
        "unbroken": lambda text: text.replace("/", "/\N{WORD JOINER}"),
        "sort_key": _sort_key,
        "is_digest": lambda text: _DIGEST.fullmatch(text) is not None,
        "section_data": _section_data,
        "campaign_data": lambda page: _packed({"charts": page.charts}),
        "look_data": _look_data,
    }
    template = environment.get_template("report.html.j2")
    # style and script are files of this package, with nothing from outside in them
    safe = {"style": Markup(style), "script": Markup(script)}  # noqa: S704
    return template.render(page=page, **safe, style_hash=_source_hash(style), script_hash=_source_hash(script))


def write_report(
    reports: Sequence[MaterialReport],
    path: str | Path,
    *,
    title: str = "phonosmith campaign",
    artefacts: ArtefactStore | None = None,
    files: bool = False,
    unfinished: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> WrittenReport:
    """Write an HTML file about any number of materials, whole or not at all.

    Up to 200 materials are one file. Of more, the file holds the campaign and one line for each, and their sections are
    in files beside it, NAME-part-001.html and so on.

    Parameters
    ----------
    reports
        One per material, foundation, cell and seed. None at all gives a page that says so.
    path
        The file, ending in .html.
    title
        Of the page.
    artefacts
        Where force constants, models and labels are; this installation's store by default.
    files
        Also write models, ``phonopy.yaml``, labels, documents and figures (SVG and PNG) into ``files`` beside the page.
    unfinished
        Materials without a report, with the state each is in.
    notes
        Sentences for the top of the page.
    progress
        Called with materials done, materials in all, and the name of the current one.
    """
    target = Path(path)
    if target.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"{target} is no name of an HTML file.", "End it in .html.")
    if target.is_dir():
        raise InputError(f"{target} is a folder.", "Name a file that ends in .html.")
    start = time.perf_counter()
    folder, store = target.absolute().parent, artefacts or default_artefacts()
    parts = parts_of(reports, target.name)
    campaign = Campaign(parts, store, folder, title, unfinished or {}, notes, progress, files)
    size, links, problems = 0, 0, []
    for file, page in campaign.pages(target.name):
        data = render(page).encode("utf-8", errors="replace")
        write_atomic(folder / file, data)
        blocks = [block for section in page.materials for block in section.blocks]
        problems += [*page.problems, *(text for block in blocks for text in block.problems)]
        size, links = size + len(data), links + sum(len(block.links) for block in blocks)
    # pages that an earlier, larger campaign left
    written = {part.file for part in parts}
    for old in folder.glob(f"{glob.escape(target.stem)}-part-[0-9][0-9][0-9]{target.suffix}"):
        if old.name not in written:
            old.unlink()
    count = len(parts) if len(parts) > 1 else 0
    return WrittenReport(target, size, links, problems, time.perf_counter() - start, count)
