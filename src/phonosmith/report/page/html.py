"""One static HTML file per campaign: opens offline, on a phone and with a screen reader, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from phonosmith.analysis.documents import MaterialReport
from phonosmith.core.artefacts import ArtefactStore, default_artefacts, write_atomic
from phonosmith.core.errors import InputError
from phonosmith.report.page.content import Page
from phonosmith.report.page.page import Progress, build_page

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class WrittenReport:
    """The HTML file, its bytes, the number of files beside it, what could not be made, and the seconds it took."""

    path: Path
    size: int
    files: int
    problems: list[str]
    seconds: float


def _source_hash(text: str) -> str:
    """Return the name a content security policy knows a script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(page: Page) -> str:
    """Return the HTML of a page; only this package's own script and style may act in it."""
    style, script = ((_TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    # every text is escaped whatever the template's name ends in
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
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
    """Write one HTML file about any number of materials, whole or not at all.

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
    page = build_page(reports, store, folder, title, unfinished or {}, notes, progress, files=files)
    data = render(page).encode("utf-8", errors="replace")
    write_atomic(target, data)
    blocks = [block for section in page.materials for block in section.blocks]
    problems = [*page.problems, *(text for block in blocks for text in block.problems)]
    links = sum(len(block.links) for block in blocks)
    return WrittenReport(target, len(data), links, problems, time.perf_counter() - start)
