"""``phonosmith status`` counts what is done, failed and missing, from the store and from a local run."""

import dataclasses
import json
import sqlite3

import pytest
from pymatgen.io.ase import AseAtomsAdaptor
from typer.testing import CliRunner

from helpers.synthetic import finished_jobs
from phonosmith.analysis.status import read_status
from phonosmith.cli.main import app
from phonosmith.engines.local.state import RunState
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def flow():
    """Return the real flow of one material: its job names are what status reads."""
    maker = FineTuneMaterialMaker(
        engine=make_engine("forcefield", potential="embedded-reference"),
        strategies=("transfer", "delta"),
        sampling={"cell": "primitive"},
        min_length=5.0,
        evaluate=("phonons",),
    )
    return maker.make(AseAtomsAdaptor.get_structure(demo_structure("Si")), resolve("embedded"))


def asked(*arguments):
    answer = RUNNER.invoke(app, ["status", *map(str, arguments), "--json"])
    assert answer.exit_code == 0, answer.stdout
    return json.loads(answer.stdout)


def finished_in(store, state):
    """Let every job of a run be done, with a document in the store."""
    for row in state.rows():
        state.update(row.key, state="done")
        document = {"uuid": row.uuid, "index": row.index, "name": row.name, "output": {"value": 1}}
        store.update(document, key=["uuid", "index"])


def test_the_names_of_a_real_flow_are_understood(tmp_path, flow):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    names = [job.name for job, _ in flow.iterflow()]
    finished_jobs(store, names)
    (material,) = read_status(store).materials.values()
    assert material.material == "si"
    counted = sum(stage.done for stage in material.stages.values())
    assert counted == len([name for name in names if not name.endswith((" start", " collect"))])
    assert {"sample", "audit", "train", "phonon", "report"} <= set(material.stages)


def test_a_local_run_says_what_runs_waits_and_failed(tmp_path, flow):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    state = RunState(tmp_path / "run" / "run.sqlite")
    state.add_flow(flow)
    rows = {row.name: row for row in state.rows()}
    done = [name for name in rows if name.startswith(("sample", "audit", "phonon si reference"))]
    finished_jobs(store, done)
    for name in done:
        state.update(rows[name].key, state="done")
    state.update(rows["train si delta"].key, state="failed", error="loss is not finite")
    state.update(rows["train si transfer"].key, state="running")
    state.update(rows["phonon si delta"].key, state="skipped")
    state.close()
    found = asked("--run", tmp_path)
    (material,) = found["materials"]
    assert material["failed"] == {"train si delta": "loss is not finite"}
    assert material["stages"]["train"] == {
        "done": 0,
        "failed": 1,
        "missing": 0,
        "running": 1,
        "waiting": 0,
        "pending": 0,
    }
    assert material["stages"]["sample"]["done"] == 1
    assert material["missing"] == ["phonon si delta"]
    assert material["stages"]["report"]["waiting"] == 1
    assert found["run"]["failed"] == 1
    assert sum(found["run"].values()) == len(rows)
    assert asked("--run", tmp_path / "run")["run"] == found["run"]
    answer = RUNNER.invoke(app, ["status", "--run", str(tmp_path)], env={"COLUMNS": "160"})
    assert "failed: train si delta: loss is not finite" in answer.stdout
    assert "no report yet" in answer.stdout


def test_what_is_done_and_not_in_the_store_is_never_called_ok(tmp_path, flow):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    state = RunState(tmp_path / "run" / "run.sqlite")
    state.add_flow(flow)
    finished_in(store, state)
    state.close()
    assert (asked("--run", tmp_path)["ok"], asked("--run", tmp_path)["lost"]) == (True, [])
    store.remove_docs({"name": "train si delta"})
    found = asked("--run", tmp_path)
    assert (found["ok"], found["lost"]) == (False, ["train si delta"])
    answer = RUNNER.invoke(app, ["status", "--run", str(tmp_path)], env={"COLUMNS": "160"})
    assert "lost: train si delta is done, and its document is not in the store" in answer.stdout
    store.close()
    (tmp_path / "store.sqlite").unlink()
    answer = RUNNER.invoke(app, ["status", "--run", str(tmp_path), "--json"])
    assert answer.exit_code == 2
    assert "has lost its job store" in json.loads(answer.stdout)["error"]


