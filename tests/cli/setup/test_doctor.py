"""``phonosmith doctor`` sees what is broken, says what to do, and ends with the right code."""

import json
import os
import stat
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.cli.setup import checks as doctor
from phonosmith.core.errors import PotentialError
from phonosmith.potentials.base import Evaluation

NAMES = {
    "settings",
    "python",
    "packages",
    "torch",
    "GPU",
    "artefact store",
    "embedded job store",
    "jobflow store",
    "VASP command",
    "POTCAR folder",
    "model cache",
    "embedded",
    "embedded-reference",
}


@pytest.fixture(autouse=True)
def _jobflow_file(tmp_path, monkeypatch):
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    (tmp_path / "jobflow.yaml").write_text("{}\n")


@pytest.fixture
def embedded(monkeypatch):
    """Let the embedded potentials resolve, whatever is built yet."""
    ref = SimpleNamespace(architecture="mace", elements=["Si"], short="0123456789ab")
    monkeypatch.setattr("phonosmith.potentials.registry.resolve", lambda _: ref)


def findings(check):
    return [asdict(finding) for finding in doctor.run_check(check)]


def only(check):
    (found,) = findings(check)
    return found


def test_json_names_every_check(embedded):
    result = CliRunner().invoke(app, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert {item["name"] for item in report["checks"]} == NAMES
    broken = [item for item in report["checks"] if item["status"] == "error" and item["essential"]]
    assert report["ok"] is (not broken)
    assert result.exit_code == (1 if broken else 0)
    assert not broken, broken
    for item in report["checks"]:
        assert item["message"]
        assert bool(item["advice"]) is (item["status"] != "ok"), item


def test_text_shows_findings_and_advice(embedded):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "Everything essential works." in result.stdout
    assert all(name in result.stdout for name in NAMES)
    assert "-> " in result.stdout


def test_an_essential_failure_ends_with_one(embedded, monkeypatch):
    monkeypatch.setenv("PHONOSMITH_DEVICE", "quantum")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "PHONOSMITH_DEVICE" in result.stdout
    assert "To be repaired: settings" in result.stdout


def test_invalid_settings(monkeypatch):
    monkeypatch.setenv("PHONOSMITH_BATCH_ATOMS", "many")
    found = only(doctor.check_settings)
    assert (found["status"], found["essential"]) == ("error", True)
    assert "PHONOSMITH_BATCH_ATOMS" in found["message"]
    # the other checks do not repeat it
    assert findings(doctor.check_artefact_store) == []


def test_a_misspelt_variable_is_noticed(monkeypatch):
    monkeypatch.setenv("PHONOSMITH_DEVISE", "cpu")
    found = findings(doctor.check_settings)[-1]
    assert found["status"] == "warning"
    assert "PHONOSMITH_DEVISE" in found["message"]


def test_missing_and_old_packages(monkeypatch):
    wanted = ["ase>=999", "no-such-package-at-all>=1", "numpy>=1", "extra-only; extra == 'docs'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: wanted)
    found = findings(doctor.check_versions)[-1]
    assert found["status"] == "error"
    assert "no-such-package-at-all is missing" in found["message"]
    assert ">=999" in found["message"]
    assert "extra-only" not in found["message"]
    assert "pip install" in found["advice"]


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setenv("PHONOSMITH_DEVICE", "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    found = only(doctor.check_torch)
    assert found["status"] == "error"
    assert "PHONOSMITH_DEVICE=cpu" in found["advice"]


def test_no_gpu_is_said_plainly(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = only(doctor.check_gpu)
    assert found["status"] == "ok"
    assert found["message"].startswith("no GPU")


def test_a_gpu_that_is_not_to_be_used_is_not_timed(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    found = only(doctor.check_gpu)
    assert found["status"] == "ok"
    assert "PHONOSMITH_DEVICE=cpu" in found["message"]


@pytest.mark.parametrize("problem", ["", "operation not permitted when stream is capturing"])
def test_an_evaluation_and_a_step_are_timed_launched_and_recorded(monkeypatch, problem):
    """The CPU stands for the GPU: its potential counts how it is called, and the clock is told what that takes."""
    seconds, calls = [0.0], {"launched": 0, "recorded": 0}
    recorded = SimpleNamespace(problem=problem)

    class OnGpu:
        def __init__(self):
            self.recorded = recorded

        def evaluate_here(self, frames):
            assert len(frames[0]) == 64
            kind = "launched" if self.recorded is None else "recorded"
            calls[kind] += 1
            seconds[0] += 0.004 if kind == "recorded" and calls[kind] > 5 else 0.04
            return [Evaluation(-1.0, np.zeros((64, 3)), np.zeros(6)) for _ in frames]

    def step_seconds(assembly, device):
        assert [len(one.graph.species) for one in assembly.train] == [64, 64]
        return {"off": 0.07, "graph": 0.005}[assembly.spec.compile]

    monkeypatch.setattr("torch.cuda.synchronize", lambda _: None)
    monkeypatch.setattr("phonosmith.potentials.device.time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    monkeypatch.setattr("phonosmith.training.placement.step_seconds", step_seconds)
    found = asdict(doctor.gpu_finding(OnGpu(), "cuda"))
    assert "an evaluation 40 and 4 ms, a training step 70 and 5 ms" in found["message"]
    assert found["status"] == ("warning" if problem else "ok")
    assert problem in found["message"]


def test_artefact_store_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(blocked / "artefacts"))
    found = only(doctor.check_artefact_store)
    assert (found["status"], found["essential"]) == ("error", True)
    assert "PHONOSMITH_ARTEFACTS" in found["advice"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_artefact_store_without_permission(tmp_path, monkeypatch):
    folder = tmp_path / "artefacts"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(folder))
    assert only(doctor.check_artefact_store)["status"] == "error"


def test_artefact_store_in_a_maggma_store(tmp_path, monkeypatch):
    from phonosmith.engines.store.sqlite import SQLiteStore

    store = SQLiteStore(tmp_path / "artefacts.sqlite", key="sha256")
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS_STORE", json.dumps(store.as_dict()))
    assert only(doctor.check_artefact_store)["status"] == "ok"
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS_STORE", '{"@module": "nowhere", "@class": "NoStore"}')
    found = only(doctor.check_artefact_store)
    assert (found["status"], found["essential"]) == ("error", True)


def test_embedded_job_store(tmp_path, monkeypatch):
    path = tmp_path / "new" / "store.sqlite"
    monkeypatch.setenv("PHONOSMITH_DATABASE", str(path))
    found = only(doctor.check_embedded_job_store)
    assert found["status"] == "ok"
    assert "first use" in found["message"]
    assert not path.exists()

    path.parent.mkdir()
    path.write_bytes(b"not a database " * 100)
    found = only(doctor.check_embedded_job_store)
    assert found["status"] == "error"
    assert "restore a copy" in found["advice"]

    monkeypatch.setenv("PHONOSMITH_DATABASE", str(path / "below" / "a" / "file"))
    assert only(doctor.check_embedded_job_store)["status"] == "error"


def test_embedded_job_store_on_a_network_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("PHONOSMITH_DATABASE", str(tmp_path / "store.sqlite"))
    monkeypatch.setattr(doctor, "_file_system", lambda _: "lustre")
    found = only(doctor.check_embedded_job_store)
    assert found["status"] == "warning"
    assert "lustre" in found["message"]


def configure(tmp_path, store):
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump({"JOB_STORE": store}))


def test_jobflow_store_in_memory():
    found = only(doctor.check_jobflow_store)
    assert found["status"] == "warning"
    assert "vanish" in found["message"]
    assert "open_embedded_jobstore" in found["advice"]


def test_jobflow_store_embedded(tmp_path):
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    configure(tmp_path, store.as_dict())
    assert only(doctor.check_jobflow_store)["status"] == "ok"
    store.additional_stores.clear()
    configure(tmp_path, store.as_dict())
    found = only(doctor.check_jobflow_store)
    assert found["status"] == "error"
    assert "'data'" in found["message"]


def test_jobflow_store_without_a_server(tmp_path, monkeypatch):
    monkeypatch.setattr("phonosmith.engines.queues.submission.PATIENCE_MS", 200)
    uri = "mongodb://someone:secret@127.0.0.1:9/db"
    configure(
        tmp_path, {"docs_store": {"type": "MongoStore", "database": "db", "collection_name": "outputs", "uri": uri}}
    )
    found = only(doctor.check_jobflow_store)
    assert (found["status"], found["essential"]) == ("error", True)
    assert "refused" in found["message"]
    assert "secret" not in json.dumps(found)


def test_broken_jobflow_file(tmp_path):
    (tmp_path / "jobflow.yaml").write_text("JOB_STORE: {docs_store: {type: NoSuchStore}}\n")
    found = only(doctor.check_jobflow_store)
    assert found["status"] == "error"
    assert "JOBFLOW_CONFIG_FILE" in found["advice"]


def test_vasp_command(tmp_path, monkeypatch):
    from atomate2 import SETTINGS

    program = tmp_path / "vasp_std"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(SETTINGS, "VASP_CMD", f"env OMP_NUM_THREADS=1 {program}")
    monkeypatch.setattr(SETTINGS, "VASP_GAMMA_CMD", f"env {program}_of_old")
    full, gamma = findings(doctor.check_vasp_command)
    assert full["status"] == "ok"
    assert gamma["status"] == "warning"
    assert "VASP_GAMMA_CMD" in gamma["advice"]


def test_potcar_folder(tmp_path, monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)
    assert "not set" in only(doctor.check_potcars)["message"]
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "absent"))
    assert "does not exist" in only(doctor.check_potcars)["message"]
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path))
    assert only(doctor.check_potcars)["status"] == "warning"
    (tmp_path / "POT_GGA_PAW_PBE_54").mkdir()
    (tmp_path / "POT_GGA_PAW_PBE_54" / "POTCAR.Si.gz").write_bytes(b"")
    found = only(doctor.check_potcars)
    assert found["status"] == "ok"
    assert "1 potentials" in found["message"]


