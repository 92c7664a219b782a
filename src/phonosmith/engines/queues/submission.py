"""What is new in a flow about to be submitted, and whether the machinery is there for it; common to both engines."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, did_you_mean
from phonosmith.core.identity import has_content_identity, identified
from phonosmith.core.metadata import STAGE, STEP
from phonosmith.engines.queues.jobs import UNSUCCESSFUL, Queue, QueuedJob
from phonosmith.engines.queues.turns import Turn
from phonosmith.engines.store.sealed import whole_documents
from phonosmith.flows.routing import EngineName, Routing, jobs_of

if TYPE_CHECKING:
    from jobflow import Flow, Job, JobStore

PATIENCE_MS = 3000
"""How long a database may take to answer, ms."""
BLOB_STORE = "data"
_CHUNK = 500


class Submission(Document):
    """What a submission did, or would do."""

    schema_version: int = Field(1, description="version of this document's layout")
    engine: EngineName = Field(description="who runs it")
    target: str = Field(description="project of jobflow-remote, or launchpad file of FireWorks")
    submitted: bool = Field(description="False for a dry run, and where nothing is new")
    workers: dict[str, dict[str, int]] = Field(
        description="new jobs by worker and first word of their names; jobs they will make come on top"
    )
    n_new: int = Field(description="jobs submitted now")
    n_finished: int = Field(description="jobs whose results are in the store already")
    n_queued: int = Field(description="jobs submitted earlier that have not finished")
    failed: list[str] = Field(description="jobs submitted earlier that failed; they are not submitted again")
    lost: list[str] = Field(
        default_factory=list, description="jobs done earlier whose documents are gone or altered since; retry them"
    )
    held_back: list[str] = Field(description="new jobs that wait for those; submit again when they are done")
    warnings: list[str] = Field(default_factory=list, description="what may go wrong")
    ids: list[str] = Field(default_factory=list, description="numbers of the new jobs in the engine")


@dataclass
class Selection:
    """Jobs of a flow by what is to be done about them: those to submit, and the names of the others.

    ``submissions``: the flows with which those in the queue were submitted.
    """

    new: list[Job] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)
    submissions: set[str] = field(default_factory=set)

    def flow(self, name: str) -> Flow:
        """Return the flow of the new jobs; what they need of finished ones is an external reference."""
        from jobflow import Flow

        for member in self.new:
            member.hosts = []
        return Flow(self.new, name=name)


def submit_flows(
    flows: Flow | Iterable[Flow],
    queue: Queue,
    rules: Routing,
    warnings: Sequence[str],
    *,
    dry_run: bool = False,
    show: Callable[[int, str], None] = lambda *_: None,
) -> Submission:
    """Submit what is new in flows, not yet routed, one after the other, each as a whole or not at all.

    Nobody else submits meanwhile. ``show`` is told how many flows are through, and what goes on.
    """
    done = Submission(
        engine=queue.engine, target=queue.target, submitted=False, workers={}, n_new=0, n_finished=0, n_queued=0,
        failed=[], held_back=[], warnings=[*warnings],
    )  # fmt: skip
    workers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    counted: Counter[str] = Counter()
    submissions: set[str] = set()
    turn = Turn(queue.database)
    number = 0
    with contextlib.nullcontext() if dry_run else turn.taken(queue.mend, lambda words: show(number, words)):
        for number, flow in enumerate([flows] if hasattr(flows, "jobs") else flows, start=1):
            queue.check(flow, rules)
            chosen = select(flow, queue.store, queue.jobs, counted)
            for member in chosen.new:
                workers[rules.target(member.name, member.metadata).worker][member.name.split()[0]] += 1
            if chosen.new and not dry_run:
                with turn.adding([member.uuid for member in chosen.new]):
                    done.ids += queue.add(chosen.flow(flow.name), rules)
            done.n_new += len(chosen.new)
            done.n_finished += len(chosen.finished)
            done.n_queued += len(chosen.queued)
            done.failed += chosen.failed
            done.lost += chosen.lost
            done.held_back += chosen.held_back
            submissions |= chosen.submissions
            show(number, flow.name)
    # jobs made by jobs are in no flow that is made here
    ended = [job for job in queue.unsuccessful() if job.submission in submissions] if submissions else []
    done.failed = list(dict.fromkeys([*done.failed, *(job.name for job in ended)]))
    done.submitted = bool(done.ids)
    done.workers = {worker: dict(sorted(counts.items())) for worker, counts in sorted(workers.items())}
    return done


def finished_uuids(store: JobStore, uuids: Iterable[str]) -> set[str]:
    """Return those jobs whose final output is in a store; refused labels and replaced jobs do not count."""
    wanted, finished = list(uuids), set()
    for start in range(0, len(wanted), _CHUNK):
        criteria = {"uuid": {"$in": wanted[start : start + _CHUNK]}, "output": {"$ne": None}}
        documents = store.query(criteria, properties=["uuid", "metadata.refused"])
        finished |= {str(one["uuid"]) for one in documents if not (one.get("metadata") or {}).get("refused")}
    return finished


def select(
    flow: Flow,
    store: JobStore,
    queued_jobs: Callable[[Sequence[str]], Iterable[QueuedJob]],
    counted: Counter[str] | None = None,
) -> Selection:
    """Sort the jobs of a flow into finished, queued, failed, lost, held back and new, with identities from content.

    ``queued_jobs`` gives those of some uuids that the engine knows; ``counted`` as for `identified`. A job that is done
    is lost where the store does not hold its document as it was sealed.
    """
    ordered, finished = _prepared(flow, store, Counter() if counted is None else counted)
    known: defaultdict[str, list[QueuedJob]] = defaultdict(list)
    for job in queued_jobs([member.uuid for member, _ in ordered]):
        known[job.uuid].append(job)
    whole = whole_documents(store, [*{member.uuid for member, _ in ordered} & {*known, *finished}])
    refused = {uuid for (uuid, _), is_refused in whole.items() if is_refused}
    lost = {
        uuid
        for uuid, jobs in known.items()
        if all(job.state == "done" for job in jobs) and (uuid, max(job.index for job in jobs)) not in whole
    }
    finished = (finished & {uuid for uuid, _ in whole}) - lost
    selection = Selection(submissions={job.submission for jobs in known.values() for job in jobs} - {""})
    waiting: set[str] = set()
    for member, parents in ordered:
        # jobs made here by a job of the flow: by a random identity nothing could be found again
        if not has_content_identity(member.uuid):
            raise ConfigurationError(f"The job {member.name!r} has a random identity.", "Call fix_identities first.")
        if member.uuid in finished:
            selection.finished.append(member.name)
        elif member.uuid in known:
            failed = member.uuid in refused or any(job.state in UNSUCCESSFUL for job in known[member.uuid])
            gone = selection.lost if member.uuid in lost else selection.queued
            (selection.failed if failed else gone).append(member.name)
            waiting.add(member.uuid)
        elif waiting.intersection(parents) - {member.uuid}:
            selection.held_back.append(member.name)
            waiting.add(member.uuid)
        else:
            selection.new.append(member)
    return selection


def _prepared(flow: Flow, store: JobStore, counted: Counter[str]) -> tuple[list[tuple[Job, list[str]]], set[str]]:
    """Return the jobs with their parents, parents first, and which of them are finished.

    Label jobs are made by a running job. Once the sampling is done they can be made here as well, where it can be seen
    which of them have run already: a larger training set then labels only the frames that are new.
    """
    ordered = identified(flow, counted)
    finished = finished_uuids(store, (member.uuid for member, _ in ordered))
    prepared: list[tuple[Job, list[str]]] = []
    made_here: list[str] = []
    for member, parents in ordered:
        starts_labels = (member.metadata.get(STAGE), member.metadata.get(STEP)) == ("label", "start")
        if starts_labels and member.uuid not in finished and finished.issuperset(parents):
            made = _expand(member, store)
            made_here += [one.uuid for one, _ in made]
            prepared += made
        else:
            prepared.append((member, parents))
    return prepared, finished | finished_uuids(store, made_here)


def _expand(member: Job, store: JobStore) -> list[tuple[Job, list[str]]]:
    """Run a job that only makes others and return those with their parents, its output job included."""
    from jobflow import CURRENT_JOB
    from jobflow.core.job import prepare_replace

    ready = deepcopy(member)
    ready.resolve_args(store=store)
    CURRENT_JOB.job = ready
    try:
        # a job read from a file holds the decorated function, one made here the plain one
        function = getattr(ready.function, "original", ready.function)
        response = function(*ready.function_args, **ready.function_kwargs)
    finally:
        CURRENT_JOB.reset()
    return [*prepare_replace(response.replace, member).iterflow()]


def require_package(name: str, extra: str) -> None:
    """Refuse an engine whose package is not installed: laptops do without."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise ConfigurationError(
            f"{name.replace('_', '-')} is not installed here.", f"Install it with: pip install 'phonosmith[{extra}]'."
        )


