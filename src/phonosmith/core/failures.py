"""Why jobs have no result, kept in the job store beside the results.

A job that raises leaves nothing there, and who needs it must find nothing. What is kept has an identity and a name of
its own, made from the job's: nobody takes it for a result. It goes when the job has succeeded.
"""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import mask_secrets
from phonosmith.core.identity import NAMESPACE
from phonosmith.core.metadata import KEYS
from phonosmith.core.sealing import SEAL, seal

if TYPE_CHECKING:
    from jobflow import JobStore

Key = tuple[str, int]
"""A job: uuid and index."""
FAILURES: dict[str, Any] = {
    # a range that an index on names serves
    "name": {"$gte": "failed ", "$lt": "failed!"},
    "output.@class": "FailedJob",
}
"""Filter for what is kept of failed jobs in a job store."""
REFUSALS: dict[str, Any] = {"metadata.refused": True}
"""Filter for refused calculations, which leave their record for whoever goes on without them."""
_CHUNK = 500


class FailedJob(Document):
    """Why a job has no result."""

    job: str = Field(description="its name")
    uuid: str = Field(description="its uuid")
    index: int = Field(description="which of its runs by index, from 1")
    error: str = Field(description="what it ended with: refusals with their reasons")
    described: dict[str, Any] = Field(default_factory=dict, description="what its metadata say: stage, material, ...")

    @classmethod
    def of(cls, job: str, uuid: str, index: int, error: str, metadata: Mapping[str, Any]) -> FailedJob:
        """Take what whoever runs the job knows."""
        described = {name: metadata[name] for name in KEYS if metadata.get(name) is not None}
        return cls(job=job, uuid=uuid, index=index, error=mask_secrets(error), described=described)

    @property
    def key(self) -> Key:
        """The job."""
        return self.uuid, self.index


def failure_uuid(uuid: str) -> str:
    """Return the identity of what is kept of a failed job."""
    return str(uuid_module.uuid5(NAMESPACE, f"failed:{uuid}"))


def read_failures(store: JobStore) -> dict[Key, FailedJob]:
    """Return what a job store says about failed jobs."""
    found = (FailedJob.model_validate(one["output"]) for one in store.query(FAILURES, properties=["output"]))
    return {one.key: one for one in found}


def refusal_of(document: Mapping[str, Any]) -> str:
    """Return the reasons in a refused record's document in one line."""
    output = document.get("output")
    reasons = (output.get("reasons") if isinstance(output, Mapping) else None) or []
    return "; ".join(f"{one['code']}: {one['message']}" for one in reasons) or "refused"


def keep_failures(store: JobStore, failed: Iterable[FailedJob], settled: Iterable[Key] = ()) -> None:
    """Write down why jobs failed, and take out what was said of jobs that have not failed any more (``settled``)."""
    known = read_failures(store)
    now = {one.key: one for one in failed}
    new = [_document(one) for key, one in now.items() if known.get(key) != one]
    if new:
        store.update(new, key=["uuid", "index"])
    _forget(store, [key for key in settled if key in known and key not in now])


def _document(failed: FailedJob) -> dict[str, Any]:
    uuid = failure_uuid(failed.uuid)
    output = failed.model_dump(mode="json") | {"@module": FailedJob.__module__, "@class": FailedJob.__name__}
    return {
        "uuid": uuid,
        "index": failed.index,
        "name": f"failed {failed.job}",
        "output": output,
        "completed_at": datetime.now().isoformat(),
        "metadata": {**failed.described, SEAL: seal(uuid, failed.index, output)},
        "hosts": [],
    }


def _forget(store: JobStore, keys: Sequence[Key]) -> None:
    for start in range(0, len(keys), _CHUNK):
        chosen = [{"uuid": failure_uuid(uuid), "index": index} for uuid, index in keys[start : start + _CHUNK]]
        store.remove_docs({"$or": chosen})
