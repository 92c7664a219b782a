"""``phonosmith label``: contract of the command line."""

import json

import numpy as np
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.structures.extxyz import read_frames, write_frames
from phonosmith.testing.standin_calculators import tersoff_silicon

RUNNER = CliRunner()


@pytest.fixture
def frames(tmp_path):
    found = []
    for seed in range(3):
        atoms = bulk("Si", a=5.432)
        atoms.rattle(0.05, seed=seed)
        atoms.info["split"] = "valid" if seed == 2 else "train"
        found.append(atoms)
    write_frames(tmp_path / "frames.xyz", found)
    (tmp_path / "protocol.yaml").write_text("kspacing: 0.6\n")
    return found


def run(tmp_path, *arguments, code=0):
    result = RUNNER.invoke(
        app, ["label", str(tmp_path / "frames.xyz"), "--out", str(tmp_path / "out.xyz"), "--json", *arguments]
    )
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def check_labels(tmp_path, frames):
    labelled = read_frames(tmp_path / "out.xyz", require=("energy", "forces", "stress"))
    for atoms, frame in zip(labelled, frames, strict=True):
        direct = frame.copy()
        direct.calc = tersoff_silicon()
        np.testing.assert_array_equal(atoms.positions, frame.positions)
        assert atoms.get_potential_energy() == pytest.approx(direct.get_potential_energy(), abs=2e-8)
        np.testing.assert_allclose(atoms.get_forces(), direct.get_forces(), atol=1e-7)
        assert atoms.info["split"] == frame.info["split"]
    return labelled


def test_forcefield_labels_in_batches(tmp_path, frames):
    path = "phonosmith.testing.standin_calculators.tersoff_silicon"
    answer = run(tmp_path, "--engine", "forcefield", "--potential", path)
    assert answer["n_labelled"] == 3
    assert answer["n_refused"] == 0
    assert answer["refused"] == []
    check_labels(tmp_path, frames)


def test_forcefield_with_a_registered_potential(tmp_path, frames):
    from phonosmith.potentials.registry import load, resolve

    answer = run(tmp_path, "--engine", "forcefield", "--potential", "embedded-reference")
    assert answer["n_labelled"] == 3
    labelled = read_frames(tmp_path / "out.xyz")
    wanted = load("embedded-reference").evaluate(frames)
    for atoms, number in zip(labelled, wanted, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(number.energy, abs=1e-10)
        assert atoms.info["settings"] == resolve("embedded-reference").sha256


def test_vasp_in_rehearsal_keeps_its_folders(tmp_path, frames):
    answer = run(
        tmp_path, "--engine", "vasp", "--rehearsal", "--potential", "tersoff-si",
        "--protocol", str(tmp_path / "protocol.yaml"), "--workdir", str(tmp_path / "work"),
    )  # fmt: skip
    assert answer["rehearsal"]
    assert answer["n_labelled"] == 3
    assert len(list((tmp_path / "work").glob("job_*/OUTCAR*"))) == 3
    assert all(atoms.info["rehearsal"] for atoms in check_labels(tmp_path, frames))


def test_refused_frames_are_reported_with_reasons(tmp_path, frames):
    answer = run(
        tmp_path,
        "--engine",
        "vasp",
        "--rehearsal",
        "--potential",
        "ase.calculators.emt.EMT",
        "--attempts",
        "1",
        "--protocol",
        str(tmp_path / "protocol.yaml"),
        code=1,
    )
    assert answer["n_labelled"] == 0
    assert answer["n_refused"] == 3
    assert [item["index"] for item in answer["refused"]] == [0, 1, 2]
    assert all(item["reasons"] for item in answer["refused"])
    assert not (tmp_path / "out.xyz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "forcefield"], "needs a potential"),
        (["--engine", "forcefield", "--potential", "no-such-thing"], "no-such-thing"),
        (["--engine", "forcefield", "--potential", "embedded", "--rehearsal"], "plays VASP"),
        (["--engine", "vasp", "--protocol", "/no/such/file.yaml"], "does not exist"),
    ],
)
def test_bad_input_is_explained_with_code_two(tmp_path, frames, arguments, message):
    answer = run(tmp_path, *arguments, code=2)
    assert message in answer["error"]
    assert answer["advice"]


@pytest.mark.parametrize(("out", "message"), [("here", "it is a folder"), ("frames.xyz/l.xyz", "is a file")])
def test_a_place_that_cannot_be_written_is_noticed_before_anything_runs(tmp_path, frames, monkeypatch, out, message):
    from phonosmith.reference import labels

    def computed(*arguments, **options):
        raise AssertionError("frames were computed")

    monkeypatch.setattr(labels, "label_with_potential", computed)
    (tmp_path / "here").mkdir()
    options = ["--engine", "forcefield", "--potential", "embedded-reference", "--json"]
    done = RUNNER.invoke(app, ["label", str(tmp_path / "frames.xyz"), *options, "--out", str(tmp_path / out)])
    assert done.exit_code == 2
    answer = json.loads(done.stdout)
    assert message in answer["error"]
    assert answer["advice"]


def test_vasp_that_is_not_there_is_noticed_before_anything_runs(tmp_path, frames, monkeypatch):
    from atomate2 import SETTINGS

    monkeypatch.setattr(SETTINGS, "VASP_CMD", "no_such_vasp")
    assert "no_such_vasp" in run(tmp_path, "--engine", "vasp", code=2)["error"]


def test_bad_protocol_names_the_field(tmp_path, frames):
    (tmp_path / "protocol.yaml").write_text("enuct: 520\n")
    answer = run(tmp_path, "--engine", "vasp", "--protocol", str(tmp_path / "protocol.yaml"), code=2)
    assert "enuct" in answer["error"]
