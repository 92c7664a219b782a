"""``phonosmith submit`` says what goes where, and what is missing before anything is submitted."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from helpers.mongo_server import running_server
from phonosmith.cli.campaign.submit import submit_flows
from phonosmith.cli.main import app
from phonosmith.cli.setup.checks import check_fireworks, check_jobflow_remote, run_check
from phonosmith.core.errors import ConfigurationError
from phonosmith.engines.queues import submission
from phonosmith.engines.queues.configuration import Cluster, cluster_files
from phonosmith.flows.campaign import read_campaign
from phonosmith.flows.routing import Routing

CAMPAIGN = {
    "name": "two",
    "materials": [{"structure": "embedded:Si"}],
    "foundations": ["embedded"],
    "strategies": ["transfer", "delta"],
    "engine": {"name": "vasp", "rehearsal": True, "potential": "embedded-reference"},
    "cells": ["primitive"],
    "min_length": 6.0,
    "evaluate": ["phonons"],
}
NOWHERE = {"host": "127.0.0.1", "port": 9}


@pytest.fixture(scope="module")
def place():
    with running_server() as address:
        host, port = address.removeprefix("mongodb://").split(":")
        yield {"host": host, "port": int(port)}


@pytest.fixture
def setup(tmp_path, place, monkeypatch):
    """Write a campaign and both engines' files as init-cluster does, pointing at a server; return a changer."""
    import jobflow_remote

    monkeypatch.setattr(submission, "PATIENCE_MS", 300)
    monkeypatch.setattr("phonosmith.engines.queues.fireworks.PATIENCE_MS", 300)
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(tmp_path / "artefacts"))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    monkeypatch.setattr(jobflow_remote.SETTINGS, "projects_folder", str(tmp_path / "projects"))
    monkeypatch.setattr(jobflow_remote.SETTINGS, "project", None)
    (tmp_path / "projects").mkdir()

    def read(engine, name):
        answers = Cluster(engine=engine, mongo="{host}:{port}".format(**place))
        return yaml.safe_load(cluster_files(answers, tmp_path)[name])

    content = {
        "campaign.yaml": CAMPAIGN,
        "jobflow.yaml": read("fireworks", "jobflow.yaml"),
        "my_launchpad.yaml": read("fireworks", "my_launchpad.yaml"),
        "projects/phonosmith.yaml": read("jobflow-remote", "projects/phonosmith.yaml"),
        **{f"fworker_{kind}.yaml": read("fireworks", f"fworker_{kind}.yaml") for kind in ("dft", "gpu", "inference")},
    }

    def write(change=lambda _: None):
        changed = json.loads(json.dumps(content))
        change(changed)
        for name, value in changed.items():
            (tmp_path / name).write_text(yaml.safe_dump(value))

    write()
    return write


@pytest.fixture
def ready(setup, tmp_path):
    """Set both databases up, as a user does once."""
    from fireworks import LaunchPad
    from jobflow_remote.config.manager import ConfigManager

    ConfigManager(warn=False).get_project("phonosmith").get_job_controller().reset(reset_output=True)
    LaunchPad.from_file(str(tmp_path / "my_launchpad.yaml")).reset("", require_password=False)
    return setup


def submit(tmp_path, engine, *options):
    where = ["--launchpad", str(tmp_path / "my_launchpad.yaml")] if engine == "fireworks" else []
    arguments = ["submit", str(tmp_path / "campaign.yaml"), "--engine", engine, *where, *options, "--json"]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.parametrize("engine", ["fireworks", "jobflow-remote"])
def test_what_goes_where_then_submitted_once(engine, ready, tmp_path):
    code, planned = submit(tmp_path, engine, "--dry-run")
    assert code == 0, planned
    assert planned["workers"]["dft"] == {"relax": 1, "static": 1}
    assert planned["workers"]["gpu"] == {"train": 2}
    assert planned["workers"]["inference"]["sample"] == 1
    assert (planned["submitted"], planned["warnings"]) == (False, [])
    code, done = submit(tmp_path, engine)
    assert (code, done["submitted"], done["n_new"]) == (0, True, planned["n_new"])
    assert len(done["ids"]) == done["n_new"]
    code, again = submit(tmp_path, engine)
    assert (code, again["submitted"], again["n_new"], again["n_queued"]) == (0, False, 0, done["n_new"])
    # what needs jobs that have not finished waits for another submission
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(CAMPAIGN | {"strategies": ["transfer", "delta", "lora"]}))
    code, more = submit(tmp_path, engine)
    assert (code, more["n_new"], more["submitted"]) == (0, 0, False)
    assert set(more["held_back"]) == {"train si lora", "phonon si lora", "report si"}


