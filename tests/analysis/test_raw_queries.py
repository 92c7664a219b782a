"""Every query of docs/queries.md does what its text says, on SQLite and on MongoDB's emulation alike."""

import json
import re
from pathlib import Path

import mongomock_ng
import numpy as np
import pytest
from jobflow import JobStore
from maggma.stores import MongoStore

from helpers.synthetic import store_reports, synthetic_reports
from helpers.synthetic_targets import is_unstable
from phonosmith.engines.store.sqlite import open_embedded_jobstore

PAGE = Path(__file__).parents[2] / "docs" / "queries.md"
BLOCKS = {
    text.strip().rsplit("\n", 1)[-1]: json.loads(body)
    for text, body in re.findall(r"((?:[^`]|`(?!``))*)```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
}


def block(start):
    """Return the query whose sentence begins so."""
    (found,) = [query for text, query in BLOCKS.items() if text.startswith(start)]
    return found


@pytest.fixture(scope="module")
def reports():
    return synthetic_reports(7, ("transfer", "delta"), failed={"Bi2Te3": ("delta",)})


@pytest.fixture(scope="module")
def stores(tmp_path_factory, reports):
    collection = mongomock_ng.MongoClient().db.outputs
    made = [
        open_embedded_jobstore(tmp_path_factory.mktemp("queries") / "store.sqlite"),
        JobStore(MongoStore.from_collection(collection)),
    ]
    for store in made:
        store.connect()
        store_reports(store, reports)
        store.update({"uuid": "x", "index": 1, "name": "train si delta", "output": {"@class": "TrainingDocument"}})
    return made


def answers(stores, start):
    """Return the documents of a query after checking that both stores agree."""
    query = block(start)
    found = []
    for store in stores:
        documents = list(store.query(query["criteria"], query["properties"], sort=query.get("sort")))
        for document in documents:
            # jobflow adds uuid and index to what is asked; they and the times differ between the stores
            for name in ("_id", "uuid", "index", "completed_at"):
                document.pop(name, None)
        found.append(documents)
    if "sort" not in query:
        for documents in found:
            documents.sort(key=lambda document: document["output"].get("material", ""))
    assert found[0] == found[1]
    return found[0]


def test_every_block_is_covered():
    assert len(BLOCKS) == 9
    tested = Path(__file__).read_text()
    for text in BLOCKS:
        assert any(text.startswith(start) for start in re.findall(r'(?:answers\(stores, |block\()"([^"]+)"', tested)), (
            text
        )


def test_one_material(stores, reports):
    (found,) = answers(stores, "Phonon MAE (THz) and verdict")
    report = next(one for one in reports if one.material == "SnSe")
    assert found["output"]["foundation"] == {"phonons": {"mae_thz": report.foundation.phonons.mae_thz}}
    for ours, theirs in zip(found["output"]["strategies"], report.strategies, strict=True):
        assert ours["phonons"] == {"mae_thz": theirs.phonons.mae_thz}
        assert (ours["strategy"], ours["verdict"]["fit"]) == (theirs.strategy, theirs.verdict.fit)


def test_fit_materials_best_first(stores, reports):
    found = [document["output"]["material"] for document in answers(stores, "Materials for which some")]
    fit = [one for one in reports if any(part.verdict.fit for part in one.strategies)]
    assert found == [one.material for one in sorted(fit, key=lambda one: -one.gain)]


def test_below_a_limit(stores, reports):
    found = {document["output"]["material"] for document in answers(stores, "Materials one strategy got")}
    expected = {
        one.material
        for one in reports
        for part in one.strategies
        if part.strategy == "delta" and part.phonons.mae_thz < 0.1
    }
    assert found == expected
    assert "Bi2Te3" not in found


def test_unstable_crystals(stores, reports):
    found = [document["output"]["material"] for document in answers(stores, "Crystals the reference finds")]
    assert found == sorted(one.material for index, one in enumerate(reports) if is_unstable(index))


def test_failed_strategies(stores):
    (found,) = answers(stores, "Strategies that ended")
    assert found["output"] == {"material": "Bi2Te3", "failed": ["delta"]}


def test_cubic_materials(stores, reports):
    found = [document["output"]["material"] for document in answers(stores, "Cubic materials of one")]
    assert found == sorted(one.material for one in reports if one.space_group_number >= 195)


def test_where_a_potential_came_from(stores, reports):
    query = block("Where a potential came from")
    sha256 = reports[2].strategies[0].potential.sha256
    text = json.dumps(query["criteria"]).replace("[0-9a-f]", sha256[:12])
    assert sha256[:12] in text
    for store in stores:
        assert len(list(store.query(query["criteria"]))) == 7
        (found,) = store.query(json.loads(text), query["properties"])
        assert found["output"]["material"] == reports[2].material


def test_finished_reports(stores, reports):
    found = [document["name"] for document in answers(stores, "Finished reports, newest first")]
    assert found == [f"report {one.key}" for one in reversed(reports)]


def test_averages_on_the_server(stores, reports):
    rows = list(stores[1].docs_store._collection.aggregate(block("MongoDB can also average")["aggregate"]))
    for row in rows:
        values = [part.phonons.mae_thz for one in reports for part in one.strategies if part.strategy == row["_id"]]
        assert (row["n"], row["mean_mae_thz"]) == (len(values), pytest.approx(np.mean(values)))
    assert [row["_id"] for row in rows] == ["delta", "transfer"]


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store_reports(open_embedded_jobstore("store.sqlite"), synthetic_reports(2, ("delta",)))
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    exec(compile(code, str(PAGE), "exec"), {})
    assert (tmp_path / "results.json").is_file()
    printed = capsys.readouterr().out
    assert "TiO2" in printed
    assert printed.rstrip().endswith("THz")
