"""Random documents and queries: the embedded store answers as MemoryStore does, whatever SQL was asked first."""

# ruff: noqa: DTZ001 (MongoDB's dates are naive UTC)

import json
import re
from datetime import datetime, timedelta

import bson
import pytest
from bson.objectid import ObjectId
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from maggma.stores import MemoryStore
from pymongo.errors import OperationFailure

from phonosmith.engines.store import documents as sqlite_documents
from phonosmith.engines.store import query as sqlite_query
from phonosmith.engines.store.results import matches
from phonosmith.engines.store.sqlite import SQLiteStore

# the pool holds long strings on purpose
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

IDS = [ObjectId("65000000000000000000000" + digit) for digit in "0123"]
START = datetime(2026, 1, 1)

# few values of many types, so that documents and queries meet; each is near another that it must not be taken for
ALL_SCALARS = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    -0.0,
    1.0000000000000002,
    0.1,
    0.30000000000000004,
    0.3,
    -2,
    2**53,
    2**53 + 1,
    float(2**53),
    2**63 - 1,
    1e300,
    5e-324,
    float("inf"),
    float("-inf"),
    "",
    "1",
    "a",
    "A",
    "ab",
    "true",
    "null",
    "{}",
    "[]",
    '{"b":1}',
    "é",
    "\u20ac",
    "\U0001f600",
    "\ue000d2026-01-01T00:00:00.000",
    "\ue000",
    "with 'quote'",
    'with "quote"',
    "back\\slash",
    "line\nbreak",
    "nul\x00inside",
    "nul",
    "x" * 600,
    "x" * 512,
    "x" * 513,
    START,
    START + timedelta(milliseconds=1),
    START - timedelta(days=30_000),
    *IDS,
    b"",
    b"a",
]
SCALARS = st.sampled_from(ALL_SCALARS)
KEYS = st.sampled_from(["a", "b", "c", "0", "1", "ä", "o'k", 'q"t', "b\\s"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)
DOCUMENTS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=6)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(".".join)
COMPARABLE = st.one_of(SCALARS, SCALARS, VALUES)
OPERATORS = st.one_of(
    st.builds(lambda op, value: {op: value}, st.sampled_from(["$eq", "$ne"]), COMPARABLE),
    st.builds(lambda op, value: {op: value}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), SCALARS),
    st.builds(lambda op, value: {op: value}, st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=4)),
    st.builds(lambda value: {"$exists": value}, st.booleans()),
    st.builds(lambda value: {"$size": value}, st.integers(0, 3)),
    st.builds(lambda value: {"$regex": value}, st.sampled_from(["^a", "b$", ".", "1"])),
    st.builds(lambda value: {"$not": {"$gt": value}}, SCALARS),
    st.builds(lambda value: {"$elemMatch": {"a": value}}, SCALARS),
)
CONDITIONS = st.one_of(
    COMPARABLE,
    OPERATORS,
    st.builds(lambda first, second: {**first, **second}, OPERATORS, OPERATORS),
    st.sampled_from([re.compile("^a"), re.compile("B", re.IGNORECASE)]),
)
FIELDS = st.dictionaries(PATHS, CONDITIONS, min_size=1, max_size=2)
CRITERIA = st.recursive(
    FIELDS,
    lambda inner: st.builds(
        lambda word, items: {word: items},
        st.sampled_from(["$and", "$or", "$nor"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    store = SQLiteStore(tmp_path_factory.mktemp("property") / "store.sqlite", key="uuid")
    store.connect()
    # paths the random queries use, so that indices are part of the test
    for key in ("a", "b.a", "a.b.c", "o'k"):
        assert store.ensure_index(key)
    yield store
    store.close()


def filled(embedded, documents):
    memory = MemoryStore(key="uuid")
    memory.connect()
    numbered = [{**document, "uuid": f"u{i}"} for i, document in enumerate(documents)]
    embedded.remove_docs({})
    embedded.update(numbered)
    memory.update(numbered)
    return memory


def attempt(function):
    """Return a result, or the kind of complaint: both stores use one matcher, which refuses some comparisons."""
    try:
        return function()
    except (TypeError, NotImplementedError) as error:
        return type(error)


def without_ids(documents):
    return [{key: value for key, value in document.items() if key != "_id"} for document in documents]


PROPERTY = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@PROPERTY
@given(documents=DOCUMENTS, criteria=CRITERIA)
def test_same_answers_as_memorystore(embedded, documents, criteria):
    answers_agree(embedded, documents, criteria)


@pytest.mark.slow
@settings(PROPERTY, max_examples=3000)
@given(documents=DOCUMENTS, criteria=CRITERIA)
def test_same_answers_as_memorystore_at_length(embedded, documents, criteria):
    answers_agree(embedded, documents, criteria)


def answers_agree(embedded, documents, criteria):
    memory = filled(embedded, documents)
    expected = attempt(lambda: without_ids(memory.query(criteria)))
    assume(not isinstance(expected, type))
    assert without_ids(embedded.query(criteria)) == expected
    assert embedded.count(criteria) == len(expected)


def conditions(value):
    """Yield every condition that can be asked of one value."""
    yield value
    for operator in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"):
        yield {operator: value}
    for others in ([], ["zz", 3.5], [None]):
        yield {"$in": [value, *others]}
        yield {"$nin": [value, *others]}
    for low, high in ((value, "ab"), (value, 1.5), (-1, value), ("", value), (value, value), (value, START)):
        yield {"$gte": low, "$lt": high}
        yield {"$lte": high, "$gt": low}
    yield {"$ne": value, "$exists": True}
    yield {"$not": {"$eq": value}}
    yield {"$elemMatch": {"$eq": value}}


@pytest.mark.parametrize("values", [[*ALL_SCALARS[::5], '{"b":1}'], pytest.param(ALL_SCALARS, marks=pytest.mark.slow)])
def test_every_pair_of_values(embedded, values):
    """Each kind of value in a document, at each kind of place, under each condition with each kind of value."""
    places = {"a": lambda v: v, "a.b.c": lambda v: {"b": {"c": v}}, "a.0": lambda v: [v, 1]}
    bodies = [{"a": make(value)} for value in ALL_SCALARS for make in places.values()]
    bodies += [{"a": {"b": [{"c": value}, {"c": "zz"}]}} for value in ALL_SCALARS]
    bodies += [{}, {"a": {}}, {"a": []}, {"a": {"b": {}}}, {"a": {"b": 1}}]
    embedded.remove_docs({})
    embedded.update([{**body, "uuid": f"u{i}"} for i, body in enumerate(bodies)])
    stored = list(embedded.query())
    compared = 0
    for key in places:
        for value in values:
            for condition in conditions(value):
                criteria = {key: condition}
                normal = sqlite_documents.normal_criteria(criteria)
                verdicts = [attempt(lambda doc=doc, normal=normal: bool(matches(normal, doc))) for doc in stored]
                if any(isinstance(verdict, type) for verdict in verdicts):
                    continue
                expected = [doc["uuid"] for doc, verdict in zip(stored, verdicts, strict=True) if verdict]
                assert [doc["uuid"] for doc in embedded.query(criteria)] == expected, criteria
                compared += 1
    assert compared > 40 * len(values)


@PROPERTY
@given(document=st.dictionaries(KEYS, VALUES, max_size=4), criteria=CRITERIA)
def test_sql_never_loses_a_match(embedded, document, criteria):
    filled(embedded, [document])
    stored = next(embedded.query())
    normal = sqlite_documents.normal_criteria(criteria)
    found = attempt(lambda: matches(normal, stored))
    assume(not isinstance(found, type))
    with embedded._connection.reading() as raw:
        candidates = embedded._candidates(raw, sqlite_query.where(normal)).fetchall()
    assert len(candidates) >= int(bool(found))


@PROPERTY
@given(document=st.dictionaries(KEYS, VALUES, max_size=4), criteria=CRITERIA)
def test_what_the_head_shows_decides_as_the_whole_document(document, criteria):
    whole = sqlite_documents.decode_body(bson.encode(document))
    normal = sqlite_documents.normal_criteria(criteria)
    head = json.loads(sqlite_documents.encode_head(document))
    seen = sqlite_documents.shown(head, sqlite_query.paths_seen(normal))
    assume(seen is not None)
    assert attempt(lambda: bool(matches(normal, seen))) == attempt(lambda: bool(matches(normal, whole)))


@PROPERTY
@given(documents=DOCUMENTS)
def test_documents_come_back_as_they_were(embedded, documents):
    memory = filled(embedded, documents)
    assert without_ids(embedded.query()) == without_ids(memory.query())


# where a path ends early mongomock departs from MongoDB (an excluded "a.b" drops a scalar "a"): those are tested below
LEAF = st.sampled_from([None, 1, "x", [1, 2], START])
PAIR = st.fixed_dictionaries({}, optional={"a": LEAF, "b": LEAF})
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "a": st.fixed_dictionaries({}, optional={"a": LEAF, "b": PAIR}),
        "b": st.lists(PAIR, max_size=2),
        "c": LEAF,
    },
)
SHAPED_PATHS = st.sampled_from(["a", "a.a", "a.b", "a.b.a", "a.b.b", "a.x", "b", "b.a", "b.x", "c", "x", "x.y"])


@settings(PROPERTY, max_examples=100)
@given(
    documents=st.lists(SHAPED, min_size=1, max_size=3),
    paths=st.lists(SHAPED_PATHS, min_size=1, max_size=3, unique=True),
    keep=st.booleans(),
    with_id=st.booleans(),
)
def test_same_projection_as_memorystore(embedded, documents, paths, keep, with_id):
    # paths that contain one another are an error in MongoDB
    assume(not any(one != other and (one + ".").startswith(other + ".") for one in paths for other in paths))
    memory = filled(embedded, documents)
    properties = dict.fromkeys(paths, int(keep)) | ({} if with_id else {"_id": 0})
    found, expected = list(embedded.query(properties=properties)), list(memory.query(properties=properties))
    assert without_ids(found) == without_ids(expected)
    assert [("_id" in doc) for doc in found] == [with_id] * len(documents)


def test_projection_where_a_path_ends_early(embedded):
    # MongoDB's documented behaviour
    filled(embedded, [{"a": 1, "c": [1, {"b": 2, "d": 3}, [{"b": 4}]]}])
    assert list(embedded.query(properties={"a.b": 1, "c.b": 1, "_id": 0})) == [{"c": [{"b": 2}, [{"b": 4}]]}]
    kept = list(embedded.query(properties={"a.b": 0, "c.b": 0, "uuid": 0, "_id": 0}))
    assert kept == [{"a": 1, "c": [1, {"d": 3}, [{}]]}]


def test_unsupported_projections_are_refused(embedded):
    for properties in ({"a": 1, "b": 0}, {"a": {"$slice": 2}}, {"a.$": 1}):
        with pytest.raises(OperationFailure):
            list(embedded.query(properties=properties))


ONE_TYPE = st.sampled_from([st.integers(-5, 5), st.floats(-1, 1), st.sampled_from(["a", "b", "é", "Z", ""])])


@settings(PROPERTY, max_examples=100)
@given(data=st.data())
def test_same_order_as_memorystore(embedded, data):
    kinds = {key: data.draw(ONE_TYPE) for key in ("a", "b")}
    rows = data.draw(st.lists(st.fixed_dictionaries({}, optional=kinds), min_size=1, max_size=8))
    memory = filled(embedded, [{"n": row} for row in rows])
    order = {"n.a": data.draw(st.sampled_from([1, -1])), "n.b": data.draw(st.sampled_from([1, -1]))}
    skip, limit = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    asked = {"sort": order, "skip": skip, "limit": limit}
    assert without_ids(embedded.query({}, **asked)) == without_ids(memory.query({}, **asked))


def test_arrays_sort_by_their_smallest_and_largest_value(embedded):
    # as MongoDB does; mongomock takes the first value
    filled(embedded, [{"n": [3, 9]}, {"n": 5}, {"n": [8, 1]}, {"n": []}, {}])
    assert [doc["uuid"] for doc in embedded.query(sort={"n": 1})] == ["u3", "u4", "u2", "u0", "u1"]
    assert [doc["uuid"] for doc in embedded.query(sort={"n": -1})] == ["u0", "u2", "u1", "u4", "u3"]


def test_an_index_is_really_used(embedded):
    filled(embedded, [{"a": 1}])

    def plan(raw, criteria):
        sql, arguments = sqlite_query.where(criteria, ["uuid"])
        query = f"EXPLAIN QUERY PLAN SELECT id, head FROM {embedded._heads} WHERE {sql} ORDER BY id"
        return "; ".join(row[3] for row in raw.execute(query, arguments))

    with embedded._connection.reading() as raw:
        for criteria in (
            {"a": "x"},
            {"a": {"$gt": 3, "$lt": 4}},
            {"a": {"$in": ["x", 2]}},
            {"b.a": 2.5},
            {"b.a": None},
            {"uuid": "u0", "index": 1},
            {"name": "static"},
            {"$or": [{"a": 1}, {"b.a": "x"}]},
        ):
            assert "SCAN" not in plan(raw, criteria), (criteria, plan(raw, criteria))
            assert ":index:" in plan(raw, criteria)
        assert "SCAN" in plan(raw, {"c": 1})
