"""The local runner on real worker processes and the embedded store."""

import contextlib
import fcntl
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from jobflow import Flow

from helpers.processes import ended
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.failures import read_failures
from phonosmith.core.identity import fix_identities
from phonosmith.engines.local.runner import LocalRunner, Slot
from phonosmith.engines.local.worker import RESPONSE_FILE
from phonosmith.engines.store.sqlite import open_embedded_jobstore

MODULE = """
import os, signal, time
from pathlib import Path
from jobflow import Flow, JobConfig, OnMissing, Response, job

def note(text):
    with open(os.environ["RUN_NOTES"], "a") as handle:
        handle.write(text + "\\n")

@job
def add(a, b):
    note(f"add {a} {b}")
    return a + b

@job
def slow(x, seconds=0.3):
    note(f"slow {x}")
    time.sleep(seconds)
    note(f"end {x}")
    Path("which").write_text(str(x))
    return x

@job
def fail(x):
    note(f"fail {x}")
    raise ValueError(f"cannot digest {x}")

@job
def fail_once(path):
    note("fail_once")
    if not Path(path).exists():
        Path(path).write_text("seen")
        raise OSError("first time")
    return "second time"

@job
def die(path):
    note("die")
    if not Path(path).exists():
        Path(path).write_text("seen")
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"

@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def collect(values):
    note("collect")
    return [v for v in values if v is not None]

@job
def fan_out(n):
    note("fan_out")
    jobs = [add(i, i) for i in range(n)]
    total = collect([j.output for j in jobs])
    return Response(replace=Flow([*jobs, total], output=total.output))

@job
def with_detour(x):
    return Response(output=x, detour=slow(f"detour {x}", 0.2))

@job
def with_addition(x):
    return Response(output=x, addition=add(x, 100))

@job
def stop(x):
    return Response(output=x, stop_children=True)

@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def collect_at_least(values, fewest):
    note("collect")
    found = [v for v in values if v is not None]
    if len(found) < fewest:
        raise ValueError("too few")
    return found

@job
def spread(path):
    note("spread")
    jobs = [add(1, 1), fail_once(path), add(2, 2)]
    return Response(replace=Flow(jobs, output={"values": [j.output for j in jobs]}))

@job
def only_collected(path, fewest):
    jobs = [add(1, 1), fail_once(path)]
    last = collect_at_least([j.output for j in jobs], fewest)
    return Response(replace=Flow([*jobs, last], output=last.output))

@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def gather(found):
    note("gather")
    return found["values"]

@job
def continued(total, path):
    note(f"continued {total}")
    # the first time in two parts, later in one
    if Path(path).exists():
        return f"{total} in one"
    Path(path).write_text("seen")
    return Response(replace=more(total))

@job
def more(total):
    note(f"more {total}")
    return f"{total} in two"

@job
def total(values):
    return sum(v for v in values if isinstance(v, int))

@job
def fail_while(path):
    note("fail_while")
    if Path(path).exists():
        raise OSError("not yet")
    return 100

@job
def no_room(path):
    note("no_room")
    if Path(path).exists():
        raise OSError(28, "No space left on device")
    return "written"

@job
def hang(path):
    import subprocess
    child = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(str(child.pid))
    child.wait()

@job
def process():
    return os.getpid()

@job
def where():
    return [os.getcwd(), os.environ.get("SLOT_NAME", "")]
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "runner_jobs.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("RUN_NOTES", str(tmp_path / "notes"))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("runner_jobs", None)
    yield tmp_path
    sys.modules.pop("runner_jobs", None)


def runner(work, **options):
    store = open_embedded_jobstore(work / "store.sqlite")
    store.connect()
    options.setdefault("slots", [Slot("cpu"), Slot("cpu")])
    return LocalRunner(store, work / "run", **options), store


def notes(work):
    path = work / "notes"
    return path.read_text().splitlines() if path.exists() else []


def test_a_dynamic_flow_runs_once_and_gives_what_run_locally_gives(work):
    import runner_jobs as jobs
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    def build():
        first = jobs.add(1, 2)
        fan = jobs.fan_out(3)
        last = jobs.add(first.output, 10)
        total = jobs.collect([fan.output, last.output])
        return Flow([first, fan, last, total]), total

    flow, total = build()
    local, store = runner(work)
    summary = local.run(flow)
    assert summary.ok
    assert store.get_output(total.uuid) == [[0, 2, 4], 13]
    again, expected = build()
    memory = JobStore(MemoryStore())
    run_locally(again, store=memory, log=False)
    assert memory.get_output(expected.uuid) == store.get_output(total.uuid)
    before = len(notes(work))
    assert local.run().executed == 0
    assert len(notes(work)) == before


def test_two_slots_run_side_by_side_and_every_job_has_its_folder(work):
    import runner_jobs as jobs

    local, _ = runner(work)
    many = [jobs.slow(i, 0.5) for i in range(4)]
    assert local.run(Flow(many)).ok
    lines = notes(work)
    # two at a time somewhere: which worker is there first is the machine's business
    assert any(one.startswith("slow") and other.startswith("slow") for one, other in itertools.pairwise(lines))
    folders = {row.folder for row in local.state.rows()}
    assert len(folders) == 4


@pytest.mark.parametrize(("rules", "metadata"), [({"train": "gpu"}, {}), (None, {}), (None, {"stage": "train"})])
def test_slots_by_job_name_or_stage_with_their_environment(work, rules, metadata):
    import runner_jobs as jobs

    places = [Slot("cpu", {"SLOT_NAME": "c"}), Slot("gpu", {"SLOT_NAME": "g"})]
    local, store = runner(work, slots=places, rules=rules)
    train, phonon = jobs.where(), jobs.where()
    train.name, phonon.name = "tuned si delta" if metadata else "train si delta", "phonon si delta"
    train.metadata.update(metadata)
    assert local.run(Flow([train, phonon])).ok
    assert store.get_output(train.uuid)[1] == "g"
    assert store.get_output(phonon.uuid)[1] == "c"
    assert train.name.replace(" ", "-") in store.get_output(train.uuid)[0]


def test_a_failure_leaves_the_rest_running_and_is_explained(work):
    import runner_jobs as jobs

    bad = jobs.fail("frame 7")
    good = jobs.add(1, 1)
    needs = jobs.add(bad.output, 1)
    further = jobs.add(needs.output, 1)
    tolerant = jobs.collect([bad.output, good.output])
    local, store = runner(work)
    summary = local.run(Flow([bad, good, needs, further, tolerant]))
    assert not summary.ok
    assert [row.name for row in summary.failed] == ["fail"]
    assert "cannot digest frame 7" in summary.failed[0].error
    assert len(summary.skipped) == 2
    assert store.get_output(tolerant.uuid) == [2]
    assert "Traceback" in Path(summary.failed[0].folder, "error.txt").read_text()


def test_retry_runs_only_what_failed_and_what_waited_for_it(work):
    import runner_jobs as jobs

    first = jobs.fail_once(str(work / "mark"))
    then = jobs.add(first.output, "!")
    other = jobs.add(5, 5)
    local, store = runner(work)
    assert len(local.run(Flow([first, then, other])).failed) == 1
    # the reason lies beside the results, where nobody takes it for one
    (kept,) = read_failures(store).values()
    assert (kept.job, kept.uuid, kept.error) == ("fail_once", first.uuid, "OSError: first time")
    assert store.query_one({"uuid": first.uuid}) is None
    assert local.retry() == 1
    summary = local.run()
    assert summary.ok
    assert summary.executed == 2
    assert store.get_output(then.uuid) == "second time!"
    assert read_failures(store) == {}
    assert notes(work).count("add 5 5") == 1


def test_automatic_retries(work):
    import runner_jobs as jobs

    local, _ = runner(work, retries=1)
    assert local.run(Flow([jobs.fail_once(str(work / "mark"))])).ok


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_killed_worker_costs_one_attempt(work, restarts):
    import runner_jobs as jobs

    local, store = runner(work, restarts=restarts)
    victim, bystander = jobs.die(str(work / "mark")), jobs.slow(1)
    summary = local.run(Flow([victim, bystander]))
    assert summary.ok is bool(restarts)
    assert store.get_output(bystander.uuid) == 1
    if restarts:
        assert store.get_output(victim.uuid) == "alive"
        # the folder of the attempt before is kept and linked: jobs may go on from what it holds
        (link,) = (work / "run" / "jobs").glob("die-*/previous")
        assert link.resolve().name == f"{link.parent.name}.attempt1"
        assert (link / "job.log").is_file()
    else:
        assert "signal 9" in summary.failed[0].error


@pytest.mark.parametrize(("limit", "several"), [(0.0, True), (100.0, False)])
def test_a_worker_that_holds_too_much_memory_is_replaced(work, limit, several):
    import runner_jobs as jobs

    local, store = runner(work, slots=[Slot("cpu")], worker_memory_gb=limit)
    asked = [jobs.process() for _ in range(3)]
    summary = local.run(Flow(asked))
    assert (summary.ok, summary.executed) == (True, 3)
    assert len({store.get_output(one.uuid) for one in asked}) == (3 if several else 1)


def test_detours_additions_and_stops(work):
    import runner_jobs as jobs

    one = jobs.with_detour("a")
    after = jobs.add(one.output, "b")
    more = jobs.with_addition(1)
    halt = jobs.stop(1)
    never = jobs.add(halt.output, 1)
    nor = jobs.add(never.output, 1)
    local, _ = runner(work)
    summary = local.run(Flow([one, after, more, halt, never, nor]))
    lines = notes(work)
    assert lines.index("end detour a") < lines.index("add a b")
    assert "add 1 100" in lines
    assert len(summary.skipped) == 2


def test_kill_minus_nine_then_resume_repeats_no_finished_job(work):
    script = work / "campaign.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(work)!r})
        import runner_jobs as jobs
        from jobflow import Flow
        from phonosmith.core.identity import fix_identities
        from phonosmith.engines.local.runner import LocalRunner, Slot
        from phonosmith.engines.store.sqlite import open_embedded_jobstore
        slow = [jobs.slow(i, 0.4) for i in range(6)]
        fan = jobs.fan_out(3)
        total = jobs.collect([j.output for j in slow] + [fan.output])
        store = open_embedded_jobstore({str(work / "store.sqlite")!r})
        runner = LocalRunner(store, {str(work / "run")!r}, slots=[Slot(), Slot()])
        summary = runner.run(fix_identities(Flow([*slow, fan, total])))
        print(summary.ok, summary.executed)
        """)
    )
    process = subprocess.Popen([sys.executable, script], start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while sum(line.startswith("end") for line in notes(work)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    # finished is what the worker has recorded; a body that ended a moment before the kill is not
    answered = [answer.parent for answer in (work / "run" / "jobs").glob(f"*/{RESPONSE_FILE}")]
    finished = {f"end {(folder / 'which').read_text()}" for folder in answered if (folder / "which").is_file()}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("True"), result.stderr
    lines = notes(work)
    # what had finished before the kill ended once; what was cut off ran again
    assert all(lines.count(line) == 1 for line in finished)
    assert sum(lines.count(line) - 1 for line in set(lines) if line.startswith("end")) <= 2  # one per slot
    assert {f"end {i}" for i in range(6)} <= set(lines)
    assert finished
    assert lines.count("fan_out") <= 2
    again = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert again.stdout.strip() == "True 0"


def test_identity_follows_content(work):
    import runner_jobs as jobs

    def build(extra):
        a = jobs.add(1, 2)
        b = jobs.add(a.output, 3)
        same = [jobs.add(7, 7), jobs.add(7, 7)]
        return Flow([a, b, *same, *extra])

    one = [j.uuid for j in fix_identities(build([])).jobs]
    two = [j.uuid for j in fix_identities(build([jobs.add(9, 9)])).jobs]
    assert two[:4] == one
    assert len(set(two)) == 5
    changed = fix_identities(Flow([(a := jobs.add(1, 5)), jobs.add(a.output, 3)]))
    assert not {j.uuid for j in changed.jobs} & set(one)


def test_adding_a_branch_runs_only_the_new_jobs(work):
    import runner_jobs as jobs

    def build(n):
        shared = jobs.add(1, 1)
        return fix_identities(Flow([shared, *[jobs.add(shared.output, i) for i in range(n)]]))

    first, _ = runner(work)
    assert first.run(build(2)).executed == 3
    second, _ = runner(work)
    summary = second.run(build(3))
    assert (summary.executed, summary.done) == (1, 4)


def test_an_unwritable_folder_and_no_slots_are_said(work, tmp_path):
    (tmp_path / "file").write_text("")
    store = open_embedded_jobstore(work / "store.sqlite")
    with pytest.raises(ConfigurationError, match="Cannot keep the run"):
        LocalRunner(store, tmp_path / "file" / "run")
    with pytest.raises(ConfigurationError, match="at least one slot"):
        LocalRunner(store, tmp_path / "run", slots=[])


def test_a_worker_that_cannot_start_is_explained(work, monkeypatch):
    import runner_jobs as jobs

    monkeypatch.setattr("jobflow.JobStore.as_dict", lambda _: {"@module": "nowhere", "@class": "Nothing"})
    local, _ = runner(work)
    with pytest.raises(ConfigurationError, match="ended with code"):
        local.run(Flow([jobs.add(1, 1)]))


def test_some_of_many_results_are_handed_on_and_the_only_one_is_not_looked_for_in_vain(work):
    import runner_jobs as jobs

    many, single = jobs.spread(str(work / "a")), jobs.only_collected(str(work / "b"), 2)
    some, needs = jobs.gather(many.output), jobs.add(single.output, [])
    local, store = runner(work)
    first = local.run(Flow([many, single, some, needs]))
    assert sorted(row.name for row in first.failed) == ["collect_at_least", "fail_once", "fail_once"]
    # without its only result the output job is left out, and so is what needs it
    assert {row.name: row.error for row in first.skipped} == {
        "store_inputs": "'collect_at_least' failed",
        "add": "'store_inputs' was left out",
    }
    assert store.get_output(some.uuid) == [2, None, 4]
    assert {one.job.name: one.missing for one in first.incomplete}["gather"] == ["fail_once"]
    local.retry()
    assert local.run().ok
    assert store.get_output(some.uuid) == [2, "second time", 4]
    assert store.get_output(needs.uuid) == [2, "second time"]
    lines = notes(work)
    assert lines.count("spread") == lines.count("add 1 1") / 2 == 1


def test_what_ran_in_parts_and_runs_again_in_one_gives_the_new_result(work):
    import runner_jobs as jobs

    (work / "broken").touch()
    lost, kept = jobs.fail_while(str(work / "broken")), jobs.add(1, 2)
    both = jobs.collect([lost.output, kept.output])
    size = jobs.total(both.output)
    part = jobs.continued(size.output, str(work / "mark"))
    last = jobs.collect([part.output])
    local, store = runner(work)
    assert not local.run(fix_identities(Flow([lost, kept, both, size, part, last]))).ok
    uuids = {row.name: row.uuid for row in local.state.rows()}
    collects = [row.uuid for row in local.state.rows() if row.name == "collect"]
    assert store.get_output(collects[-1]) == ["3 in two"]
    assert [row.name for row in local.state.rows()].count("more") == 1
    (work / "broken").unlink()
    local.retry()
    assert local.run().ok
    # what the first run had been replaced by does not hide the new result
    assert store.get_output(uuids["continued"]) == "103 in one"
    assert store.get_output(collects[-1]) == ["103 in one"]
    assert "more" not in [row.name for row in local.state.rows()]
    lines = notes(work)
    assert (lines.count("add 1 2"), lines.count("fail_while"), lines.count("continued 103")) == (1, 2, 1)


def test_a_job_that_failed_after_it_had_worked_leaves_no_old_result(work):
    import runner_jobs as jobs

    first = jobs.add(1, 2)
    after = jobs.collect([first.output])
    local, store = runner(work)
    assert local.run(Flow([first, after])).ok
    (row, _) = local.state.rows()
    local.state.update(
        row.key, state="waiting", folder=None, document=local.state.document(row.key).replace("2]", "[]]")
    )
    again = local.run()
    assert [one.name for one in again.failed] == ["add"]
    # the collection still names what it lacks, and nobody finds the sum of before
    assert [one.missing for one in again.incomplete] == [["add"]]
    assert store.query_one({"uuid": first.uuid}) is None


def test_a_stopped_branch_is_not_revived(work):
    import runner_jobs as jobs

    halt = jobs.stop(1)
    lost = jobs.fail_once(str(work / "mark"))
    never = jobs.collect([halt.output, lost.output])
    local, _ = runner(work)
    first = local.run(Flow([halt, lost, never]))
    assert [row.name for row in first.skipped] == ["collect"]
    local.retry()
    again = local.run()
    assert [row.name for row in again.skipped] == ["collect"]
    assert not again.failed


@pytest.mark.slow
def test_a_job_that_hangs_is_ended_with_all_it_started_and_its_place_is_used_again(work):
    import runner_jobs as jobs

    stuck, after = jobs.hang(str(work / "child")), jobs.add(1, 1)
    stuck.name = "label si 07"
    local, store = runner(work, slots=[Slot("cpu")], time_limits={"train": 0.1, "label": 10})
    summary = local.run(Flow([stuck, after]))
    assert {row.name: row.error for row in summary.failed} == {
        "label si 07": "it took longer than its time limit of 10 s and was ended"
    }
    assert store.get_output(after.uuid) == 2
    assert ended(int((work / "child").read_text()), seconds=60)


def test_no_room_is_no_fault_of_a_job_and_the_run_goes_on_when_there_is_some(work):
    import runner_jobs as jobs

    (work / "full").touch()
    before, writing, after = jobs.add(1, 1), jobs.no_room(str(work / "full")), jobs.add(2, 2)
    local, store = runner(work, slots=[Slot("cpu")])
    flow = Flow([before, writing, after], order="linear")
    with pytest.raises(ConfigurationError, match=r"'no_room' could not write what it had: .*No space left") as caught:
        local.run(flow)
    assert "what is done stays done" in caught.value.advice
    (work / "full").unlink()
    assert local.run().ok
    assert store.get_output(writing.uuid) == "written"
    assert notes(work).count("add 1 1") == 1


def test_a_full_disk_a_damaged_and_a_foreign_state_are_said_in_a_line(work):
    import runner_jobs as jobs

    local, _ = runner(work)
    file = work / "run" / "run.sqlite"
    ((pages,),) = local.state.connection.execute("PRAGMA page_count").fetchall()
    local.state.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    many = Flow([jobs.add(str(number), "x" * 2000) for number in range(20)])
    with pytest.raises(ConfigurationError, match="full") as caught:
        local.run(many)
    assert "Make room" in caught.value.advice
    # nothing of the flow is there half
    local.state.connection.execute("PRAGMA max_page_count = 1000000")
    assert local.state.rows() == []
    assert local.run(many).done == 20
    local.state.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    local.state.close()
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\0" * (len(content) - 4096))
    with pytest.raises(ConfigurationError, match=r"run\.sqlite: .*malformed"):
        runner(work)[0].run()
    file.write_bytes(b"no database at all" * 300)
    with pytest.raises(ConfigurationError, match=r"run\.sqlite: .*not a database"):
        runner(work)
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE recipes (cake TEXT)")
    with pytest.raises(ConfigurationError, match="something else"):
        runner(work)


def test_a_small_disk_fills_up_and_the_run_goes_on_after_making_room(work):
    """A real file system of two megabytes, where root may make one."""
    import runner_jobs as jobs

    place = work / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("no file system of a given size can be made here")
    try:
        store = open_embedded_jobstore(work / "store.sqlite")
        store.connect()
        local = LocalRunner(store, place / "run", slots=[Slot("cpu")])
        assert local.run(Flow([jobs.add(0, 0)])).ok
        with (place / "filler").open("wb", buffering=0) as handle, contextlib.suppress(OSError):
            while True:
                handle.write(b"x" * 4096)
        many = Flow([jobs.add(number, 1) for number in range(6)])
        with pytest.raises((ConfigurationError, OSError), match=r"full|No space left"):
            local.run(many)
        (place / "filler").unlink()
        assert local.run(many).ok
        assert notes(work).count("add 0 0") == 1
        local.state.close()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_new_runner_waits_for_the_workers_of_one_that_was_killed(work):
    import runner_jobs as jobs

    local, _ = runner(work)
    with (work / "run" / "workers.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        threading.Timer(0.5, lambda: fcntl.flock(handle, fcntl.LOCK_UN)).start()
        begin = time.monotonic()
        assert local.run(Flow([jobs.add(1, 1)])).ok
        assert time.monotonic() - begin > 0.4
