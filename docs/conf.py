"""Sphinx configuration: pages in Markdown, executed tutorials, API from docstrings, formulas that need no network."""

from __future__ import annotations

import importlib
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import typer
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from tutorial_pages import write_if_new, write_tutorial_pages
from typer.cli import get_docs_for_click

from phonosmith.cli.main import app as command_line

ROOT = Path(__file__).resolve().parents[1]

project = "phonosmith"
author = "The phonosmith developers"
copyright = author  # noqa: A001
release = metadata.version("phonosmith")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "tutorials/reports"]
# tutorial_pages executes, with a cache of its own
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
html_theme = "furo"
html_title = "phonosmith"
html_static_path = ["_static"]
html_extra_path = ["tutorials/reports"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
# two hyphens are the beginning of an option, not a dash
smartquotes = False

autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_mock_imports = ["gpaw", "nequix", "sevenn", "phono3py"]
napoleon_google_docstring = False
napoleon_use_ivar = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# pydantic and jobflow give fields that carry no docstring of their own; torch and ase types have no inventory here
nitpicky = False
suppress_warnings = ["autodoc.mocked_object", "ref.python"]

# autodoc imports with typing.TYPE_CHECKING set, which some pydantic models do not survive: import them before it does
for _name in ("atomate2.vasp.jobs.base", "atomate2.forcefields.jobs"):
    importlib.import_module(_name)

write_tutorial_pages()
_command = typer.main.get_command(command_line)
_commands = get_docs_for_click(obj=_command, ctx=typer.Context(_command), name="phonosmith", title="Commands")
_commands = re.sub(r"^Example: (.+)$", r"```console\n$ \1\n```", _commands, flags=re.MULTILINE)
write_if_new(ROOT / "docs" / "commands.md", _commands.encode())


def _escape_bars(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Keep |x| for an absolute value: reStructuredText would look for a substitution of that name."""
    lines[:] = [re.sub(r"\|(?=\S)([^|`]*\S)\|", r"\\|\1\\|", line) if "`" not in line else line for line in lines]


def _inline_formula(page: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers draw by themselves."""
    page.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _displayed_formula(page: Any, node: nodes.math_block) -> None:
    page.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Register what happens to docstrings and formulas."""
    app.connect("autodoc-process-docstring", _escape_bars)
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_displayed_formula, None))
