from __future__ import annotations

import json

import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from phonosmith.cli.main import app


@pytest.fixture
def files(tmp_path):
    silicon = Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    silicon.to(filename=str(tmp_path / "Si.cif"))
    salt.to(filename=str(tmp_path / "POSCAR"))
    (tmp_path / "bad.cif").write_text("data_nothing\n")
    return tmp_path


def plan(*arguments):
    return CliRunner().invoke(app, ["plan", "--min-length", "10", *map(str, arguments)])


def test_plan_of_two_materials(files):
    result = plan(files / "Si.cif", files / "POSCAR", "--cell", "small", "--cell", "large", "--json")
    assert result.exit_code == 0, result.output
    payload = json.loads(result.stdout)
    first, second = payload["materials"]
    assert first["formula"] == "Si"
    assert first["n_atoms_primitive"] == 2
    assert first["cells"]["large"]["n_atoms"] == 64
    assert first["cells"]["large"]["kpoints"] == [6, 6, 6]
    assert first["n_phonon_displacements"] == 1
    assert second["n_phonon_displacements"] == 2
    assert payload["n_statics"] == 80
    assert payload["training_steps"] == 2 * 2 * 200 * 4
    assert payload["core_hours"] > 0
    assert payload["memory_gb"] > 0
    assert any("POTCARs not found" in note for note in payload["warnings"])


def test_expansion_and_conductivity_are_planned_where_they_are_asked(files):
    pytest.importorskip("phono3py")
    result = plan(files / "Si.cif", "--evaluate", "qha", "--evaluate", "kappa", "--json")
    assert result.exit_code == 0, result.output
    (material,) = json.loads(result.stdout)["materials"]
    thermal = material["thermal"]
    # phonons at five further volumes; phono3py's example of silicon has 111 displaced cells of 64 atoms
    assert thermal["qha"]["n_calculations"] == 5 * material["n_phonon_displacements"]
    assert (thermal["kappa"]["n_calculations"], thermal["kappa"]["n_atoms"]) == (111, 64)
    parts = ("core_hours_statics", "core_hours_phonons", "core_hours_thermal")
    assert material["core_hours"] == pytest.approx(sum(material[name] for name in parts))
    assert material["core_hours_thermal"] > 0


def test_foundation_is_asked_about_elements_and_forces(files):
    result = plan(files / "Si.cif", files / "POSCAR", "--foundation", "embedded-reference", "--json")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["materials"]
    assert not any("foundation" in note and "know" in note for note in first["warnings"])
    assert any("does not know Cl, Na" in note for note in second["warnings"])


def test_squeezed_crystal_is_called_unrelaxed(tmp_path):
    path = tmp_path / "squeezed.cif"
    Structure.from_spacegroup(227, Lattice.cubic(5.0), ["Si"], [[0, 0, 0]]).to(filename=str(path))
    result = plan(path, "--foundation", "embedded-reference", "--json")
    assert any("perhaps not relaxed" in note for note in json.loads(result.stdout)["materials"][0]["warnings"])


def test_one_bad_file_does_not_stop_the_others(files):
    result = plan(files / "Si.cif", files / "bad.cif", "--json")
    assert result.exit_code == 2
    good, bad = json.loads(result.stdout)["materials"]
    assert good["usable"]
    assert not bad["usable"]
    assert "bad.cif" in bad["error"]
    assert "bad.cif" in result.stderr


def test_a_single_bad_file_is_an_error(files):
    result = plan(files / "bad.cif", "--json")
    assert result.exit_code == 2
    assert "bad.cif" in json.loads(result.stdout)["error"]


def test_table_for_people(files):
    result = plan(files / "Si.cif", files / "Si.cif")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "40 statics" in text
    assert "not calibrated" in text
    assert "the same crystal more than once" in text


def test_calibration_scales_the_estimate(files):
    before = json.loads(plan(files / "Si.cif", "--cell", "small", "--json").stdout)
    cell = before["materials"][0]["cells"]["small"]
    times = files / "times.json"
    # the small cell of Si is its conventional cell, which is what Si.cif holds
    times.write_text(json.dumps([{"structure": "Si.cif", "core_hours": 3 * cell["core_hours_each"]}]))
    after = json.loads(plan(files / "Si.cif", "--cell", "small", "--calibration", times, "--json").stdout)
    assert after["calibrated_on"] == 1
    assert after["materials"][0]["cells"]["small"]["core_hours_each"] == pytest.approx(3 * cell["core_hours_each"])
    times.write_text("[1, 2]")
    broken = plan(files / "Si.cif", "--calibration", times, "--json")
    assert broken.exit_code == 2
    assert "times.json" in json.loads(broken.stdout)["error"]


@pytest.mark.parametrize("options", [["--cell", "huge"], ["--n-frames", "0"], ["--kspacing", "-1"]])
def test_bad_options_exit_2(files, options):
    result = plan(files / "Si.cif", *options, "--json")
    assert result.exit_code == 2
    assert "cannot be planned" in json.loads(result.stdout)["error"]