def check_job_store(store: JobStore, source: str) -> None:
    """Refuse a job store (described by the file ``source``) that lacks the blob store or cannot be reached."""
    if type(store.docs_store).__name__ == "MemoryStore":
        raise ConfigurationError(
            f"{source} names no job store: results would vanish with each job.", "'phonosmith init-cluster' writes one."
        )
    if BLOB_STORE not in store.additional_stores:
        known = ", ".join(store.additional_stores) or "none"
        raise ConfigurationError(
            f"{source}: the job store has no additional store {BLOB_STORE!r} (it has: {known}).",
            "Large outputs go there; add it as 'phonosmith init-cluster' does.",
        )
    for part, kept in {"docs_store": store.docs_store, **store.additional_stores}.items():
        if problem := unreachable(kept):
            raise ConfigurationError(
                f"{source}: {part} cannot be reached: {problem}.", "Start the server, or repair host and port there."
            )


def unreachable(store: Any) -> str:
    """Return why a maggma store cannot be read, or ''; a server gets a few seconds."""
    try:
        probe = type(store).from_dict(store.as_dict())
        options = getattr(probe, "mongoclient_kwargs", None)
        if isinstance(options, dict):
            probe.mongoclient_kwargs = {"serverSelectionTimeoutMS": PATIENCE_MS, **options}
        probe.connect()
        probe.query_one({})
        probe.close()
    except Exception as error:  # noqa: BLE001 every store has errors of its own
        return f"{type(error).__name__}: {str(error).split(', Timeout')[0]}"
    return ""


