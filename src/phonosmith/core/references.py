"""What jobflow looks for in the arguments of jobs, found where it lies.

jobflow writes all arguments out as JSON, crystals atom by atom, whenever it asks whether they hold a job or refer to
the output of one: twice for every job of a campaign.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobflow.core import reference
from jobflow.utils import find
from monty.json import MontyDecoder, MontyEncoder
from pydantic import BaseModel

if TYPE_CHECKING:
    from jobflow import OutputReference

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_slow_contains: Callable[[Any], bool] = find.contains_flow_or_job
_slow_references: Callable[[Any], tuple[OutputReference, ...]] = reference.find_and_get_references


@contextmanager
def references_found_quickly() -> Iterator[None]:
    """Have jobflow find jobs and references in arguments by these functions inside."""
    before = find.contains_flow_or_job, reference.find_and_get_references
    find.contains_flow_or_job, reference.find_and_get_references = holds_job, references_in
    try:
        yield
    finally:
        find.contains_flow_or_job, reference.find_and_get_references = before


def holds_job(value: Any) -> bool:
    """Say whether a flow or job lies in a value, itself or as JSON."""
    return any(_is_job(leaf) for leaf in _leaves(value))


def references_in(value: Any) -> tuple[OutputReference, ...]:
    """Return the references to outputs of jobs in a value, which may be JSON."""
    return tuple(one for leaf in _leaves(value) for one in _references_of(leaf))


def renamed_in(value: Any, renamed: Mapping[str, str]) -> Any:
    """Return a value in which jobs are called by other uuids; what names none of them is the same object."""
    kind = type(value)
    if isinstance(value, reference.OutputReference):
        return value.set_uuid(renamed.get(value.uuid, value.uuid), inplace=False)
    if kind is str:
        return rename(value, renamed)
    if kind in (list, tuple):
        return kind(renamed_in(item, renamed) for item in value)
    if kind is dict and "@class" not in value:
        return {key: renamed_in(item, renamed) for key, item in value.items()}
    if value is None or kind in _PLAIN or kind.__name__ in _CRYSTALS:
        return value
    before = json.dumps(value, cls=MontyEncoder)
    text = rename(before, renamed)
    return value if text == before else MontyDecoder().decode(text)


def rename(text: str, renamed: Mapping[str, str]) -> str:
    """Return a text with other uuids."""
    return UUID.sub(lambda found: renamed.get(found[0], found[0]), text)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what a value is made of, but for what holds neither jobs nor references; JSON of either is one leaf."""
    kind = type(value)
    if value is None or kind in _PLAIN:
        return
    if kind in (list, tuple):
        for item in value:
            yield from _leaves(item)
    elif kind is dict and "@class" not in value:
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, BaseModel):
        for item in vars(value).values():
            yield from _leaves(item)
    elif kind.__name__ not in _CRYSTALS:
        yield value


_PLAIN = (str, int, float, bool)
_CRYSTALS = ("Structure", "Lattice", "Atoms")


def _is_job(leaf: Any) -> bool:
    return not isinstance(leaf, reference.OutputReference) and _slow_contains(leaf)


def _references_of(leaf: Any) -> tuple[OutputReference, ...]:
    return (leaf,) if isinstance(leaf, reference.OutputReference) else _slow_references(leaf)
