"""The job: names, provenance, refusal, and several trainings side by side."""

from dataclasses import replace

import pytest
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore

from phonosmith.core.errors import ConfigurationError, TrainingError
from phonosmith.core.identity import fix_identities
from phonosmith.core.metadata import named
from phonosmith.settings import get_settings
from phonosmith.training.cards import on_each_card, shares
from phonosmith.training.documents import PackedTraining, PackReport, TrainingInputs
from phonosmith.training.jobs import (
    FineTuneMaker,
    PackMaker,
    refuse_bad,
    run_pack,
    run_training,
    train_model,
    train_models,
)

NAMES = ("foundation", "train", "valid")


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


@pytest.mark.slow
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


def alike(document):
    """Return what two runs of one training have in common: all but times."""
    plain = document.model_dump(mode="json", exclude={"seconds", "manifest", "log", "curvature", "checkpoint"})
    for line in plain["history"]:
        del line["seconds"], line["curvature_seconds"]
    return plain


def test_a_pack_gives_what_single_jobs_give(inputs, tmp_path, monkeypatch):
    """Strategies, seeds and settings side by side: the very models and documents, in the order asked for; one that
    cannot be leaves the others alone."""
    makers = [
        FineTuneMaker(strategy="transfer", settings={"epochs": 3}),
        FineTuneMaker(strategy="multihead", settings={"epochs": 2}),
        FineTuneMaker(strategy="delta", settings={"epochs": 2, "lr": 0.005}, seed=3),
    ]
    made = PackMaker(makers=makers).make(*inputs, material="Cu")
    assert made.name == "train cu pack"
    found = execute(made, tmp_path, monkeypatch).trainings
    assert "lacks its replay structures" in found[1].error
    assert found[1].document is None
    monkeypatch.chdir(tmp_path_of(tmp_path))
    for one, maker in zip((found[0], found[2]), (makers[0], makers[2]), strict=True):
        single = run_training(maker, *inputs, material="Cu")
        assert alike(one.document) == alike(single)
        assert one.document.model.sha256 == single.model.sha256
        assert one.document.manifest.settings_digest == single.manifest.settings_digest
        assert one.document.manifest.inputs == single.manifest.inputs


