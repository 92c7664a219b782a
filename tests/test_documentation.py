"""Pages of the documentation: formulas can be drawn, links lead to tutorials, every public name is described."""

import re
from pathlib import Path

import pytest

import phonosmith

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`\"])\$(?=[^\s$])([^$\n`]+?)\$(?!\$)", flags=re.DOTALL)


def formulas(text):
    return [
        block or inline for block, inline in FORMULA.findall(re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL))
    ]


def test_every_formula_becomes_mathml():
    latex2mathml = pytest.importorskip("docutils.utils.math.latex2mathml")
    found = [one for page in PAGES for one in formulas(page.read_text(encoding="utf-8"))]
    assert len(found) > 10
    for one in found:
        drawn = latex2mathml.tex2mathml(one)
        assert drawn.startswith("<math")
        assert "\\" not in drawn


def test_links_to_tutorials_lead_somewhere():
    links = {
        Path(link).stem
        for page in PAGES
        for link in re.findall(r"\(tutorials/(\d\d_\w+\.\w+)\)", page.read_text("utf-8"))
    }
    assert links
    assert links <= {path.stem for path in (ROOT / "tutorials").glob("*.py")}


def test_every_public_name_is_described():
    described = re.findall(
        r"auto(?:class|function):: phonosmith\.(\w+)$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(described) == sorted(phonosmith.__all__)
