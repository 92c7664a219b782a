"""The size check finds what it is for, and the project passes it."""

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
    ("text", "complaints"),
    [
        (function(60), 0),
        (function(61), 1),
        (function(60, '    """Docstrings are free."""\n'), 0),
        (function(58, "    def g():\n        return 1\n"), 0),
        (function(59, "    def g():\n        return 1\n"), 1),
        ("class C:\n    async def f(self):\n" + "        x = 1\n" * 61, 1),
        ("x = 1\n" * 400, 0),
        ("x = 1\n" * 401, 1),
        ("def broken(:\n", 1),
    ],
)
def test_counting(check_sizes, text, complaints):
    assert len(list(check_sizes.check_source(text, "m.py"))) == complaints


def test_exit_code_and_message(check_sizes, tmp_path, capsys):
    long = tmp_path / "long.py"
    long.write_text(function(70))
    assert check_sizes.main([str(tmp_path)]) == 1
    assert "long.py:1: f has 70 statements" in capsys.readouterr().out
    long.write_text(function(7))
    assert check_sizes.main([str(long)]) == 0


def test_nothing_to_check_is_an_error(check_sizes, tmp_path):
    with pytest.raises(FileNotFoundError):
        check_sizes.main([str(tmp_path / "absent")])


def test_the_project_passes(check_sizes, capsys):
    code = check_sizes.main([])
    assert code == 0, capsys.readouterr().out
