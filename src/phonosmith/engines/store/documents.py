"""How a document lies in the embedded store: a whole *body* (BSON) and a small *head* (JSON) that SQL can look into.

The head repeats every scalar that is reached through nested dictionaries alone. Whatever SQL could not compare
exactly as MongoDB does (arrays, long or unusual strings, bytes, not-a-number, ...) is replaced by the mark ``[]``. A
reader who meets a mark reads the body; a reader who meets none has seen all there is.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.int64 import Int64
from bson.objectid import ObjectId

# heads are scanned as a whole when no index helps: they stay small
LONGEST_STRING = 512
LARGEST_HEAD = 16_384
DEEPEST_HEADS = (12, 5, 3, 2, 1)

# first character of strings that stand for another type; private use, so that no ordinary text begins with it
TAG = "\ue000"
DATE_TAG = TAG + "d"
ID_TAG = TAG + "o"

Path = tuple[str, ...]
_LARGEST_INTEGER = 2**63


class _PlainIntegers(TypeDecoder):
    """Give 64-bit integers back as ``int``; bson's own subclass surprises JSON encoders and type checks."""

    bson_type = Int64

    def transform_bson(self, value: Int64) -> int:
        """Return the plain integer."""
        return int(value)


_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(type_registry=TypeRegistry([_PlainIntegers()]))


def encode_body(document: dict[str, Any]) -> bytes:
    """Return the whole document as BSON, with MongoDB's types."""
    return bson.encode(document)


def decode_body(body: bytes) -> dict[str, Any]:
    """Return the document as MongoDB would: naive UTC dates with milliseconds, plain integers."""
    return bson.decode(body, _CODEC)


def normal_date(value: datetime) -> datetime:
    """Return a date as MongoDB keeps it: UTC without zone, cut to milliseconds."""
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def normal_criteria(value: Any) -> Any:
    """Return query criteria with every date as MongoDB keeps it."""
    if isinstance(value, dict):
        return {key: normal_criteria(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normal_criteria(item) for item in value]
    return normal_date(value) if isinstance(value, datetime) else value


def head_scalar(value: Any) -> Any:
    """Return a scalar as the head holds it, or the mark ``[]`` where SQL could not compare it exactly."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        plain = len(value) <= LONGEST_STRING and not value.startswith(TAG) and is_plain(value)
        return value if plain else []
    if isinstance(value, int):
        return int(value) if -_LARGEST_INTEGER <= value < _LARGEST_INTEGER else []
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else []
    if isinstance(value, datetime):
        return DATE_TAG + normal_date(value).isoformat(timespec="milliseconds")
    if isinstance(value, ObjectId):
        return ID_TAG + str(value)
    return []


def is_plain(text: str) -> bool:
    """Tell whether JSON writes a text as it is, but for quotes and backslashes."""
    return text.isprintable() or all(character >= " " for character in text)


def _read_scalar(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(TAG):
        return datetime.fromisoformat(value[2:]) if value.startswith(DATE_TAG) else ObjectId(value[2:])
    return value


def _head(document: dict[str, Any], depth: int) -> dict[str, Any]:
    head: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            head[key] = _head(value, depth - 1) if depth > 1 else []
        else:
            head[key] = head_scalar(value)
    return head


def encode_head(document: dict[str, Any]) -> str:
    """Return the head of a document as JSON text; a wide document keeps fewer levels."""
    text = ""
    for depth in DEEPEST_HEADS:
        text = json.dumps(_head(document, depth), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if len(text) <= LARGEST_HEAD:
            break
    return text


def _read_subtree(head: dict[str, Any]) -> dict[str, Any] | None:
    subtree: dict[str, Any] = {}
    for key, value in head.items():
        if isinstance(value, list):
            return None
        if isinstance(value, dict):
            inner = _read_subtree(value)
            if inner is None:
                return None
            subtree[key] = inner
        else:
            subtree[key] = _read_scalar(value)
    return subtree


def visible_part(head: dict[str, Any], paths: list[Path]) -> dict[str, Any] | None:
    """Return the part of a document that some paths can see, or None when a mark hides any of it.

    For these paths the part cannot be told from the whole document: dead ends (a path that runs into a scalar) are
    kept.
    """
    view: dict[str, Any] = {}
    for path in paths:
        source, target = head, view
        for part in path[:-1]:
            value = source.get(part, source)
            if value is source:
                break
            if isinstance(value, list):
                return None
            if not isinstance(value, dict):
                target[part] = _read_scalar(value)
                break
            source, target = value, target.setdefault(part, {})
        else:
            if path[-1] not in source:
                continue
            value = source[path[-1]]
            if isinstance(value, list):
                return None
            if isinstance(value, dict):
                subtree = _read_subtree(value)
                if subtree is None:
                    return None
                target[path[-1]] = subtree
            else:
                target[path[-1]] = _read_scalar(value)
    return view
