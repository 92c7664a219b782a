"""Flows through a real jobflow-remote runner and local workers."""

import pytest
from jobflow import Flow

from phonosmith.engines.queues.remote import submit_remote
from phonosmith.flows.routing import route


@pytest.mark.slow
def test_jobs_made_by_jobs_land_on_the_worker_their_name_asks_for(cluster, remote):
    import routed_jobs as jobs
    from jobflow_remote import submit_flow

    project = remote.open()
    start = jobs.named(jobs.fan_out("gete-relax"), "label gete-relax start")
    flow = Flow([start, jobs.named(jobs.where(), "phonon gete-relax foundation")])
    submit_flow(route(flow, cluster.routing(), "jobflow-remote"), worker="inference", project="phonosmith")
    remote.run()

    found = {item["job"]["name"]: item for item in project.get_jobs({})}
    routed = {name: item["worker"] for name, item in found.items() if name != "store_inputs"}
    assert routed == {
        "label gete-relax start": "inference",
        "label gete-relax 00": "dft",
        "label gete-relax 01": "dft",
        "label gete-relax collect": "inference",
        "audit gete-relax": "inference",
        "train gete-relax delta": "gpu",
        "phonon gete-relax foundation": "inference",
    }
    assert found["label gete-relax 01"]["state"] == "FAILED"
    # what a job lacks it does not take over from the job that made it
    assert found["label gete-relax 00"]["exec_config"] == "vasp"
    assert found["train gete-relax delta"]["exec_config"] == "torch"
    store = project.project.get_jobstore()
    store.connect()
    # where they really ran, and the collecting job's tolerance survived
    assert store.get_output(start.uuid) == ["dft", None, "gpu"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a queue's pace, not the test's, when the machine is busy
def test_local_workers_get_what_the_local_runner_gets(cluster, remote, one_flow):
    project = remote.open()
    assert submit_remote(one_flow.load(), cluster.routing(), "phonosmith").submitted
    waiting = submit_remote(one_flow.load(), cluster.routing(), "phonosmith")
    assert (waiting.n_new, waiting.submitted) == (0, False)
    remote.run()
    states = {item["job"]["name"]: item["state"] for item in project.get_jobs({})}
    assert set(states.values()) == {"COMPLETED"}, states
    store = project.project.get_jobstore()
    store.connect()
    assert one_flow.differences(store) == []
    # jobflow's own documents for the output of replaced jobs hold references alone
    assert set(one_flow.unsealed(store)) <= {"store_inputs"}
    again = submit_remote(one_flow.load(), cluster.routing(), "phonosmith")
    assert (again.n_new, again.n_queued, again.submitted) == (0, 0, False)
    # a strategy more, and fewer labels than there are: only what is new runs, and no label twice
    more = submit_remote(one_flow.changed(strategies=("transfer", "delta")), cluster.routing(), dry_run=True)
    assert more.workers == {"gpu": {"train": 1}, "inference": {"phonon": 1, "report": 1}}
    fewer = submit_remote(one_flow.changed(n_train=(1,)), cluster.routing(), dry_run=True)
    assert "dft" not in fewer.workers
    assert fewer.workers["gpu"] == {"train": 1}