def test_a_run_that_was_moved_has_its_jobs_folders_where_it_is(tmp_path, flow):
    state = RunState(tmp_path / "before" / "run.sqlite")
    state.add_flow(flow)
    row = state.rows()[0]
    state.update(row.key, folder=str(tmp_path / "before" / "jobs" / "sample-1"))
    state.close()
    (tmp_path / "before").rename(tmp_path / "after")
    state = RunState(tmp_path / "after" / "run.sqlite")
    assert state.rows()[0].folder == str(tmp_path / "after" / "jobs" / "sample-1")
    assert state.rows()[1].folder is None
    state.close()


def test_a_run_from_before_jobs_were_described_is_read_by_the_names_of_its_jobs(tmp_path, flow):
    path = tmp_path / "run" / "run.sqlite"
    state = RunState(path)
    state.add_flow(flow)
    described = {row.name: row.metadata for row in state.rows()}
    told = {"stage": "train", "material": "si", "variant": "si", "strategy": "delta"}
    assert described["train si delta"].items() >= told.items()
    state.close()
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE jobs DROP COLUMN metadata")
    open_embedded_jobstore(tmp_path / "store.sqlite")
    found = asked("--run", tmp_path)
    (material,) = found["materials"]
    assert material["stages"]["train"]["waiting"] == 2
    assert {row.name: row.metadata for row in RunState(path).rows()} == {name: {} for name in described}


def test_an_empty_store_and_bad_input(tmp_path):
    open_embedded_jobstore(tmp_path / "store.sqlite")
    found = asked("--store", tmp_path)
    assert (found["materials"], found["n_jobs"], found["run"]) == ([], 0, None)
    answer = RUNNER.invoke(app, ["status", "--store", str(tmp_path)])
    assert "holds no job of a material yet" in answer.stdout
    for arguments, words in (
        (["--run", str(tmp_path / "none")], "There is no run in"),
        (["--store", str(tmp_path / "none.sqlite")], "There is no job store"),
    ):
        answer = RUNNER.invoke(app, ["status", *arguments, "--json"])
        assert answer.exit_code == 2
        assert words in json.loads(answer.stdout)["error"]
    assert not (tmp_path / "none").exists()


def test_what_was_done_without_something_is_never_called_ok(tmp_path, flow):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    state = RunState(tmp_path / "run" / "run.sqlite")
    state.add_flow(flow)
    finished_in(store, state)
    state.close()
    whole = asked("--run", tmp_path)
    assert (whole["ok"], whole["incomplete"]) == (True, {})
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as connection:
        connection.execute("UPDATE jobs SET state = 'failed', error = 'gone' WHERE name = 'train si delta'")
        connection.execute("UPDATE jobs SET state = 'skipped' WHERE name = 'phonon si delta'")
    found = asked("--run", tmp_path)
    assert (found["ok"], found["incomplete"]) == (False, {"report si": ["train si delta"]})
    # half way through a retry
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as connection:
        connection.execute("UPDATE jobs SET state = 'done', error = NULL WHERE name = 'train si delta'")
        connection.execute("UPDATE jobs SET state = 'waiting' WHERE name IN ('phonon si delta', 'report si')")
    found = asked("--run", tmp_path)
    assert (found["ok"], found["run"]["waiting"]) == (False, 2)


def test_a_training_that_worked_after_a_report_without_it_is_counted_once(tmp_path, monkeypatch):
    """The report of before lists it as failed; done and failed together were more than there are."""
    import pandas as pd

    from phonosmith.analysis import status as module
    from phonosmith.analysis.queries import read_results

    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    finished_jobs(store, ["train si transfer 4", "train si transfer 8", "label si 00"])
    results = read_results(store)
    lost = pd.DataFrame([{"material": "si", "what": f"transfer {size}"} for size in (8, 12)])
    told = dataclasses.replace(results, failures=lost, materials=pd.DataFrame([{"material": "si", "best": "transfer"}]))
    monkeypatch.setattr(module, "read_results", lambda _: told)
    (material,) = read_status(store).materials.values()
    train = material.stage("train")
    assert (train.done, train.failed) == (2, 1)
    assert list(material.failed) == ["train si transfer 12"]
