"""Whole reports out of a job store, and the materials that have none yet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from phonosmith.analysis.documents import MaterialReport
from phonosmith.analysis.queries import find_reports, newest

if TYPE_CHECKING:
    from jobflow import JobStore

_IDENTITY = (
    "uuid", "index", "completed_at", "output.schema_version", "output.material", "output.cell", "output.seed",
    "output.foundation.potential.sha256",
)  # fmt: skip
_SAMPLED = re.compile(r"sample (?P<key>.+) (?:primitive|small|large)")


@dataclass
class StoredReports:
    """What a store holds for a report.

    Attributes
    ----------
    reports
        The newest of each material, foundation, cell and seed, by material.
    unfinished
        Materials that were sampled but have no report, with how far they came.
    notes
        Reports that were left out, with the reason.
    """

    reports: list[MaterialReport]
    unfinished: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_reports(store: JobStore, campaign: str | None = None) -> StoredReports:
    """Return the reports of a job store.

    Parameters
    ----------
    store
        Any job store.
    campaign
        Only reports of this campaign; unfinished materials are then not looked for, jobs do not name their campaign.
    """
    notes: list[str] = []
    reports = []
    for found in newest(find_reports(store, campaign, _IDENTITY, notes)):
        where = {"uuid": found["uuid"], "index": found["index"]}
        document = store.query_one(where, properties=["output"], load=True)
        content = {name: value for name, value in document["output"].items() if not name.startswith("@")}
        try:
            reports.append(MaterialReport.model_validate(content))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            notes.append(f"The report of {found['output'].get('material')} cannot be read: {place}: {first['msg']}.")
    unfinished = {} if campaign is not None else unfinished_materials(store, reports)
    return StoredReports(reports, unfinished, notes)


def unfinished_materials(store: JobStore, reports: list[MaterialReport]) -> dict[str, str]:
    """Return materials whose sampling is in the store but whose report is not, with their last finished job."""
    finished = {report.material.lower() for report in reports} | {report.key for report in reports if report.key}
    jobs: list[dict[str, Any]] = list(store.query({}, properties=["name", "completed_at"], load=False))
    names = [str(job.get("name") or "") for job in jobs]
    keys = {match["key"] for match in map(_SAMPLED.fullmatch, names) if match}
    open_keys = sorted(key for key in keys if not any(done == key or done.startswith(f"{key} ") for done in finished))
    states = {}
    for key in open_keys:
        own = [job for job, name in zip(jobs, names, strict=True) if f" {key} " in f"{name} "]
        last = max(own, key=lambda job: str(job.get("completed_at") or ""))
        jobs_word = "job" if len(own) == 1 else "jobs"
        states[key] = f"{len(own)} {jobs_word} finished, the last one: {last['name']}"
    return states
