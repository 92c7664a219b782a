"""What the README shows has to run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from phonosmith.cli.main import app

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_command_named_exists():
    known = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"(?:`|^)phonosmith ([a-z-]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= known


def test_every_linked_file_exists():
    root = Path(__file__).resolve().parents[1]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((root / link).exists() for link in links)


def test_every_strategy_is_listed():
    from phonosmith.training.spec import PRESETS

    for name in PRESETS:
        assert f"`{name}`" in README or re.fullmatch(r"f(reeze)?\d", name), name


@pytest.mark.slow
def test_the_python_example_runs(tmp_path):
    printed = []
    for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        (tmp_path / "example.py").write_text(code)
        run = subprocess.run(
            [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=500, env=os.environ
        )
        assert run.returncode == 0, run.stderr
        printed.append(run.stdout)
    study, flow = printed
    assert study.startswith(("fit", "not fit")), study
    assert "foundation" in study
    assert flow.startswith("True "), flow
