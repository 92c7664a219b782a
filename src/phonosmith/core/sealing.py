"""Seals: digests that go with the documents of a job store, so that one altered there is found and its field named.

A seal is over what a document means, not over how a store writes it: 3 and 3.0 are one number, dates count to the
millisecond in UTC, not-a-number and infinity are null as in JSON, keys have no order. It protects against damage and
edits by hand, not against somebody who seals anew.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.hashing import digest_bytes

SEAL = "seal"
"""Key of a document's metadata that holds its seal."""
_MOST_FIELDS = 64
_SHORT = 12
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")
_EXACT = 2**53


def canonical(value: Any) -> Any:
    """Return JSON-like content with one spelling for everything that stores and JSON write in several ways."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < _EXACT else float(value)
    if isinstance(value, str):
        return _dated(value) if _DATE.fullmatch(value) else value
    if isinstance(value, datetime):
        return _date(value)
    if isinstance(value, Mapping):
        # how JSON stores write a date
        if value.get("@module") == "datetime" and "string" in value:
            return canonical(str(value["string"]).replace(" ", "T", 1))
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    return digest_bytes(value) if isinstance(value, bytes) else str(value)


def _dated(text: str) -> str:
    try:
        return _date(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return text


def _date(value: datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return value.replace(microsecond=value.microsecond // 1000 * 1000).isoformat(timespec="milliseconds")


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(plain: Any) -> str:
    return digest_bytes(_text(plain).encode("utf-8", "surrogatepass"))


def seal(uuid: str, index: int, output: Any) -> dict[str, Any]:
    """Return the seal of a job's output: a digest of the whole, and short ones of its fields, the large ones' parts."""
    plain = canonical(output)
    fields = [f"{path} {_digest(part)[:_SHORT]}" for path, part in sorted(_fields(plain).items())]
    return {"sha256": _digest([uuid, index, plain]), "fields": fields}


def _fields(plain: Any) -> dict[str, Any]:
    """Return up to `_MOST_FIELDS` parts of a document by path: the largest is taken apart as long as there is room."""
    whole, order = {"": plain}, itertools.count()
    heap = [(-len(_text(plain)), next(order), "")]
    while heap:
        _, _, path = heapq.heappop(heap)
        inner = dict(_inside(path, whole[path]))
        if not inner or len(whole) + len(inner) - 1 > _MOST_FIELDS:
            continue
        del whole[path]
        for name, part in inner.items():
            whole[name] = part
            if isinstance(part, dict | list):
                heapq.heappush(heap, (-len(_text(part)), next(order), name))
    return whole


def _inside(path: str, part: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a part is made of; rows of numbers stay together."""
    dot = f"{path}." if path else ""
    if isinstance(part, dict):
        yield from ((f"{dot}{key}", item) for key, item in part.items())
    elif isinstance(part, list) and any(isinstance(item, dict) for item in part):
        yield from ((f"{dot}{place}", item) for place, item in enumerate(part))


def seal_answer(answer: Any) -> None:
    """Put the seal of what the running job is about to store into its metadata, where a queue keeps it.

    A job that replaces itself leaves no output of its own.
    """
    from jobflow import CURRENT_JOB, Response
    from monty.json import jsanitize

    job = CURRENT_JOB.job
    if job is None:
        return
    response = Response.from_job_returns(answer, job.output_schema)
    if response.replace is None:
        output = jsanitize(response.output, strict=True, enum_values=True, allow_bson=True)
        job.metadata[SEAL] = seal(job.uuid, job.index, output)


def altered_fields(document: Mapping[str, Any]) -> list[str] | None:
    """Return what of a job-store document (large parts loaded) its seal does not know; None where it has no seal.

    An altered document whose fields all agree (another uuid or index) names its identity.
    """
    known = (document.get("metadata") or {}).get(SEAL)
    if not isinstance(known, Mapping):
        return None
    plain = canonical(document.get("output"))
    if known.get("sha256") == _digest([document.get("uuid"), document.get("index"), plain]):
        return []
    now = set(seal("", 0, plain)["fields"])
    before = set(known.get("fields") or [])
    return sorted({field.rpartition(" ")[0] or "output" for field in now ^ before}) or ["uuid"]


def artefacts_in(content: Any) -> Iterator[ArtefactRef]:
    """Yield every artefact that a document names."""
    if isinstance(content, Mapping):
        if {"sha256", "kind", "suffix", "size"} <= content.keys():
            yield ArtefactRef.model_validate(content)
        for item in content.values():
            yield from artefacts_in(item)
    elif isinstance(content, list | tuple):
        for item in content:
            yield from artefacts_in(item)


MACHINE = frozenset(
    {
        "manifest", "host", "packages", "log", "checkpoint", "costs", "cores", "label_cores", "process", "started",
        "ended", "seconds_per_step", "time", "run_stats", "@version",
    }
)  # fmt: skip
"""Fields about the day and the machine, not about the result: a repetition has others."""


def result_digest(output: Any) -> str:
    """Return the digest of what an output says, without what a repetition on another day says otherwise."""
    return _digest(_without_machine(canonical(output)))


def _without_machine(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {
            key: _without_machine(item)
            for key, item in plain.items()
            if key not in MACHINE and not key.endswith("seconds")
        }
    return [_without_machine(item) for item in plain] if isinstance(plain, list) else plain
