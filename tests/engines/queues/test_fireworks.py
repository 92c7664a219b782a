"""Flows through real FireWorks workers: everything lands where its name says, and workers may die."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from jobflow import Flow
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.core.identity import fix_identities
from phonosmith.engines.queues.fireworks import submit_fireworks
from phonosmith.flows.routing import route


def run_workers(launchpad_file, kinds=("inference", "dft", "gpu")):
    """Let the workers of the files take what is theirs in turn until nobody finds anything."""
    from fireworks import FWorker, LaunchPad
    from fireworks.core.rocket_launcher import rapidfire

    launchpad = LaunchPad.from_file(str(launchpad_file))
    workers = [FWorker.from_file(str(launchpad_file.parent / f"fworker_{kind}.yaml")) for kind in kinds]
    while launchpad.run_exists():
        before = launchpad.launches.count_documents({})
        for worker in workers:
            rapidfire(launchpad, fworker=worker, nlaunches=0, sleep_time=0, strm_lvl="CRITICAL")
        if launchpad.launches.count_documents({}) == before:
            break
    return launchpad


def places(launchpad):
    """Return the worker each job ran on, by its name."""
    found = {}
    for firework in launchpad.fireworks.find({}, {"name": 1, "launches": 1, "spec._category": 1}):
        launch = launchpad.launches.find_one({"launch_id": {"$in": firework["launches"]}})
        found[firework["name"]] = (launch or {}).get("fworker", {}).get("name")
    return found


@pytest.fixture
def launchpad_file(cluster, monkeypatch, tmp_path):
    from fireworks import LaunchPad

    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(cluster.jobflow_yaml()))
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(tmp_path / "artefacts"))
    path = cluster.fireworks()
    LaunchPad.from_file(str(path)).reset("", require_password=False)
    (tmp_path / "launch").mkdir()
    monkeypatch.chdir(tmp_path / "launch")
    return path


@pytest.mark.slow
def test_jobs_made_by_jobs_land_on_the_worker_their_name_asks_for(cluster, launchpad_file):
    import routed_jobs as jobs
    from jobflow.managers.fireworks import flow_to_workflow

    def build(material):
        start = jobs.named(jobs.fan_out(material), f"label {material} start")
        return start, Flow([start, jobs.named(jobs.where(), f"phonon {material} foundation")])

    store = cluster.job_store()
    start, flow = build("gete-relax")
    launchpad = run_workers(launchpad_file, kinds=())
    launchpad.add_wf(flow_to_workflow(route(flow, cluster.routing(), "fireworks"), store=store))
    run_workers(launchpad_file)
    found = places(launchpad)
    assert found == {
        "label gete-relax start": "inference",
        "label gete-relax 00": "dft",
        "label gete-relax 01": "dft",
        "label gete-relax collect": "inference",
        "audit gete-relax": "inference",
        "train gete-relax delta": "gpu",
        "phonon gete-relax foundation": "inference",
        "store_inputs": "inference",
    }
    # the collecting job kept its tolerance: label 01 failed
    assert store.get_output(start.uuid) == ["", None, ""]

    # without route, with jobflow's own filters: the labels follow the job that made them
    launchpad.reset("", require_password=False)
    start, flow = build("trap")
    for name, worker in (("start", "inference"), ("label", "inference"), ("label trap 0", "dft"), ("train", "gpu")):
        flow.update_config({"manager_config": {"_category": worker}}, name_filter=name)
    launchpad.add_wf(flow_to_workflow(flow, store=store))
    run_workers(launchpad_file)
    assert places(launchpad)["label trap 00"] == "inference"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_two_workers_get_what_the_local_runner_gets(cluster, launchpad_file, one_flow):
    from fireworks import FWorker, LaunchPad
    from fireworks.core.rocket_launcher import rapidfire

    launchpad, store = LaunchPad.from_file(str(launchpad_file)), cluster.job_store()

    def submit(flow, **options):
        return submit_fireworks(flow, cluster.routing(), launchpad_file, store=store, **options)

    assert submit(one_flow.load()).submitted
    waiting = submit(one_flow.load())
    assert (waiting.n_new, waiting.submitted) == (0, False)
    program = FWorker.from_file(str(launchpad_file.parent / "fworker_dft.yaml"))
    potentials = FWorker(name="potentials", category=["gpu", "inference"])
    while launchpad.run_exists():
        for worker in (potentials, program):
            rapidfire(launchpad, fworker=worker, nlaunches=0, sleep_time=0, strm_lvl="CRITICAL")
    assert set(launchpad.fireworks.distinct("state")) == {"COMPLETED"}
    assert one_flow.differences(store) == []
    # jobflow's own documents for the output of replaced jobs hold references alone
    assert set(one_flow.unsealed(store)) <= {"store_inputs"}
    ran = places(launchpad)
    assert ran["label si 00"] == ran["relax si reference"] == "dft"
    assert ran["train si transfer"] == ran["label si collect"] == "potentials"
    again = submit(one_flow.load())
    assert (again.n_new, again.n_queued, again.submitted) == (0, 0, False)
    more = submit(one_flow.changed(strategies=("transfer", "delta")), dry_run=True)
    assert more.workers == {"gpu": {"train": 1}, "inference": {"phonon": 1, "report": 1}}
    fewer = submit(one_flow.changed(n_train=(1,)), dry_run=True)
    assert "dft" not in fewer.workers


WORK = """
import os, signal, time
from pathlib import Path
from jobflow import job