def test_model_cache(tmp_path, monkeypatch):
    from phonosmith.potentials import architecture

    owner = architecture.architecture("mace")
    monkeypatch.setattr(architecture, "architectures", lambda: [owner])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = only(doctor.check_model_cache)
    assert found["status"] == "warning"
    assert "models add" in found["advice"]
    path = owner.cached_file(owner.foundations[0])[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    found = only(doctor.check_model_cache)
    assert found["status"] == "ok"
    assert owner.foundations[0].name in found["message"]


def test_missing_embedded_potentials(monkeypatch):
    def refuse(name):
        raise PotentialError(f"This installation lacks {name}.", "Install again.")

    monkeypatch.setattr("phonosmith.potentials.registry.resolve", refuse)
    found = findings(doctor.check_embedded_potentials)
    assert [item["status"] for item in found] == ["error", "error"]


def test_a_check_that_breaks_is_a_finding():
    def check_something_odd():
        yield doctor.Finding("fine", "ok", "x")
        raise RuntimeError("boom")

    found = only(check_something_odd)
    assert (found["name"], found["status"], found["essential"]) == ("something odd", "error", True)
    assert "boom" in found["message"]


def test_libraries_that_print_do_not_disturb_json(embedded, monkeypatch, capsys):
    def check_chatty():
        print("chatter on standard output")
        yield doctor.Finding("chatty", "ok", "x")

    monkeypatch.setattr(doctor, "CHECKS", (check_chatty,))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(result.stdout)["ok"] is True
