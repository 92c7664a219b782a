from __future__ import annotations

import json
import re

import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.hashing import digest_atoms
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.structures.extxyz import parse_frames

KEYS = {
    "supercell_matrix", "n_atoms", "lengths", "mean_displacement_angstrom", "volume_factors", "n_train", "n_valid",
    "converged", "warnings",
}  # fmt: skip


@pytest.fixture
def silicon(tmp_path):
    path = tmp_path / "Si.cif"
    Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).to(filename=str(path))
    return path


def sample(*arguments):
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


def test_sample_writes_frames_and_document(silicon, tmp_path):
    out = tmp_path / "out"
    options = ["--foundation", "embedded-reference", "--cell", "small", "--seed", 4, "--out", out]
    result = sample(silicon, *options, "--max-steps", 60, "--figure", out / "energy_ladder.svg", "--json")
    assert result.exit_code == 0, result.output
    payload = json.loads(result.stdout)
    assert set(payload) >= KEYS
    assert payload["n_atoms"] == 8
    assert (payload["n_train"], payload["n_valid"]) == (16, 4)
    assert payload["mean_displacement_angstrom"] == pytest.approx([0.1] * 5, rel=0.1)
    assert payload["volume_factors"] == [0.95, 0.975, 1.0, 1.025, 1.05]
    assert len(payload["converged"]) == 5
    train = parse_frames((out / "train.xyz").read_text(), "sampled")
    valid = parse_frames((out / "valid.xyz").read_text(), "sampled")
    document = SamplingDoc.model_validate_json((out / "sampling.json").read_text())
    assert [digest_atoms(atoms) for atoms in train] == document.train_digests == payload["train_digests"]
    assert [digest_atoms(atoms) for atoms in valid] == document.valid_digests
    assert default_artefacts().get_bytes(document.train) == (out / "train.xyz").read_bytes()
    assert default_artefacts().get_bytes(document.valid) == (out / "valid.xyz").read_bytes()
    assert [atoms.info["volume_factor"] for atoms in train[:4]] == [0.95, 1.05, 0.975, 1.025]
    assert (out / "energy_ladder.svg").read_text().count("<svg") == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "energy_ladder.svg",
        "sampling.json",
        "train.xyz",
        "valid.xyz",
    ]


def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(silicon, tmp_path, monkeypatch):
    from phonosmith.sampling import protocol

    monkeypatch.setattr(protocol, "sample_configurations", None)
    (tmp_path / "file").write_text("")
    result = sample(silicon, "--foundation", "embedded-reference", "--out", tmp_path / "file" / "below", "--json")
    assert result.exit_code == 2, result.output
    assert "file is not a folder" in json.loads(result.stdout)["error"]


def test_table_for_people(silicon, tmp_path):
    result = sample(
        silicon, "--foundation", "embedded-reference", "--cell", "primitive", "--out", tmp_path / "o", "--max-steps", 5
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"\d+ training and \d validation frames", result.stdout)
    assert "not converged after 25 steps" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--max-steps", "-1"], "max_steps"),
        (["--strain", "0.7"], "strain"),
        (["--fmax", "0"], "fmax"),
    ],
)
def test_bad_options_exit_2(silicon, tmp_path, options, text):
    result = sample(silicon, "--foundation", "embedded-reference", "--out", tmp_path / "o", *options, "--json")
    assert result.exit_code == 2
    assert text in json.loads(result.stdout)["error"]
    assert not (tmp_path / "o").exists()


def test_element_unknown_to_the_foundation_exits_2(tmp_path):
    path = tmp_path / "POSCAR"
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.to(filename=str(path))
    result = sample(path, "--foundation", "embedded-reference", "--out", tmp_path / "o", "--json")
    assert result.exit_code == 2
    assert "does not know Cl, Na" in json.loads(result.stdout)["error"]
    assert not (tmp_path / "o").exists()


def test_bad_structure_and_bad_folder_exit_2(silicon, tmp_path):
    empty = tmp_path / "empty.cif"
    empty.write_text("")
    options = ["--foundation", "embedded-reference", "--json"]
    result = sample(empty, *options, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "empty.cif is empty" in json.loads(result.stdout)["error"]
    result = sample(silicon, *options, "--out", silicon)
    assert result.exit_code == 2
    assert "not a folder" in json.loads(result.stdout)["error"]
