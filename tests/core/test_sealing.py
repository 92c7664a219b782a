"""Seals see what changes a document and nothing of how a store writes it."""

# ruff: noqa: DTZ001  (stores give dates without a zone)
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phonosmith.core.sealing import SEAL, altered_fields, artefacts_in, canonical, result_digest, seal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def document(output, uuid="a", index=1):
    return {"uuid": uuid, "index": index, "output": output, "metadata": {SEAL: seal(uuid, index, output)}}


@given(JSON)
def test_a_document_that_went_through_json_is_the_same(output):
    kept = document({"x": output})
    assert altered_fields(json.loads(json.dumps(kept))) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (3, 3.0),
        (0.0, -0.0),
        (float("nan"), None),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (datetime(2026, 5, 1, 12, 0, 0, 123456), datetime(2026, 5, 1, 12, 0, 0, 123000)),
        (datetime(2026, 5, 1, 12, tzinfo=UTC), datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))),
        (
            datetime(2026, 5, 1, 12, 0, 0, 5000),
            {"@module": "datetime", "@class": "datetime", "string": "2026-05-01 12:00:00.005000"},
        ),
        (datetime(2026, 5, 1, 12), "2026-05-01T12:00:00"),
        ("2026-99-99T12:00:00", "2026-99-99T12:00:00"),
    ],
)
def test_what_stores_write_differently_is_one(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0.1, 0.1000000000000001), (2**53, 2**53 + 1), ("1", 1), ([], {}), ([1, 2], [2, 1]), ("", None)],
)
def test_what_means_something_else_is_another(one, other):
    assert json.dumps(canonical(one)) != json.dumps(canonical(other))


def test_an_altered_number_is_named_by_its_field():
    output = {
        "mae": 0.1, "mesh": [4, 4, 4], "notes": [], "sides": {"ours": {"max": 15.0}, "theirs": {"max": 15.5}},
        "entries": [{"name": "a", "value": 1.0}, {"name": "b", "value": 2.0}],
    }  # fmt: skip
    for path, change in {
        "mae": lambda o: o.update(mae=0.10000000000000002),
        "mesh": lambda o: o["mesh"].__setitem__(1, 5),
        "sides.theirs.max": lambda o: o["sides"]["theirs"].update(max=15.6),
        "entries.1.value": lambda o: o["entries"][1].update(value=-2.0),
        "notes": lambda o: o["notes"].append("all is well"),
        "mode": lambda o: o.update(mode="new"),
    }.items():
        kept = json.loads(json.dumps(document(output)))
        change(kept["output"])
        assert altered_fields(kept) == [path]


def test_a_wide_document_is_named_less_precisely_and_its_seal_stays_small():
    output = {f"part{i}": {f"field{j}": float(i * j) for j in range(200)} for i in range(20)}
    kept = document(output)
    assert len(kept["metadata"][SEAL]["fields"]) <= 64
    kept["output"]["part7"]["field3"] = 0.5
    assert altered_fields(kept) == ["part7"]


def test_a_document_put_in_the_place_of_another_one_is_found():
    kept = document({"x": 1}, uuid="a")
    assert altered_fields({**kept, "uuid": "b"}) == ["uuid"]
    assert altered_fields({**kept, "output": None})


def test_a_document_from_before_there_were_seals_is_neither_whole_nor_altered():
    assert altered_fields({"uuid": "a", "index": 1, "output": 3, "metadata": {}}) is None
    assert altered_fields({"uuid": "a", "index": 1, "output": 3}) is None


def test_artefacts_are_found_wherever_a_document_names_them():
    ref = {"sha256": "0" * 64, "kind": "model", "suffix": ".safetensors", "size": 3}
    found = list(artefacts_in({"a": [{"model": {"sha256": "1" * 64, "artefact": ref}}], "b": {"sha256": "2" * 64}}))
    assert [one.sha256 for one in found] == ["0" * 64]


def test_a_repetition_on_another_day_has_the_same_result():
    first = {
        "mae": 0.1,
        "manifest": {"started": "monday"},
        "training_seconds": 3.0,
        "history": [{"epoch": 0, "time": 1}],
    }
    second = {
        "mae": 0.1,
        "manifest": {"started": "friday"},
        "training_seconds": 9.0,
        "history": [{"epoch": 0, "time": 2}],
    }
    assert result_digest(first) == result_digest(second) != result_digest(second | {"mae": 0.2})
