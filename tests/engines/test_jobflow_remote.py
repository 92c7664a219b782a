"""Flows through a real jobflow-remote runner and local workers."""

import os
import subprocess
import sys

import pytest
from jobflow import Flow

from phonosmith.flows.routing import route

RUN = """
import sys
from jobflow_remote.jobs.runner import Runner
Runner(sys.argv[1]).run_all_jobs(max_seconds=float(sys.argv[2]))
"""


@pytest.fixture
def project(cluster, monkeypatch):
    """Return the controller of a project whose database is set up."""
    return open_project(cluster, monkeypatch)


def open_project(cluster, monkeypatch, **options):
    from jobflow_remote import SETTINGS
    from jobflow_remote.config.manager import ConfigManager

    name = cluster.project(**options)
    monkeypatch.setattr(SETTINGS, "projects_folder", cluster.environment["JFREMOTE_PROJECTS_FOLDER"])
    monkeypatch.setattr(SETTINGS, "project", name)
    controller = ConfigManager().get_project(name).get_job_controller()
    controller.reset(reset_output=False)
    return controller


def run_runner(cluster, seconds=240):
    environment = os.environ | cluster.environment
    subprocess.run(
        [sys.executable, "-c", RUN, "phonosmith", str(seconds)],
        env=environment,
        check=True,
        timeout=seconds + 60,
        capture_output=True,
    )


@pytest.mark.slow
def test_jobs_made_by_jobs_land_on_the_worker_their_name_asks_for(cluster, project):
    import routed_jobs as jobs
    from jobflow_remote import submit_flow

    start = jobs.named(jobs.fan_out("gete-relax"), "label gete-relax start")
    flow = Flow([start, jobs.named(jobs.where(), "phonon gete-relax foundation")])
    submit_flow(route(flow, cluster.routing(), "jobflow-remote"), worker="inference", project="phonosmith")
    run_runner(cluster)

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
