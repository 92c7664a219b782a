"""Both queues with nothing in them, and small flows to submit."""

import pytest
from jobflow import Flow

from phonosmith.engines.queues.fireworks import open_fireworks, submit_fireworks
from phonosmith.engines.queues.remote import opened_remote, submit_remote


@pytest.fixture(params=["fireworks", "jobflow-remote"])
def submitting(request, cluster, monkeypatch, tmp_path):
    """Return what submits to an engine, and its opened queue; its scheduler is SLURM."""
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(tmp_path / "artefacts"))
    rules = cluster.routing()
    if request.param == "fireworks":
        from fireworks import LaunchPad

        monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(cluster.jobflow_yaml()))
        path = cluster.fireworks()
        LaunchPad.from_file(str(path)).reset("", require_password=False)
        opened = open_fireworks(path)
        yield lambda flows, **options: submit_fireworks(flows, rules, path, **options), opened
    else:
        request.getfixturevalue("remote").open(scheduler="slurm")
        with opened_remote("phonosmith") as opened:
            yield lambda flows, **options: submit_remote(flows, rules, "phonosmith", **options), opened


@pytest.fixture
def study(cluster):
    """Return a maker of the flows of materials: two jobs each, the second needs the first."""

    def flows(n=3):
        import routed_jobs as jobs

        for number in range(n):
            first = jobs.named(jobs.where(), f"sample m{number} small")
            second = jobs.named(jobs.collect([first.output, number]), f"report m{number}")
            yield Flow([first, second], name=f"study m{number}")

    return flows
