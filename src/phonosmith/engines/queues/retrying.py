"""What starting failed jobs again means for the others in a queue; common to both engines.

What depends on a failed job, however far, runs again, whether it waited, failed or was done without it. A job that was
replaced by others when it ran makes new ones when it runs again: those of the first time leave the queue. So do jobs of
other submissions that took results of these: no engine would let them wait, the next submission brings them again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError
from phonosmith.core.failures import keep_failures
from phonosmith.core.references import UUID
from phonosmith.engines.queues.jobs import QueuedJob
from phonosmith.engines.store.sealed import whole_documents
from phonosmith.flows.routing import EngineName

if TYPE_CHECKING:
    from jobflow import JobStore

_CHUNK = 500


class Retried(Document):
    """What a retry in a queue did."""

    schema_version: int = Field(1, description="version of this document's layout")
    engine: EngineName = Field(description="who runs it")
    target: str = Field(description="project of jobflow-remote, or launchpad file of FireWorks")
    failed: list[str] = Field(description="failed jobs that start again")
    again: list[str] = Field(description="jobs that were done, or had failed, without them and run again after them")
    removed: list[str] = Field(description="jobs that those had made and will make anew")
    resubmit: list[str] = Field(
        description="jobs of other submissions, made from results that are not valid any more: submit them again"
    )


@dataclass(frozen=True)
class RetryPlan:
    """What has to be done: ``first`` start again, of the ``failed`` ones, those that no other one of them precedes."""

    failed: list[QueuedJob]
    first: list[QueuedJob]
    again: list[QueuedJob]
    removed: list[QueuedJob]
    elsewhere: list[QueuedJob]

    @property
    def outdated(self) -> list[tuple[str, int]]:
        """Jobs whose results in the store are not valid any more."""
        dropped = {job.uuid for job in self.again}
        replaced = [job for job in self.removed if job.uuid in dropped]
        return [(job.uuid, job.index) for job in [*self.again, *replaced, *self.elsewhere]]

    def answer(self, engine: EngineName, target: str) -> Retried:
        """Return what was done about the jobs."""
        failed, again, removed, resubmit = (
            [job.name for job in jobs] for jobs in (self.failed, self.again, self.removed, self.elsewhere)
        )
        return Retried(engine=engine, target=target, failed=failed, again=again, removed=removed, resubmit=resubmit)


def plan_retry(jobs: Sequence[QueuedJob], names: Sequence[str] = (), materials: Sequence[str] = ()) -> RetryPlan:
    """Return what starting failed jobs again means: all, or those of some names or materials."""
    failed = [job for job in jobs if job.failed]
    if unknown := [name for name in names if name not in {job.name for job in failed}]:
        known = ", ".join(sorted({job.name for job in failed})) or "none"
        raise InputError(f"No failed job is called {unknown[0]!r}.", f"Failed: {known}.")
    wanted = {name.lower() for name in materials}
    if unknown := sorted(wanted - {job.material for job in jobs}):
        known = ", ".join(sorted({job.material for job in failed})) or "none"
        raise InputError(f"No job belongs to a material {unknown[0]!r}.", f"With failed jobs: {known}.")
    chosen = [job for job in failed if (not names or job.name in names) and (not wanted or job.material in wanted)]
    children = defaultdict(list)
    for job in jobs:
        for parent in job.parents:
            children[parent].append(job)
    below = _below(chosen, children)
    ids, here = {job.id for job in chosen}, {job.submission for job in chosen}
    first = [job for job in chosen if job.id not in below]
    elsewhere = {job.id: job for job in below.values() if job.submission not in here}
    kept = [job for job in below.values() if job.id not in elsewhere]
    removed = {job.id: job for job in _made_before([*chosen, *kept], jobs) if job.id not in elsewhere}
    again = [job for job in kept if job.settled and job.id not in ids and job.id not in removed]
    failed_here = [job for job in chosen if job.id not in removed]
    return RetryPlan(failed_here, first, again, [*removed.values()], [*elsewhere.values()])


def with_references(jobs: Sequence[QueuedJob], documents: Callable[[list[str]], Mapping[str, str]]) -> list[QueuedJob]:
    """Return the jobs with those of other submissions among their parents, which engines do not know as such.

    ``documents`` gives jobs as text, by number; only jobs of materials that several submissions are about are read.
    """
    submissions = defaultdict(set)
    for job in jobs:
        submissions[job.material].add(job.submission)
    shared = [job for job in jobs if len(submissions[job.material]) > 1]
    if not shared:
        return list(jobs)
    numbers = defaultdict(list)
    for job in jobs:
        numbers[job.uuid].append(job)
    texts = documents([job.id for job in shared])

    def parents(job: QueuedJob) -> tuple[str, ...]:
        named = set(UUID.findall(texts.get(job.id, ""))) - {job.uuid}
        others = [one for uuid in named for one in numbers.get(uuid, ()) if one.submission != job.submission]
        return tuple(dict.fromkeys([*job.parents, *(one.id for one in others)]))

    return [replace(job, parents=parents(job)) for job in jobs]


def _below(jobs: Iterable[QueuedJob], children: Mapping[str, list[QueuedJob]]) -> dict[str, QueuedJob]:
    """Return everything that depends on some jobs, however far, by number."""
    seen: dict[str, QueuedJob] = {}
    rest = [child for job in jobs for child in children.get(job.id, [])]
    while rest:
        job = rest.pop()
        if job.id not in seen:
            seen[job.id] = job
            rest += children.get(job.id, [])
    return seen


def _made_before(reset: Sequence[QueuedJob], jobs: Sequence[QueuedJob]) -> list[QueuedJob]:
    """Return the jobs that replaced one of those that are reset."""
    first: dict[str, QueuedJob] = {}
    for job in reset:
        if job.uuid not in first or job.index < first[job.uuid].index:
            first[job.uuid] = job
    # the flow that replaced a job is the innermost host of the job that passes on its output, and a host of the others
    flows = {
        job.hosts[0]
        for job in jobs
        if job.uuid in first
        and job.index > first[job.uuid].index
        and job.hosts
        and job.hosts[0] not in first[job.uuid].hosts
    }
    return [job for job in jobs if flows.intersection(job.hosts)]


def remove_results(store: JobStore, plan: RetryPlan) -> None:
    """Take results that are not valid any more out of a job store, and what it says of jobs that start again.

    A refused label keeps its reasons until it has run.
    """
    keys = plan.outdated
    keep_failures(store, [], [(job.uuid, job.index) for job in [*plan.failed, *plan.again, *plan.removed]])
    for start in range(0, len(keys), _CHUNK):
        chosen = [{"uuid": uuid, "index": index} for uuid, index in keys[start : start + _CHUNK]]
        store.remove_docs({"$or": chosen, "metadata.refused": {"$ne": True}})


def with_losses(jobs: Sequence[QueuedJob], store: JobStore) -> list[QueuedJob]:
    """Return the jobs; one that is done counts as failed where its document is a refusal, altered, or gone."""
    last: dict[str, int] = {}
    for job in jobs:
        last[job.uuid] = max(job.index, last.get(job.uuid, 0))
    whole = whole_documents(store, list(last))

    def is_lost(job: QueuedJob) -> bool:
        # of a job that was replaced the last one holds the result
        return job.state == "done" and job.index == last[job.uuid] and whole.get((job.uuid, job.index), True)

    return [replace(job, state="failed") if is_lost(job) else job for job in jobs]
