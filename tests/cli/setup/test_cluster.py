"""``init-cluster`` writes for nobody else's eyes and over nothing; ``doctor --cluster`` asks real workers."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.mongo_server import running_server
from phonosmith.cli.main import app

RUNNER = "from jobflow_remote.jobs.runner import Runner; Runner('phonosmith').run_all_jobs(max_seconds=200)"
SCRIPTS = {
    # who works starts after the question, and is at its end when nothing is left to do
    "jobflow-remote": f"""
source {{folder}}/activate.sh; jf admin reset -y >/dev/null
(sleep 10; python -c "{RUNNER}") >runner.log 2>&1 &
python -m phonosmith.cli.main doctor --cluster jobflow-remote --timeout 250 --json
""",
    "fireworks": """
source {folder}/activate.sh; lpad -l {folder}/my_launchpad.yaml reset --password "$(date +%Y-%m-%d)" >/dev/null
(sleep 10; for worker in dft gpu; do
  rlaunch -l {folder}/my_launchpad.yaml -w {folder}/fworker_$worker.yaml singleshot; done) >runner.log 2>&1 &
python -m phonosmith.cli.main doctor --cluster fireworks --timeout 90 --json
""",
}


def call(*arguments, **options):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
    return result.exit_code, json.loads(result.stdout) if "--json" in arguments else result.output


def test_files_are_private_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.setenv("PHONOSMITH_MONGO_PASSWORD", "s3cret")
    options = ["init-cluster", "--out", tmp_path / "c", "--engine", "fireworks", "--mongo-user", "me", "--json"]
    code, made = call(*options, "--gpu-partition", "a100")
    assert code == 0
    assert "s3cret" not in json.dumps(made)
    assert "s3cret" in (tmp_path / "c" / "my_launchpad.yaml").read_text()
    modes = {name: stat.S_IMODE((tmp_path / "c" / name).stat().st_mode) for name in made["files"]}
    assert modes.pop("launch.sh") == 0o700
    assert set(modes.values()) == {0o600}
    assert not any("a100" in line for line in made["to_edit"])
    assert any("queue: cpu # EDIT" in line for line in made["to_edit"])
    before = (tmp_path / "c" / "jobflow.yaml").read_text()
    code, refused = call(*options)
    assert code == 2
    assert "holds FW_config.yaml" in refused["error"]
    assert (tmp_path / "c" / "jobflow.yaml").read_text() == before
    monkeypatch.delenv("PHONOSMITH_MONGO_PASSWORD")
    code, refused = call(*options[:2], tmp_path / "d", *options[3:])
    assert (code, (tmp_path / "d").exists()) == (2, False)
    code, refused = call("init-cluster", "--out", tmp_path / "d", "--scratch", "here", "--json")
    assert code == 2
    assert "--scratch" in refused["error"]


def test_answers_leave_nothing_to_guess(tmp_path, monkeypatch):
    monkeypatch.setattr("phonosmith.cli.setup.cluster.people_answer", lambda: True)
    # engine (first a wrong one), then every default, with a scratch folder that is none and one that is
    code, said = call(
        "init-cluster", "--out", tmp_path / "c", "--scratch", "/s", input="slurm\nfireworks\n" + "\n" * 30
    )
    assert code == 0, said
    assert "EDIT" not in said
    assert "engine: jobflow-remote or fireworks" in said
    assert "login node" not in said
    assert "/s" in (tmp_path / "c" / "launch.sh").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["jobflow-remote", "fireworks"])
def test_workers_say_what_they_see(engine, tmp_path):
    """The files as written, the engine's own programs, and one worker that nobody starts."""
    with running_server() as address:
        folder = tmp_path / "c"
        options = ["--mongo", address.removeprefix("mongodb://"), "--scheduler", "shell", "--potcars", "/nowhere"]
        options += ["--vasp", "srun vasp", "--vasp-gamma", "srun vasp"]
        options += ["--artefacts", tmp_path / "shared", "--scratch", tmp_path / "runs", "--environment", sys.prefix]
        code, made = call("init-cluster", "--out", folder, "--engine", engine, *options, "--json")
        assert (code, made["to_edit"]) == (0, [])
        script = SCRIPTS[engine].format(folder=folder)
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=os.environ | {"PATH": programs},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    answer = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert "workers" in answer, (answer, done.stderr[-3000:])
    workers = {probe["worker"]: probe for probe in answer["workers"]}
    assert set(workers) == {"dft", "gpu", "inference"}
    found = {name: {one["name"]: one for one in probe["findings"]} for name, probe in workers.items()}
    assert found["dft"]["artefacts of the submission"]["status"] == "ok"
    assert "POTCAR folder" in found["dft"]
    assert "POTCAR folder" not in found["gpu"]
    if engine == "fireworks":
        # who starts rlaunch by hand sets the environment by hand
        assert "no answer" in workers["inference"]["problem"]
        assert (done.returncode, answer["ok"]) == (1, False)
        return
    assert found["inference"]["torch"]["status"] == "ok"
    # the gpu worker is told to use a GPU: without one it says so instead of training on a processor
    import torch

    assert (found["gpu"]["torch"]["status"] == "ok") == torch.cuda.is_available()
    assert (done.returncode == 0) == answer["ok"] == torch.cuda.is_available()
