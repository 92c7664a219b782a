"""How far a run is, from rows alone: totals that do not jump, time left by what was measured."""

import dataclasses
import json

import pytest

from phonosmith.engines.local.outlook import Forecast, last_epoch
from phonosmith.engines.local.state import JobRow


def row(name, state="waiting", seconds=None, folder=None, **metadata):
    return JobRow(name, 1, name, state, 1, folder, None, seconds, metadata)


def forecast(places=1, clock=lambda: 0.0):
    return Forecast(places, clock)


def test_jobs_that_a_job_will_make_count_from_the_start():
    start = row("label si start", stage="label", step="start", makes=15)
    before = forecast().outlook([start, row("train si delta")])
    made = [row(f"label si {number}") for number in range(14)] + [row("label si collect", step="collect")]
    done = row("label si start", "done", 0.1, stage="label", step="start", makes=15)
    # jobflow gives the job that takes the place of another the same description
    made[-1] = dataclasses.replace(made[-1], index=2, metadata={"stage": "label", "step": "start", "makes": 15})
    after = forecast().outlook([done, *made, row("train si delta")])
    assert before.total == after.total == 17
    assert (before.done, after.done) == (0, 1)


def test_the_time_left_is_the_mean_of_what_ended_shared_by_the_places():
    rows = [row("label si 1", "done", 10.0), row("label si 2", "done", 14.0)]
    rows += [row(f"label si {number}") for number in range(3, 9)]
    assert forecast(1).outlook(rows).left() == "about 1 min 12 s"
    assert forecast(2).outlook(rows).left() == "about 36 s"
    assert forecast(2).outlook([*rows, row("train si delta")]).left() == "at least 36 s"


def test_a_training_tells_its_time_by_its_epochs(tmp_path):
    log = tmp_path / "training" / "one" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    lines = [json.dumps({"epoch": n, "valid_mae_forces_mev_per_angstrom": 50.0 - n}) for n in range(21)]
    log.write_text("\n".join(lines) + "\n")
    training = row("train si delta", "running", folder=str(tmp_path), epochs=60)
    assert last_epoch(training).words() == "epoch 20/60, F 30.0 meV/Å"
    times = iter([0.0, 0.0, 100.0])
    seen = forecast(1, lambda: next(times))
    seen.outlook([training])
    assert seen.outlook([training]).left() == "about 3 min 20 s"  # 100 s for a third: 200 s for the rest


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_log_that_is_being_written_tells_nothing(tmp_path, text):
    log = tmp_path / "training" / "one" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(text)
    assert last_epoch(row("train si delta", "running", folder=str(tmp_path))) is None
