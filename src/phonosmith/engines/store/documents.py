"""How a document lies in the embedded store: a whole *body* (BSON) and a small *head* (JSON) that SQL can look into.

The head repeats every scalar that is reached through nested dictionaries alone. Whatever SQL could not compare
exactly as MongoDB does (arrays, long or unusual strings, bytes, not-a-number, ...) is replaced by the mark ``[]``. A
reader who meets a mark reads the body; a reader who meets none has seen all there is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
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

MARK: list[Any] = []
Path = tuple[str, ...]
Document = dict[str, Any]
_LARGEST_INTEGER = 2**63


class _PlainIntegers(TypeDecoder):
    """Give 64-bit integers back as ``int``; bson's own subclass surprises JSON encoders and type checks."""

    bson_type = Int64

    def transform_bson(self, value: Int64) -> int:
        """Return the plain integer."""
        return int(value)


_CODEC: CodecOptions[Document] = CodecOptions(type_registry=TypeRegistry([_PlainIntegers()]))


def decode_body(body: bytes) -> Document:
    """Return the document as MongoDB would: naive UTC dates with milliseconds, plain integers."""
    return bson.decode(body, _CODEC)


def path_of(key: str) -> Path:
    """Return the parts of a dotted key."""
    return tuple(key.split("."))


def _normal_date(value: datetime) -> datetime:
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
    return _normal_date(value) if isinstance(value, datetime) else value


def is_plain(text: str) -> bool:
    """Tell whether JSON writes a text as it is, but for quotes and backslashes."""
    return text.isprintable() or all(character >= " " for character in text)


def head_scalar(value: Any) -> Any:
    """Return a scalar as the head holds it, or the mark where SQL could not compare it exactly."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        plain = len(value) <= LONGEST_STRING and not value.startswith(TAG) and is_plain(value)
        return value if plain else MARK
    if isinstance(value, int):
        return int(value) if -_LARGEST_INTEGER <= value < _LARGEST_INTEGER else MARK
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else MARK
    if isinstance(value, datetime):
        return DATE_TAG + _normal_date(value).isoformat(timespec="milliseconds")
    return ID_TAG + str(value) if isinstance(value, ObjectId) else MARK


def _head(document: Document, depth: int) -> Document:
    head: Document = {}
    for key, value in document.items():
        if isinstance(value, dict):
            head[key] = _head(value, depth - 1) if depth > 1 else MARK
        else:
            head[key] = head_scalar(value)
    return head


def encode_head(document: Document) -> str:
    """Return the head of a document as JSON text; a wide document keeps fewer levels."""
    text = ""
    for depth in DEEPEST_HEADS:
        text = json.dumps(_head(document, depth), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if len(text) <= LARGEST_HEAD:
            break
    return text


def _value(held: Any) -> Any:
    """Return what stands in a head as MongoDB's value; the mark when any of it is hidden."""
    if isinstance(held, dict):
        values = {key: _value(item) for key, item in held.items()}
        return MARK if MARK in values.values() else values
    if isinstance(held, str) and held.startswith(TAG):
        return datetime.fromisoformat(held[2:]) if held.startswith(DATE_TAG) else ObjectId(held[2:])
    return held


def shown(head: Document, paths: Iterable[Path]) -> Document | None:
    """Return a head that some paths cannot tell from the whole document, or None when a mark hides what they look at.

    The values at the paths are put into the head in place.
    """
    for path in paths:
        node: Any = head
        for part in path[:-1]:
            node = node.get(part)
            if not isinstance(node, dict):
                break
        else:
            if path[-1] in node:
                node[path[-1]] = node = _value(node[path[-1]])
        if node == MARK:
            return None
    return head
