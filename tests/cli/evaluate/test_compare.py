"""The compare command: keys, exit codes and reasons."""

import json

import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app

SIDE_KEYS = {
    "omega_min_thz",
    "omega_max_thz",
    "omega_mean_thz",
    "heat_capacity",
    "entropy",
    "free_energy",
    "volume",
    "n_imaginary_commensurate",
    "stable",
}
runner = CliRunner()


@pytest.fixture
def folder(shared):
    return shared / "data/vasp_pbe_phonons"


def test_json_has_the_promised_keys(folder, tmp_path):
    # forces of the reference lie in FORCE_SETS beside its file
    sides = [str(folder / side / "mp-603640.phonopy.yaml.xz") for side in ("dft", "mace_mp_0b3")]
    figure = tmp_path / "pair.png"
    done = runner.invoke(app, ["compare", *sides, "--mesh", "10", "--figure", str(figure), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {"mae_thz", "rmse_thz", "scaled_rmse_thz", "reference", "candidate"} <= found.keys()
    assert found.keys() >= {"dos_error_percent", "same_space_group", "notes"}
    for side in ("reference", "candidate"):
        assert found[side].keys() >= SIDE_KEYS
        assert found[side]["stable"] is False
    assert found["mesh"] == [10, 10, 10]
    assert found["reference"]["volume"] == pytest.approx(38.712062, rel=1e-6)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_table(folder):
    sides = [str(folder / side / "mp-938.phonopy.yaml.xz") for side in ("dft", "mace_mp_0b3")]
    done = runner.invoke(app, ["compare", *sides, "--mesh", "6"])
    assert done.exit_code == 0, done.output
    assert "GeTe" in done.stdout
    assert "R3m (160)" in done.stdout


@pytest.mark.slow
def test_misplaced_file_is_refused_with_the_reason(folder):
    sides = [str(folder / side / "mp-2201.phonopy.yaml.xz") for side in ("dft", "mace_mp_0b3")]
    done = runner.invoke(app, ["compare", *sides, "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"].startswith("Composition mismatch")
    assert "GeSb" in done.stderr
    assert "PbSe" in done.stderr


def test_missing_and_foreign_files_are_refused(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("a: 1\n")
    (tmp_path / "some.json").write_text("{}")
    for first, reason in (
        (str(tmp_path / "none.yaml"), "none.yaml"),
        (str(other), "not a phonopy file"),
        (str(tmp_path / "some.json"), "no phonon document"),
    ):
        done = runner.invoke(app, ["compare", first, str(other)])
        assert done.exit_code == 2, done.output
        assert reason in done.stderr


def test_lo_to_by_the_references_charges(shared, tmp_path):
    folder = shared / "data" / "phonopy" / "NaCl"
    yaml = str(folder / "phonopy_disp.yaml")
    command = ["compare", yaml, yaml, "--mesh", "4"]
    plain, beside, given = (
        json.loads(runner.invoke(app, [*command, *options, "--json"]).stdout)
        for options in ([], ["--nac"], ["--born", str(folder / "BORN")])
    )
    assert plain["reference"]["lo_to_splitting_thz"] is None
    for found in (beside, given):
        # phonopy's own bands of these files at Γ towards X: 7.70 - 4.92 THz
        assert found["candidate"]["lo_to_splitting_thz"] == pytest.approx(2.783, abs=0.01)
    assert beside["reference"]["omega_max_thz"] > plain["reference"]["omega_max_thz"]
    words = runner.invoke(app, [*command, "--nac"]).stdout
    assert "LO-TO" in words
    bare = str(shared / "data" / "phonopy" / "Si" / "phonopy_disp.yaml")
    refused = runner.invoke(app, ["compare", bare, bare, "--nac", "--json"])
    assert refused.exit_code == 2
    assert "no Born charges" in json.loads(refused.stdout)["error"]


def test_several_candidates_are_a_committee(folder):
    truth, first, second = (str(folder / side / "mp-938.phonopy.yaml.xz") for side in ("dft", "mace_mp_0b3", "dft"))
    done = runner.invoke(app, ["compare", truth, first, second, "--mesh", "4", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    errors = [one["mae_thz"] for one in found["comparisons"]]
    assert [one["file"] for one in found["comparisons"]] == [first, second]
    assert found["committee"]["member_mae_thz"] == pytest.approx(errors)
    # the second is the truth itself, so that they are as far apart as the first is from it
    assert errors[1] == 0
    assert found["committee"]["disagreement_thz"] == pytest.approx(errors[0])
    done = runner.invoke(app, ["compare", truth, first, second, "--mesh", "4"])
    assert "one more" in done.stdout
    done = runner.invoke(app, ["compare", truth, first, first, "--json"])
    assert done.exit_code == 2
    assert "given twice" in json.loads(done.stdout)["error"]
