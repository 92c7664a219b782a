"""``phonosmith follow``: files, JSON and refusals."""

import json
import xml.etree.ElementTree as ET

import pytest
from ase.build import bulk
from ase.io import write
from pymatgen.core import Structure
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.evaluation.modes.documents import TransitionDoc


def run(*arguments):
    return CliRunner().invoke(app, [str(word) for word in arguments])


@pytest.fixture
def bcc(tmp_path):
    write(tmp_path / "ge.cif", bulk("Ge", "bcc", a=3.0))
    return tmp_path / "ge.cif"


@pytest.mark.slow
def test_modes_lead_to_phases(tmp_path, bcc):
    words = ("follow", bcc, "--potential", "embedded-reference", "--supercell", "4 4 4", "--coarse", "--json")
    done = run(*words, "--out", tmp_path / "out", "--threshold", "1")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    (mode,) = found["modes"]
    assert {"q", "multiplicity", "supercell", "grid", "minima", "phases"} <= set(mode)
    assert mode["q"] == [0.0, 0.0, 0.5] or max(abs(value) for value in mode["q"]) == 0.5
    assert mode["grid"]["shape"] == [21]
    (phase,) = mode["phases"]
    assert (phase["space_group"], phase["n_atoms_primitive"]) == ("Cmcm", 2)
    assert phase["energy_difference_ev_per_atom"] < -0.05
    files = found["files"]
    assert {"document", "modes_png", "modes_svg", "pathways_png", "pathways_svg", "initial", "phase_01"} == set(files)
    document = TransitionDoc.model_validate_json((tmp_path / "out/transitions.json").read_bytes())
    assert len(document.phases) == 1
    ET.parse(files["modes_svg"])
    crystal = Structure.from_file(files["phase_01"])
    assert len(crystal) == 2
    assert crystal.get_space_group_info(symprec=0.1)[0] == "Cmcm"


def test_stable_crystal_is_an_empty_result(tmp_path):
    write(tmp_path / "si.cif", bulk("Si", "diamond", a=5.43))
    words = ("follow", tmp_path / "si.cif", "--potential", "embedded-reference", "--supercell", "2 2 2")
    done = run(*words, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["modes"] == []
    assert found["phases"] == []
    assert found["n_energies"] == 0
    assert set(found["files"]) == {"document", "initial"}
    told = run(*words, "--out", tmp_path / "again")
    assert "no imaginary modes" in told.stdout


def test_bad_options_are_refused_before_anything_runs(tmp_path, bcc):
    base = ("follow", bcc, "--potential", "embedded-reference", "--out", tmp_path / "out", "--json")
    for extra, word in (
        (("--supercell", "2 2 2", "--min-length", "9"), "exclude"),
        (("--phonons", bcc, "--supercell", "2 2 2"), "computed here"),
        (("--supercell", "two"), "no supercell"),
        (("--phonons", tmp_path / "none.yaml"), "none.yaml"),
    ):
        done = run(*base, *extra)
        assert done.exit_code == 2
        assert word in json.loads(done.stdout)["error"]
    assert not (tmp_path / "out").exists()


def test_phonons_of_another_crystal_are_refused(tmp_path, bcc):
    write(tmp_path / "si.cif", bulk("Si", "diamond", a=5.43))
    made = run(
        "phonons", tmp_path / "si.cif", "--potential", "embedded-reference", "--supercell", "2 2 2", "--mesh", "2",
        "--out", tmp_path / "ph", "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    done = run(
        "follow", bcc, "--potential", "embedded-reference", "--phonons", tmp_path / "ph/phonopy.yaml",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "Composition mismatch" in json.loads(done.stdout)["error"]
