"""Refuse modules that grew too long and functions that do too much.

    python tools/check_sizes.py [FOLDER_OR_FILE ...]

A module has at most 400 lines, a function at most 60 statements (docstrings are free, statements of nested functions
count). Prints one line for each offender and exits with 1 when there is any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_LINES = 400
MOST_STATEMENTS = 60
FOLDERS = ("src", "tools", "benchmarks", "workflows", "tutorials")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_docstring(node: ast.stmt) -> bool:
    """Tell whether a statement is a bare string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def count_statements(function: Function) -> int:
    """Count the statements inside a function, at every depth."""
    inside = (node for node in ast.walk(function) if isinstance(node, ast.stmt) and node is not function)
    return sum(not is_docstring(node) for node in inside)


def check_source(text: str, name: str) -> Iterator[str]:
    """Yield one line for everything that is too large in a module's source."""
    lines = len(text.splitlines())
    if lines > MOST_LINES:
        yield f"{name}: {lines} lines, at most {MOST_LINES} are allowed: split the module"
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield f"{name}:{error.lineno}: cannot be parsed: {error.msg}"
        return
    for node in ast.walk(tree):
        if isinstance(node, Function):
            statements = count_statements(node)
            if statements > MOST_STATEMENTS:
                yield (
                    f"{name}:{node.lineno}: {node.name} has {statements} statements, at most {MOST_STATEMENTS} are "
                    "allowed: give its parts names"
                )


def python_files(paths: Iterable[Path]) -> list[Path]:
    """Return the Python files named or found below folders.

    Raises
    ------
    FileNotFoundError
        When a path does not exist: a check of nothing must not pass.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        found.update(path.rglob("*.py") if path.is_dir() else [path])
    return sorted(found)


def main(arguments: list[str]) -> int:
    """Check the named files, or the project's own folders, and return the exit code."""
    root = Path(__file__).resolve().parents[1]
    paths = [Path(item) for item in arguments] or [root / name for name in FOLDERS if (root / name).is_dir()]
    files = python_files(paths)
    offenders = []
    for path in files:
        name = str(path.relative_to(root)) if path.is_absolute() and path.is_relative_to(root) else str(path)
        offenders += check_source(path.read_text(encoding="utf-8"), name)
    for line in offenders:
        print(line)
    print(f"{len(files)} modules checked, {len(offenders)} too large", file=sys.stderr)
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
