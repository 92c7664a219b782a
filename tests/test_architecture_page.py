"""Every module that docs/architecture.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_module_named_exists():
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", PAGE))
    assert len(named) > 30
    assert [
        name for name in sorted(named) if not (ROOT / "src/phonosmith" / f"{name.replace('.', '/')}.py").is_file()
    ] == []


def test_every_stage_is_named_in_order():
    first = re.search(r"`(core → [^`]+)`", PAGE)[1].split(" → ")
    assert all((ROOT / "src/phonosmith" / stage).is_dir() for stage in first)
    layers = re.search(r"layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), flags=re.DOTALL)[1]
    assert first == re.findall(r"phonosmith\.(\w+)", layers)[::-1][: len(first)]


def test_it_is_one_screen_and_the_index_links_it():
    assert len(PAGE.splitlines()) <= 60
    assert "\narchitecture\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
