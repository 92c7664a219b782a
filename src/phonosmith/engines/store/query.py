"""MongoDB criteria as SQL over the heads of documents.

The SQL written here is a *necessary* condition: every document that matches the criteria satisfies it. It may let
others through (``true`` and 1 share a column type, decimal fractions are compared with a margin, marks always pass),
because each candidate is judged again by the matcher maggma's own in-memory store uses. So nothing here can change a
result, only make it faster: equality, ``$in``, ranges and ``$exists`` are asked of SQL, everything else is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from bson.objectid import ObjectId

from phonosmith.engines.store.documents import Path, head_scalar, is_plain, path_of

# SQLite converts decimal text to binary with an error of about 1e-16; the margin is far above it
_RELATIVE_MARGIN = 1e-12
_ABSOLUTE_MARGIN = 1e-290
_LARGEST_NUMBER = 1e300
# SQLite's own limits are 1000 for the depth of an expression and 32766 for arguments
_MOST_TERMS = 900
_MOST_ARGUMENTS = 30_000

Clause = tuple[str, list[Any]]
"""A condition in SQL and its arguments."""
EVERYTHING: Clause = ("1", [])


def json_path(path: Path) -> str:
    """Return the SQL literal of a JSON path."""
    steps = ".".join(f'"{part}"' for part in path).replace("'", "''")
    return f"'$.{steps}'"


@lru_cache(maxsize=1024)
def column(key: str) -> str | None:
    """Return the SQL expression of a dotted key, or None for a key SQLite cannot address.

    Its value is NULL (missing or null), a number, a text, or the empty blob where a mark hides the value. Indices are
    made on exactly this expression.
    """
    path = path_of(key)
    if not all(part and is_plain(part) and '"' not in part and "\\" not in part for part in path):
        return None
    steps = [json_path(path[: depth + 1]) for depth in range(len(path))]
    hidden = " OR ".join(f"json_type(head,{step})='array'" for step in steps)
    return f"CASE WHEN {hidden} THEN x'' ELSE json_extract(head,{steps[-1]}) END"


def _bounds(value: Any) -> tuple[float, float] | tuple[str, str] | None:
    """Return the range in which a head holds a number or text (dates and ids are texts there); None for the rest."""
    if isinstance(value, int | float):
        if not abs(value) < _LARGEST_NUMBER:
            return None
        margin = abs(float(value)) * _RELATIVE_MARGIN + _ABSOLUTE_MARGIN
        return float(value) - margin, float(value) + margin
    text = head_scalar(value) if isinstance(value, str | datetime | ObjectId) else None
    return (text, text) if isinstance(text, str) else None


def _among(expression: str, values: Sequence[Any]) -> Clause | None:
    texts: list[Any] = []
    ranges: list[tuple[float, float]] = []
    for value in values:
        match _bounds(value):
            case str(text), _:
                texts.append(text)
            case (float(low), float(high)):
                ranges.append((low, high))
            case _ if value is not None and not isinstance(value, str):
                return None
    # a string that the head cannot show is always behind a mark
    conditions = [f"{expression} IN ({'?,' * len(texts)}x'')"]
    if None in values:
        conditions.append(f"{expression} IS NULL")
    if ranges:
        conditions.append(f"{expression} BETWEEN ? AND ?")
        texts += [min(low for low, _ in ranges), max(high for _, high in ranges)]
    return f"({' OR '.join(conditions)})", texts


def _range(expression: str, asked: Mapping[str, Any]) -> Clause | None:
    """Return the condition for comparisons; in SQLite numbers come before texts and texts before the mark."""
    low = next((kept[0] for name in ("$gt", "$gte") if (kept := _bounds(asked.get(name)))), None)
    high = next((kept[1] for name in ("$lt", "$lte") if (kept := _bounds(asked.get(name)))), None)
    if high is None:
        return None if low is None else (f"{expression}>=?", [low])
    if low is None:
        return f"({expression}<=? OR {expression}=x'')", [high]
    return f"({expression} BETWEEN ? AND ? OR {expression}=x'')", [low, high]


def _is_operators(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(str(name).startswith("$") for name in value)


def _field(key: str, value: Any) -> Clause | None:
    expression = column(key)
    if expression is None:
        return None
    asked = dict(value) if _is_operators(value) else {"$eq": value}
    clauses = [_range(expression, asked)] if asked.keys() & {"$gt", "$gte", "$lt", "$lte"} else []
    if "$eq" in asked:
        clauses.append(_among(expression, [asked["$eq"]]))
    if isinstance(asked.get("$in"), list | tuple):
        clauses.append(_among(expression, asked["$in"]))
    if "$exists" in asked:
        there = f"json_type(head,{json_path(path_of(key))}) IS NOT" if asked["$exists"] else f"{expression} IS"
        clauses.append((f"({there} NULL OR {expression}=x'')", []))
    return _joined(clauses, "AND")


def _joined(clauses: Sequence[Clause | None], word: str) -> Clause | None:
    kept = [clause for clause in clauses if clause is not None]
    if not kept or (word == "OR" and len(kept) < len(clauses)):
        return None
    sql = f" {word} ".join(sql for sql, _ in kept)
    return (f"({sql})" if len(kept) > 1 else sql), [value for _, values in kept for value in values]


def _all_of(criteria: Any) -> Clause | None:
    clauses: list[Clause | None] = []
    for key, value in criteria.items() if isinstance(criteria, Mapping) else ():
        if key in ("$and", "$or") and isinstance(value, list | tuple):
            clauses.append(_joined([_all_of(item) for item in value], key[1:].upper()))
        elif not key.startswith("$"):
            clauses.append(_field(key, value))
    return _joined(clauses, "AND")


def where(criteria: Mapping[str, Any], identifying: Sequence[str] = ()) -> Clause:
    """Return SQL (with arguments) that every document matching the criteria satisfies.

    When the criteria fix one of the ``identifying`` keys, whose value picks about one document, nothing else is asked
    of SQL, so that its planner cannot prefer an index that tells little.
    """
    clause = None
    for key in identifying:
        value = criteria.get(key)
        if clause is None and value is not None and (not _is_operators(value) or set(value) <= {"$in", "$eq"}):
            clause = _field(key, value)
    clause = clause or _all_of(criteria)
    if clause is None:
        return EVERYTHING
    sql, arguments = clause
    fits = len(arguments) <= _MOST_ARGUMENTS and sql.count(" OR ") + sql.count(" AND ") <= _MOST_TERMS
    return clause if fits else EVERYTHING


def paths_seen(criteria: Mapping[str, Any]) -> list[Path] | None:
    """Return every path the criteria look at, or None when only the whole document will do."""
    paths: list[Path] = []
    for key, value in criteria.items():
        if key in ("$and", "$or", "$nor") and isinstance(value, list | tuple):
            for item in value:
                inner = paths_seen(item) if isinstance(item, Mapping) else None
                if inner is None:
                    return None
                paths += inner
        elif not key or (key.startswith("$") and key != "$comment"):
            return None
        elif key != "$comment":
            paths.append(path_of(key))
    return paths
