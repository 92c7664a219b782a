import json

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.harmonic.files import load_harmonic
from phonosmith.potentials.registry import load
from phonosmith.structures.extxyz import read_frames


@pytest.fixture(scope="module")
def phonons(tmp_path_factory):
    structure = AseAtomsAdaptor.get_structure(bulk("Si", "diamond", a=5.4325, cubic=True))
    model = harmonic_from_potential(structure, load("embedded-reference"), np.diag([2, 2, 2]).tolist())
    path = tmp_path_factory.mktemp("phonons") / "phonopy.yaml"
    model.phonon.save(path)
    return path


def test_a_finished_calculation_becomes_a_training_set(phonons, tmp_path):
    data = tmp_path / "data"
    options = ["from-phonons", str(phonons), "--out", str(data), "--min-length", "5", "--train", "3", "--valid", "1"]
    result = CliRunner().invoke(app, [*options, "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["n_train"], summary["n_valid"], summary["n_atoms"]) == (4, 1, 8)
    frames = read_frames(data / "train.xyz", require=("energy", "forces"))
    assert len(frames) == 4
    assert not list(data.glob("*.partial"))
    model = load_harmonic(data / "phonopy.yaml")
    assert len(model.phonon.supercell) == 8
    # Γ is commensurate with both supercells; the file keeps 1e-8 of a force constant
    ours, theirs = (one.phonon.run_qpoints([[0, 0, 0]]).frequencies[0] for one in (model, load_harmonic(phonons)))
    assert ours[3:] == pytest.approx(theirs[3:], rel=1e-4)


@pytest.mark.slow
def test_the_training_set_can_be_trained_on(phonons, tmp_path):
    data = tmp_path / "data"
    options = ["from-phonons", str(phonons), "--out", str(data), "--min-length", "5", "--train", "3", "--valid", "1"]
    assert CliRunner().invoke(app, options).exit_code == 0
    command = [
        "train", "--foundation", "embedded", "--train", str(data / "train.xyz"), "--valid", str(data / "valid.xyz"),
        "--curvature", str(data / "phonopy.yaml"), "--strategy", "delta+pft", "--set", "epochs=10",
        "--out", str(tmp_path / "model"), "--json",
    ]  # fmt: skip
    trained = CliRunner().invoke(app, command)
    assert trained.exit_code == 0, trained.output
    curvature = json.loads(trained.stdout)["curvature"]
    assert curvature["mae_after_ev_per_angstrom2"] < curvature["mae_before_ev_per_angstrom2"]


def test_a_file_without_forces_is_named(tmp_path):
    path = tmp_path / "phonopy.yaml"
    path.write_text("not: phonons\n")
    result = CliRunner().invoke(app, ["from-phonons", str(path), "--out", str(tmp_path / "data"), "--json"])
    assert result.exit_code == 2
    assert "phonopy.yaml" in json.loads(result.stdout)["error"]
