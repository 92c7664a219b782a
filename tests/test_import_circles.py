"""The check of import circles finds what it is for, and the package has none."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "check_circles.py"


@pytest.fixture(scope="module")
def check_circles():
    spec = importlib.util.spec_from_file_location("check_circles", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(folder, **modules):
    for name, text in {"__init__": "", **modules}.items():
        (folder / "p" / "sub").mkdir(parents=True, exist_ok=True)
        (folder / "p" / f"{name.replace('sub_', 'sub/')}.py").write_text(text)
    return folder / "p"


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ({"a": "import p.b", "b": "import numpy"}, []),
        ({"a": "from p import b", "b": "from p.a import x"}, [["p.a", "p.b"]]),
        ({"a": "def f():\n    from p.b import x", "b": "import p.a"}, [["p.a", "p.b"]]),
        ({"a": "from .sub import c", "sub_c": "from ..b import x", "b": "import p.a"}, [["p.a", "p.b", "p.sub.c"]]),
        ({"sub_c": "from . import d", "sub_d": "from .c import x"}, [["p.sub.c", "p.sub.d"]]),
        ({"a": "if TYPE_CHECKING:\n    from p.b import x", "b": "import p.a"}, []),
        ({"a": "if TYPE_CHECKING:\n    import x\nelse:\n    import p.b", "b": "import p.a"}, [["p.a", "p.b"]]),
        (
            {"a": "import p.b", "b": "import p.a", "c": "import p.d", "d": "import p.c"},
            [["p.a", "p.b"], ["p.c", "p.d"]],
        ),
    ],
)
def test_circles_are_found(check_circles, modules, expected, tmp_path, capsys):
    folder = package(tmp_path, **modules)
    assert check_circles.circles(check_circles.import_graph(folder)) == expected
    assert check_circles.main([str(folder)]) == bool(expected)
    shown = capsys.readouterr().out
    assert shown.count("circle: ") == len(expected)


def test_nothing_to_check_is_an_error(check_circles, tmp_path):
    assert check_circles.main([str(tmp_path / "absent")]) == 1


def test_the_package_has_none(check_circles, capsys):
    code = check_circles.main([])
    assert code == 0, capsys.readouterr().out
