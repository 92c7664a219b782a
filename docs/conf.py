"""Sphinx configuration: pages in Markdown, API from the docstrings of every module."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tutorial_pages import write_tutorial_pages

ROOT = Path(__file__).resolve().parents[1]

project = "phonosmith"
author = "The phonosmith developers"
copyright = author  # noqa: A001
release = version("phonosmith")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.apidoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.doctest",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "phonosmith"

apidoc_modules = [
    {
        "path": "../src/phonosmith",
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "max_depth": 3,
    }
]
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_mock_imports = ["gpaw", "nequix", "jax", "phono3py"]
napoleon_google_docstring = False
napoleon_use_ivar = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# pydantic and jobflow give fields that carry no docstring of their own; torch and ase types have no inventory here
nitpicky = False
suppress_warnings = ["myst.xref_missing", "autodoc.mocked_object"]

write_tutorial_pages(ROOT / "tutorials", ROOT / "docs" / "tutorials")
