"""Turn the percent scripts of ``tutorials/`` into Markdown pages of the documentation."""

from __future__ import annotations

from pathlib import Path


def write_tutorial_pages(scripts: Path, pages: Path) -> None:
    """Write one page per tutorial and a table of contents; nothing is executed here."""
    import jupytext

    pages.mkdir(parents=True, exist_ok=True)
    names = []
    for script in sorted(scripts.glob("[0-9]*.py")):
        notebook = jupytext.read(script)
        cells = notebook.cells
        parts = [f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source for cell in cells]
        target = pages / f"{script.stem}.md"
        text = "\n\n".join(part for part in parts if part.strip()) + "\n"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
        names.append(script.stem)
    contents = "\n".join(names)
    words = "# Tutorials\n\nEvery tutorial is a script that continuous integration runs.\n\n"
    index = f"{words}```{{toctree}}\n:maxdepth: 1\n\n{contents}\n```\n"
    (pages / "index.md").write_text(index, encoding="utf-8")
