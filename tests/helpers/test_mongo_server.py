"""The wire-protocol test server with real clients, and with what it says it cannot do."""

import subprocess
import sys
import uuid

import pymongo
import pytest
from maggma.stores import GridFSStore, MongoURIStore

from helpers.mongo_server import running_server


@pytest.fixture(scope="module")
def address():
    with running_server() as uri:
        yield uri


@pytest.fixture
def database(address):
    client = pymongo.MongoClient(address, serverSelectionTimeoutMS=5000)
    yield client[f"test_{uuid.uuid4().hex[:8]}"]
    client.close()


def test_more_documents_than_one_batch_come_back_once_each(database):
    database.jobs.insert_many({"number": i, "state": "even" if i % 2 == 0 else "odd"} for i in range(350))
    found = [item["number"] for item in database.jobs.find({}, batch_size=40).sort("number", -1)]
    assert found == list(range(349, -1, -1))
    assert database.jobs.count_documents({"state": "odd", "number": {"$lt": 10}}) == 5
    groups = database.jobs.aggregate([{"$group": {"_id": "$state", "n": {"$sum": 1}}}])
    assert {item["_id"]: item["n"] for item in groups} == {"even": 175, "odd": 175}
    assert sorted(database.jobs.distinct("state")) == ["even", "odd"]


def test_updates_say_what_they_did(database):
    made = database.jobs.update_one({"uuid": "a"}, {"$set": {"state": "READY"}}, upsert=True)
    assert (made.matched_count, made.upserted_id is not None) == (0, True)
    changed = database.jobs.update_one({"uuid": "a"}, {"$push": {"tags": "x"}})
    assert (changed.matched_count, changed.modified_count) == (1, 1)
    before = database.jobs.find_one_and_update({"uuid": "a"}, {"$set": {"state": "DONE"}})
    assert before["state"] == "READY"
    assert database.jobs.find_one_and_delete({"uuid": "a"})["state"] == "DONE"
    assert database.jobs.delete_many({}).deleted_count == 0


def test_a_unique_index_is_kept_and_the_rest_of_an_unordered_batch_is_written(database):
    database.jobs.create_index([("uuid", 1), ("index", 1)], unique=True)
    database.jobs.insert_one({"uuid": "a", "index": 1})
    with pytest.raises(pymongo.errors.DuplicateKeyError):
        database.jobs.insert_one({"uuid": "a", "index": 1})
    batch = [{"uuid": "a", "index": 1}, {"uuid": "a", "index": 2}]
    with pytest.raises(pymongo.errors.BulkWriteError) as caught:
        database.jobs.insert_many(batch, ordered=False)
    assert caught.value.details["nInserted"] == 1
    assert database.jobs.count_documents({}) == 2


COUNT_UP = """
import sys, pymongo
with pymongo.MongoClient(sys.argv[1]) as client:
    for _ in range(50):
        client[sys.argv[2]].counters.find_one_and_update({"_id": "n"}, {"$inc": {"value": 1}}, upsert=True)
"""


def test_several_processes_count_together(address, database):
    command = [sys.executable, "-c", COUNT_UP, address, database.name]
    workers = [subprocess.Popen(command) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert database.counters.find_one({"_id": "n"})["value"] == 100


def test_maggma_stores_documents_and_blobs(address, database):
    store = MongoURIStore(address, "outputs", database=database.name, key="uuid")
    store.connect()
    store.update([{"uuid": "a", "output": {"value": [1.5, None, "text"]}}])
    assert store.query_one({"uuid": "a"})["output"] == {"value": [1.5, None, "text"]}
    host, port = address.removeprefix("mongodb://").split(":")
    blobs = GridFSStore(database.name, "blobs", host=host, port=int(port), key="blob_uuid")
    blobs.connect()
    large = list(range(400_000))
    blobs.update([{"blob_uuid": "b", "data": large}])
    assert blobs.query_one({"blob_uuid": "b"})["data"] == large


def test_what_it_cannot_do_is_refused_as_a_server_refuses(database):
    client = database.client
    with client.start_session() as session:
        session.start_transaction()
        with pytest.raises(pymongo.errors.OperationFailure, match="replica set") as caught:
            database.jobs.insert_one({"a": 1}, session=session)
    assert caught.value.code == 20
    with pytest.raises(pymongo.errors.OperationFailure, match="no such command") as caught:
        client.admin.command("renameCollection", f"{database.name}.a", to=f"{database.name}.b")
    assert caught.value.code == 59
    with pytest.raises(pymongo.errors.DocumentTooLarge):
        database.jobs.insert_one({"text": "x" * (17 * 1024 * 1024)})


def test_data_end_with_the_process():
    with running_server() as uri:
        pymongo.MongoClient(uri).one.two.insert_one({"a": 1})
    with pytest.raises(pymongo.errors.ServerSelectionTimeoutError):
        pymongo.MongoClient(uri, serverSelectionTimeoutMS=200).one.two.find_one()
