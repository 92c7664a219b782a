import multiprocessing
import os
import stat

import pytest
from maggma.stores import MemoryStore

from phonosmith.core.artefacts import (
    ArtefactStore,
    DirectoryBackend,
    MaggmaBackend,
    default_artefacts,
    open_artefacts,
    write_atomic,
)
from phonosmith.core.errors import ArtefactError, ConfigurationError
from phonosmith.core.hashing import digest_bytes
from phonosmith.settings import Settings

DATA = bytes(range(256)) * 40


def memory_backend():
    return MaggmaBackend(MemoryStore(key="sha256"))


@pytest.fixture(params=["directory", "maggma"])
def store(request, tmp_path):
    backend = DirectoryBackend(tmp_path / "artefacts") if request.param == "directory" else memory_backend()
    return ArtefactStore(backend, tmp_path / "cache")


def test_what_is_put_comes_back(store):
    ref = store.put_bytes(DATA, kind="model", suffix=".bin")
    assert ref.sha256 == digest_bytes(DATA)
    assert ref.size == len(DATA)
    assert store.get_bytes(ref) == DATA
    assert store.get_bytes(ref.sha256) == DATA
    assert store.get_path(ref).read_bytes() == DATA
    assert store.has(ref)
    assert store.find(ref.sha256[:6]) == [ref.sha256]
    assert store.put_bytes(DATA) == ref.model_copy(update={"kind": "blob", "suffix": ""})


def test_a_missing_artefact_says_where_it_was_looked_for(store):
    with pytest.raises(ArtefactError, match="is not in"):
        store.get_bytes("0" * 64)


def test_an_altered_artefact_is_refused_and_healed_by_writing_again(tmp_path):
    store = ArtefactStore(DirectoryBackend(tmp_path))
    ref = store.put_bytes(DATA)
    path = store.get_path(ref)
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(ArtefactError, match="was altered"):
        store.get_bytes(ref)
    store.put_bytes(DATA)
    assert store.get_bytes(ref) == DATA


def test_a_truncated_artefact_is_refused(tmp_path):
    store = ArtefactStore(DirectoryBackend(tmp_path))
    ref = store.put_bytes(DATA)
    store.get_path(ref).write_bytes(DATA[:100])
    with pytest.raises(ArtefactError, match="was altered"):
        store.get_bytes(ref)


def test_a_damaged_cache_is_not_believed(tmp_path):
    store = ArtefactStore(memory_backend(), tmp_path / "cache")
    ref = store.put_bytes(DATA)
    store.get_path(ref).write_bytes(b"damaged")
    assert store.get_bytes(ref) == DATA
    assert store.get_path(ref).read_bytes() == DATA


def test_a_digest_cannot_name_a_file_elsewhere(tmp_path):
    with pytest.raises(ArtefactError, match="not a sha256"):
        ArtefactStore(DirectoryBackend(tmp_path)).get_bytes("../../etc/passwd")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtefactError, match="No space left"):
        ArtefactStore(DirectoryBackend(tmp_path)).put_bytes(DATA)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_atomic_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "f", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def _write_all(root, start, blobs):
    store = ArtefactStore(DirectoryBackend(root))
    start.wait()
    for blob in blobs:
        store.put_bytes(blob)


def test_several_writers_of_the_same_content(tmp_path):
    blobs = [bytes([i]) * 5000 for i in range(30)]
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    writers = [context.Process(target=_write_all, args=(tmp_path, start, blobs)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = ArtefactStore(DirectoryBackend(tmp_path))
    assert len(store.backend.keys()) == 30
    assert all(store.get_bytes(digest_bytes(blob)) == blob for blob in blobs)
    assert not list(tmp_path.rglob(".partial-*"))


def test_default_store_follows_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(tmp_path / "mine"))
    ref = default_artefacts().put_bytes(b"content")
    assert (tmp_path / "mine" / ref.sha256[:2] / ref.sha256).read_bytes() == b"content"


def test_a_maggma_store_from_the_settings(tmp_path):
    spec = MemoryStore(key="sha256").as_dict()
    store = open_artefacts(Settings(artefacts_store=spec, cache=tmp_path))
    assert store.get_bytes(store.put_bytes(DATA)) == DATA
    with pytest.raises(ConfigurationError, match="PHONOSMITH_ARTEFACTS_STORE"):
        open_artefacts(Settings(artefacts_store={"no": "store"}))


def test_gridfs(tmp_path, monkeypatch):
    mongomock = pytest.importorskip("mongomock_ng")
    import maggma.stores.gridfs
    from mongomock_ng.gridfs import enable_gridfs_integration

    enable_gridfs_integration()
    client = mongomock.MongoClient()
    monkeypatch.setattr(maggma.stores.gridfs, "MongoClient", lambda *_, **__: client)
    backend = MaggmaBackend(maggma.stores.gridfs.GridFSStore("x", "blobs", key="sha256"))
    store = ArtefactStore(backend, tmp_path / "cache")
    big = os.urandom(700_000)
    refs = [store.put_bytes(big), store.put_bytes(DATA), store.put_bytes(big)]
    assert ArtefactStore(backend).get_bytes(refs[0]) == big
    assert sorted(backend.keys()) == sorted({ref.sha256 for ref in refs})
    with pytest.raises(ArtefactError, match="is not in"):
        store.get_bytes("0" * 64)


def test_s3(tmp_path, monkeypatch):
    moto = pytest.importorskip("moto")
    import boto3
    from maggma.stores import S3Store

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="artefacts")
        backend = MaggmaBackend(S3Store(MemoryStore(key="sha256"), "artefacts", key="sha256", compress=True))
        store = ArtefactStore(backend, tmp_path / "cache")
        ref = store.put_bytes(DATA)
        assert ArtefactStore(backend).get_bytes(ref) == DATA
        assert store.get_bytes(ref) == DATA
        boto3.client("s3").put_object(Bucket="artefacts", Key=ref.sha256, Body=b"garbage")
        assert store.get_bytes(ref) == DATA  # the worker's cache still has it
        with pytest.raises(ArtefactError, match="damaged"):
            ArtefactStore(backend).get_bytes(ref)
        store.put_bytes(DATA)
        assert ArtefactStore(backend).get_bytes(ref) == DATA


def test_an_unreachable_server_is_named(tmp_path):
    from maggma.stores import GridFSStore

    unreachable = GridFSStore(
        "x", "blobs", key="sha256", host="127.0.0.1", port=1, mongoclient_kwargs={"serverSelectionTimeoutMS": 50}
    )
    with pytest.raises(ArtefactError, match="cannot be reached"):
        ArtefactStore(MaggmaBackend(unreachable)).put_bytes(DATA)
