"""Queues and the jobs in them, in one vocabulary for both engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from phonosmith.core.metadata import material_of

if TYPE_CHECKING:
    from jobflow import Flow, JobStore
    from pymongo.database import Database

    from phonosmith.flows.routing import EngineName, Routing

QueueState = Literal["waiting", "ready", "pending", "running", "failed", "stopped", "done"]
"""Needs other jobs; not taken by a worker; in a scheduler's queue; at work; without result; held by somebody; done."""

UNSUCCESSFUL: tuple[QueueState, ...] = ("failed", "stopped")


@dataclass(frozen=True)
class QueuedJob:
    """A job as a queue knows it.

    Attributes
    ----------
    id, uuid, index, name, metadata, hosts
        Number in the engine; of jobflow's job.
    parents
        Numbers of the jobs it needs, those of other submissions included.
    worker, process
        Who takes it (FireWorks: its category); the scheduler's number of what it runs in.
    """

    id: str
    uuid: str
    index: int
    name: str
    state: QueueState
    parents: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    worker: str = ""
    process: str = ""

    @property
    def failed(self) -> bool:
        """It ended without a result."""
        return self.state == "failed"

    @property
    def settled(self) -> bool:
        """It ended, or hangs, so that it has to be reset before it can run again."""
        return self.state not in ("waiting", "ready")

    @property
    def submission(self) -> str:
        """The flow it was submitted with: the outermost one."""
        return self.hosts[-1] if self.hosts else ""

    @property
    def material(self) -> str:
        """What it is about, in lower case."""
        return material_of(self.name, self.metadata)


class Queue(Protocol):
    """What submissions and those who look at a queue need of an engine."""

    engine: EngineName
    store: JobStore

    @property
    def target(self) -> str:
        """Project or launchpad file."""

    @property
    def database(self) -> Database[Any]:
        """The queue's own database."""

    def jobs(self, uuids: Sequence[str]) -> list[QueuedJob]:
        """Return the jobs of some uuids."""

    def unsuccessful(self) -> list[QueuedJob]:
        """Return every job that failed or was stopped."""

    def check(self, flow: Flow, rules: Routing) -> None:
        """Refuse a flow whose jobs nobody here would run."""

    def add(self, flow: Flow, rules: Routing) -> list[str]:
        """Route a flow, put it into the queue and return the numbers of its jobs."""

    def mend(self, uuids: Sequence[str]) -> None:
        """Take out what is there of a flow of such jobs if it is not complete; what has begun stays."""

    def all_jobs(self) -> list[QueuedJob]:
        """Return every job with the jobs it needs, and the processes of those that a scheduler has."""

    def errors(self, jobs: Sequence[QueuedJob]) -> Mapping[str, str]:
        """Return why jobs failed, by their numbers."""

    def schedulers(self, jobs: Sequence[QueuedJob]) -> tuple[dict[str, str], list[str]]:
        """Return what schedulers say about the processes of jobs, by these, and where none could be asked."""

    def idle(self) -> str:
        """Return the command that starts what gives jobs to workers, where it is seen that nobody does; else ''."""
