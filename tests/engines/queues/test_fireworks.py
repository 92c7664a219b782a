"""Flows through real FireWorks workers: everything lands where its name says."""

import pytest
from jobflow import Flow

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

    cluster.jobflow_yaml()
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


@pytest.mark.slow
def test_a_job_lost_with_its_worker_is_found_and_run_again(cluster, launchpad_file):
    import routed_jobs as jobs
    from fireworks import FWorker, LaunchPad
    from jobflow.managers.fireworks import flow_to_workflow

    launchpad, store = LaunchPad.from_file(str(launchpad_file)), cluster.job_store()
    taken = jobs.named(jobs.where(), "label si 00")
    launchpad.add_wf(flow_to_workflow(route(taken, cluster.routing(), "fireworks"), store=store))
    worker = FWorker.from_file(str(launchpad_file.parent / "fworker_dft.yaml"))
    # a worker takes the job and is never heard of again
    launchpad.checkout_fw(worker, str(cluster.folder))
    run_workers(launchpad_file)
    assert launchpad.fireworks.distinct("state") == ["RUNNING"]
    launchpad.detect_lostruns(expiration_secs=0, rerun=True)
    run_workers(launchpad_file)
    assert launchpad.fireworks.distinct("state") == ["COMPLETED"]
    assert store.get_output(taken.uuid) == ""