def check_workers(flow: Flow, rules: Routing, known: Iterable[str], source: str, *, field: str = "worker") -> None:
    """Refuse workers (or FireWorks' categories) that a file or project does not have, naming who would go there.

    The label jobs that the flow will make are counted in.
    """
    there, asked = list(known), dict[str, str]()
    jobs = [(member.name, member.metadata) for member in jobs_of(flow)]
    for name, metadata in [*jobs, ("label (each frame)", {})]:
        target = rules.target(name, metadata)
        asked.setdefault(target.worker if field == "worker" else target.category or target.worker, name)
    for worker, name in asked.items():
        if worker not in there:
            known_ones = f"{did_you_mean(worker, there)}There is: {', '.join(there) or 'none'}."
            raise ConfigurationError(
                f"{source} has no {field} {worker!r}, which {name!r} and jobs like it ask for.",
                f"{known_ones} Add it, or name another one in the routing section.",
            )


def artefact_warnings() -> list[str]:
    """Check that artefacts can be kept and say when their store is one that other machines do not see."""
    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.settings import get_settings

    settings = get_settings()
    default_artefacts().put_bytes(b"written before a submission", "probe")
    if settings.artefacts_store is None and settings.artefacts is None:
        message = (
            f"Models and labels are kept in {settings.artefacts_dir}, the default of this machine: unless every worker "
            "sees that folder, set PHONOSMITH_ARTEFACTS to a shared one (or PHONOSMITH_ARTEFACTS_STORE) here and there."
        )
        return [message]
    return []
