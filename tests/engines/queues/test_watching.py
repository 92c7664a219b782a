"""``phonosmith status --engine``: what waits, runs and failed in a queue, and what the scheduler says."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.engines.queues.fireworks import retry_fireworks

TRACE = 'Traceback (most recent call last):\n  File "x.py"\nLabelError: the program stopped.\n'


def status(opened, *options):
    where = "--project" if opened.engine == "jobflow-remote" else "--launchpad"
    arguments = ["status", "--engine", opened.engine, where, opened.target, *options]
    answer = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def put(opened, name, state, process="", error=""):
    """Let a job have a state, as a runner or rocket leaves it."""
    if opened.engine == "fireworks":
        (job,) = opened.launchpad.fireworks.find({"name": name})
        opened.launchpad.fireworks.update_one({"name": name}, {"$set": {"state": state}})
        stored = {"_exception": {"_stacktrace": error}}
        launch = {"fw_id": job["fw_id"], "launch_id": job["fw_id"], "state": state, "action": {"stored_data": stored}}
        launch["state_history"] = [{"reservation_id": process}]
        opened.launchpad.launches.replace_one({"launch_id": job["fw_id"]}, launch, upsert=True)
    else:
        change = {"state": state, "remote.process_id": process, "error": error}
        opened.controller.jobs.update_one({"job.name": name}, {"$set": change})


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A SLURM whose queue holds one job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "squeue"
    program.write_text("#!/bin/sh\necho '4711|PENDING|QOSMaxJobsPerUserLimit'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return program


def test_a_queue_says_what_runs_waits_and_failed_and_slurm_why(submitting, study, squeue):
    submit, opened = submitting
    submit(study(4))
    remote = opened.engine == "jobflow-remote"
    put(opened, "sample m1 small", "SUBMITTED" if remote else "RESERVED", process="4711")
    put(opened, "sample m2 small", "RUNNING")
    found = json.loads(status(opened, "--json"))
    materials = {entry["material"]: entry for entry in found["materials"]}
    assert list(materials) == ["m0", "m1", "m2", "m3"]
    assert materials["m0"]["pending"] == {"no worker has taken it (inference)": 1}
    assert materials["m1"]["pending"] == {"QOSMaxJobsPerUserLimit (inference)": 1}
    assert materials["m1"]["stages"]["report"]["waiting"] == 1
    assert materials["m2"]["stages"]["sample"]["running"] == 1
    assert found["queue"]["counts"] == {"ready": 2, "pending": 1, "running": 1, "waiting": 4}
    assert (found["ok"], found["run"], found["notes"]) == (False, None, [])
    assert found["next"].endswith("--watch")

    put(opened, "sample m3 small", "FAILED" if remote else "FIZZLED", error=TRACE)
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1\n")
    words = status(opened)
    assert "failed: sample m3 small: LabelError: the program stopped." in words
    assert "pending: 1 jobs: in the queue (inference)" in words
    assert f"next: phonosmith retry --engine {opened.engine}" in words
    assert "Unable to contact slurm controller" in json.loads(status(opened, "--json"))["notes"][0]


@pytest.mark.parametrize("submitting", ["fireworks"], indirect=True)
def test_a_reserved_job_that_slurm_does_not_know_is_lost_and_starts_again(submitting, study, squeue, tmp_path):
    """jobflow-remote's runner looks for itself."""
    from fireworks.utilities.fw_utilities import get_my_host

    submit, opened = submitting
    submit(study(2))
    put(opened, "sample m0 small", "RESERVED", process="4712")
    put(opened, "sample m1 small", "RESERVED", process="4711")
    launches = opened.launchpad.launches
    # reserved on another machine: what SLURM says here tells nothing
    launches.update_many({}, {"$set": {"host": "another", "launch_dir": str(tmp_path)}})
    assert json.loads(status(opened, "--json"))["queue"]["counts"]["pending"] == 2
    launches.update_many({}, {"$set": {"host": get_my_host()}})
    found = json.loads(status(opened, "--json"))
    assert found["materials"][0]["failed"] == {"sample m0 small": "lost: SLURM's job 4712 is gone and never started it"}
    assert found["queue"]["counts"] == {"failed": 1, "pending": 1, "waiting": 2}
    assert retry_fireworks(launchpad=Path(opened.target)).failed == ["sample m0 small"]
    assert opened.launchpad.fireworks.find_one({"name": "sample m0 small"})["state"] == "READY"
    # a SLURM that does not answer proves nothing
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert json.loads(status(opened, "--json"))["queue"]["counts"] == {"ready": 1, "pending": 1, "waiting": 2}


def test_where_nobody_gives_jobs_to_workers_the_command_that_does_is_named(submitting, study):
    submit, opened = submitting
    submit(study(1))
    expected = "jf -p phonosmith runner start" if opened.engine == "jobflow-remote" else "--watch"
    assert json.loads(status(opened, "--json"))["next"].endswith(expected)


def test_watching_ends_when_nothing_is_left_to_be_done(submitting, study, monkeypatch):
    submit, opened = submitting
    submit(study(1))
    looks = []

    def work(seconds):
        looks.append(seconds)
        for name in ("sample m0 small", "report m0")[: len(looks)]:
            put(opened, name, "COMPLETED")

    monkeypatch.setattr("phonosmith.cli.campaign.status.time", SimpleNamespace(sleep=work))
    assert "queue: 2 done" in status(opened, "--watch", "--every", "3")
    assert looks == [3.0, 3.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "firework"], "fireworks"),
        (["--engine", "fireworks", "--project", "x"], "--project is for jobflow-remote"),
        (["--engine", "fireworks", "--jobflow"], "own job store"),
        (["--watch"], "does not say what is going on"),
        (["--engine", "fireworks", "--watch", "--json"], "--json"),
    ],
)
def test_options_that_cannot_be(options, words):
    answer = CliRunner().invoke(app, ["status", *options])
    assert answer.exit_code == 2
    assert words in answer.output
