"""The report on sizes finds what it is for."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "check_sizes.py"


@pytest.fixture(scope="module")
def check_sizes():
    spec = importlib.util.spec_from_file_location("check_sizes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function(statements, extra=""):
    return "def f():\n" + extra + "    x = 1\n" * statements


@pytest.mark.parametrize(
    ("text", "remarks"),
    [
        (function(60), 0),
        (function(61), 1),
        (function(60, '    """Docstrings are free."""\n'), 0),
        (function(58, "    def g():\n        return 1\n"), 0),
        (function(59, "    def g():\n        return 1\n"), 1),
        ("class C:\n    async def f(self):\n" + "        x = 1\n" * 61, 1),
        ("x = 1\n" * 400, 0),
        ("x = 1\n" * 401, 1),
    ],
)
def test_counting(check_sizes, text, remarks):
    assert len(list(check_sizes.large_parts(text, "m.py"))) == remarks


def test_report(check_sizes, tmp_path, capsys):
    for number in range(13):
        (tmp_path / f"m{number:02d}.py").write_text(function(7))
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "m00.py").write_text(function(70))
    check_sizes.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{tmp_path}/m00.py:1: f has 70 statements",
        f"{tmp_path}: 13 modules",
        "14 modules, 167 lines",
    ]
    check_sizes.main([str(tmp_path / "m01.py")])
    assert capsys.readouterr().out == "1 modules, 8 lines\n"


def test_nothing_to_report_on_is_an_error(check_sizes, tmp_path):
    with pytest.raises(FileNotFoundError):
        check_sizes.main([str(tmp_path / "absent")])


def test_the_project_can_be_reported_on(check_sizes, capsys):
    check_sizes.main([])
    assert "lines" in capsys.readouterr().out.splitlines()[-1]
