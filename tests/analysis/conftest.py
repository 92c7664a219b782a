"""Job stores of every kind, and a campaign whose numbers are known."""

import mongomock_ng
import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore, MongoStore

from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.engines.store.sqlite import open_embedded_jobstore


@pytest.fixture(params=["sqlite", "memory", "mongo"])
def job_store(request, tmp_path):
    """Yield an empty, connected job store: embedded, in memory, and MongoStore on mongomock's collections."""
    if request.param == "sqlite":
        store = open_embedded_jobstore(tmp_path / "store.sqlite")
    elif request.param == "memory":
        store = JobStore(MemoryStore(key="uuid"))
    else:
        collection = mongomock_ng.MongoClient().db.outputs
        store = JobStore(MongoStore.from_collection(collection))
    store.connect()
    yield store
    store.close()


@pytest.fixture(scope="session")
def reports():
    """Return three materials with two training sizes and two cells."""
    return synthetic_reports(3, sizes=(5, 10), cells=("small", "large"))


@pytest.fixture
def campaign(tmp_path, reports):
    """Return an embedded store that holds those reports."""
    store = open_embedded_jobstore(tmp_path / "campaign.sqlite")
    store_reports(store, reports)
    return store
