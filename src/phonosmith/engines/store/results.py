"""What MongoDB does with the documents a filter found: sort, project, distinct values, groups.

Matching and the order of types are those of the matcher maggma's own in-memory store uses; where that departs from
MongoDB (sorting by arrays, projections whose path ends early) MongoDB's documented behaviour is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import bson
from maggma.core import Sort
from mongomock_ng import filtering
from pymongo.errors import OperationFailure

from phonosmith.engines.store.documents import Document, path_of

matches: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = filtering.filter_applies
_MISSING_RANK = 5
# text, number, id, true or false, date: within these Python compares as MongoDB does
_PLAIN_RANKS = (10, 15, 35, 40, 45)


def _values_at(document: Document, key: str) -> list[Any]:
    """Return every value a dotted key leads to; several when arrays lie on the way, none when it is missing."""
    return [value for value in filtering.iter_key_candidates(key, document) if value is not filtering.NOTHING]


def sort_values(document: Document, order: Sequence[tuple[str, int]]) -> list[tuple[int, Any]]:
    """Return what a document is sorted by: for each field its rank among types and its value.

    Of an array the smallest element counts, in descending order the largest, as in MongoDB.
    """
    return [_sort_value(_values_at(document, key), direction) for key, direction in order]


def _sort_value(values: list[Any], direction: int) -> tuple[int, Any]:
    scalars = [item for value in values for item in (value if isinstance(value, list) else [value])]
    if not scalars:
        return (0, 0) if values else (_MISSING_RANK, 0)
    return (min if direction > 0 else max)(map(_ranked, scalars))


def _ranked(value: Any) -> tuple[int, Any]:
    rank = filtering._get_compare_type(value)  # noqa: SLF001 MongoDB's order of types, kept nowhere else
    if rank in _PLAIN_RANKS:
        return rank, value
    return rank, 0 if rank == _MISSING_RANK else filtering.BsonComparable(value)


def sort_order(sort: Mapping[str, Any] | None) -> list[tuple[str, int]]:
    """Return maggma's sort argument as (key, direction) pairs."""
    order = {key: value.value if isinstance(value, Sort) else value for key, value in (sort or {}).items()}
    for key, value in order.items():
        if value not in (1, -1):
            raise OperationFailure(f"Sort direction of {key!r} must be 1 or -1, not {value!r}.")
    return [(key, int(value)) for key, value in order.items()]


def is_inclusion(projection: Mapping[str, Any]) -> bool:
    """Tell whether a projection names what to keep rather than what to leave out."""
    chosen = {bool(value) for key, value in projection.items() if key != "_id"}
    if len(chosen) > 1:
        raise OperationFailure("A projection cannot both include and exclude fields.")
    return chosen.pop() if chosen else bool(projection.get("_id", True))


def checked_projection(properties: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """Return ``properties`` as a projection; maggma's stores are asked for plain fields, operators are refused."""
    projection = dict(properties) if isinstance(properties, Mapping) else dict.fromkeys(properties or (), 1)
    for key, value in projection.items():
        if not isinstance(value, bool | int | float) or "$" in path_of(key):
            raise OperationFailure(f"Projection of {key!r}: only 0 and 1 are supported, not {value!r}.")
    is_inclusion(projection)
    # a field asked for as a whole needs none of its parts
    parts = {key for key in projection if "." in key and any(key.startswith(f"{other}.") for other in projection)}
    return {key: value for key, value in projection.items() if key not in parts}


def project(document: Document, projection: Mapping[str, Any]) -> Document:
    """Return the asked fields of a document, as MongoDB's find would."""
    if not projection:
        return document
    tree: dict[str, Any] = {}
    for key in projection:
        if key != "_id":
            reduce(lambda branch, part: branch.setdefault(part, {}), path_of(key), tree)
    result: Document = _pruned(document, tree, keep=is_inclusion(projection))
    result.pop("_id", None)
    return {"_id": document["_id"], **result} if projection.get("_id", 1) and "_id" in document else result


def _pruned(value: Any, tree: dict[str, Any], *, keep: bool) -> Any:
    """Return a value with only (or without) what the tree names; a branch without branches names all below it."""
    if isinstance(value, list):
        return [_pruned(item, tree, keep=keep) for item in value if not keep or isinstance(item, dict | list)]
    if not isinstance(value, dict):
        return value
    result: Document = {}
    for key, item in value.items():
        branch = tree.get(key)
        if not branch:
            if (branch is not None) == keep:
                result[key] = item
        elif not keep or isinstance(item, dict | list):
            result[key] = _pruned(item, branch, keep=keep)
    return result


def identity(value: Any) -> Any:
    """Return something hashable that is equal exactly when MongoDB holds two values for the same."""
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int | float):
        # not-a-number equals itself here, as in MongoDB
        return "number", value if value == value else "nan"  # noqa: PLR0124
    if isinstance(value, dict | list):
        return type(value).__name__, bson.encode({"": value})
    return type(value).__name__, value


def distinct_values(documents: Iterable[Document], key: str) -> list[Any]:
    """Return each value at a key once, in the order met; arrays count by their elements."""
    kept: dict[Any, Any] = {}
    for document in documents:
        for value in _values_at(document, key):
            for item in value if isinstance(value, list) else [value]:
                kept.setdefault(identity(item), item)
    return list(kept.values())


def grouped(documents: Iterable[Document], keys: list[str]) -> list[tuple[Document, list[Document]]]:
    """Return documents by the values of some keys, groups in MongoDB's order; who lacks a key is left out."""
    groups: dict[tuple[Any, ...], tuple[Document, list[Document]]] = {}
    for document in documents:
        values = [_values_at(document, key) for key in keys]
        if all(len(item) == 1 for item in values):
            name = tuple(identity(item) for (item,) in values)
            label: Document = {}
            for key, (item,) in zip(keys, values, strict=True):
                *parents, last = path_of(key)
                reduce(lambda node, part: node.setdefault(part, {}), parents, label)[last] = item
            groups.setdefault(name, (label, []))[1].append(document)
    order = [(key, 1) for key in keys]
    return sorted(groups.values(), key=lambda group: sort_values(group[0], order))
