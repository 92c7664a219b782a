"""What is new in a flow about to be submitted, and whether the machinery is there for it; common to both engines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, did_you_mean
from phonosmith.core.identity import fix_identities, has_content_identity
from phonosmith.core.metadata import STAGE, STEP
from phonosmith.engines.store.sealed import whole_documents
from phonosmith.flows.routing import EngineName, Routing

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
    """Jobs of a flow by what is to be done about them: those to submit, and the names of the others."""

    new: list[Job] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)

    def flow(self, name: str) -> Flow:
        """Return the flow of the new jobs; what they need of finished ones is an external reference."""
        return _flow_of(self.new, name)

    def submission(
        self, engine: EngineName, target: str, rules: Routing, warnings: list[str], ids: list[str]
    ) -> Submission:
        """Return what was done about the jobs; no ``ids``: nothing was submitted."""
        stages: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for member in self.new:
            stages[rules.target(member.name, member.metadata).worker][member.name.split()[0]] += 1
        return Submission(
            engine=engine,
            target=target,
            submitted=bool(ids),
            workers={worker: dict(sorted(counts.items())) for worker, counts in sorted(stages.items())},
            n_new=len(self.new),
            n_finished=len(self.finished),
            n_queued=len(self.queued),
            failed=self.failed,
            lost=self.lost,
            held_back=self.held_back,
            warnings=warnings,
            ids=ids,
        )


def _flow_of(members: list[Job], name: str) -> Flow:
    """Return a new flow of jobs that belonged to another one."""
    from jobflow import Flow

    for member in members:
        member.hosts = []
    return Flow(members, name=name)


@dataclass(frozen=True)
class Known:
    """What an engine knows of the jobs with one uuid: whether one failed; the last index where all are done."""

    failed: bool
    last: int | None

    @classmethod
    def of(cls, states: Iterable[tuple[str, int, str]], failed: Iterable[str]) -> dict[str, Known]:
        """Return what states of jobs (uuid, index, state) amount to; ``failed``: the states of failure."""
        found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for uuid, index, state in states:
            found[uuid].append((index, state))
        return {
            uuid: cls(
                any(state in failed for _, state in jobs),
                max(index for index, _ in jobs) if all(state == "COMPLETED" for _, state in jobs) else None,
            )
            for uuid, jobs in found.items()
        }


def finished_uuids(store: JobStore, uuids: Iterable[str]) -> set[str]:
    """Return those jobs whose final output is in a store; refused labels and replaced jobs do not count."""
    wanted, finished = list(uuids), set()
    for start in range(0, len(wanted), _CHUNK):
        criteria = {"uuid": {"$in": wanted[start : start + _CHUNK]}, "output": {"$ne": None}}
        documents = store.query(criteria, properties=["uuid", "metadata.refused"])
        finished |= {str(one["uuid"]) for one in documents if not (one.get("metadata") or {}).get("refused")}
    return finished


def select(flow: Flow, store: JobStore, queued_jobs: Callable[[list[str]], Mapping[str, Known]]) -> Selection:
    """Sort the jobs of a flow into finished, queued, failed, lost, held back and new.

    ``queued_jobs`` tells what the engine knows of some uuids. A job it has done is lost where the store does not hold
    its document as it was sealed.
    """
    ready = _prepared(flow, store)
    uuids = [member.uuid for member, _ in ready.iterflow()]
    queued, whole = queued_jobs(uuids), whole_documents(store, uuids)
    refused = {uuid for (uuid, _), is_refused in whole.items() if is_refused}
    lost = {uuid for uuid, known in queued.items() if known.last and (uuid, known.last) not in whole}
    finished = (finished_uuids(store, uuids) & {uuid for uuid, _ in whole}) - lost
    selection = Selection()
    waiting: set[str] = set()
    for member, parents in ready.iterflow():
        # jobs made here by a job of the flow: by a random identity nothing could be found again
        if not has_content_identity(member.uuid):
            raise ConfigurationError(f"The job {member.name!r} has a random identity.", "Call fix_identities first.")
        if member.uuid in finished:
            selection.finished.append(member.name)
        elif member.uuid in queued:
            failed = queued[member.uuid].failed or member.uuid in refused
            gone = selection.lost if member.uuid in lost else selection.queued
            (selection.failed if failed else gone).append(member.name)
            waiting.add(member.uuid)
        elif waiting.intersection(parents) - {member.uuid}:
            selection.held_back.append(member.name)
            waiting.add(member.uuid)
        else:
            selection.new.append(member)
    return selection


def _prepared(flow: Flow, store: JobStore) -> Flow:
    """Return the flow with identities from content, and with the label jobs that finished samplings ask for.

    Label jobs are made by a running job. Once the sampling is done they can be made here as well, where it can be seen
    which of them have run already: a larger training set then labels only the frames that are new.
    """
    fixed = flow if all(has_content_identity(member.uuid) for member, _ in flow.iterflow()) else fix_identities(flow)
    members: list[Job] = []
    for member, parents in fixed.iterflow():
        done = finished_uuids(store, [member.uuid, *parents])
        # the labels are known as soon as the sampling is done: those there are need not be asked for again
        starts_labels = (member.metadata.get(STAGE), member.metadata.get(STEP)) == ("label", "start")
        if starts_labels and member.uuid not in done and done.issuperset(parents):
            members += _expand(member, store)
        else:
            members.append(member)
    return _flow_of(members, fixed.name)


def _expand(member: Job, store: JobStore) -> list[Job]:
    """Run a job that only makes others and return those, the one that carries its output included."""
    from jobflow import CURRENT_JOB
    from jobflow.core.job import prepare_replace

    ready = deepcopy(member)
    ready.resolve_args(store=store)
    CURRENT_JOB.job = ready
    try:
        response = ready.function.original(*ready.function_args, **ready.function_kwargs)
    finally:
        CURRENT_JOB.reset()
    return [made for made, _ in prepare_replace(response.replace, member).iterflow()]


def check_job_store(store: JobStore, source: str) -> None:
    """Refuse a job store (described by the file ``source``) that lacks the blob store or cannot be reached."""
    if type(store.docs_store).__name__ == "MemoryStore":
        raise ConfigurationError(
            f"{source} names no job store: results would vanish with each job.", "See workflows/jobflow.yaml."
        )
    if BLOB_STORE not in store.additional_stores:
        known = ", ".join(store.additional_stores) or "none"
        raise ConfigurationError(
            f"{source}: the job store has no additional store {BLOB_STORE!r} (it has: {known}).",
            "Large outputs go there; add it as in workflows/jobflow.yaml.",
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
    jobs = [(member.name, member.metadata) for member, _ in flow.iterflow()]
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
