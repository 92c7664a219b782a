"""The job: names, provenance, refusal, and several trainings side by side."""

import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from phonosmith.core.errors import TrainingError
from phonosmith.training.jobs import FineTuneMaker, run_training, train_models


@pytest.fixture
def inputs(tiny_model, tiny_frames):
    from phonosmith.potentials.modelfile import register_model
    from phonosmith.reference.datasets import put_dataset

    return (
        register_model(tiny_model(numbers=(29,)), name="tiny"),
        put_dataset(tiny_frames(4)),
        put_dataset(tiny_frames(2, 9)),
    )


def execute(job, folder, monkeypatch):
    monkeypatch.chdir(folder)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    found = run_locally(job, store=store, ensure_success=True, log=False, raise_immediately=True)
    return found[job.uuid][1].output


def test_job_trains_and_registers(inputs, tmp_path, monkeypatch, tiny_frames):
    from phonosmith.potentials.registry import load

    job = FineTuneMaker(strategy="delta", settings={"epochs": 2}, seed=4).make(*inputs, material="Cu")
    assert job.name == "train cu delta"
    document = execute(job, tmp_path, monkeypatch)
    assert document.spec.epochs == 2
    assert document.seed == 4
    assert document.model.parents[0] == inputs[0].sha256
    assert set(document.model.parents[1:]) == {inputs[1].sha256, inputs[2].sha256}
    assert load(document.model).evaluate(tiny_frames(1))[0].forces.shape == (4, 3)
    # the same inputs give the same model, in another folder as well
    monkeypatch.chdir(tmp_path_of(tmp_path))
    again = run_training(*inputs, strategy="delta", settings={"epochs": 2}, seed=4, material="Cu")
    assert again.model.sha256 == document.model.sha256


def tmp_path_of(path):
    other = path / "other"
    other.mkdir()
    return other


def test_refuses_what_did_not_improve(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"lr": 1e-9, "epochs": 1, "dtype": "float32"}
    with pytest.raises(TrainingError, match="refused"):
        run_training(*inputs, strategy="transfer", settings=settings, refuse=True)


@pytest.mark.slow
def test_several_trainings_side_by_side(inputs, tmp_path, monkeypatch):
    """Packed trainings give the models that single ones give, in the order asked for."""
    tasks = [
        {"foundation": inputs[0], "train": inputs[1], "valid": inputs[2], "strategy": name, "settings": {"epochs": 2}}
        for name in ("transfer", "delta")
    ]
    found = execute(train_models(tasks, workers=2), tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path_of(tmp_path))
    for document, task in zip(found, tasks, strict=True):
        assert document.strategy == task["strategy"]
        assert document.model.sha256 == run_training(**task).model.sha256
