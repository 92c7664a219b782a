"""Execute the percent scripts of ``tutorials/`` as notebooks, which become pages with their output and figures.

An executed notebook is kept beside the pages and used again while the code of tutorial and package is what it was; the
test of the tutorials reads the same notebooks.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tutorials"
PAGES = ROOT / "docs" / "tutorials"
REPORTS = PAGES / "reports"
OPTIONAL = ("gpaw", "phono3py")
"""Packages that tutorials need and an environment may lack (``needs`` of a tutorial's first cell)."""
AT_ONCE = 2
LONGEST_CELL = 900
"""Seconds."""


def tutorials() -> list[Path]:
    """Return the scripts in the order in which they are read."""
    return sorted(SCRIPTS.glob("[0-9]*.py"))


def made_from(notebook: NotebookNode) -> str:
    """Return the digest of everything of ours that an execution depends on: words may change, code may not."""
    digest = hashlib.sha256(f"{sys.version}{[name for name in OPTIONAL if importlib.util.find_spec(name)]}".encode())
    for cell in _code_cells(notebook):
        digest.update(f"{cell.source}\0".encode())
    for path in [SCRIPTS / "shell.py", *sorted((ROOT / "src" / "phonosmith").rglob("*"))]:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def notebook_of(script: Path) -> NotebookNode:
    """Return a tutorial as a notebook without output, its links leading to pages."""
    notebook = jupytext.read(script)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
    notebook.metadata["made_from"] = made_from(notebook)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.source = re.sub(r"(\]\(\d\d_\w+)\.md\)", r"\1.ipynb)", cell.source)
        if "picture" in cell.metadata:
            cell.metadata["mystnb"] = {"image": {"alt": cell.metadata["picture"]}}
    if missing := _missing(notebook):
        notebook.cells[0].source += f"\n\n*Not run for this page: {missing} is not installed where the site was built.*"
    return notebook


def _missing(notebook: NotebookNode) -> str:
    """Return what a tutorial needs (``needs`` of its first cell) and is not installed."""
    needed = str(notebook.cells[0].metadata.get("needs", ""))
    return needed if needed and importlib.util.find_spec(needed) is None else ""


def kept(script: Path) -> NotebookNode | None:
    """Return a tutorial with the output of an earlier execution of the same code, None where there is none."""
    page = PAGES / f"{script.stem}.ipynb"
    if not page.is_file():
        return None
    notebook, stored = notebook_of(script), nbformat.read(page, as_version=4)
    if stored.metadata.get("made_from") != notebook.metadata["made_from"]:
        return None
    for cell, executed in zip(_code_cells(notebook), _code_cells(stored), strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return notebook


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user's can be seen or changed."""
    others = ("PHONOSMITH_", "JOBFLOW_", "JFREMOTE", "MPLBACKEND")
    return {key: value for key, value in os.environ.items() if not key.startswith(others)} | {
        "TMPDIR": str(home),
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PHONOSMITH_DEVICE": "cpu",
    }


def execute(script: Path) -> NotebookNode:
    """Run a tutorial, in a folder of its own, and return it with its output; an error in a cell is raised."""
    notebook = notebook_of(script)
    if _missing(notebook):
        return notebook
    with tempfile.TemporaryDirectory(prefix="tutorial-", ignore_cleanup_errors=True) as home:
        client = NotebookClient(
            notebook,
            timeout=LONGEST_CELL,
            startup_timeout=LONGEST_CELL,
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": str(SCRIPTS)}},
            record_timing=False,
        )
        client.execute(env=environment(Path(home)))
        for report in Path(home).glob("phonosmith-*/report.html"):
            write_if_new(REPORTS / f"report-of-tutorial-{script.stem[:2]}.html", report.read_bytes())
        for output in (output for cell in _code_cells(notebook) for output in cell.outputs):
            if "text" in output:
                # what a tutorial calls ``work``
                output["text"] = re.sub(rf"{re.escape(home)}/phonosmith-\w+", "work", output["text"])
    return notebook


def write_tutorial_pages() -> None:
    """Write one notebook per tutorial, executed now where it is not kept, the table of contents and the gallery."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    scripts = tutorials()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        notebooks = dict(zip(scripts, pool.map(_executed, scripts), strict=True))
    names = "\n".join(script.stem for script in scripts)
    words = "# Tutorials\n\nEach is a script that this site ran: what is printed and drawn came out of it.\n\n"
    write_if_new(PAGES / "index.md", f"{words}```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n".encode())
    write_if_new(PAGES / "gallery.md", gallery(notebooks).encode())
    ours = {f"{script.stem}.ipynb" for script in scripts} | {"index.md", "gallery.md"}
    for page in PAGES.glob("*.*"):
        if page.name not in ours:
            page.unlink()


def _executed(script: Path) -> NotebookNode:
    notebook = kept(script)
    if notebook is None:
        print(f"executing {script.name}", file=sys.stderr, flush=True)
        notebook = execute(script)
    write_if_new(PAGES / f"{script.stem}.ipynb", nbformat.writes(notebook).encode())
    for name, picture, _ in pictures(script.stem, notebook):
        write_if_new(PAGES / "pictures" / name, picture)
    return notebook


def pictures(stem: str, notebook: NotebookNode) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield the pictures of a notebook: file name, PNG, and metadata of the cell that drew it."""
    number = 0
    for cell in notebook.cells:
        shown = [one.data for one in cell.get("outputs", []) if "data" in one]
        drawn = [data["image/png"] for data in shown if "image/png" in data]
        drawn += re.findall(
            r'src="data:image/png;base64,([^"]+)"', "".join(data.get("text/html", "") for data in shown)
        )
        for encoded in drawn:
            number += 1
            yield f"{stem[:2]}-{number}.png", b64decode(encoded), cell.metadata


def gallery(notebooks: dict[Path, NotebookNode]) -> str:
    """Return the page of all pictures, each with its tutorial and what draws it."""
    cards = []
    for script, notebook in notebooks.items():
        title = re.sub(r"^# ", "", notebook.cells[0].source.splitlines()[0])
        for name, _, told in pictures(script.stem, notebook):
            words, by = told.get("picture"), told.get("by")
            if not words or not by:
                raise ValueError(f'A cell of {script.name} draws and does not say what: add picture="…" by="…".')
            cards.append(
                f"## {words}\n\n```{{image}} pictures/{name}\n:alt: {words}\n:target: {script.stem}.html\n```\n\n"
                f"[{title}]({script.stem}.ipynb), drawn by {_linked(by)}.\n"
            )
    words = "# Gallery\n\nEvery picture was drawn when this site was built, by the tutorial under it. "
    words += " ".join(
        f'<a href="../{report.name}">The page of a campaign</a>, as `phonosmith report` writes it, to click and zoom.'
        for report in sorted(REPORTS.glob("*.html"))
    )
    return f"{words}\n\n" + "\n".join(cards)


def _linked(drawn_by: str) -> str:
    """Return the name of a command or of a function of ours, with a link to where it is described."""
    if drawn_by.startswith("phonosmith "):
        return f"[`{drawn_by}`](../commands.md#{drawn_by.replace(' ', '-')})"
    return f"{{py:obj}}`{drawn_by} <phonosmith.{drawn_by.removeprefix('ps.')}>`"


def write_if_new(path: Path, content: bytes) -> None:
    """Write a file whole, and only where it changes: Sphinx reads again what is younger than its page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == content:
        return
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(content)
    scratch.replace(path)
