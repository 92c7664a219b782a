"""Every tutorial runs as it stands, is a valid percent script, and says what it draws."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tutorials"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
EXPECTED = {
    "01": "fit; phonon MAE",
    "02": "rehearsal: True",
    "03": "foundation",
    "04": "omega_max_error_percent",
    "05": "Phases",
    "06": "detla",
    "07": "report.html",
    "08": "against",
    "09": "ended because",
    "10": "SRME",
    "11": "THz with the non-analytic term",
    "12": "MB for LAMMPS",
}
WITHOUT_PICTURE = {"02", "06", "08"}
"""A rehearsal, files for a cluster, and the one that needs GPAW."""


def tutorial_pages():
    """Return the module that executes tutorials for the documentation, None where what it needs is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("jupytext", "nbclient")):
        return None
    spec = importlib.util.spec_from_file_location("tutorial_pages", ROOT / "docs" / "tutorial_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return pages


def said_on_its_page(script):
    """Return what a tutorial printed when the documentation here ran exactly this one, None where it did not."""
    pages = tutorial_pages()
    notebook = pages and pages.kept(script)
    if notebook is None:
        return None
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


def test_each_has_words_to_look_for():
    assert [path.name[:2] for path in SCRIPTS] == list(EXPECTED)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name[:2])
def test_it_says_what_one_will_have_and_what_is_next(script):
    text = script.read_text(encoding="utf-8")
    assert "**What you will have at the end:**" in text
    assert "**Next:**" in text
    names = {path.stem for path in SCRIPTS}
    assert {Path(link).stem for link in re.findall(r"\]\((\d\d_\w+)\.md\)", text)} <= names
    jupytext = pytest.importorskip("jupytext")
    cells = jupytext.reads(text, fmt="py:percent").cells
    assert cells[0].cell_type == "markdown"
    assert sum(cell.cell_type == "code" for cell in cells) >= 1
    drawing = [cell.metadata for cell in cells if "picture" in cell.metadata]
    assert bool(drawing) != (script.name[:2] in WITHOUT_PICTURE)
    assert all(len(told["picture"]) > 30 and told["by"].startswith(("ps.", "phonosmith ")) for told in drawing)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name[:2])
def test_it_runs(script, tmp_path):
    """As a script, unless the documentation built here has run exactly this one as a notebook."""
    if script.name.startswith("08") and importlib.util.find_spec("gpaw") is None:
        pytest.skip("GPAW is not installed (tools/install_gpaw.sh)")
    said = said_on_its_page(script)
    if said is None:
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PHONOSMITH_", "JOBFLOW_", "JFREMOTE"))
        } | {
            "TMPDIR": str(tmp_path),
            "HOME": str(tmp_path),
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": "1",
            "PHONOSMITH_DEVICE": "cpu",
        }
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
        said = done.stdout
    assert EXPECTED[script.name[:2]] in said


@pytest.fixture
def small_site(tmp_path, monkeypatch):
    """The module, on a tree with one tutorial that draws."""
    pages = tutorial_pages()
    if pages is None:
        pytest.skip("the documentation's packages are not installed")
    for name in ("src/phonosmith", "tutorials", "docs/tutorials"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "src/phonosmith/one.py").write_text("one = 1\n")
    (tmp_path / "tutorials/shell.py").write_text("")
    told = 'picture="A line" by="ps.Study.plot_bands"'
    (tmp_path / "tutorials/01_line.py").write_text(
        f"# %% [markdown]\n# # 01 · A line\n# See [two](02_two.md).\n\n# %% {told}\n"
        "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()\n\n# %%\n"
        "from pathlib import Path\nfrom tempfile import mkdtemp\nwork = Path(mkdtemp(prefix='phonosmith-'))\n"
        "(work / 'report.html').write_text('a page')\nprint('said in', work)\n"
    )
    for name, folder in (
        ("ROOT", ""),
        ("SCRIPTS", "tutorials"),
        ("PAGES", "docs/tutorials"),
        ("REPORTS", "docs/tutorials/reports"),
    ):
        monkeypatch.setattr(pages, name, tmp_path / folder)
    return pages


@pytest.mark.slow
def test_a_page_is_executed_once_for_what_it_was_made_from(small_site, tmp_path):
    (script,) = small_site.tutorials()
    small_site.write_tutorial_pages()
    notebook = small_site.kept(script)
    assert "(02_two.ipynb)" in notebook.cells[0].source
    assert notebook.cells[2].outputs[0]["text"] == "said in work\n"
    ((name, drawn, told),) = small_site.pictures(script.stem, notebook)
    assert drawn.startswith(b"\x89PNG")
    assert told["mystnb"] == {"image": {"alt": "A line"}}
    assert (tmp_path / "docs/tutorials/pictures" / name).read_bytes() == drawn
    gallery = (tmp_path / "docs/tutorials/gallery.md").read_text()
    assert "[01 · A line](01_line.ipynb)" in gallery
    assert "<phonosmith.Study.plot_bands>" in gallery
    assert '<a href="../report-of-tutorial-01.html">' in gallery

    script.write_text(script.read_text().replace("# See", "# You may see"))
    small_site.write_tutorial_pages()
    assert "You may see" in small_site.nbformat.read(tmp_path / "docs/tutorials/01_line.ipynb", 4).cells[0].source
    assert small_site.kept(script).cells[2].outputs == notebook.cells[2].outputs

    written = (tmp_path / "docs/tutorials/01_line.ipynb").stat().st_mtime_ns
    small_site.write_tutorial_pages()
    assert (tmp_path / "docs/tutorials/01_line.ipynb").stat().st_mtime_ns == written
    (tmp_path / "src/phonosmith/one.py").write_text("one = 2\n")
    assert small_site.kept(script) is None


def test_a_picture_without_words_is_refused(small_site):
    (script,) = small_site.tutorials()
    notebook = small_site.jupytext.read(script)
    del notebook.cells[1].metadata["picture"]
    notebook.cells[1].outputs = [small_site.nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})]
    with pytest.raises(ValueError, match="does not say what"):
        small_site.gallery({script: notebook})
