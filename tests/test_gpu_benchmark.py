"""The benchmark of a GPU: it says where there is none, judges by ratios of one run, and goes on where it stopped."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("peers", "sections", "report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_measures_nothing(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main(["--out", str(tmp_path / "found.json")]) == 2
    assert "sees no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def training_rows(epochs):
    case = {"size": "small", "n_atoms": 216, "batch": 4, "dtype": "float32"}
    ours = [
        {"peer": "phonosmith", "compile": "auto", **case, "epoch_s": epochs[0], "peak_gb": 2.4},
        {"peer": "phonosmith", "compile": "off", **case, "epoch_s": 9.0, "peak_gb": 2.0},
    ]
    return [
        *ours,
        {"peer": "mace", **case, "cueq": True, "epoch_s": 0.1},
        {"peer": "mace", **case, "epoch_s": epochs[1]},
    ]


def section(rows):
    return {"status": "done", "error": "", "seconds": 1.0, "rows": rows}


def test_goals_are_ratios_and_what_is_missing_is_not_measured(script):
    packs = [
        {"trainings": 1, "wall_s": 30.0, "warm_up": True},
        {"trainings": 1, "wall_s": 10.0, "warm_up": False},
        {"trainings": 8, "wall_s": 20.0, "warm_up": False},
    ]
    process = [{"peer": "phonosmith", "error": "failed", "epochs": 40}, {"peer": "mace", "wall_s": 9.0, "epochs": 40}]
    rows = {"training": training_rows((1.0, 3.5)), "packs": packs, "process": process}
    content = {name: section(some) for name, some in rows.items()}
    found = {goal[0]: (goal[3], script.judged(goal, measured_on_gpu=True)) for goal in script.goals(content)}
    assert found["epoch over mace's, 64x0e, 16 x 216 atoms, batch 4"] == (3.5, "pass")
    assert found["epoch over mace's, 64x0e, 32 atoms, batch 1"] == (None, "not measured")
    assert found["throughput of 8 packed over one after another"] == (4.0, "pass")
    assert found["memory recorded over launched, small, 4 x 216 atoms"] == (1.2, "pass")
    assert found["whole process over mace's, 40 epochs (goal for 200)"] == (None, "not measured")
    content["training"] = section(training_rows((2.0, 3.5)))
    slow = next(goal for goal in script.goals(content) if "16 x 216" in goal[0])
    assert (slow[3], script.judged(slow, measured_on_gpu=True)) == (1.75, "FAIL")
    assert script.judged(slow, measured_on_gpu=False) == "not measured"


def test_the_page_shows_every_row_and_every_failure(script):
    failed = {"status": "failed", "error": "OutOfMemoryError: full", "seconds": 2.0, "rows": []}
    content = {
        "machine": {"device": "cpu", "torch": "2"},
        "sections": {"training": section(training_rows((1.0, 3.5))), "packs": failed},
    }
    page = script.page(content)
    assert "The times mean nothing" in page
    assert "OutOfMemoryError: full" in page
    assert page.count("| small |") == 4


@pytest.mark.slow
def test_it_runs_tiny_on_a_cpu_and_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, str(FOLDER / "run.py"), "--cpu", "--out", str(out), "--only", "curvature", "choices"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    content = json.loads(out.read_text())
    assert done.returncode == 0, (done.stderr[-2000:], content)
    assert {one["status"] for one in content["sections"].values()} == {"done"}
    assert all(row["same_bits"] for row in content["sections"]["choices"]["rows"] if row["what"] == "bits")
    assert all(goal["verdict"] == "not measured" for goal in content["goals"])
    assert "# GPU benchmark" in out.with_suffix(".md").read_text()
    again = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert "choices: done before" in again.stdout