def note(text):
    with open(os.environ["WORK_NOTES"], "a") as handle:
        handle.write(text + "\\n")
    return len(Path(os.environ["WORK_NOTES"]).read_text().splitlines())

@job
def work(number, seconds=0.0):
    note(f"start {number}")
    starts = [line for line in Path(os.environ["WORK_NOTES"]).read_text().splitlines() if line.startswith("start")]
    if "WORK_DIES" in os.environ and len(starts) % int(os.environ["WORK_DIES"]) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if Path(os.environ["WORK_NOTES"] + ".slow").exists():
        time.sleep(seconds)
    note(f"done {number}")
    return number

@job
def total(values):
    note("total")
    return sum(values)
"""


@pytest.fixture
def work(cluster, monkeypatch):
    """Return a module of jobs that say when they begin and end, and what they said so far."""
    (cluster.folder / "faulty_work.py").write_text(WORK)
    notes = cluster.folder / "notes"
    notes.touch()
    monkeypatch.setenv("WORK_NOTES", str(notes))
    sys.modules.pop("faulty_work", None)
    import faulty_work

    yield faulty_work, lambda: Counter(notes.read_text().splitlines())
    sys.modules.pop("faulty_work", None)


def looked_at(launchpad_file):
    """Return what ``phonosmith status`` says about the launchpad."""
    arguments = ["status", "--engine", "fireworks", "--launchpad", str(launchpad_file), "--json"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def retried(launchpad_file):
    """Return what ``phonosmith retry`` says it did."""
    arguments = ["retry", "--engine", "fireworks", "--launchpad", str(launchpad_file), "--json"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_the_job_of_a_rocket_that_was_killed_is_seen_and_repeated_alone(cluster, launchpad_file, work, monkeypatch):
    import fireworks.fw_config

    module, said = work
    members = [module.work(number, seconds=600.0 if number == 1 else 0.0) for number in range(3)]
    last = module.total([member.output for member in members])
    for number, member in enumerate(members):
        member.name = f"label si 0{number}"
    last.name = "report si"
    slow = Path(os.environ["WORK_NOTES"] + ".slow")
    slow.touch()
    submit_fireworks(
        fix_identities(Flow([*members, last])), cluster.routing(), launchpad_file, store=cluster.job_store()
    )
    command = [cluster.program("rlaunch"), "-s", "-l", str(launchpad_file), "-w"]
    command += [str(launchpad_file.parent / "fworker_dft.yaml"), "rapidfire", "--nlaunches", "3"]
    rocket = subprocess.Popen(command, env=os.environ | cluster.environment, start_new_session=True)
    try:
        end = time.monotonic() + 240
        while not said()["start 1"]:
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        os.killpg(rocket.pid, signal.SIGKILL)
        rocket.wait()
    slow.unlink()
    # as long as it may be alive it runs
    assert looked_at(launchpad_file)["queue"]["counts"]["running"] == 1
    monkeypatch.setattr(fireworks.fw_config, "RUN_EXPIRATION_SECS", 0)
    found = looked_at(launchpad_file)
    (material,) = found["materials"]
    assert list(material["failed"]) == ["label si 01"]
    assert material["failed"]["label si 01"].startswith("lost: its worker has given no sign of life")
    assert found["next"].startswith("phonosmith retry --engine fireworks")
    before = said()
    assert retried(launchpad_file)["failed"] == ["label si 01"]
    launchpad = run_workers(launchpad_file)
    assert launchpad.fireworks.distinct("state") == ["COMPLETED"]
    assert cluster.job_store().get_output(last.uuid) == 3
    assert said()["start 1"] == 2
    assert all(said()[f"done {number}"] == 1 for number in range(3))
    assert all(before[f"done {number}"] <= said()[f"done {number}"] for number in range(3))
    assert retried(launchpad_file)["failed"] == []


@pytest.mark.slow
def test_a_campaign_completes_although_its_worker_dies_on_every_third_job(cluster, launchpad_file, work, monkeypatch):
    import fireworks.fw_config

    module, said = work
    monkeypatch.setattr(fireworks.fw_config, "RUN_EXPIRATION_SECS", 0)
    monkeypatch.setenv("WORK_DIES", "3")
    members = [module.work(number) for number in range(8)]
    last = module.total([member.output for member in members])
    for number, member in enumerate(members):
        member.name = f"label si 0{number}"
    last.name = "report si"
    submit_fireworks(
        fix_identities(Flow([*members, last])), cluster.routing(), launchpad_file, store=cluster.job_store()
    )
    deaths = 0
    for _ in range(10):
        worker = multiprocessing.get_context("fork").Process(target=run_workers, args=(launchpad_file,))
        worker.start()
        worker.join(240)
        if worker.exitcode == 0:
            break
        assert worker.exitcode == -signal.SIGKILL
        deaths += 1
        assert len(retried(launchpad_file)["failed"]) == 1
    assert deaths == said().total() - 2 * 8 - 1 == 3
    assert cluster.job_store().get_output(last.uuid) == sum(range(8))
    assert all(said()[f"done {number}"] == 1 for number in range(8))
    assert looked_at(launchpad_file)["queue"]["counts"] == {"done": 9}


@pytest.mark.slow
def test_what_a_killed_rocket_had_written_down_already_counts(cluster, launchpad_file, work, monkeypatch):
    """The launch is complete, its workflow does not know yet: the rocket was killed in between."""
    import fireworks.fw_config
    from fireworks import FWorker, LaunchPad
    from fireworks.core.rocket_launcher import launch_rocket

    module, said = work
    monkeypatch.setattr(fireworks.fw_config, "RUN_EXPIRATION_SECS", 0)
    first = module.work(4)
    first.name = "label si 00"
    last = module.total([first.output])
    last.name = "report si"
    submit_fireworks(fix_identities(Flow([first, last])), cluster.routing(), launchpad_file, store=cluster.job_store())
    whole = LaunchPad.complete_launch

    def half(self, *args, **options):
        with monkeypatch.context() as inner:
            inner.setattr(LaunchPad, "_refresh_wf", lambda *_: None)
            return whole(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LaunchPad, "complete_launch", half)
        worker = FWorker.from_file(str(launchpad_file.parent / "fworker_dft.yaml"))
        launch_rocket(LaunchPad.from_file(str(launchpad_file)), worker)
    (failed,) = looked_at(launchpad_file)["materials"][0]["failed"].values()
    assert failed == "lost: its worker was killed while it wrote down how the job ended"
    assert retried(launchpad_file)["failed"] == []
    run_workers(launchpad_file)
    assert cluster.job_store().get_output(last.uuid) == 4
    assert said() == Counter(["start 4", "done 4", "total"])
