"""Seals hold through every kind of store, and what is altered in one is found and named."""

import json
from datetime import datetime

import mongomock_ng
import numpy as np
import pytest
from jobflow import JobStore, job
from maggma.stores import JSONStore, MemoryStore, MongoStore, MongoURIStore

from helpers.mongo_server import running_server
from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.sealing import SEAL
from phonosmith.engines.store.sealed import COPY, SealedJobStore, check_store, read_copy
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.report.page.reading import read_reports

NUMBERS = [1.0, 0.1, -0.0, 3.0000000000000004, 1e-300, 5e-324, 1.7976931348623157e308, float("nan"), float("inf")]


@job
def result(seed):
    """Return what stores write in ways of their own: whole floats, large integers, dates, tuples, arrays."""
    rng = np.random.default_rng(seed)
    return {
        "energy": -1.5 - seed,
        "numbers": NUMBERS,
        "whole": [3.0, 2**53 + 1, -(2**62), True, None],
        "when": datetime(2026, 5, 1, 12, 30, 15, 987654),  # noqa: DTZ001 as stores give them
        "pair": (1, 2.5),
        "text": 'Å "quoted" \\ é \ue000',
        "constants": {"data": rng.normal(size=(4, 3))},
    }


@pytest.fixture(params=["sqlite", "mongomock", "wire", "json"])
def reopened(request, tmp_path):
    """Yield a function that gives the job store as somebody sees it who opens it anew."""
    if request.param == "sqlite":
        yield lambda: open_embedded_jobstore(tmp_path / "store.sqlite")
    elif request.param == "json":

        def on_files():
            options = {"key": "uuid", "read_only": False}
            store = JobStore(JSONStore(str(tmp_path / "store.json"), **options))
            store.connect()
            return store

        yield on_files
    elif request.param == "mongomock":
        client = mongomock_ng.MongoClient()

        def in_memory():
            parts = [MongoStore.from_collection(client.db[name]) for name in ("outputs", "data")]
            parts[1].key = "blob_uuid"
            store = JobStore(parts[0], additional_stores={"data": parts[1]})
            store.connect()
            return store

        yield in_memory
    else:
        with running_server() as address:

            def on_the_wire():
                outputs, data = (
                    MongoURIStore(address, collection_name=name, database="test", key=key)
                    for name, key in (("outputs", "uuid"), ("data", "blob_uuid"))
                )
                store = JobStore(outputs, additional_stores={"data": data})
                store.connect()
                return store

            yield on_the_wire


def fill(store, folder, number=3):
    for seed in range(number):
        member = result(seed)
        member.name = f"result {seed}"
        if store.additional_stores:
            member._kwargs = {"data": "constants"}
        (folder / str(seed)).mkdir()
        member.run(SealedJobStore.over(store, folder / str(seed)))


def check(store):
    return check_store(store, default_artefacts())


def test_what_was_written_is_found_whole(reopened, tmp_path):
    fill(reopened(), tmp_path)
    found = check(reopened())
    assert (found.ok, found.n_documents, found.n_unsealed) == (True, 3, 0)


def test_one_float_altered_in_the_store_is_found_and_named(reopened, tmp_path):
    fill(reopened(), tmp_path)
    store = reopened()
    document = next(iter(store.docs_store.query({"name": "result 1"})))
    document["output"]["energy"] = float(np.nextafter(document["output"]["energy"], 0))
    store.docs_store.update([document], key=["uuid", "index"])
    (altered,) = check(reopened()).altered
    assert (altered.job, altered.uuid, altered.fields) == ("result 1", document["uuid"], ["energy"])


def test_large_parts_in_another_store_belong_to_the_document(reopened, tmp_path):
    store = reopened()
    if not store.additional_stores:
        pytest.skip("this store keeps everything in one place")
    fill(store, tmp_path)
    blob = next(iter(store.additional_stores["data"].query({})))
    blob["data"]["data"][0][0] += 1e-12
    store.additional_stores["data"].update([blob], key="blob_uuid")
    (altered,) = check(reopened()).altered
    assert all(field.startswith("constants") for field in altered.fields)


def test_the_copy_in_the_folder_of_the_job_is_the_document(reopened, tmp_path):
    store = reopened()
    fill(store, tmp_path)
    store.docs_store.remove_docs({"name": "result 2"})
    assert check(store).n_documents == 2
    save = {"data": "constants"} if store.additional_stores else {}
    store.update(read_copy(tmp_path / "2"), key=["uuid", "index"], save=save)
    found = check(reopened())
    assert (found.ok, found.n_documents) == (True, 3)
    if store.additional_stores:
        # what belongs into the store of large parts lies there again, not in the document
        kept = next(iter(store.docs_store.query({"name": "result 2"})))
        assert "blob_uuid" in json.dumps(kept["output"]["constants"], default=str)


def test_a_damaged_copy_is_none(tmp_path):
    assert read_copy(tmp_path) is None
    (tmp_path / COPY).write_text('{"uuid": "a", "output')
    assert read_copy(tmp_path) is None


def test_documents_without_a_seal_are_counted_and_no_error(tmp_path):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    result(1).run(store)
    found = check(store)
    assert (found.ok, found.n_unsealed) == (True, 1)


def test_missing_and_altered_artefacts_are_named_with_their_job(tmp_path):
    @job
    def keep(text):
        return {"ref": default_artefacts().put_bytes(text.encode(), kind="model")}

    store = SealedJobStore.over(JobStore(MemoryStore()))
    store.connect()
    members = [keep(text) for text in ("one", "two", "three")]
    for number, member in enumerate(members):
        member.name = f"train {number}"
        member.run(store)
    refs = [store.query_one({"name": f"train {n}"})["output"]["ref"]["sha256"] for n in range(3)]
    backend = default_artefacts().backend
    backend.path(refs[0]).unlink()
    backend.path(refs[1]).write_bytes(b"owt")
    found = check(store)
    assert not found.ok
    assert {(one.job, one.kind, one.problem) for one in found.artefacts} == {
        ("train 0", "model", "missing"),
        ("train 1", "model", "altered"),
    }
    assert found.n_artefacts == 3


def test_the_seal_is_in_the_metadata_beside_the_description(tmp_path):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    member = result(0)
    member.metadata = {"stage": "train", "material": "si"}
    member.run(SealedJobStore.over(store))
    kept = store.query_one({"metadata.stage": "train"})["metadata"]
    assert {key: kept[key] for key in ("stage", "material")} == {"stage": "train", "material": "si"}
    assert set(kept[SEAL]) == {"sha256", "fields"}
    assert member.metadata == {"stage": "train", "material": "si"}


def test_the_page_leaves_out_a_report_that_was_altered(reopened):
    store = SealedJobStore.over(reopened())
    store_reports(store, synthetic_reports(2, ("delta",)))
    assert [len(part) for part in (read_reports(store).reports, read_reports(store).notes)] == [2, 0]
    document = next(iter(store.docs_store.query({"output.material": "TiO2"})))
    document["output"]["strategies"][0]["phonons"]["mae_thz"] /= 2
    store.docs_store.update([document], key=["uuid", "index"])
    found = read_reports(store)
    assert [report.material for report in found.reports] == ["Bi2Te3"]
    assert "TiO2 was altered in the store (strategies.0.phonons" in found.notes[0]
