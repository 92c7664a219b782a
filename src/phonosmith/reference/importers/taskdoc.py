"""atomate2 documents: VASP TaskDocs and our own reference records, from JSON files or a JobStore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import ConfigurationError, LabelError
from phonosmith.reference.datasets.documents import Refusal
from phonosmith.reference.documents import ReferenceRecord
from phonosmith.reference.importers.frames import Read, Steps, attempted, frames_of, joined, judged
from phonosmith.reference.vasp.taskdoc import read_calculation

if TYPE_CHECKING:
    from jobflow import JobStore


def task_documents(tree: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name, document) for every TaskDoc, force-field document or reference record in a parsed JSON tree.

    A document of a JobStore (with ``uuid`` and ``output``) is unwrapped; lists are walked.
    """
    if isinstance(tree, list):
        for item in tree:
            yield from task_documents(item)
    elif isinstance(tree, Mapping):
        if "calcs_reversed" in tree or "forcefield_name" in tree or {"protocol_digest", "symbols"} <= tree.keys():
            yield str(tree.get("task_label") or tree.get("dir_name") or "task"), tree
        elif isinstance(tree.get("output"), Mapping | list):
            name = " ".join(str(tree[key]) for key in ("name", "uuid") if tree.get(key))
            for inner, document in task_documents(tree["output"]):
                yield name or inner, document


def frames_of_task(
    document: Mapping[str, Any], name: str, *, steps: Steps = "all", allow_rehearsal: bool = True
) -> Read:
    """Return labelled frames of one document and the refusals."""
    if "protocol_digest" in document:
        return _frames_of_record(document, name, allow_rehearsal=allow_rehearsal)
    if "calcs_reversed" not in document:
        return [], [Refusal(where=name, reason=f"made by the force field {document.get('forcefield_name')}, not DFT")]
    if document.get("state") not in (None, "successful"):
        return [], [Refusal(where=name, reason=f"its state is {document['state']}")]

    def calculation(entry: Any) -> Read:
        return frames_of(read_calculation(entry), name, steps=steps, allow_rehearsal=allow_rehearsal)

    return joined(attempted(name, partial(calculation, entry)) for entry in reversed(document["calcs_reversed"] or []))


def _frames_of_record(document: Mapping[str, Any], name: str, *, allow_rehearsal: bool) -> Read:
    try:
        record = ReferenceRecord.model_validate(dict(document))
        frame = record.to_atoms()
    except (LabelError, ValueError) as error:
        return [], [Refusal(where=name, reason=str(error).splitlines()[0])]
    frame.info["source"] = name
    return judged(frame, name, allow_rehearsal=allow_rehearsal)


def read_jobstore(
    store: JobStore, query: Mapping[str, Any] | None = None, *, steps: Steps = "all", allow_rehearsal: bool = True
) -> Read:
    """Return the labelled frames of every reference calculation in a JobStore, and the refusals.

    ``query`` holds further conditions, e.g. ``{"name": {"$regex": "^label si"}}``; see ``frames_of`` for the others.
    """
    try:
        store.connect()
    except Exception as error:
        raise ConfigurationError(f"The job store cannot be reached: {error}.", "Check jobflow.yaml.") from error
    keys = ("output.calcs_reversed", "output.protocol_digest")
    conditions = {"$or": [{key: {"$exists": True}} for key in keys], **(query or {})}
    return joined(
        frames_of_task(task, name, steps=steps, allow_rehearsal=allow_rehearsal)
        for document in store.query(conditions, load=True)
        for name, task in task_documents(document)
    )
