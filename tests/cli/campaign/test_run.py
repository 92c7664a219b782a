"""The local campaign: real worker processes, real jobs, tiny settings."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app

CAMPAIGN = """\
name: tiny
materials: [{structure: "embedded:Si", name: si}]
foundations: [embedded]
strategies: [scratch, transfer, freeze1, delta]
cells: [primitive]
engine: {name: forcefield, potential: embedded-reference}
sampling: {max_steps: 10, n_select: 2}
training: {epochs: 1}
min_length: 6.0
mesh: 4
evaluate: [phonons]
"""


@pytest.fixture
def campaign(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(CAMPAIGN)
    return path


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, json.loads(result.stdout)


def rows(folder):
    with sqlite3.connect(f"file:{folder / 'run' / 'run.sqlite'}?mode=ro", uri=True, timeout=30) as connection:
        return connection.execute("SELECT uuid, idx, name, state, attempts, folder FROM jobs").fetchall()


def test_a_check_starts_nothing(campaign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, found = call("run", campaign, "--dry-run", "--json")
    assert code == 0
    assert found["jobs"] == 3 + 2 + 2 * 4 + 1  # sample label audit, two phonons, four strategies, report
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_bad_input_is_said_before_anything_starts(campaign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    campaign.write_text(CAMPAIGN.replace("delta]", "detla]"))
    code, found = call("run", campaign, "--out", tmp_path / "never", "--json")
    assert code == 2
    assert "line 4: strategies[3]" in found["error"]
    assert "Did you mean delta" in found["error"]
    assert not (tmp_path / "never").exists()
    campaign.write_text(CAMPAIGN)
    (tmp_path / "taken").write_text("a file")
    code, found = call("run", campaign, "--out", tmp_path / "taken", "--json")
    assert code == 2
    assert "Cannot write into" in found["error"]
    code, found = call("run", campaign, "--slots", "cpu:2", "--json")
    assert code == 2
    assert "cpu=4,gpu=1" in found["advice"]
    code, found = call("retry", tmp_path, "--json")
    assert code == 2
    assert "holds no run" in found["error"]


def environments(text):
    """Return kind, cards and device of every place, as a worker of it would see them."""
    from phonosmith.cli.campaign.run import _slots

    names = ("CUDA_VISIBLE_DEVICES", "PHONOSMITH_DEVICE")
    return [(slot.kind, *(slot.environment.get(name) for name in names)) for slot in _slots(None, text)]


def test_gpu_slots_take_the_cards_this_process_was_given(monkeypatch):
    from phonosmith.core.errors import ConfigurationError, InputError
    from phonosmith.settings import get_settings

    monkeypatch.delenv("PHONOSMITH_DEVICE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f,2")
    get_settings.cache_clear()
    assert environments("cpu=2") == [("cpu", None, None)] * 2
    one_each = [("gpu", "5", "cuda"), ("gpu", "GPU-7f", "cuda")]
    assert environments("gpu=2,cpu=1") == [("cpu", "", None), *one_each]
    # several on a card only where that is said
    assert environments("gpu=2x2") == [one_each[0], one_each[0], one_each[1], one_each[1]]
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES=5,GPU-7f,2 names 3"):
        environments("gpu=4")
    for wrong in ("cpu=2x2", "gpu=0", "gpu=1x0", "gpu=1,gpu=2", "gpu"):
        with pytest.raises(InputError, match="--slots"):
            environments(wrong)
    monkeypatch.setenv("PHONOSMITH_DEVICE", "cpu")
    get_settings.cache_clear()
    assert environments("gpu=4") == [("gpu", "", None)] * 4


@pytest.mark.slow
def test_a_campaign_runs_continues_and_takes_a_fifth_strategy(campaign, tmp_path):
    out = tmp_path / "out"
    code, first = call("run", campaign, "--out", out, "--workers", 1, "--json")
    assert (code, first["ok"]) == (0, True)
    assert (out / "report.html").stat().st_size > 10_000
    assert first["report"] == str(out / "report.html")
    (material,) = first["materials"]
    assert {entry["strategy"] for entry in material["strategies"]} == {"scratch", "transfer", "freeze1", "delta"}
    assert material["foundation"]["phonon_mae_thz"] > 0.1
    assert {entry["verdict"] for entry in material["strategies"]} <= {"fit", "not fit"}
    code, again = call("run", campaign, "--out", out, "--workers", 1, "--json")
    assert (code, again["jobs_run"], again["materials"]) == (0, 0, first["materials"])
    campaign.write_text(CAMPAIGN.replace("delta]", "delta, lora]"))
    code, more = call("run", campaign, "--out", out, "--workers", 1, "--json")
    # its training, its phonons, the report; a training of one epoch may leave the foundation as it was, whose phonons
    # are there already
    assert (code, more["jobs_run"] + more["jobs_reused"]) == (0, 3)
    assert len(more["materials"][0]["strategies"]) == 5
    # what is taken out again is left aside, and nothing is left to try again
    campaign.write_text(CAMPAIGN)
    code, back = call("run", campaign, "--out", out, "--workers", 1, "--json")
    assert (code, back["jobs_run"], back["materials"]) == (0, 0, first["materials"])
    code, retried = call("retry", out, "--json")
    assert (code, retried["ok"], retried["jobs_run"]) == (0, True, 0)
    names = [row[2] for row in rows(out)]
    assert sum(name == "report si" for name in names) == 2
    assert sum(name.startswith("label si 0") for name in names) == 10


@pytest.mark.slow
def test_a_failed_training_is_marked_and_given_other_settings_the_campaign_ends_well(campaign, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("the failure is a training that asks for a GPU where there is none")
    out = tmp_path / "out"
    few = CAMPAIGN.replace("[scratch, transfer, freeze1, delta]", "[transfer, delta]")
    campaign.write_text(few.replace("{epochs: 1}", "{epochs: 1, delta: {device: cuda}}"))
    code, first = call("run", campaign, "--out", out, "--workers", 1, "--json")
    assert (code, first["ok"]) == (1, False)
    assert [failed["job"] for failed in first["failed"]] == ["train si delta"]
    assert "GPU" in first["failed"][0]["error"]
    assert first["skipped"] == ["phonon si delta"]
    assert first["materials"][0]["failed"] == ["delta"]
    code, found = call("retry", out, "--job", "train si lora", "--json")
    assert code == 2
    assert "train si delta" in found["advice"]
    code, again = call("retry", out, "--workers", 1, "--json")
    assert (code, again["jobs_run"]) == (1, 1)
    campaign.write_text(few)
    code, mended = call("run", campaign, "--out", out, "--workers", 1, "--json")
    assert (code, mended["ok"], mended["jobs_run"] + mended["jobs_reused"]) == (0, True, 3)
    assert mended["materials"][0]["failed"] == []


def test_a_folder_is_for_one_runner_at_a_time(campaign, tmp_path):
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        code, found = call("run", campaign, "--out", out, "--json")
    assert code == 2
    assert "Another phonosmith" in found["error"]


def started(folder, stage):
    """Say whether a job of a stage has begun."""
    try:
        found = rows(folder)
    except sqlite3.OperationalError:
        return False
    return any(name.startswith(stage) and state != "waiting" for _, _, name, state, *_ in found)


def report_of(folder):
    """Return the report's numbers: everything but times and places."""
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    document = store.query_one({"name": "report si"}, load=True)["output"]
    volatile = ("manifest", "costs", "label_seconds", "training_seconds", "seconds", "label_cores")

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in volatile}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(document)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_every_stage_it_goes_on_and_ends_with_the_same_documents(tmp_path):
    campaign = tmp_path / "tiny.yaml"
    campaign.write_text(CAMPAIGN.replace("[scratch, transfer, freeze1, delta]", "[transfer]"))
    command = [sys.executable, "-m", "phonosmith.cli.main", "run", str(campaign), "--workers", "1", "--json", "--out"]
    out = tmp_path / "killed"
    finished = {}
    for stage in ("sample", "label si 0", "train", "phonon si transfer", "report"):
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen([*command, str(out)], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 240
        while not started(out, stage):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if stage in ("train", "report"):
            os.kill(process.pid, signal.SIGKILL)  # the runner alone: its workers end by themselves
        else:
            os.killpg(process.pid, signal.SIGKILL)  # the runner and its workers
        process.wait()
        done = {(uuid, index): attempts for uuid, index, _, state, attempts, _ in rows(out) if state == "done"}
        assert {key: done[key] for key in finished} == finished  # nothing that was done began again
        finished = done
    last = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    found = rows(out)
    assert {state for _, _, _, state, *_ in found} == {"done"}
    assert {(u, i): a for u, i, _, _, a, _ in found if (u, i) in finished} == finished
    whole = subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert report_of(out) == report_of(tmp_path / "whole")


FAULTS = """
import hashlib, os, signal
from pathlib import Path
from phonosmith.potentials.calculator import PotentialCalculator

class Faulty(PotentialCalculator):
    '''The reference, which never manages the first configuration it sees and once takes its process along.'''
    def calculate(self, atoms=None, *args, **kwargs):
        marks = Path(os.environ["FAULT_MARKS"])
        seen = hashlib.sha256(atoms.positions.tobytes()).hexdigest()
        poison, killed = marks / "poison", marks / "killed"
        if not poison.exists():
            poison.write_text(seen)
        elif not killed.exists() and poison.read_text() != seen:
            killed.write_text("now")
            os.kill(os.getpid(), signal.SIGKILL)
        if poison.read_text() == seen:
            raise RuntimeError("the program crashed")
        super().calculate(atoms, *args, **kwargs)
"""


@pytest.mark.slow
def test_a_poisoned_label_a_crashing_training_and_a_killed_worker_leave_the_rest_complete(tmp_path, monkeypatch):
    import torch
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.engines.local.runner import LocalRunner, Slot
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.flows.material import FineTuneMaterialMaker
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import resolve
    from phonosmith.reference.engines import make_engine

    if torch.cuda.is_available():
        pytest.skip("the crash is a training that asks for a GPU where there is none")
    (tmp_path / "faulty_reference.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAULT_MARKS", str(tmp_path))
    sound = make_engine("forcefield", potential="embedded-reference")
    faulty = sound.model_copy(update={"calculator": sound.calculator | {"path": "faulty_reference.Faulty"}})
    maker = FineTuneMaterialMaker(
        engine=faulty,
        strategies=("transfer", "delta"),
        training={"epochs": 1, "delta": {"device": "cuda"}},
        sampling={"cell": "primitive", "max_steps": 10},
        min_length=6.0,
        mesh=4,
        evaluate=("phonons",),
    )
    structure = AseAtomsAdaptor.get_structure(demo_structure("Si"))
    flow = maker.make(structure, resolve("embedded"), "si")
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    runner = LocalRunner(store, tmp_path / "run", slots=[Slot("cpu")])
    summary = runner.run(flow)
    assert (tmp_path / "killed").is_file()
    failed = {row.name: row.error for row in summary.failed}
    assert set(failed) == {"label si 00", "train si delta"}
    assert "crash" in failed["label si 00"]
    assert "GPU" in failed["train si delta"]
    assert [row.name for row in summary.skipped] == ["phonon si delta"]
    report = MaterialReport.model_validate(store.get_output(flow.output.uuid, load=True))
    assert [entry.strategy for entry in report.strategies] == ["transfer"]
    assert report.failed == ["delta"]
    assert report.labels.n_failed == 1
    (twice,) = [row for row in runner.state.rows("done") if row.attempts == 2]
    assert twice.name.startswith("label si 0")  # the job whose worker was killed ran again


LOST = """
import hashlib, os
from pathlib import Path
from phonosmith.potentials.calculator import PotentialCalculator

class Losing(PotentialCalculator):
    '''The reference, which cannot compute the last of five configurations as long as a file says so.'''
    def calculate(self, atoms=None, *args, **kwargs):
        marks = Path(os.environ["FAULT_MARKS"])
        if (marks / "broken").exists():
            known = (marks / "seen").read_text().split() if (marks / "seen").exists() else []
            here = hashlib.sha256(atoms.positions.tobytes()).hexdigest()
            known += [] if here in known else [here]
            (marks / "seen").write_text(" ".join(known))
            if known.index(here) == 4:
                raise RuntimeError("the program crashed")
        super().calculate(atoms, *args, **kwargs)
"""


@pytest.fixture
def losing(tmp_path, monkeypatch):
    """Return what makes a flow of a small material whose reference can lose a label."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.core.identity import fix_identities
    from phonosmith.flows.material import FineTuneMaterialMaker
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import resolve
    from phonosmith.reference.engines import make_engine

    (tmp_path / "losing_reference.py").write_text(LOST)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("FAULT_MARKS", str(tmp_path))
    sound = make_engine("forcefield", potential="embedded-reference")
    engine = sound.model_copy(update={"calculator": sound.calculator | {"path": "losing_reference.Losing"}})
    structure = AseAtomsAdaptor.get_structure(demo_structure("Si"))

    def flow(**changes):
        settings = {
            "strategies": ("transfer",),
            "training": {"epochs": 1},
            "sampling": {"cell": "primitive", "max_steps": 10, "n_select": 2},
            "min_length": 6.0,
            "mesh": 4,
            "evaluate": ("phonons",),
        }
        maker = FineTuneMaterialMaker(engine=engine, **(settings | changes))
        return fix_identities(maker.make(structure, resolve("embedded"), "si"))

    return flow


def open_runner(folder, **options):
    from phonosmith.engines.local.runner import LocalRunner, Slot
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    return LocalRunner(store, folder / "run", slots=[Slot("cpu")], **options), store


def report_in(store, flow):
    from phonosmith.analysis.documents import MaterialReport

    return MaterialReport.model_validate(store.get_output(flow.output.uuid, load=True))


@pytest.mark.slow
def test_a_label_that_came_late_is_in_the_data_set_and_every_number_as_if_it_had_never_been_lost(losing, tmp_path):
    (tmp_path / "broken").touch()
    flow = losing()
    runner, store = open_runner(tmp_path)
    first = runner.run(flow)
    lost = "label si 04"
    assert [row.name for row in first.failed] == [lost]
    lacking = {one.job.name: one.missing for one in first.incomplete}
    assert {"label si collect", "audit si", "train si transfer", "report si"} <= set(lacking)
    assert set(map(tuple, lacking.values())) == {(lost,)}
    assert not first.ok
    without = report_in(store, flow)
    asked = without.labels.train.n_frames + without.labels.valid.n_frames + 1
    assert without.labels.n_failed == 1
    # as long as it fails again, nothing that is done is done again
    runner.retry()
    assert runner.run().executed == 1
    (tmp_path / "broken").unlink()
    assert runner.retry() == 1
    again = runner.run()
    assert again.ok
    # the label, what counts and audits it, the training and its phonons, the report; no other label, no reference
    ran = {lost, "label si collect", "store_inputs", "audit si"}
    assert again.executed == len(ran | {"train si transfer", "phonon si transfer", "report si"})
    whole = report_in(store, flow)
    assert whole.labels.train.n_frames + whole.labels.valid.n_frames == asked
    assert whole.labels.n_failed == 0
    (tmp_path / "undisturbed").mkdir()
    other, _ = open_runner(tmp_path / "undisturbed")
    assert other.run(losing()).ok
    assert report_of(tmp_path) == report_of(tmp_path / "undisturbed")
    assert whole.strategies[0].curve.valid_force_mae != without.strategies[0].curve.valid_force_mae


def kill_workers_at(runner_folder, name, times, killed):
    """Kill, as the kernel out of memory does, the worker at a job, each time it is started."""
    import psutil

    seen = set()
    while len(seen) < times:
        found = []
        with contextlib.suppress(sqlite3.OperationalError):
            found = rows(runner_folder)
        for _, _, job, state, attempts, folder in found:
            at_work = job == name and state == "running" and os.path.exists(os.path.join(folder, "job.log"))
            if at_work and attempts not in seen:
                seen.add(attempts)
                # other tests may have children of their own in this process
                for child in psutil.Process().children():
                    if any("phonosmith.engines.local.worker" in word for word in child.cmdline()):
                        child.kill()
                        killed.append(job)
        time.sleep(0.01)


@pytest.mark.slow
def test_a_training_whose_worker_died_twice_is_in_the_report_after_a_retry(losing, tmp_path):
    name = "train si transfer 4"
    flow = losing(n_train=(2, 4))
    runner, store = open_runner(tmp_path)
    killed = []
    watcher = threading.Thread(target=kill_workers_at, args=(tmp_path, name, 2, killed))
    watcher.start()
    first = runner.run(flow)
    watcher.join()
    assert killed == [name, name]
    assert {row.name: row.error for row in first.failed} == {name: "its worker died (signal 9)"}
    assert {one.job.name: one.missing for one in first.incomplete} == {"report si": [name]}
    assert report_in(store, flow).failed == ["transfer 4"]
    runner.retry()
    again = runner.run()
    assert again.ok
    assert again.executed == 3  # the training, its phonons, the report
    whole = report_in(store, flow)
    assert whole.failed == []
    assert sorted(entry.n_train for entry in whole.strategies) == [2, 4]
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_what_it_did_and_how_to_go_on(tmp_path, number):
    campaign, out = tmp_path / "tiny.yaml", tmp_path / "out"
    campaign.write_text(CAMPAIGN.replace("[scratch, transfer, freeze1, delta]", "[transfer]"))
    command = [sys.executable, "-m", "phonosmith.cli.main", "run", str(campaign), "--workers", "1", "--out", str(out)]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not started(out, "label si 0"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    found = json.loads(printed)
    assert (found["ok"], found["interrupted"], found["failed"]) == (False, True, [])
    assert found["waiting"]
    assert found["command"] == f"phonosmith run {campaign} --out {out}"
    done = {(uuid, index) for uuid, index, _, state, *_ in rows(out) if state == "done"}
    assert len(done) == found["done"]
    assert not [state for _, _, _, state, *_ in rows(out) if state == "running"]
    last = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    # nobody counts an interruption against a job, and nothing that was done began again
    assert {attempts for _, _, _, _, attempts, _ in rows(out)} == {1}
    assert json.loads(last.stdout)["jobs_run"] == len(rows(out)) - len(done)


def test_times_are_read_and_refused(campaign, tmp_path):
    from phonosmith.cli.campaign.run import _limits

    assert _limits("train=2h, label=30m,audit=1.5,phonon si=1d") == {
        "train": 7200.0, "label": 1800.0, "audit": 1.5, "phonon si": 86400.0,
    }  # fmt: skip
    for wrong in ("train", "train=soon", "train=0", "=3h", "train=-1h"):
        code, found = call("run", campaign, "--out", tmp_path / "x", "--time-limit", wrong, "--json")
        assert (code, "train=2h,label=30m" in found["advice"]) == (2, True)


def test_a_damaged_state_is_one_line_and_json(campaign, tmp_path):
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "run.sqlite").write_bytes(b"not what it was" * 400)
    for command in (("run", campaign, "--out", tmp_path / "out"), ("retry", tmp_path / "out")):
        code, found = call(*command, "--json")
        assert code == 2
        assert "run.sqlite" in found["error"]
        assert "damaged" in found["advice"]
