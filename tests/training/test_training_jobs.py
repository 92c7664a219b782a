"""The job: names, provenance, refusal, and several trainings side by side."""

import os
import time
from dataclasses import replace

import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from phonosmith.core.errors import TrainingError
from phonosmith.training.jobs import FineTuneMaker, refuse_bad, run_training
from phonosmith.training.packing import PackMaker, train_models


@pytest.fixture
def inputs(tiny_model, tiny_frames):
    from phonosmith.potentials.mace.files import register_model
    from phonosmith.reference.datasets.dataset import put_dataset

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


def test_a_repeated_job_goes_on_where_its_earlier_attempt_was_cut_off(inputs, tmp_path, monkeypatch):
    """As after a kill: the folder of the attempt before is linked, and holds a checkpoint."""
    from phonosmith.core.attempts import PREVIOUS

    wanted = FineTuneMaker(strategy="delta", settings={"epochs": 2}, seed=4)
    whole = run_training(wanted, *inputs, workdir=str(tmp_path / "whole"))
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    cut = run_training(replace(wanted, walltime=1e-3), *inputs)
    assert cut.epochs_run == 1
    # an attempt between that got nowhere does not hide it
    (tmp_path / "second" / PREVIOUS).symlink_to(tmp_path / "first")
    (tmp_path / "third" / PREVIOUS).symlink_to(tmp_path / "second")
    monkeypatch.chdir(tmp_path / "third")
    found = run_training(wanted, *inputs)
    assert found.history[1] == cut.history[1]  # its seconds, too: that epoch was not run again
    assert (found.epochs_run, found.model.sha256) == (2, whole.model.sha256)


def tmp_path_of(path):
    other = path / "other"
    other.mkdir()
    return other


@pytest.mark.slow
def test_refuses_what_did_not_improve(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"lr": 1e-9, "epochs": 1, "dtype": "float32"}
    document = run_training(FineTuneMaker(strategy="transfer", settings=settings), *inputs)
    assert document.finished
    with pytest.raises(TrainingError, match="refused"):
        refuse_bad(document)


def test_walltime_goes_on_in_a_following_job(inputs, tmp_path, monkeypatch):
    """Too short a walltime: parts of one epoch each, every one in an empty folder; the model is that of one run."""
    maker = FineTuneMaker(strategy="delta", settings={"epochs": 2}, seed=4)
    whole = run_training(maker, *inputs, material="Cu", workdir=str(tmp_path))
    maker.walltime = 1e-3
    made = maker.make(*inputs, material="Cu")
    monkeypatch.chdir(tmp_path)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    found = run_locally(made, store=store, ensure_success=True, log=False, raise_immediately=True, create_folders=True)[
        made.uuid
    ]
    assert sorted(found) == [1, 2]
    assert [found[k].output is None for k in (1, 2)] == [True, False]
    names = [store.query_one({"uuid": made.uuid, "index": k})["name"] for k in (1, 2)]
    assert names == ["train cu delta", "train cu delta part 2"]
    document = found[2].output
    assert document.finished
    assert document.checkpoint is None
    assert document.epochs_run == 2
    assert document.model.sha256 == whole.model.sha256
    # without continuations the best so far comes back, marked unfinished, with a checkpoint anyone can go on from
    monkeypatch.chdir(tmp_path_of(tmp_path))
    cut = FineTuneMaker(strategy="delta", settings={"epochs": 2}, seed=4, walltime=1e-3, continuations=0)
    stopped = execute(cut.make(*inputs, material="Cu"), tmp_path, monkeypatch)
    assert not stopped.finished
    assert "walltime" in stopped.stop_reason
    assert stopped.epochs_run == 1
    assert stopped.checkpoint is not None


@pytest.mark.slow
def test_several_trainings_side_by_side(inputs, tmp_path, monkeypatch):
    """Packed trainings run at the same time in processes of their own, give the models that single ones give, in the
    order asked for, and one that fails leaves the others alone."""
    makers = [
        FineTuneMaker(strategy="transfer", settings={"epochs": 2}),
        FineTuneMaker(strategy="multihead", settings={"epochs": 2}),
        FineTuneMaker(strategy="delta", settings={"epochs": 2, "lr": 0.005}),
    ]
    made = PackMaker(makers=makers, workers=3).make(*inputs, material="Cu")
    assert made.name == "train cu pack"
    found = execute(made, tmp_path, monkeypatch)
    assert "none are given" in found[1].error
    assert found[1].document is None
    good = [found[0], found[2]]
    assert len({one.process for one in found} | {os.getpid()}) == 4
    assert max(one.started for one in good) < min(one.ended for one in good)
    monkeypatch.chdir(tmp_path_of(tmp_path))
    for one, maker in zip(good, (makers[0], makers[2]), strict=True):
        assert one.document.strategy == maker.strategy
        single = run_training(maker, *inputs, material="Cu")
        assert one.document.model.sha256 == single.model.sha256


def test_a_dead_process_is_reported(inputs, tmp_path, monkeypatch):
    """A worker killed from outside (as the system does when memory runs out) becomes an error with its exit code."""
    import threading
    from multiprocessing import active_children

    def kill():
        for _ in range(600):
            for child in active_children():
                child.kill()
                return
            time.sleep(0.01)

    monkeypatch.chdir(tmp_path)
    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(TrainingError, match="exit code -9"):
        train_models.original([FineTuneMaker()], *inputs, workers=1)
    thread.join()