def test_the_table_is_readable(ready, tmp_path):
    arguments = ["submit", str(tmp_path / "campaign.yaml"), "--engine", "jobflow-remote", "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "gpu             2 jobs: 2 train" in result.stdout
    assert "would be submitted to jobflow-remote (phonosmith)" in result.stdout


def remote_project(change):
    return lambda content: change(content["projects/phonosmith.yaml"])


@pytest.fixture(scope="module")
def campaign_flow(tmp_path_factory):
    path = tmp_path_factory.mktemp("campaign") / "campaign.yaml"
    path.write_text(yaml.safe_dump(CAMPAIGN))
    return read_campaign(path).flow()


@pytest.mark.parametrize(
    ("engine", "change", "words"),
    [
        ("jobflow-remote", remote_project(lambda p: p["workers"].pop("gpu")), ["no worker 'gpu'", "train si transfer"]),
        (
            "jobflow-remote",
            remote_project(lambda p: p["workers"].pop("dft")),
            ["no worker 'dft'", "relax si reference"],
        ),
        ("jobflow-remote", remote_project(lambda p: p["jobstore"]["additional_stores"].clear()), ["'data'"]),
        ("jobflow-remote", remote_project(lambda p: p["queue"]["store"].update(NOWHERE)), ["MongoDB", "refused"]),
        ("jobflow-remote", remote_project(lambda p: p["queue"]["store"].update(database="new")), ["admin reset"]),
        ("jobflow-remote", remote_project(lambda p: p.pop("queue")), ["project", "queue"]),
        (
            "fireworks",
            lambda c: c["fworker_gpu.yaml"].update(category="a100"),
            ["no category 'gpu'", "train si transfer"],
        ),
        (
            "fireworks",
            lambda c: c["jobflow.yaml"]["JOB_STORE"]["additional_stores"].clear(),
            ["'data'", "jobflow.yaml"],
        ),
        ("fireworks", lambda c: c["jobflow.yaml"].clear(), ["results would vanish"]),
        ("fireworks", lambda c: c["my_launchpad.yaml"].update(NOWHERE), ["MongoDB", "refused"]),
        ("fireworks", lambda c: c["my_launchpad.yaml"].update(name="new"), ["reset"]),
    ],
)
def test_what_is_missing_is_said_before_anything_is_submitted(engine, change, words, ready, tmp_path, campaign_flow):
    ready(change)
    launchpad = tmp_path / "my_launchpad.yaml" if engine == "fireworks" else None
    with pytest.raises(ConfigurationError) as caught:
        submit_flows(campaign_flow, engine, Routing(), launchpad=launchpad)
    for word in words:
        assert word in str(caught.value)


def test_options_that_cannot_be(ready, tmp_path):
    code, answer = submit(tmp_path, "firework", "--project", "x")
    assert (code, "fireworks" in answer["advice"]) == (2, True)
    code, answer = submit(tmp_path, "fireworks", "--project", "x")
    assert (code, "--project" in answer["error"]) == (2, True)
    (tmp_path / "routing.yaml").write_text("routing: {training: {worker: gpu, walltime: 3}}")
    code, answer = submit(tmp_path, "fireworks", "--routing", str(tmp_path / "routing.yaml"))
    assert (code, "walltime" in answer["error"]) == (2, True)
    code, answer = submit(tmp_path, "jobflow-remote", "--project", "absent")
    assert (code, "absent" in answer["error"]) == (2, True)
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(CAMPAIGN | {"materials": [{"structure": "absent.cif"}]}))
    code, answer = submit(tmp_path, "fireworks")
    assert (code, "absent.cif" in answer["error"]) == (2, True)


def test_a_store_of_artefacts_that_only_this_machine_sees_is_a_warning(ready, tmp_path, monkeypatch):
    from phonosmith.settings import get_settings

    monkeypatch.delenv("PHONOSMITH_ARTEFACTS")
    get_settings.cache_clear()
    (tmp_path / "fworker_gpu.yaml").unlink()
    (tmp_path / "fworker_dft.yaml").unlink()
    (tmp_path / "fworker_inference.yaml").unlink()
    code, answer = submit(tmp_path, "fireworks", "--dry-run")
    assert code == 0
    assert [word in " ".join(answer["warnings"]) for word in ("PHONOSMITH_ARTEFACTS", "dft, gpu, inference")] == [
        True
    ] * 2


def test_doctor_looks_at_clusters_only_where_there_are_some(ready, tmp_path, monkeypatch):
    (found,) = run_check(check_jobflow_remote)
    assert (found.status, "dft, gpu, inference" in found.message) == ("ok", True)
    assert run_check(check_fireworks) == []
    monkeypatch.setattr("fireworks.fw_config.LAUNCHPAD_LOC", str(tmp_path / "my_launchpad.yaml"))
    (found,) = run_check(check_fireworks)
    assert (found.status, "dft, gpu, inference" in found.message) == ("ok", True)
    ready(lambda content: content["my_launchpad.yaml"].update(NOWHERE))
    ready(remote_project(lambda project: project["queue"]["store"].update(NOWHERE)))
    (found,) = run_check(check_jobflow_remote)
    assert (found.status, "refused" in found.message) == ("error", True)
    ready(lambda content: content["my_launchpad.yaml"].update(NOWHERE))
    (found,) = run_check(check_fireworks)
    assert (found.status, "refused" in found.message) == ("error", True)
    (tmp_path / "projects" / "phonosmith.yaml").unlink()
    assert run_check(check_jobflow_remote) == []
