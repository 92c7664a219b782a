"""What MongoDB does with the documents a filter found: sort, project, distinct values, groups.

Matching and the order of types are those of the matcher maggma's own in-memory store uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import bson
from bson.objectid import ObjectId
from maggma.core import Sort
from maggma.stores import mongolike
from pymongo.errors import OperationFailure

from phonosmith.engines.store.query import path_of

_filtering = importlib.import_module(f"{mongolike.mongomock.__name__}.filtering")

# stands for "the whole field" in a tree of projected fields; no field may be named so
_LEAF = "$"

matches: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = _filtering.filter_applies


def values_at(document: Mapping[str, Any], key: str) -> list[Any]:
    """Return every value a dotted key leads to; several when arrays lie on the way, none when it is missing."""
    return [value for value in _filtering.iter_key_candidates(key, document) if value is not _filtering.NOTHING]


def sort_values(document: Mapping[str, Any], order: list[tuple[str, int]]) -> list[tuple[int, Any]]:
    """Return what a document is sorted by: for each field its rank among types and its value.

    Of an array the smallest element counts, in descending order the largest, as in MongoDB.
    """
    return [_sort_value(document, key, direction) for key, direction in order]


def _sort_value(document: Mapping[str, Any], key: str, direction: int) -> tuple[int, Any]:
    found: list[tuple[int, Any]] = []
    empty = False
    for value in values_at(document, key):
        if isinstance(value, list):
            found += [_ranked(item) for item in value]
            empty = empty or not value
        else:
            found.append(_ranked(value))
    if not found:
        return _EMPTY_ARRAY if empty else _ranked(None)
    return min(found) if direction > 0 else max(found)


# MongoDB's order of types. Within one plain type Python compares as MongoDB does; bool is asked before int.
_EMPTY_ARRAY = (0, 0)
_PLAIN: tuple[tuple[int, tuple[type, ...]], ...] = (
    (40, (bool,)),
    (10, (int, float)),
    (15, (str,)),
    (35, (ObjectId,)),
    (45, (datetime,)),
)
_COMPOSED: tuple[tuple[int, tuple[type, ...]], ...] = ((20, (dict,)), (25, (list,)), (30, (bytes,)))


def _ranked(value: Any) -> tuple[int, Any]:
    if value is None:
        return 5, 0
    for rank, kinds in _PLAIN:
        if isinstance(value, kinds):
            return rank, value
    rank = next((rank for rank, kinds in _COMPOSED if isinstance(value, kinds)), 50)
    return rank, _filtering.BsonComparable(value)


def sort_order(sort: Mapping[str, Any] | None) -> list[tuple[str, int]]:
    """Return maggma's sort argument as (key, direction) pairs."""
    order = []
    for key, direction in (sort or {}).items():
        value = direction.value if isinstance(direction, Sort) else direction
        if value not in (1, -1):
            raise OperationFailure(f"Sort direction of {key!r} must be 1 or -1, not {value!r}.")
        order.append((key, int(value)))
    return order


def is_inclusion(projection: Mapping[str, Any]) -> bool:
    """Tell whether a projection names what to keep rather than what to leave out."""
    chosen = {bool(value) for key, value in projection.items() if key != "_id"}
    if len(chosen) > 1:
        raise OperationFailure("A projection cannot both include and exclude fields.")
    return chosen.pop() if chosen else bool(projection.get("_id", True))


def checked_projection(properties: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """Return ``properties`` as a projection.

    Raises
    ------
    OperationFailure
        For projection operators ($slice, $elemMatch, computed fields): maggma's stores are asked for plain fields.
    """
    if not properties:
        return {}
    projection = dict(properties) if isinstance(properties, Mapping) else dict.fromkeys(properties, 1)
    for key, value in projection.items():
        if not isinstance(value, bool | int | float) or _LEAF in path_of(key):
            raise OperationFailure(f"Projection of {key!r}: only 0 and 1 are supported, not {value!r}.")
    is_inclusion(projection)
    return projection


def project(document: dict[str, Any], projection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the asked fields of a document, as MongoDB's find would."""
    if not projection:
        return document
    tree: dict[str, Any] = {}
    for key in projection:
        if key != "_id":
            _plant(tree, path_of(key))
    include = is_inclusion(projection)
    if not tree:
        keep_all = not include or bool(projection.get("_id", 1))
        result = {"_id": document.get("_id")} if include and keep_all else dict(document)
    else:
        result = _include(document, tree) if include else _exclude(document, tree)
    if not projection.get("_id", 1):
        result.pop("_id", None)
    elif "_id" in document:
        result = {"_id": document["_id"], **result}
    return result


def _plant(tree: dict[str, Any], path: tuple[str, ...]) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if tree.get(_LEAF) is True:
            return
    tree[path[-1]] = {_LEAF: True}


def _include(value: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        branch = tree.get(key)
        if branch is None:
            continue
        if branch.get(_LEAF) is True:
            result[key] = item
        elif isinstance(item, dict):
            result[key] = _include(item, branch)
        elif isinstance(item, list):
            result[key] = _include_items(item, branch)
    return result


def _include_items(items: list[Any], branch: dict[str, Any]) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if isinstance(item, dict):
            kept.append(_include(item, branch))
        elif isinstance(item, list):
            kept.append(_include_items(item, branch))
    return kept


def _exclude(value: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _exclude_below(item, tree[key]) if key in tree else item
        for key, item in value.items()
        if tree.get(key, {}).get(_LEAF) is not True
    }


def _exclude_below(item: Any, branch: dict[str, Any]) -> Any:
    if isinstance(item, dict):
        return _exclude(item, branch)
    if isinstance(item, list):
        return [_exclude_below(element, branch) for element in item]
    return item


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


def distinct_values(documents: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    """Return each value at a key once, in the order met; arrays count by their elements."""
    seen: dict[Any, Any] = {}
    for document in documents:
        for value in values_at(document, key):
            for item in value if isinstance(value, list) else [value]:
                seen.setdefault(identity(item), item)
    return list(seen.values())


def grouped(documents: Iterable[dict[str, Any]], keys: list[str]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return documents by the values of some keys, groups in MongoDB's order; who lacks a key is left out."""
    groups: dict[tuple[Any, ...], tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for document in documents:
        found = [values_at(document, key) for key in keys]
        if any(len(values) != 1 for values in found):
            continue
        values = [item[0] for item in found]
        name = tuple(identity(value) for value in values)
        if name not in groups:
            label: dict[str, Any] = {}
            for key, value in zip(keys, values, strict=True):
                _put(label, path_of(key), value)
            groups[name] = (label, [])
        groups[name][1].append(document)
    order = [(key, 1) for key in keys]
    return sorted(groups.values(), key=lambda group: sort_values(group[0], order))


def _put(target: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        target = target.setdefault(part, {})
    target[path[-1]] = value
