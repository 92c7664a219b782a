"""The phonons command: files, keys, and refusals before work."""

import json

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from phonosmith.cli.main import app

runner = CliRunner()


@pytest.fixture
def silicon(tmp_path):
    file = tmp_path / "Si.cif"
    Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.45), ["Si"], [[0, 0, 0]]).to(filename=str(file))
    return file


def test_phonons_then_compare(silicon, tmp_path):
    out = tmp_path / "out"
    command = ["phonons", str(silicon), "--potential", "embedded-reference", "--mesh", "6"]
    done = runner.invoke(app, [*command, "--supercell", "2 2 2", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["formula"] == "Si"
    assert found["stability"]["stable"] is True
    assert found["n_atoms_supercell"] == 64
    assert found["files"]["phonopy"] == str(out / "phonopy.yaml")
    assert "forces:" in (out / "phonopy.yaml").read_text()
    still = tmp_path / "still"
    done = runner.invoke(
        app, [*command, "--supercell", "2 2 2", "--no-relax", "--temperature", "100", "--out", str(still)]
    )
    assert done.exit_code == 0, done.output
    assert "100 K: C_v" in done.stdout
    done = runner.invoke(app, ["compare", str(out / "phonopy.yaml"), str(still), "--mesh", "6", "--json"])
    assert done.exit_code == 0, done.output
    compared = json.loads(done.stdout)
    assert 0 < compared["mae_thz"] < 0.5
    assert compared["candidate"]["volume"] == pytest.approx(5.45**3 / 4)
    done = runner.invoke(app, ["compare", str(out / "phonons.json"), str(out), "--mesh", "6", "--json"])
    assert json.loads(done.stdout)["mae_thz"] == pytest.approx(0, abs=1e-6)


def test_minimum_length(silicon, tmp_path):
    command = ["phonons", str(silicon), "--potential", "embedded-reference", "--mesh", "4", "--json"]
    done = runner.invoke(app, [*command, "--min-length", "7", "--out", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    matrix = np.array(json.loads(done.stdout)["supercell_matrix"])
    assert np.linalg.norm(matrix.T @ np.eye(3) * 5.43, axis=1).min() >= 7


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--supercell", "2 2"], "no supercell"),
        (["--supercell", "2 2 2", "--min-length", "10"], "exclude each other"),
        (["--force-constants", "alm"], "symfc or traditional"),
        (["--displacement", "-1"], "not between 0 and 0.5"),
        (["--min-length", "0"], "not positive"),
    ],
)
def test_bad_options_are_refused(silicon, tmp_path, extra, reason):
    done = runner.invoke(
        app, ["phonons", str(silicon), "--potential", "embedded-reference", "--out", str(tmp_path / "o"), *extra]
    )
    assert done.exit_code == 2, done.output
    assert reason in done.stderr
    assert not (tmp_path / "o").exists()


def test_missing_structure_is_named(tmp_path):
    done = runner.invoke(
        app, ["phonons", str(tmp_path / "no.cif"), "--potential", "embedded-reference", "--out", str(tmp_path)]
    )
    assert done.exit_code == 2
    assert "no.cif" in done.stderr


def test_born_charges_split_lo_from_to(tmp_path):
    file, born, out = tmp_path / "SiC.cif", tmp_path / "BORN", tmp_path / "out"
    sites = [[0, 0, 0], [0.25, 0.25, 0.25]]
    Structure.from_spacegroup("F-43m", Lattice.cubic(4.37), ["Si", "C"], sites).to(filename=str(file))
    born.write_text("14.4\n6.9 0 0 0 6.9 0 0 0 6.9\n2.7 0 0 0 2.7 0 0 0 2.7\n-2.7 0 0 0 -2.7 0 0 0 -2.7\n")
    command = ["phonons", str(file), "--potential", "embedded-reference", "--supercell", "2 2 2", "--mesh", "4"]
    done = runner.invoke(app, [*command, "--born", str(born), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["lo_to_splitting_thz"] > 1
    assert "born_effective_charge" in (out / "phonopy.yaml").read_text()
    plain = tmp_path / "plain"
    assert runner.invoke(app, [*command, "--out", str(plain)]).exit_code == 0
    done = runner.invoke(app, ["compare", str(out), str(plain), "--mesh", "4", "--nac", "--json"])
    compared = json.loads(done.stdout)
    # the same forces and the reference's charges on both sides
    assert compared["mae_thz"] == pytest.approx(0, abs=1e-9)
    assert compared["candidate"]["lo_to_splitting_thz"] == pytest.approx(found["lo_to_splitting_thz"], abs=1e-6)


@pytest.mark.slow
def test_effective_phonons_of_a_crystal_that_is_unstable(tmp_path):
    # silicon under enormous pressure
    file = tmp_path / "Si.cif"
    Structure.from_spacegroup("Fd-3m", Lattice.cubic(4.6), ["Si"], [[0, 0, 0]]).to(filename=str(file))
    command = ["phonons", str(file), "--potential", "embedded-reference", "--supercell", "1 1 1", "--no-relax"]
    command += ["--mesh", "4"]
    done = runner.invoke(
        app, [*command, "--temperature", "300", "--snapshots", "8", "--out", str(tmp_path / "o"), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["stability"]["stable_practical"] is False
    (warm,) = found["effective"]
    assert warm["temperature"] == 300
    assert (tmp_path / "o" / "effective-300K" / "phonopy.yaml").is_file()
    plain = runner.invoke(app, [*command, "--out", str(tmp_path / "p"), "--json"])
    assert json.loads(plain.stdout)["effective"] == [], "nobody asked for a temperature"
