"""Report modules, functions and folders that grew large; a reader decides whether their subject is one.

    python tools/check_sizes.py [FOLDER_OR_FILE ...]

Prints one line for each module of more than 400 lines, function of more than 60 statements (docstrings are free,
statements of nested functions count) and folder of more than 12 modules, then the number of lines.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

MANY_LINES = 400
MANY_STATEMENTS = 60
MANY_MODULES = 12
FOLDERS = ("src", "tools", "benchmarks", "workflows", "tutorials")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_docstring(node: ast.stmt) -> bool:
    """Tell whether a statement is a bare string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def count_statements(function: Function) -> int:
    """Count the statements inside a function, at every depth."""
    inside = (node for node in ast.walk(function) if isinstance(node, ast.stmt) and node is not function)
    return sum(not is_docstring(node) for node in inside)


def large_parts(text: str, name: str) -> Iterator[str]:
    """Yield one line for everything that is large in a module's source."""
    lines = len(text.splitlines())
    if lines > MANY_LINES:
        yield f"{name}: {lines} lines"
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, Function) and (statements := count_statements(node)) > MANY_STATEMENTS:
            yield f"{name}:{node.lineno}: {node.name} has {statements} statements"


def large_folders(files: Iterable[Path]) -> Iterator[str]:
    """Yield one line for every folder with many modules, ``__init__.py`` aside."""
    for folder, count in sorted(Counter(path.parent for path in files if path.name != "__init__.py").items()):
        if count > MANY_MODULES:
            yield f"{folder}: {count} modules"


def python_files(paths: Iterable[Path]) -> list[Path]:
    """Return the Python files named or found below folders.

    Raises
    ------
    FileNotFoundError
        When a path does not exist: a report of nothing must not look like one.
    """
    files: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        files.update(path.rglob("*.py") if path.is_dir() else [path])
    return sorted(files)


def main(arguments: list[str]) -> None:
    """Report on the named files, or on the project's own folders."""
    root = Path(__file__).resolve().parents[1]
    paths = [Path(item) for item in arguments] or [root / name for name in FOLDERS if (root / name).is_dir()]
    files = [path.relative_to(root) if path.is_relative_to(root) else path for path in python_files(paths)]
    texts = {path: (root / path).read_text(encoding="utf-8") for path in files}
    for path, text in texts.items():
        for line in large_parts(text, str(path)):
            print(line)
    for line in large_folders(files):
        print(line)
    print(f"{len(files)} modules, {sum(text.count(chr(10)) for text in texts.values())} lines")


if __name__ == "__main__":
    main(sys.argv[1:])
