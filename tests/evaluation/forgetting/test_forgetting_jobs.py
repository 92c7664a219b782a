"""The forgetting job and command: a pruned, shifted copy of the embedded foundation judged beside it."""

import json

import pytest
from ase.build import bulk
from ase.io import write
from jobflow import run_locally
from pymatgen.io.ase import AseAtomsAdaptor
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.evaluation.forgetting.documents import ForgettingDoc
from phonosmith.evaluation.forgetting.errors import evaluate_forgetting
from phonosmith.evaluation.forgetting.jobs import ForgettingMaker
from phonosmith.evaluation.forgetting.sets import default_sets
from phonosmith.potentials.embedded import demo_structure, teacher_bytes
from phonosmith.potentials.registry import load, resolve
from phonosmith.reference.datasets.dataset import put_dataset
from phonosmith.structures.labels import label_frame


def tuned_copy():
    """Return a reference to a copy of the embedded foundation that knows silicon alone and differs a little."""
    import torch

    from phonosmith.potentials.mace.files import register_model

    model = load("embedded").prune(["Si"]).model
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.01)
    return register_model(model, "si-tuned")


@pytest.mark.slow
def test_job():
    tuned, foundation, reference = tuned_copy(), resolve("embedded"), resolve("embedded-reference")
    structure = AseAtomsAdaptor.get_structure(demo_structure("Si"))
    frames = [
        label_frame(demo_structure("Si", cubic=True), energy=-1.0 * i, forces=[[0.0, 0.1, 0.0]] * 8) for i in (1, 2)
    ]
    made = ForgettingMaker(name="forgetting si delta", seed=3, count=1).make(
        structure, tuned, foundation, reference, replay=put_dataset(frames)
    )
    assert made.name == "forgetting si delta"
    (output,) = [r[1].output for r in run_locally(made, log=False, raise_immediately=True).values()]
    document = ForgettingDoc.model_validate(output)
    assert (document.potential_sha256, document.foundation_sha256) == (tuned.sha256, foundation.sha256)
    assert [one.kind for one in document.sets] == ["far", "strain", "eos", "replay"]
    assert all(one.truth == "reference" for one in document.sets)
    assert [reason.split(":")[0] for reason in document.skipped] == [
        f"other material {name}" for name in ("Ge", "C", "SiC")
    ]
    assert "knows only Si, not Ge" in document.skipped[0]
    assert document.manifest.seed == 3
    assert document.manifest.inputs["reference"] == reference.sha256
    # the job does what the function does
    again = evaluate_forgetting(load(tuned), load(foundation), default_sets(structure, 3, count=1), load(reference))
    assert [one.tuned_force_mae for one in again.sets] == [one.tuned_force_mae for one in document.sets[:3]]
    # a fine-tuned potential that is a bad copy is found out
    assert document.sets[0].tuned_force_mae != document.sets[0].foundation_force_mae


def test_command(tmp_path):
    # two published parameterisations of the same elements
    teacher = tmp_path / "teacher.json"
    teacher.write_bytes(teacher_bytes())
    crystal, frames, figure = (tmp_path / name for name in ("Si.cif", "other.xyz", "bars.svg"))
    write(crystal, demo_structure("Si"))
    write(frames, [demo_structure("Ge", cubic=True), bulk("Cu", cubic=True)], format="extxyz")
    sides = ["--potential", "embedded-reference", "--foundation", str(teacher), "--n-frames", "1"]
    arguments = ["forgetting", str(crystal), *sides]
    done = CliRunner().invoke(app, [*arguments, "--frames", str(frames), "--figure", str(figure), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["truth"] for one in found["sets"]] == ["foundation"] * 6
    assert found["sets"][0]["tuned_force_mae"] > 0
    assert found["skipped"] == ["given frames: the fine-tuned potential knows only C Si Ge, not Cu"]
    assert "rattled 0.3" in figure.read_text()
    judged = CliRunner().invoke(app, [*arguments, "--reference", "embedded-reference"])
    assert judged.exit_code == 0
    # the reference judged by itself has no error left
    assert "rattled 0.3 Å" in judged.stdout
    assert "→0.00" in judged.stdout
    bad = CliRunner().invoke(app, [*arguments, "--figure", "bars.txt", "--json"])
    assert bad.exit_code == 2
    assert "image format" in json.loads(bad.stdout)["error"]


@pytest.mark.parametrize("argument", ["--frames", "--replay"])
def test_missing_file_is_named(argument, tmp_path):
    write(tmp_path / "Si.cif", demo_structure("Si"))
    arguments = ["forgetting", str(tmp_path / "Si.cif"), "--potential", "embedded", "--foundation", "embedded"]
    done = CliRunner().invoke(app, [*arguments, argument, str(tmp_path / "none.xyz")])
    assert done.exit_code == 2
    assert "none.xyz" in done.output
