"""MongoDB criteria as SQL over the heads of documents.

The SQL written here is a *necessary* condition: every document that matches the criteria satisfies it. It may let
others through (``true`` and 1 share a column type, decimal fractions are compared with a margin, marks always pass),
because each candidate is judged again by the matcher maggma itself uses. So nothing here can change a result, only
make it faster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bson.objectid import ObjectId

from phonosmith.engines.store.documents import DATE_TAG, Path, head_scalar, is_plain

ALWAYS = "1"
# SQLite converts decimal text to binary with an error of about 1e-16; the margin is far above it
_RELATIVE_MARGIN = 1e-12
_ABSOLUTE_MARGIN = 1e-290
_MOST_VALUES = 10_000
_MOST_RANGES = 100
# SQLite's own limits are 1000 for the depth of an expression and 32766 for arguments
_MOST_TERMS = 900
_MOST_ARGUMENTS = 30_000
_LOGICAL = ("$and", "$or", "$nor")

Clause = tuple[str, list[Any]]
_ANY: Clause = (ALWAYS, [])


def path_of(key: str) -> Path:
    """Return the parts of a dotted key."""
    return tuple(key.split("."))


def _usable(path: Path) -> bool:
    return all(part and is_plain(part) and '"' not in part and "\\" not in part for part in path)


def column(key: str) -> str | None:
    """Return the SQL expression of a dotted key, or None for a key SQLite cannot address.

    Its value is NULL (missing or null), a number, a text, or the empty blob where a mark hides the value. Indices are
    made on exactly this expression.
    """
    path = path_of(key)
    if not _usable(path):
        return None
    steps = [json_path(path[: depth + 1]) for depth in range(len(path))]
    hidden = " OR ".join(f"json_type(head,{step})='array'" for step in steps)
    return f"CASE WHEN {hidden} THEN x'' ELSE json_extract(head,{steps[-1]}) END"


def json_path(path: Path) -> str:
    """Return the SQL literal of a JSON path."""
    steps = ".".join(f'"{part}"' for part in path).replace("'", "''")
    return f"'$.{steps}'"


def _margin(value: float) -> tuple[float, float]:
    number = float(value)
    margin = abs(number) * _RELATIVE_MARGIN + _ABSOLUTE_MARGIN
    return number - margin, number + margin


def _as_text(value: Any) -> str | None:
    """Return the text a head holds for a value, or None when it holds something else."""
    if isinstance(value, str | datetime | ObjectId):
        held = head_scalar(value)
        return held if isinstance(held, str) else None
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and abs(value) > 10**300:
        return False
    return isinstance(value, int | float) and not math.isnan(value)


def _equal(expression: str, value: Any) -> Clause:
    if value is None:
        return f"({expression} IS NULL OR {expression}=x'')", []
    if _is_number(value):
        low, high = _margin(value)
        return f"(({expression} BETWEEN ? AND ?) OR {expression}=x'')", [low, high]
    text = _as_text(value)
    if text is not None:
        return f"{expression} IN (?,x'')", [text]
    # a string the head cannot show is always behind a mark
    return (f"{expression}=x''", []) if isinstance(value, str) else _ANY


def _among(expression: str, values: Any) -> Clause:
    if not isinstance(values, list | tuple) or not values or len(values) > _MOST_VALUES:
        return _ANY
    texts = [text for text in map(_as_text, values) if text is not None]
    rest = [value for value in values if _as_text(value) is None]
    numbers = [value for value in rest if _is_number(value)]
    if any(value is not None and not _is_number(value) and not isinstance(value, str) for value in rest):
        return _ANY
    sql = [f"{expression} IN ({','.join('?' * len(texts))}{',' if texts else ''}x'')"]
    arguments: list[Any] = list(texts)
    if any(value is None for value in rest):
        sql.append(f"{expression} IS NULL")
    ranges = [_margin(value) for value in numbers]
    if len(ranges) > _MOST_RANGES:
        ranges = [(min(low for low, _ in ranges), max(high for _, high in ranges))]
    for low, high in ranges:
        sql.append(f"({expression} BETWEEN ? AND ?)")
        arguments += [low, high]
    return f"({' OR '.join(sql)})", arguments


def _ordered(expression: str, operator: str, value: Any) -> Clause:
    """Return the condition for a comparison; numbers sort before texts and texts before the mark in SQLite."""
    above = operator.startswith("$gt")
    if _is_number(value):
        low, high = _margin(value)
        if above:
            return f"(({expression}>=? AND {expression}<'') OR {expression}=x'')", [low]
        return f"({expression}<=? OR {expression}=x'')", [high]
    text = _as_text(value)
    if text is None:
        return _ANY
    if isinstance(value, datetime):
        first, last = (text, DATE_TAG + "~") if above else (DATE_TAG, text)
        return f"(({expression} BETWEEN ? AND ?) OR {expression}=x'')", [first, last]
    if above:
        return f"{expression}>=?", [text]
    return f"(({expression} BETWEEN '' AND ?) OR {expression}=x'')", [text]


def _between(expression: str, low: Any, high: Any) -> Clause | None:
    """Return one condition for two bounds of the same kind: a single range of an index; None for other pairs."""
    if _is_number(low) and _is_number(high):
        bounds: list[Any] = [_margin(low)[0], _margin(high)[1]]
    elif _as_text(low) is not None and type(low) is type(high) and _as_text(high) is not None:
        bounds = [_as_text(low), _as_text(high)]
    else:
        return None
    return f"(({expression} BETWEEN ? AND ?) OR {expression}=x'')", bounds


def _differs(expression: str, values: list[Any]) -> Clause:
    # only texts can be told apart exactly; a text that opens like JSON could be a nested document
    texts = [text for text in map(_as_text, values) if text is not None and not text.startswith("{")]
    if not texts or len(texts) > _MOST_VALUES:
        return _ANY
    return f"({expression} IS NULL OR {expression} NOT IN ({','.join('?' * len(texts))}))", list(texts)


def _operator(key: str, expression: str, operator: str, value: Any) -> Clause:
    if operator == "$eq":
        return _equal(expression, value)
    if operator == "$in":
        has_pattern = isinstance(value, list | tuple) and any(hasattr(item, "pattern") for item in value)
        return _ANY if has_pattern else _among(expression, value)
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        return _ordered(expression, operator, value)
    if operator == "$ne":
        return _differs(expression, [value])
    if operator == "$nin" and isinstance(value, list | tuple):
        return _differs(expression, list(value))
    if operator == "$exists":
        wanted = "IS NOT NULL" if value else "IS NULL"
        return f"(json_type(head,{json_path(path_of(key))}) {wanted} OR {expression}=x'')", []
    if operator == "$elemMatch":
        return f"{expression}=x''", []
    if operator == "$regex":
        return f"{expression}>=''", []
    return _ANY


def _is_operators(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(str(name).startswith("$") for name in value)


def _field(key: str, value: Any) -> Clause:
    expression = column(key)
    if expression is None:
        return _ANY
    if isinstance(value, re.Pattern):
        return f"{expression}>=''", []
    if not _is_operators(value):
        return _ANY if isinstance(value, Mapping | list | tuple) else _equal(expression, value)
    asked = dict(value)
    clauses: list[Clause] = []
    low = next((name for name in ("$gt", "$gte") if name in asked), None)
    high = next((name for name in ("$lt", "$lte") if name in asked), None)
    if low is not None and high is not None:
        both = _between(expression, asked[low], asked[high])
        if both is not None:
            clauses.append(both)
            del asked[low], asked[high]
    clauses += [_operator(key, expression, operator, item) for operator, item in asked.items()]
    return _joined(clauses, "AND")


def _joined(clauses: list[Clause], word: str) -> Clause:
    if word == "OR" and (not clauses or any(sql == ALWAYS for sql, _ in clauses)):
        return _ANY
    kept = [clause for clause in clauses if clause[0] != ALWAYS]
    if not kept:
        return _ANY
    sql = f" {word} ".join(sql for sql, _ in kept)
    return (f"({sql})" if len(kept) > 1 else sql), [value for _, values in kept for value in values]


def _branches(criteria: Mapping[str, Any], word: str) -> list[Clause]:
    return [_all_of(item) if isinstance(item, Mapping) else _ANY for item in criteria[word]]


def where(criteria: Mapping[str, Any], identifying: frozenset[str] = frozenset()) -> Clause:
    """Return SQL (with arguments) that every document matching the criteria satisfies.

    Parameters
    ----------
    criteria
        MongoDB filter.
    identifying
        Keys whose value picks about one document. When the criteria fix one of them nothing else is asked of SQL, so
        that its planner cannot prefer an index that tells little.
    """
    for key in identifying.intersection(criteria):
        value = criteria[key]
        if _as_text(value) is not None or (_is_operators(value) and set(value) <= {"$in", "$eq"}):
            clause = _field(key, value)
            if clause[0] != ALWAYS:
                return clause
    sql, arguments = _all_of(criteria)
    if len(arguments) > _MOST_ARGUMENTS or sql.count(" OR ") + sql.count(" AND ") > _MOST_TERMS:
        return _ANY
    return sql, arguments


def _all_of(criteria: Mapping[str, Any]) -> Clause:
    clauses: list[Clause] = []
    for key, value in criteria.items():
        if key in ("$and", "$or"):
            is_list = isinstance(value, list | tuple) and bool(value)
            clauses.append(_joined(_branches(criteria, key), key[1:].upper()) if is_list else _ANY)
        elif not key.startswith("$"):
            clauses.append(_field(key, value))
    return _joined(clauses, "AND")


def paths_seen(criteria: Mapping[str, Any]) -> list[Path] | None:
    """Return every path the criteria look at, or None when only the whole document will do."""
    paths: list[Path] = []
    for key, value in criteria.items():
        if key in _LOGICAL and isinstance(value, list | tuple):
            for item in value:
                inner = paths_seen(item) if isinstance(item, Mapping) else None
                if inner is None:
                    return None
                paths += inner
        elif key == "$comment":
            continue
        elif not key or key.startswith("$"):
            return None
        else:
            paths.append(path_of(key))
    return paths
