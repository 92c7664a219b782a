"""Whole reports out of a job store, and the materials that have none yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobflow import JobStore
from pydantic import ValidationError

from phonosmith.analysis.committees import with_expected
from phonosmith.analysis.documents import MaterialReport
from phonosmith.analysis.judgement import rejudged
from phonosmith.analysis.queries import find_reports, newest, read_expected
from phonosmith.analysis.status import MaterialStatus, read_status
from phonosmith.core.sealing import SEAL, altered_fields

_IDENTITY = (
    "uuid", "index", "completed_at", "output.schema_version", "output.material", "output.cell", "output.seed",
    "output.foundation.potential.sha256",
)  # fmt: skip
_MOST_MISSING = 4


@dataclass
class StoredReports:
    """What a store holds for a report: reports, materials without one, why others were left out.

    Reports are the newest of each material, foundation, cell and seed, by material.
    """

    reports: list[MaterialReport]
    unfinished: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_reports(store: JobStore, campaign: str | None = None) -> StoredReports:
    """Return the reports of a job store, or of one campaign, judged by the limits that hold now.

    For a campaign unfinished materials are not looked for: jobs do not name their campaign.
    """
    notes: list[str] = []
    reports, expected = [], read_expected(store, campaign)
    for row in newest(find_reports(store, campaign, _IDENTITY, notes)):
        where = {"uuid": row["uuid"], "index": row["index"]}
        document = store.query_one(where, properties=["output", f"metadata.{SEAL}"], load=True)
        if fields := altered_fields(document):
            name, places = row["output"].get("material"), ", ".join(fields[:3])
            advice = "'phonosmith run' puts it back"
            notes.append(f"The report of {name} was altered in the store ({places}) and is left out: {advice}.")
            continue
        try:
            report = MaterialReport.model_validate(document["output"])
            reports.append(rejudged(with_expected(report, expected)))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            notes.append(f"The report of {row['output'].get('material')} cannot be read: {place}: {first['msg']}.")
    # materials with jobs in the store but no report
    waiting = {} if campaign is not None else read_status(store).materials
    unfinished = {name: _state(status) for name, status in waiting.items() if not status.n_reports}
    return StoredReports(reports, unfinished, notes)


def _state(status: MaterialStatus) -> str:
    stages = status.as_dict()["stages"]
    parts = [f"{stage} {counts['done']} done" for stage, counts in stages.items() if counts["done"]]
    if status.failed:
        parts.append("failed: " + ", ".join(f"{name} ({why})" for name, why in status.failed.items()))
    if status.missing:
        more = len(status.missing) - _MOST_MISSING
        named = ", ".join(status.missing[:_MOST_MISSING]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"still to come: {named}")
    return "; ".join(parts)
