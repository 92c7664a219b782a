"""Whoever can write into a run folder must not run code as its owner, nor read the store's password there."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from jobflow import Flow, JobStore
from maggma.stores import MongoStore
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.core.errors import ConfigurationError
from phonosmith.engines.local.runner import LocalRunner, Slot
from phonosmith.engines.local.worker import RESPONSE_FILE, read_response
from phonosmith.engines.store.sqlite import open_embedded_jobstore

MODULE = """
import subprocess, sys
from pathlib import Path
from jobflow import Response, job

@job
def add(a, b):
    return a + b

@job
def child():
    # started in the job's folder, as custodian starts VASP
    done = subprocess.run([sys.executable, "-m", "tabnanny", "-h"], capture_output=True, text=True)
    return done.stdout + done.stderr

@job
def more():
    return Response(output=1, addition=add(1, 2))
"""
PLANT = "from pathlib import Path\nPath({mark!r}).write_text('ran')\nraise SystemExit('planted')\n"


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trust_jobs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sys.modules.pop("trust_jobs", None)
    yield tmp_path
    sys.modules.pop("trust_jobs", None)


def runner(work, **options):
    return LocalRunner(open_embedded_jobstore(work / "store.sqlite"), work / "run", slots=[Slot()], **options)


def edit(work, change):
    with sqlite3.connect(work / "run" / "run.sqlite") as connection:
        for uuid, document in connection.execute("SELECT uuid, document FROM jobs").fetchall():
            connection.execute("UPDATE jobs SET document = ? WHERE uuid = ?", (change(document), uuid))


def test_nothing_planted_where_a_run_works_is_imported(work, monkeypatch):
    import trust_jobs as jobs

    mark = work / "mark"
    monkeypatch.chdir(work)
    # an empty entry, as scripts of clusters leave it, means the current folder
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{os.environ['PYTHONPATH']}")
    one = jobs.child()
    folder = work / "run" / "jobs" / f"child-{one.uuid[:8]}-1"
    for place in (work, work / "run", folder):
        place.mkdir(parents=True, exist_ok=True)
        for name in ("psutil", "monty", "tabnanny", "sitecustomize"):
            (place / f"{name}.py").write_text(PLANT.format(mark=str(mark)))
    local = runner(work)
    assert local.run(Flow([one])).ok
    assert not mark.exists()
    said = open_embedded_jobstore(work / "store.sqlite").get_output(one.uuid)
    assert "not recognized" in said
    assert "planted" not in said
    # the plant does run where Python looks for modules in the current folder
    subprocess.run([sys.executable, "-m", "tabnanny"], cwd=work / "run", check=False, capture_output=True)
    assert mark.exists()


def test_an_altered_job_is_refused_until_its_folder_is_trusted(work):
    import trust_jobs as jobs

    one = jobs.add(1, 2)
    runner(work).state.add_flow(Flow([one]))
    assert runner(work).run().ok
    edit(work, lambda document: document.replace('"@callable": "add"', '"@callable": "child"').replace("1, 2", ""))
    for again in (runner, lambda folder: CliRunner().invoke(app, ["retry", str(folder), "--json"])):
        if again is runner:
            with pytest.raises(ConfigurationError, match="add") as refused:
                again(work)
            assert "--trust" in refused.value.advice
        else:
            answer = again(work)
            assert answer.exit_code == 2
            assert "were altered since: add" in json.loads(answer.stdout)["error"]
    answer = CliRunner().invoke(app, ["retry", str(work), "--trust", "--json"])
    assert (answer.exit_code, json.loads(answer.stdout)["ok"]) == (0, True)
    # trusted once, it is this user's
    runner(work)


def test_a_job_altered_while_the_run_is_open_is_refused_as_well(work):
    import trust_jobs as jobs

    local = runner(work)
    local.state.add_flow(Flow([jobs.add(1, 2)]))
    edit(work, lambda document: document.replace('"@callable": "add"', '"@callable": "child"'))
    with pytest.raises(ConfigurationError, match="altered since"):
        local.run()


def test_somebody_elses_run_folder_is_refused(work, monkeypatch, tmp_path):
    import trust_jobs as jobs

    from phonosmith.settings import get_settings

    assert runner(work).run(Flow([jobs.add(1, 2)])).ok
    monkeypatch.setenv("PHONOSMITH_HOME", str(tmp_path / "another"))
    get_settings.cache_clear()
    with pytest.raises(ConfigurationError, match="not written here"):
        runner(work)
    assert runner(work, trust=True).run().executed == 0


def test_a_forged_response_is_no_response(work):
    import trust_jobs as jobs

    first = jobs.more()
    local = runner(work)
    assert local.run(Flow([first])).ok
    (row,) = local.state.rows()[:1]
    path = Path(row.folder) / RESPONSE_FILE
    content = json.loads(path.read_text())
    forged = content | {"response": content["response"].replace('"@callable": "add"', '"@callable": "child"')}
    assert forged != content
    for planted in ({"replace": None}, [1], {"signature": 3, "response": None}, {**content, "signature": "ä"}):
        path.write_text(json.dumps(planted))
        assert read_response(path.parent, row.uuid, row.index) is None
    path.write_text(json.dumps(forged))
    local.state.update(row.key, state="waiting")
    again = runner(work)
    assert again.run().executed == 2
    assert {one.name for one in again.state.rows()} == {"more", "add"}
    # what was signed for one job is none of another's
    other = next(one for one in again.state.rows() if one.name == "add")
    (Path(other.folder) / RESPONSE_FILE).write_text(path.read_text())
    again.state.update(other.key, state="waiting")
    assert runner(work).run().executed == 1


def test_no_file_of_a_run_holds_the_password_of_its_store(work, monkeypatch):
    import trust_jobs as jobs

    secret = "hunter-two-2"
    old = work / "run" / "store.json"
    old.parent.mkdir()
    old.write_text(secret)  # a run of an earlier version
    patience = {"serverSelectionTimeoutMS": 100}
    docs = MongoStore(
        "db", "outputs", host="127.0.0.1", port=1, username="me", password=secret, mongoclient_kwargs=patience
    )
    local = LocalRunner(JobStore(docs), work / "run", slots=[Slot()])
    monkeypatch.setenv("PHONOSMITH_HOME", str(work / "home"))
    summary = local.run(Flow([jobs.add(1, 2)]))
    assert not summary.ok
    assert not old.exists()
    texts = [path.read_bytes() for path in work.rglob("*") if path.is_file()]
    assert len(texts) > 4
    assert not [text for text in texts if secret.encode() in text]
