"""What only the embedded store promises: crashes, several writers, forks, threads, jobflow and damaged files."""

# ruff: noqa: DTZ001 (MongoDB's dates are naive UTC)

import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import datetime

import pytest
import yaml
from jobflow import Flow, JobStore, job, run_locally
from monty.json import MontyDecoder

from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.engines.store.sqlite import SQLiteStore, open_embedded_jobstore

WRITER = """
import sys
from phonosmith.engines.store.sqlite import SQLiteStore
path, name, first, count, batch = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
store = SQLiteStore(path, key="uuid")
store.connect()
numbers = list(range(first, first + count))
for start in range(0, count, batch):
    part = numbers[start : start + batch]
    store.update([{"uuid": f"{name}-{i}", "index": 1, "number": i, "payload": [0.5 * i] * 400} for i in part])
    print("".join(f"{name}-{i}\\n" for i in part), end="", flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs" / "store.sqlite"


def opened(path, name="documents", **kwargs):
    store = SQLiteStore(path, name, **{"key": "uuid", **kwargs})
    store.connect()
    return store


def writer(path, name, first, count, batch=1):
    command = [sys.executable, "-c", WRITER, str(path), name, str(first), str(count), str(batch)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def is_sound(path):
    raw = sqlite3.connect(path)
    try:
        return raw.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    finally:
        raw.close()


@pytest.mark.parametrize("batch", [1, 7])
def test_kill_loses_nothing_acknowledged(path, batch):
    acknowledged = set()
    for attempt in range(3):
        process = writer(path, f"w{attempt}", 0, 100_000, batch)
        # kill in mid-write, after a different number of acknowledgements each time
        for number, line in enumerate(process.stdout, 1):
            acknowledged.add(line.strip())
            if number >= 15 * (attempt + 1):
                break
        process.send_signal(signal.SIGKILL)
        acknowledged.update(line.strip() for line in process.stdout if line.endswith("\n"))
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
    with opened(path) as store:
        found = {doc["uuid"]: doc for doc in store.query()}
        assert acknowledged <= set(found)
        assert all(doc["payload"] == [0.5 * doc["number"]] * 400 for doc in found.values())
        # a transaction is kept whole or not at all
        assert len(found) % batch == 0
        assert store.count({"number": 3}) == 3
    assert is_sound(path)


def test_two_writers_lose_none(path):
    # both make the file and its tables at the same moment; half of what they write is the same
    processes = [writer(path, "same", 0, 40), writer(path, "same", 20, 40)]
    for process in processes:
        assert len(process.communicate(timeout=120)[0].split()) == 40
        assert process.returncode == 0
    with opened(path) as store:
        assert sorted(doc["number"] for doc in store.query()) == list(range(60))
    assert is_sound(path)


def test_reader_sees_what_another_process_wrote(path):
    with opened(path) as store:
        process = writer(path, "w", 0, 5)
        process.communicate(timeout=60)
        assert store.count() == 5
        assert store.query_one({"uuid": "w-4"})["number"] == 4


def _write_in_child(store, name):
    # the store was connected before the fork
    for i in range(20):
        store.update({"uuid": f"{name}-{i}", "index": 1})
    os._exit(0)


def test_fork_with_an_open_store(path):
    store = opened(path)
    store.update({"uuid": "before", "index": 1})
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_write_in_child, args=(store, f"child{n}")) for n in range(2)]
    for child in children:
        child.start()
    for i in range(20):
        store.update({"uuid": f"parent-{i}", "index": 1})
    # the parent leaves first: it must not take the log away from under its children
    store.close()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    store.connect()
    assert store.count() == 61
    assert store.count({"uuid": {"$regex": "^child"}}) == 40
    assert is_sound(path)


def test_fork_while_a_thread_writes(path):
    store = opened(path)
    stop = threading.Event()
    written = []

    def write():
        while not stop.is_set():
            store.update({"uuid": f"thread-{len(written)}"})
            written.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    for n in range(3):
        child = os.fork()
        if child == 0:
            try:
                store.update({"uuid": f"fork-{n}"})
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    stop.set()
    thread.join()
    assert store.count({"uuid": {"$regex": "^fork"}}) == 3
    assert store.count() == 3 + len(written)
    store.close()
    assert is_sound(path)


def test_threads_share_a_store(path):
    store = opened(path)

    def write(name):
        for i in range(25):
            store.update({"uuid": f"{name}-{i}", "n": {"i": i}})
            assert store.count({"uuid": f"{name}-{i}"}) == 1

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 100
    assert store.count({"n.i": 7}) == 4
    store.close()


def test_a_failed_update_leaves_nothing(path):
    with opened(path) as store:
        with pytest.raises(InputError, match="cannot be stored"):
            store.update([{"uuid": "fine"}, {"uuid": "too big", "number": 2**64}])
        assert store.count() == 0
        store.update({"uuid": "fine"})
        assert store.count() == 1


def test_deleting_while_a_query_is_read(path):
    with opened(path) as store:
        store.update([{"uuid": f"u{i:03d}"} for i in range(300)])
        seen = []
        for doc in store.query():
            seen.append(doc["uuid"])
            store.remove_docs({"uuid": doc["uuid"]})
        assert seen == [f"u{i:03d}" for i in range(300)]
        assert store.count() == 0


def test_close_and_connect_again(path):
    store = opened(path)
    store.update({"uuid": "a", "when": datetime(2026, 1, 1)})
    store.close()
    store.close()
    store.connect()
    store.connect(force_reset=True)
    assert store.query_one({"when": {"$lt": datetime(2026, 1, 2)}})["uuid"] == "a"
    store.close()


def test_pickle_dict_and_equality(path):
    store = opened(path, "outputs", synchronous="FULL", timeout=5, last_updated_field="changed")
    store.update({"uuid": "a"})
    for copy in (
        pickle.loads(pickle.dumps(store)),
        MontyDecoder().process_decoded(store.as_dict()),
        SQLiteStore.from_dict(yaml.safe_load(yaml.safe_dump(store.as_dict()))),
    ):
        assert copy == store
        assert hash(copy) == hash(store)
        assert (copy.key, copy.synchronous, copy.timeout, copy.last_updated_field) == ("uuid", "FULL", 5, "changed")
        copy.connect()
        assert copy.count() == 1
        copy.close()
    assert store != SQLiteStore(path, "other", key="uuid")
    assert "sqlite://" in store.name
    store.close()


def test_path_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = opened("here.sqlite")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.close()
    store.connect()
    store.update({"uuid": "a"})
    store.close()
    assert [item.name for item in tmp_path.glob("**/*.sqlite")] == ["here.sqlite"]


def test_collections_in_one_file_are_apart(path):
    one, two = opened(path, "one"), opened(path, "two")
    one.update({"uuid": "a"})
    two.update([{"uuid": "b"}, {"uuid": "c"}])
    assert (one.count(), two.count()) == (1, 2)
    assert one.ensure_index("x")
    one.remove_docs({})
    assert (one.count(), two.count()) == (0, 2)
    one.close()
    two.close()


def test_indices_come_by_themselves(path):
    with opened(path) as store:
        many = {f"key{i:02d}": i for i in range(30)}
        store.update([{"uuid": "a", "metadata": {"material": "Si"}}, {"uuid": "b", "metadata": many}])
        with store._connection.reading() as raw:
            indices = store._known_indices(raw)
        assert {"uuid", "name", "metadata.material"} <= indices
        assert sum(name.startswith("metadata.") for name in indices) == 16
        assert store.count({"metadata.key29": 29}) == 1
    with opened(path) as store:
        assert "metadata.material" in store._indices


def test_wide_documents_keep_small_heads(path):
    wide = {f"group{i}": {f"key{j}": {"value": j} for j in range(60)} for i in range(60)}
    with opened(path) as store:
        store.update([{"uuid": "wide", "output": wide}, {"uuid": "slim", "output": {"group3": {"key4": {"value": 4}}}}])
        with store._connection.reading() as raw:
            assert raw.execute('SELECT max(length(head)) FROM "documents:heads"').fetchone()[0] <= 16_384
        assert store.count({"output.group3.key4.value": 4}) == 2
        assert store.query_one({"uuid": "wide"})["output"] == wide


def test_very_long_criteria(path):
    with opened(path) as store:
        store.update([{"uuid": f"u{i}", "n": {"m": i}} for i in range(20)])
        names = [f"u{i}" for i in range(0, 30_000, 5)]
        assert store.count({"uuid": {"$in": names}}) == 4
        assert store.count({"$or": [{"uuid": name} for name in names]}) == 4
        assert store.count({"$and": [{"n.m": {"$gte": 5}}] * 1500}) == 15
        assert store.count({"$or": [{"name": {"$in": names}}] * 6}) == 0
        assert store.count({"n.m": {"$in": list(range(3, 20_000, 4))}}) == 5


def test_blobs_of_some_megabytes(path):
    import numpy as np

    numbers = np.random.default_rng(0).normal(size=100_000).tolist()
    with opened(path, "data", key="blob_uuid") as store:
        store.update({"blob_uuid": "b", "data": numbers, "raw": bytes(1_000_000)})
        found = store.query_one({"blob_uuid": "b"})
        assert found["data"] == numbers
        assert len(found["raw"]) == 1_000_000


@job(data="forces")
def _compute(n):
    return {"energy": -1.5 * n, "forces": [[0.25 * n] * 3] * 50}


@job(data="forces")
def _collect(results):
    return {"total": sum(item["energy"] for item in results), "forces": [item["forces"][0] for item in results]}


def _flow():
    parts = [_compute(n) for n in (1, 2)]
    for n, part in enumerate(parts, 1):
        part.name = f"static si {n}"
        part.update_metadata({"material": "Si", "round": n})
    return Flow([*parts, _collect([part.output for part in parts])])


def test_flow_through_the_embedded_jobstore(path, tmp_path):
    store = open_embedded_jobstore(path)
    flow = _flow()
    run_locally(flow, store=store, root_dir=tmp_path, create_folders=True, ensure_success=True, log=False)
    store.close()

    later = open_embedded_jobstore(path)
    final = flow.jobs[-1].uuid
    assert later.count() == 3
    assert later.get_output(final, load=True) == {"total": -4.5, "forces": [[0.25] * 3, [0.5] * 3]}
    lazy = later.query_one({"uuid": final})["output"]
    assert lazy["total"] == -4.5
    assert "blob_uuid" in lazy["forces"]
    assert later.additional_stores["data"].count({"job_uuid": final, "job_index": 1}) == 1
    assert later.count({"metadata.material": "Si", "metadata.round": {"$gte": 2}}) == 1
    assert later.query_one({"name": "static si 2"}, ["output.energy"])["output"] == {"energy": -3.0}
    assert later.query_one({"uuid": final})["completed_at"]
    later.remove_docs({"uuid": final})
    assert later.count() == 2
    later.close()


def test_two_runs_of_one_job_give_two_indices(path):
    from jobflow import Response

    @job
    def twice():
        return Response(replace=job(lambda: 7)())

    store = open_embedded_jobstore(path)
    first = twice()
    run_locally(first, store=store, log=False, ensure_success=True)
    assert sorted(doc["index"] for doc in store.query({"uuid": first.uuid})) == [1, 2]
    assert store.get_output(first.uuid) == 7
    store.close()


CONFIGURED = """
from jobflow import SETTINGS, job, run_locally

