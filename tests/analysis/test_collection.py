"""The flat collection of results: the numbers of the reports, kept up to date on every kind of store."""

import json

from monty.json import MontyDecoder, MontyEncoder

from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.analysis import collection
from phonosmith.analysis.collection import ResultsBuilder, flat_document, results_collection
from phonosmith.analysis.queries import read_results
from phonosmith.settings import get_settings


def test_only_what_is_new_altered_or_gone_is_made_again(job_store, monkeypatch):
    made = []
    plain = flat_document

    def counting(document, *rest):
        made.append(document["output"]["material"])
        return plain(document, *rest)

    monkeypatch.setattr(collection, "flat_document", counting)
    first, second, third = synthetic_reports(3, ("delta",))
    store_reports(job_store, [first, second])
    before = read_results(job_store)
    assert sorted(made) == sorted([first.material, second.material])
    again = read_results(job_store)
    assert len(made) == 2
    for name in ("potentials", "materials", "costs", "failures"):
        assert getattr(again, name).equals(getattr(before, name))
    (uuid,) = store_reports(job_store, [third])
    assert len(read_results(job_store).materials) == 3
    assert made[2:] == [third.material]
    # its job ran again
    job_store.docs_store.update(
        job_store.docs_store.query_one({"uuid": uuid}) | {"completed_at": "2030-01-01T00:00:00"}, key=["uuid", "index"]
    )
    assert "2030-01-01T00:00:00" in set(read_results(job_store).materials["completed_at"])
    assert made[3:] == [third.material]
    job_store.docs_store.remove_docs({"uuid": uuid})
    assert len(read_results(job_store).materials) == 2
    assert results_collection(job_store).count() == 2
    # other limits judge all of them anew
    monkeypatch.setenv("PHONOSMITH_VERDICT_PHONON_MAE_THZ", "1e-9")
    get_settings.cache_clear()
    assert not read_results(job_store).potentials["fit"].any()
    get_settings.cache_clear()


def test_a_store_that_cannot_be_written_is_read_all_the_same(campaign, monkeypatch):
    expected = read_results(campaign)

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(ResultsBuilder, "update", refuse)
    found = read_results(campaign)
    assert found.potentials.equals(expected.potentials)
    assert found.costs.equals(expected.costs)


def test_it_is_a_builder_of_maggma(campaign):
    """As ``mrun`` does it: from JSON, in chunks, without anything of ours around it."""
    from maggma.cli.serial import serial

    builder = ResultsBuilder(campaign.docs_store, results_collection(campaign), chunk_size=2)
    again = MontyDecoder().decode(json.dumps(builder, cls=MontyEncoder))
    assert again.as_dict() == builder.as_dict()
    serial(again, no_bars=True)
    assert again.target.connect() is None
    flat = list(again.target.query({}))
    assert len(flat) == 6
    (row,) = (one for one in flat[0]["potentials"] if one["strategy"] == "foundation")
    assert row["phonon_mae_thz"] > 0
