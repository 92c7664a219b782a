"""Jobs as queues know them, in one vocabulary for both engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from phonosmith.core.metadata import material_of

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