@pytest.mark.slow
def test_a_pack_on_a_node_of_two_cards_has_a_process_for_each(inputs, tmp_path, monkeypatch):
    """Cards that nobody looks at: the trainings are told to stay on the processor, and have the very same models."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-7f")
    monkeypatch.setenv("PHONOSMITH_DEVICE", "cpu")
    get_settings.cache_clear()
    makers = [FineTuneMaker(strategy="delta", settings={"epochs": 1 + seed // 2}, seed=seed) for seed in range(3)]
    makers.append(FineTuneMaker(strategy="multihead", settings={"epochs": 1}))
    given = TrainingInputs(**dict(zip(NAMES, inputs, strict=True)))
    monkeypatch.chdir(tmp_path)
    found = run_pack([(maker, given) for maker in makers])
    # two epochs on one card, one and one on the other, and what fails at once where there are fewer
    assert [one.card for one in found] == ["GPU-7f", "GPU-7f", "2", "2"]
    assert "lacks its replay structures" in found[3].error
    whole = run_training(makers[2], *inputs, workdir="alone")
    assert found[2].document.model.sha256 == whole.model.sha256
    assert alike(found[2].document) == alike(whole)
    # what an earlier part did is not done again
    again = run_pack([(maker, given) for maker in makers], earlier=found)
    assert again == found


def test_work_is_shared_by_its_weight():
    assert shares([1.0] * 16, 4) == [[card, card + 4, card + 8, card + 12] for card in range(4)]
    assert shares([1, 1, 4, 1, 1], 2) == [[2], [0, 1, 3, 4]]
    assert shares([1], 3) == [[0], [], []]


def test_each_process_sees_its_card_and_one_that_dies_leaves_word_of_it(tmp_path):
    asked = {card: {"key": "CUDA_VISIBLE_DEVICES"} for card in ("3", "GPU-7f")}
    assert on_each_card("os:getenv", asked, tmp_path) == {"3": "3", "GPU-7f": "GPU-7f"}
    assert "the process of GPU 0 ended with code -6" in str(on_each_card("os:abort", {"0": {}}, tmp_path)["0"])


@pytest.mark.slow
def test_a_pack_goes_on_where_a_single_job_was_stopped_and_the_other_way_round(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maker = FineTuneMaker(strategy="delta", settings={"epochs": 3}, seed=4)
    whole = run_training(maker, *inputs, workdir="whole")
    both = [(one, TrainingInputs(**dict(zip(NAMES, inputs, strict=True)))) for one in (maker, replace(maker, seed=5))]
    begun = run_training(replace(maker, walltime=1e-3), *inputs, workdir="one")
    assert begun.epochs_run == 1
    pack = run_pack(both, workdir="one")
    assert pack[0].document.history[1] == begun.history[1]  # its seconds, too: that epoch was not run again
    assert [one.document.epochs_run for one in pack] == [3, 3]
    assert pack[0].document.model.sha256 == whole.model.sha256
    late = run_pack([(replace(one, walltime=1e-3), given) for one, given in both], at_once=1, workdir="two")
    # the first one has used up the time
    assert (late[0].document.epochs_run, late[1].document, late[1].error) == (1, None, "")
    rest = run_training(maker, *inputs, workdir="two")
    assert rest.history[1] == late[0].document.history[1]
    assert rest.model.sha256 == whole.model.sha256


@pytest.mark.slow
def test_a_stopped_pack_goes_on_in_a_following_job(inputs, tmp_path, monkeypatch):
    """Every part in an empty folder: what was stopped goes on from its checkpoint, what waited begins."""
    makers = [FineTuneMaker(strategy="delta", settings={"epochs": 2}, seed=seed) for seed in (4, 5)]
    whole = [run_training(maker, *inputs, workdir=str(tmp_path / "whole")) for maker in makers]
    for maker in makers:
        maker.walltime = 1e-3
    made = PackMaker(makers=makers).make(*inputs, material="Cu")
    monkeypatch.chdir(tmp_path)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    parts = run_locally(made, store=store, ensure_success=True, log=False, raise_immediately=True, create_folders=True)[
        made.uuid
    ]
    names = [store.query_one({"uuid": made.uuid, "index": k})["name"] for k in sorted(parts)]
    assert names[:2] == ["train cu pack", "train cu pack part 2"]
    found = parts[max(parts)].output.trainings
    assert [one.document.model.sha256 for one in found] == [one.model.sha256 for one in whole]
    assert [one.document.checkpoint for one in found] == [None, None]


def test_a_pack_that_cannot_be(inputs):
    maker = FineTuneMaker(strategy="delta", settings={"epochs": 1})
    with pytest.raises(ConfigurationError, match="asked for twice"):
        train_models.original([maker, maker], [TrainingInputs(**dict(zip(NAMES, inputs, strict=True)))] * 2)
    with pytest.raises(ConfigurationError, match="Unknown setting"):
        PackMaker(makers=[FineTuneMaker(settings={"epoch": 1})]).make(*inputs)
    with pytest.raises(ConfigurationError, match="inputs for 0"):
        PackMaker().make(*inputs)
    with pytest.raises(TrainingError, match=r"All 1 trainings failed.*lacks its foundation"):
        train_models.original([maker], [TrainingInputs(foundation=None, train=inputs[1], valid=inputs[2])])


@pytest.mark.slow
def test_what_a_pack_has_done_is_collected_and_what_failed_there_is_done_alone(inputs, tmp_path, monkeypatch):
    """The job of a training behind a pack: the pack's document, or a job of the same name that trains."""
    good, bad = (FineTuneMaker(strategy=name, settings={"epochs": 1}) for name in ("transfer", "delta"))
    both = [(one, TrainingInputs(material="Cu", **dict(zip(NAMES, inputs, strict=True)))) for one in (good, bad)]
    monkeypatch.chdir(tmp_path)
    packed = run_pack(both)
    packed[1] = PackedTraining(key=packed[1].key, error="out of memory")
    ahead = PackReport(trainings=packed)
    jobs = [train_model(one, *inputs, material="Cu", ahead=ahead) for one in (good, bad)]
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    for number, job in enumerate(jobs):
        named(job, "train", "cu", job.function_args[0].strategy, step="collect", material="cu")
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        found = run_locally(job, store=store, log=False, ensure_success=True, raise_immediately=True)[job.uuid]
        assert len(found) == 1 + number
        document = found[max(found)].output
        assert document.model.sha256 == run_training(both[number][0], *inputs, material="Cu").model.sha256
    trained = store.query_one({"uuid": jobs[1].uuid, "index": 2})
    assert trained["name"] == "train cu delta"
    assert trained["metadata"]["stage"] == "train"
    assert "step" not in trained["metadata"]


@pytest.mark.slow
def test_a_larger_pack_trains_only_what_is_new(inputs, tmp_path, monkeypatch):
    """With jobs known by their content: what was trained in another pack, or alone, is found in the store."""
    from phonosmith.training import jobs

    prepared, prepare = [], jobs.prepare_training

    def noted(maker, *others, **more):
        prepared.append(maker.strategy)
        return prepare(maker, *others, **more)

    monkeypatch.setattr(jobs, "prepare_training", noted)
    monkeypatch.chdir(tmp_path)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    given, models = TrainingInputs(material="Cu", **dict(zip(NAMES, inputs, strict=True))), []
    for strategies in (("transfer",), ("delta", "transfer"), ("delta",)):
        makers = [FineTuneMaker(strategy=name, settings={"epochs": 1}) for name in strategies]
        pack = PackMaker(makers=makers).make_each([given] * len(makers))
        flow = fix_identities(Flow([pack, *(maker.make_of(given, pack.output) for maker in makers)]))
        run_locally(flow, store=store, log=False, ensure_success=True, raise_immediately=True)
        models.append({job.name: store.get_output(job.uuid)["model"]["sha256"] for job in flow.jobs[1:]})
    assert prepared == ["transfer", "delta"]
    assert models[1] == models[0] | models[2]
