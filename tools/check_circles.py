"""Refuse modules of the package that import each other in a circle.

    python tools/check_circles.py [PACKAGE_FOLDER]

Every import counts, also inside functions and between modules of one folder; only what stands under
``if TYPE_CHECKING`` does not, because it never runs. Importing a module runs the ``__init__`` of the packages above it
too, but these are not counted: one that re-exports its parts would otherwise be a circle with each of them. Prints one
line per circle and exits with 1 when there is any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

Graph = dict[str, set[str]]


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield dotted names that a module imports; ``package`` resolves relative imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imported_names(ast.Module([other], []), package)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield from imported_names(node, package)


def import_graph(folder: Path) -> Graph:
    """Return which modules of a package each of its modules imports."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: Graph = {}
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = set()
        for wanted in imported_names(ast.parse(path.read_text(encoding="utf-8")), package):
            # a name is a module, or something inside the module before its last dot
            target = wanted if wanted in modules else wanted.rpartition(".")[0]
            if target in modules and target != name:
                graph[name].add(target)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Return groups of modules each of which reaches every other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return groups


def main(arguments: list[str]) -> int:
    """Check a package and return the exit code."""
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "src" / "phonosmith"
    graph = import_graph(folder)
    groups = circles(graph)
    for group in groups:
        members = set(group)
        print("circle: " + "; ".join(f"{name} imports {', '.join(sorted(graph[name] & members))}" for name in group))
    print(f"{len(graph)} modules checked, {len(groups)} circles", file=sys.stderr)
    return 1 if groups or not graph else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
