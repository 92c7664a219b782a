"""The train command: its files, its JSON, its refusals."""

import json

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from phonosmith.cli.main import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model file and labelled structures."""
    from mace import modules  # isort: skip
    from e3nn import o3

    from phonosmith.structures.extxyz import write_frames
    from phonosmith.structures.labels import label_frame

    target = tmp_path_factory.mktemp("train")
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    model = modules.ScaleShiftMACE(
        r_max=3.5, num_bessel=4, num_polynomial_cutoff=5, max_ell=1,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2, num_elements=1, hidden_irreps=o3.Irreps("4x0e"), MLP_irreps=o3.Irreps("4x0e"),
        atomic_energies=np.zeros(1), avg_num_neighbors=12.0, atomic_numbers=[29], correlation=2,
        gate=torch.nn.functional.silu, radial_MLP=[8], radial_type="bessel", atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )  # fmt: skip
    torch.set_default_dtype(before)
    torch.save(model, target / "f.model")
    rng = np.random.default_rng(0)
    for name, count in (("train", 5), ("valid", 2), ("nickel", 2)):
        frames = []
        for _ in range(count):
            atoms = bulk("Ni" if name == "nickel" else "Cu", cubic=True)
            atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
            copy = atoms.copy()
            copy.calc = EMT()
            values = copy.get_potential_energy(), copy.get_forces(), copy.get_stress()
            frames.append(label_frame(atoms, energy=values[0], forces=values[1], stress=values[2]))
        write_frames(target / f"{name}.xyz", frames)
    return target


def call(folder, out, *more, train="train.xyz", strategy="transfer", shown=("--json",)):
    arguments = [
        "train", "--foundation", str(folder / "f.model"), "--trust", "--train", str(folder / train), *shown,
        "--valid", str(folder / "valid.xyz"), "--strategy", strategy, "--seed", "1", "--out", str(out), *more,
    ]  # fmt: skip
    return CliRunner().invoke(app, arguments)


def test_writes_model_and_document(folder, tmp_path):
    from mace.calculators import MACECalculator

    from phonosmith.structures.extxyz import read_frames

    result = call(folder, tmp_path, "--set", "epochs=3", "--set", "lr=0.02")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    stored = json.loads((tmp_path / "training.json").read_text())
    for content in (printed, stored):
        assert content["epochs_run"] == 3
        assert 0 <= content["best_epoch"] <= 3
        assert content["seconds"] > 0
        assert content["n_parameters"] >= content["n_changed"] > 0
        assert content["improved"] is True
        assert content["spec"]["lr"] == 0.02
        for split in ("train", "valid"):
            for stage in ("before", "after"):
                for key in (
                    "mae_energy_mev_per_atom", "mae_forces_mev_per_angstrom", "mae_stress_mev_per_angstrom3",
                ):  # fmt: skip
                    assert content["metrics"][split][stage][key] > 0
    calculator = MACECalculator(model_paths=str(tmp_path / "model.model"), device="cpu", default_dtype="float64")
    stress = []
    energy = []
    for atoms in read_frames(folder / "valid.xyz"):
        copy = atoms.copy()
        copy.calc = calculator
        energy.append(abs(copy.get_potential_energy() - atoms.get_potential_energy()) / len(atoms))
        stress.append(np.abs(copy.get_stress() - atoms.get_stress()).mean())
    after = printed["metrics"]["valid"]["after"]
    # independent recomputation through mace's calculator; its energies go through another summation order
    assert 1000 * np.mean(energy) == pytest.approx(after["mae_energy_mev_per_atom"], rel=1e-6)
    assert 1000 * np.mean(stress) == pytest.approx(after["mae_stress_mev_per_angstrom3"], rel=1e-6)


def test_what_was_chosen_on_the_way_is_said(folder, tmp_path):
    many = call(folder, tmp_path, "--set", "epochs=1", "--set", "low_rank_above=10", strategy="phonosmith", shown=())
    assert many.exit_code == 0, many.output
    (note,) = json.loads((tmp_path / "training.json").read_text())["notes"]
    assert f"note: {note}" in many.stdout
    assert "they stay as they are, matrices of rank 4 are learnt beside them" in note


@pytest.mark.parametrize(
    ("more", "train", "strategy", "said"),
    [
        (["--set", "lerning_rate=1"], "train.xyz", "delta", "lerning_rate"),
        ([], "train.xyz", "dleta", "Did you mean delta"),
        ([], "absent.xyz", "delta", "absent.xyz"),
        ([], "nickel.xyz", "delta", "does not know Ni"),
        ([], "train.xyz", "pft", "force constants"),
        (["--curvature", "absent.yaml"], "train.xyz", "pft", "absent.yaml"),
    ],
)
def test_refusals_exit_with_two(folder, tmp_path, more, train, strategy, said):
    result = call(folder, tmp_path / "out", *more, train=train, strategy=strategy)
    assert result.exit_code == 2
    content = json.loads(result.stdout)
    assert said in f"{content['error']} {content['advice']}"
    assert not (tmp_path / "out" / "model.model").exists()


@pytest.mark.slow
def test_several_trainings_in_one_process(folder, tmp_path):
    """Each into its own folder with the model it would have alone; one that fails is named and leaves the others."""
    several = call(folder, tmp_path / "all", "--set", "epochs=2", "--seed", "1,2", strategy="transfer,delta")
    assert several.exit_code == 0, several.output
    printed = json.loads(several.stdout)
    assert printed["n_failed"] == 0
    found = {(one["strategy"], one["seed"]): one for one in printed["trainings"]}
    assert list(found) == [("transfer", 1), ("transfer", 2), ("delta", 1), ("delta", 2)]
    assert len({one["model"]["sha256"] for one in found.values()}) == 4
    alone = call(folder, tmp_path / "one", "--set", "epochs=2", "--seed", "2", strategy="delta")
    single, same = json.loads(alone.stdout), found["delta", 2]
    assert single["metrics"] == same["metrics"]
    for kept in ("model.model", "training.json", "metrics.jsonl", "checkpoint.pt"):
        assert (tmp_path / "all" / "delta-s2" / kept).is_file()
    models = [torch.load(one["model_file"], weights_only=False).state_dict() for one in (single, same)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    # a foreign checkpoint of an unfinished training, in the folder of one of them
    (tmp_path / "all" / "delta-s1" / "checkpoint.pt").write_bytes(b"half")
    again = call(folder, tmp_path / "all", "--set", "epochs=2", "--seed", "1,2", strategy="delta")
    assert again.exit_code == 1
    printed = json.loads(again.stdout)
    assert [bool(one.get("error")) for one in printed["trainings"]] == [True, False]
    assert "cannot be read" in printed["trainings"][0]["error"]
    assert "Delete it" in printed["trainings"][0]["advice"]
    assert printed["trainings"][1]["finished"]


@pytest.mark.parametrize(
    ("more", "strategy", "said"),
    [
        (["--seed", "1,1"], "delta", "'1' twice"),
        (["--seed", "1,x"], "delta", "'x' is no seed"),
        ([], "delta,", "an empty word"),
        ([], "delta,dleta", "Did you mean delta"),
        ([], "delta,pft", "learns force constants, but none are given"),
    ],
)
def test_several_that_cannot_be_are_refused_before_any_begins(folder, tmp_path, more, strategy, said):
    result = call(folder, tmp_path / "out", *more, strategy=strategy)
    assert result.exit_code == 2
    content = json.loads(result.stdout)
    assert said in f"{content['error']} {content['advice']}"
    assert not (tmp_path / "out").exists()
