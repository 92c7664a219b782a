"""``phonosmith pft``: many materials from a folder, several in a step, others held out."""

import json
import lzma

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from phonopy import Phonopy
from phonopy.file_IO import write_FORCE_CONSTANTS, write_FORCE_SETS
from phonopy.structure.atoms import PhonopyAtoms
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.harmonic.collection import read_collection


def phonon_of(cell, repeat):
    """Return phonopy's object of a crystal with EMT forces."""
    phonon = Phonopy(
        PhonopyAtoms(numbers=cell.numbers, cell=cell.cell.array, positions=cell.positions),
        supercell_matrix=np.diag(repeat),
        primitive_matrix="P",
    )
    phonon.generate_displacements(distance=0.01)
    forces = []
    for displaced in phonon.supercells_with_displacements:
        atoms = Atoms(numbers=displaced.numbers, positions=displaced.positions, cell=displaced.cell, pbc=True)
        atoms.calc = EMT()
        forces.append(atoms.get_forces())
    phonon.forces = np.array(forces)
    return phonon


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Four crystals of copper in the layouts the reader takes, one of nickel, one damaged, and energies of some."""
    folder = tmp_path_factory.mktemp("mdr")
    crystals = {
        "mp-1": (bulk("Cu", cubic=True), (2, 1, 1)),
        "mp-2": (bulk("Cu", "bcc", a=2.9, cubic=True), (2, 2, 2)),
        "mp-3": (bulk("Cu", "hcp", a=2.56, c=4.2), (2, 2, 1)),
        "mp-4": (bulk("Cu", "sc", a=2.4), (2, 2, 2)),
        "mp-5": (bulk("Ni", cubic=True), (1, 1, 1)),
    }
    phonons = {}
    for name, (cell, repeat) in crystals.items():
        phonons[name] = phonon = phonon_of(cell, repeat)
        (folder / name).mkdir()
        everything = {"force_sets": True, "displacements": True, "force_constants": False}
        text = str(phonon.to_phonopy_yaml(settings=everything))
        bare = str(phonon.to_phonopy_yaml(settings=dict.fromkeys(everything, False)))
        if name == "mp-2":
            (folder / name / "phonopy.yaml").write_text(bare)
            write_FORCE_SETS(phonon.dataset, filename=folder / name / "FORCE_SETS")
        elif name == "mp-3":
            phonon.produce_force_constants(calculate_full_force_constants=True)
            (folder / name / "phonopy.yaml").write_text(bare)
            write_FORCE_CONSTANTS(phonon.force_constants, filename=folder / name / "FORCE_CONSTANTS")
        elif name == "mp-4":
            (folder / name).rmdir()
            (folder / "mp-4.yaml").write_text(text)
        else:
            with lzma.open(folder / name / "phonopy_params.yaml.xz", "wt") as stream:
                stream.write(text)
    (folder / "mp-6").mkdir()
    (folder / "mp-6" / "phonopy.yaml").write_text("unit_cell: [")
    (folder / "readme.txt").write_text("about")
    (folder / "energies.csv").write_text("material,energy_ev\nmp-1,-1.5\nmp-2,0.25\n")
    return folder, phonons


def test_reads_every_layout(database):
    folder, phonons = database
    found = read_collection(folder, elements=["Cu", "Al"])
    assert [target.source for target in found.targets] == ["mp-1", "mp-2", "mp-3", "mp-4"]
    assert sorted(found.left_out) == ["mp-5", "mp-6"]
    assert "does not know Ni" in found.left_out["mp-5"]
    assert "phonopy.yaml" in found.left_out["mp-6"]
    # of the supercell: two and eight unit cells
    assert [target.energy for target in found.targets] == [-3.0, 2.0, None, None]
    for target in found.targets:
        phonon = phonons[target.source]
        if phonon.force_constants is None:
            phonon.produce_force_constants(calculate_full_force_constants=True)
        n = len(phonon.supercell)
        expected = np.asarray(phonon.force_constants).transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
        # symfc symmetrises what differences of EMT leave; the largest elements are 1 to 10 eV/Å²
        np.testing.assert_allclose(target.hessian, expected, atol=0.02)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("material,energy\nmp-1,0\n", "lacks the columns"),
        ("material,energy_ev\nmp-1,\n", "no number"),
        ("material,energy_ev\nmp-1,1\nmp-1,2\n", "two energies"),
        ("material,energy_ev\nmp-9,1\n", "mp-9"),
    ],
)
def test_energies_that_are_wrong_are_named(database, tmp_path, text, said):
    from phonosmith.core.errors import InputError

    (tmp_path / "mp-1").mkdir()
    (tmp_path / "energies.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_collection(tmp_path, elements=["Cu"])


def call(*arguments):
    done = CliRunner().invoke(app, ["pft", *map(str, arguments), "--trust", "--json"])
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def model_file(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("foundation") / "f.model"
    torch.save(tiny_model(numbers=(29,)), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("cotrain", [True, False])
def test_command(database, model_file, tmp_path, cotrain):
    folder, _ = database
    arguments = [folder, "--foundation", model_file, "--out", tmp_path, "--holdout", 0.25]
    for pair in ("epochs=15", "lr=0.003", "ema=none", "curvature_batch=2", "replay_size=12"):
        arguments += ["--set", pair]
    code, answer = call(*arguments, *([] if cotrain else ["--no-cotrain"]))
    assert code == 0, answer
    materials = answer["materials"]
    assert len(materials["learnt"]) == 3
    assert len(materials["held_out"]) == 1
    assert sorted(materials["left_out"]) == ["mp-5", "mp-6"]
    curvature = answer["curvature"]
    # three crystals in two steps an epoch, each with four steps on structures; alone, a pass is as long as over those
    steps = (30, 150) if cotrain else (45, 45)
    assert (curvature["steps"], answer["steps"]) == steps
    assert curvature["mae_after_ev_per_angstrom2"] < curvature["mae_before_ev_per_angstrom2"]
    assert curvature["judged_source"] == materials["held_out"][0]
    assert answer["improved"] is (
        answer["metrics"]["valid"]["after"]["loss"] + 100 * curvature["judged_after_ev_per_angstrom2"]
        < answer["metrics"]["valid"]["shifted"]["loss"] + 100 * curvature["judged_before_ev_per_angstrom2"]
    )
    assert any("labelled by the foundation itself" in note for note in answer["notes"])
    assert answer["model_file"] == str(tmp_path / "model.model")
    assert json.loads((tmp_path / "training.json").read_text())["notes"] == answer["notes"]
    assert answer["e0_shift_ev"] == {"Cu": 0.0}


def test_refusals(database, model_file, tmp_path, tiny_frames):
    from phonosmith.structures.extxyz import write_frames

    folder, _ = database
    good = ["--foundation", model_file, "--out", tmp_path / "out"]
    write_frames(tmp_path / "ni.xyz", tiny_frames(2))
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([tmp_path / "absent", *good], "absent is no folder"),
        ([tmp_path / "empty", *good], "no force constants that can be learnt"),
        ([folder, *good, "--replay", tmp_path / "ni.xyz"], "3 are needed"),
        ([folder, *good, "--set", "curvature_weight=0"], "curvature_weight"),
        ([folder, *good, "--no-cotrain", "--set", "replay=cotrain"], "replay=none"),
        ([folder, *good, "--seed", -1], "is no seed"),
    ):
        code, answer = call(*arguments)
        assert code == 2
        assert said in answer["error"], answer
    assert not (tmp_path / "out" / "model.model").exists()
