"""An equal job's result is handed on as long as it is whole; what is equal is decided by content alone."""

import pytest
from jobflow import Flow, JobConfig, JobStore, job
from maggma.stores import MemoryStore

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.identity import fix_identities
from phonosmith.core.reuse import CONTENT, REUSED, reused, used_content
from phonosmith.engines.store.sealed import SealedJobStore

DONE = []


@job(config=JobConfig(expose_store=True))
@reused("label")
def work(data, label, power=2):
    DONE.append(label)
    ref = default_artefacts().put_bytes(f"{data} {power}".encode(), kind="model")
    return {"data": data, "model": ref}


@pytest.fixture
def store():
    DONE.clear()
    made = SealedJobStore.over(JobStore(MemoryStore()))
    made.connect()
    return made


def run(store, *args, **kwargs):
    (member,) = fix_identities(Flow([work(*args, **kwargs)])).jobs
    member.run(store)
    return store.query_one({"uuid": member.uuid})


def test_the_second_job_hands_on_what_the_first_has_left(store):
    first = run(store, {"sha256": "a" * 64, "name": "si", "parents": []}, "one")
    second = run(store, {"parents": ["b"], "sha256": "a" * 64, "name": "silicon"}, "two", power=2)
    assert DONE == ["one"]
    assert second["output"] == first["output"]
    assert second["metadata"][REUSED] == first["uuid"] != second["uuid"]
    assert second["metadata"][CONTENT] == first["metadata"][CONTENT]


@pytest.mark.parametrize("change", [{"power": 3}, {"data": {"sha256": "b" * 64}}])
def test_other_content_is_other_work(store, change):
    run(store, {"sha256": "a" * 64}, "one")
    run(store, **({"data": {"sha256": "a" * 64}, "label": "two"} | change))
    assert DONE == ["one", "two"]


def test_a_result_that_is_not_whole_is_made_again(store):
    first = run(store, 1, "one")
    first["output"]["data"] = 2
    store.docs_store.update([first], key=["uuid", "index"])
    run(store, 1, "altered")
    assert DONE == ["one", "altered"]
    backend = default_artefacts().backend
    for digest in backend.keys():  # noqa: SIM118
        backend.path(digest).write_bytes(b"something else")
    run(store, 1, "without its model")
    assert DONE[2:] == ["without its model"]


def test_a_job_that_runs_again_hands_on_its_own_result_as_long_as_it_is_there(store):
    first = run(store, 1, "one")
    again = run(store, 1, "one")
    assert DONE == ["one"]
    assert again["output"] == first["output"]
    assert again["metadata"][REUSED] == again["uuid"] == first["uuid"]
    store.remove_docs({"uuid": first["uuid"]})
    run(store, 1, "one")
    assert DONE == ["one", "one"]


def test_jobs_with_random_identities_are_left_alone(store):
    for label in ("one", "two"):
        work(1, label).run(store)
    assert DONE == ["one", "two"]


def test_where_a_store_knows_no_other_results_they_go_round_by_the_artefact_store(tmp_path, monkeypatch):
    from jobflow_remote.jobs.run import CURRENT_JOBDOC
    from jobflow_remote.remote.data import MinimalORJSONStore

    monkeypatch.setattr(CURRENT_JOBDOC, "job_doc", object())

    def sent(label, data=1):
        taking = JobStore(MinimalORJSONStore(str(tmp_path / f"{label}.json")))
        taking.connect()
        (member,) = fix_identities(Flow([work(data, label)])).jobs
        return member.run(taking).output, member.metadata

    DONE.clear()
    first, metadata = sent("one")
    assert metadata[CONTENT]
    second, metadata = sent("two")
    sent("three", data=2)
    assert DONE == ["one", "three"]
    assert second["model"] == first["model"]
    assert metadata[REUSED] != metadata[CONTENT]
    artefacts = default_artefacts()
    assert len(artefacts.backend.keys()) == 2  # results on the shelf are no artefacts
    shelf = artefacts.backend.beside("results")
    for key in shelf.keys():  # noqa: SIM118
        shelf.write(key, shelf.read(key).replace(b'"data": 1', b'"data": 3'))
    sent("four")
    assert DONE == ["one", "three", "four"]


def test_versions_and_names_are_no_content():
    data = {
        "@module": "m",
        "@class": "C",
        "@version": "1",
        "ref": {"sha256": "a" * 64, "dtype": "float32", "name": "x"},
    }
    assert used_content(data) == {"@module": "m", "@class": "C", "ref": {"sha256": "a" * 64, "dtype": "float32"}}
    # a digest of something else is a value like others
    assert used_content({"sha256": "short", "name": "x"}) == {"sha256": "short", "name": "x"}
