"""The front door: every name is there, nothing heavy is imported for it, and users need nothing else."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import phonosmith

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    "resolve",
    "read_crystal",
    "FineTuneMaterialMaker",
    "SamplingMaker",
    "LabelMaker",
    "FineTuneMaker",
    "PhononFlowMaker",
    "ElasticFlowMaker",
    "EosFlowMaker",
    "TransitionMaker",
    "make_engine",
    "open_embedded_jobstore",
    "LocalRunner",
    "read_results",
    "compare_phonons",
    "TrainSpec",
    "make_spec",
    "Study",
    "tune",
    "AdaptiveMaker",
    "load",
    "third_order_phonon",
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "tutorials").glob("[0-9]*.py"))]


def python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_every_name_is_there():
    assert sorted(phonosmith.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(phonosmith))
    for name in NAMES:
        assert getattr(phonosmith, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'resolv'"):
        phonosmith.resolv  # noqa: B018


def test_nothing_heavy_is_imported_with_the_package():
    heavy = python(
        "import sys, phonosmith; dir(phonosmith); "
        "print(*{'torch', 'pymatgen', 'ase', 'numpy', 'jobflow'} & {*sys.modules})"
    )
    assert heavy == ""


def test_help_is_instant_and_needs_no_torch():
    code = (
        "import sys; from phonosmith.cli.main import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print(*{'torch', 'pymatgen', 'numpy'} & {*sys.modules})"
    )
    assert python(code) == ""
    seconds = []
    for _ in range(5):  # processor time, and the least of a few: other work on this machine is no fault of the command
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "phonosmith.cli.main", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name[:6])
def test_readers_are_shown_the_front_door_alone(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^ *(?:from phonosmith|import phonosmith\.).*", text, flags=re.MULTILINE)
    assert set(re.findall(r"\bps\.(\w+)", text)) <= set(NAMES)


def test_crystals_come_from_files_and_by_name():
    by_name = phonosmith.read_crystal("embedded:Si")
    assert phonosmith.read_crystal(ROOT / "tutorials" / "Si.cif").reduced_formula == by_name.reduced_formula == "Si"