def double(n):
    return {"n": 2 * n, "big": [n] * 10}

task = job(double, data="big")(21)
store = SETTINGS.JOB_STORE
run_locally(task, log=False, ensure_success=True)
store.connect()
print(type(store.docs_store).__name__, store.get_output(task.uuid, load=True)["big"][0], task.uuid)
"""


def test_works_from_jobflow_yaml(path, tmp_path):
    store = open_embedded_jobstore(path)
    configuration = tmp_path / "jobflow.yaml"
    configuration.write_text(yaml.safe_dump({"JOB_STORE": store.as_dict()}))
    environment = {**os.environ, "JOBFLOW_CONFIG_FILE": str(configuration)}
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    kind, value, uuid = done.stdout.split()
    assert (kind, value) == ("SQLiteStore", "21")
    assert store.get_output(uuid)["n"] == 42
    assert JobStore.from_dict(store.as_dict()).docs_store == store.docs_store
    store.close()


def test_works_as_an_artefact_backend(path):
    from phonosmith.core.artefacts import ArtefactStore, MaggmaBackend

    artefacts = ArtefactStore(MaggmaBackend(SQLiteStore(path, "artefacts", key="sha256")))
    ref = artefacts.put_bytes(b"weights", "model")
    assert artefacts.get_bytes(ref) == b"weights"
    assert artefacts.find(ref.sha256[:5]) == [ref.sha256]


@pytest.mark.parametrize("content", [b"this is no database at all, but long enough to have a header of a file" * 20])
def test_a_foreign_file_is_refused(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a database"):
        opened(path)
    assert path.read_bytes() == content


def test_a_foreign_database_is_refused(path):
    path.parent.mkdir()
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE theirs(x)")
    raw.commit()
    raw.close()
    with pytest.raises(ConfigurationError, match="something else"):
        opened(path)


def test_a_newer_format_is_refused(path):
    opened(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(ConfigurationError, match="newer phonosmith"):
        opened(path)


def test_a_locked_file_says_so(path):
    with opened(path, timeout=0.1) as store:
        raw = sqlite3.connect(path, isolation_level=None)
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigurationError, match=r"locked.*Another process"):
            store.update({"uuid": "a"})
        # readers are not kept waiting by a writer
        assert store.count() == 0
        raw.execute("ROLLBACK")
        raw.close()
        store.update({"uuid": "a"})


def test_bad_arguments(tmp_path):
    with pytest.raises(ConfigurationError, match="MemoryStore"):
        SQLiteStore(":memory:")
    with pytest.raises(ConfigurationError, match="Collection name"):
        SQLiteStore(tmp_path / "s", 'x"; DROP TABLE')
    with pytest.raises(ConfigurationError, match="NORMAL, FULL"):
        SQLiteStore(tmp_path / "s", synchronous="OFF")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        opened(blocked / "store.sqlite")


def test_durability_is_what_was_asked(path):
    for synchronous, level in (("NORMAL", 1), ("FULL", 2)):
        with opened(path, synchronous=synchronous) as store, store._connection.reading() as raw:
            assert raw.execute("PRAGMA synchronous").fetchone()[0] == level
            assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@pytest.mark.parametrize("criteria", [{}, {"name": "static"}, {"uuid": "u0"}])
def test_one_document_is_found_without_looking_at_all(path, criteria, monkeypatch):
    from phonosmith.engines.store import results

    looked_at = []

    def counted(asked, document):
        looked_at.append(document)
        return results.filtering.filter_applies(asked, document)

    store = SQLiteStore(path, key="uuid")
    store.connect()
    store.update([{"uuid": f"u{i}", "name": "static"} for i in range(50)])
    monkeypatch.setattr(results, "matches", counted)
    assert store.query_one(criteria)["uuid"] == "u0"
    assert len(looked_at) == 1
