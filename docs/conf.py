"""Sphinx configuration: pages in Markdown, API from the docstrings of every module."""

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

from tutorial_pages import write_tutorial_pages

ROOT = Path(__file__).resolve().parents[1]

project = "phonosmith"
author = "The phonosmith developers"
copyright = author  # noqa: A001
release = metadata.version("phonosmith")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "api"]
html_theme = "furo"
html_title = "phonosmith"

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
suppress_warnings = ["myst.xref_missing", "autodoc.mocked_object", "ref.python"]

# autodoc imports with typing.TYPE_CHECKING set, which some pydantic models do not survive: import them before it does
for _name in ("atomate2.vasp.jobs.base", "atomate2.forcefields.jobs"):
    importlib.import_module(_name)

write_tutorial_pages(ROOT / "tutorials", ROOT / "docs" / "tutorials")


def _escape_bars(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Keep |x| for an absolute value: reStructuredText would look for a substitution of that name."""
    lines[:] = [re.sub(r"\|(?=\S)([^|`]*\S)\|", r"\\|\1\\|", line) if "`" not in line else line for line in lines]


def setup(app: Any) -> None:
    """Register what happens to docstrings."""
    app.connect("autodoc-process-docstring", _escape_bars)
