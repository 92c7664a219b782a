"""What goes on in a queue: every job's state, why it failed, and what the scheduler says it waits for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phonosmith.analysis.status import LiveJob
from phonosmith.core.failures import FailedJob, keep_failures
from phonosmith.engines.queues.jobs import Queue

if TYPE_CHECKING:
    from phonosmith.flows.routing import EngineName

SQUEUE = 'squeue --noheader --user="$(id -un)" --format="%A|%T|%r"'
"""The user's jobs in SLURM's queue: number, state, reason."""
UNTAKEN = "no worker has taken it"


@dataclass
class QueueLook:
    """A look at a queue.

    Attributes
    ----------
    counts
        Jobs by state.
    jobs
        In the words of `LiveJob`; what nobody has taken counts as pending.
    next_command
        What to type now; '' when all is done.
    """

    engine: EngineName
    target: str
    counts: dict[str, int]
    jobs: list[LiveJob]
    notes: list[str] = field(default_factory=list)
    next_command: str = ""

    @property
    def at_work(self) -> bool:
        """Something is left that may go on by itself."""
        return any(self.counts.get(state) for state in ("waiting", "ready", "pending", "running"))


def look(queue: Queue) -> QueueLook:
    """Return what goes on in a queue, and keep why jobs failed in its job store."""
    jobs = queue.all_jobs()
    failed = [job for job in jobs if job.failed]
    errors = queue.errors(failed)
    kept = [FailedJob.of(job.name, job.uuid, job.index, errors.get(job.id, ""), job.metadata) for job in failed]
    # where results can only be read, the queue still says it
    with contextlib.suppress(Exception):
        keep_failures(queue.store, kept, [(job.uuid, job.index) for job in jobs])
    said, notes = queue.schedulers([job for job in jobs if job.state == "pending"])
    live = []
    for job in jobs:
        if job.state in ("ready", "pending"):
            reason = UNTAKEN if job.state == "ready" else said.get(job.process) or "in the queue"
            live.append(
                LiveJob(job.name, job.metadata, "pending", f"{reason} ({job.worker})" if job.worker else reason)
            )
        elif job.state == "stopped":
            live.append(LiveJob(job.name, job.metadata, "failed", "stopped or paused by somebody"))
        else:
            live.append(LiveJob(job.name, job.metadata, job.state, errors.get(job.id, "")))
    counts = dict(Counter(str(job.state) for job in jobs))
    found = QueueLook(queue.engine, queue.target, counts, live, notes)
    option = "project" if queue.engine == "jobflow-remote" else "launchpad"
    where = f"--engine {queue.engine} --{option} {queue.target}"
    if counts.get("failed"):
        found.next_command = f"phonosmith retry {where}"
    elif found.at_work:
        start = "" if counts.get("running") or counts.get("pending") else queue.idle()
        found.next_command = start or f"phonosmith status {where} --watch"
    return found


def read_squeue(text: str) -> dict[str, str]:
    r"""Return what SLURM's queue says, by number of the process: its reason, or the state where there is none.

    >>> read_squeue("17|PENDING|Priority\n18|RUNNING|None\n")
    {'17': 'Priority', '18': 'running'}
    """
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {number: state.lower() if reason in ("None", "") else reason for number, state, reason in rows}


def last_line(trace: str) -> str:
    """Return the last line of a traceback that says something: the error."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def asked(run: Callable[[str], tuple[str, str, int]], where: str) -> tuple[dict[str, str], list[str]]:
    """Ask SLURM on a machine; where it does not answer, say so."""
    try:
        out, error, code = run(SQUEUE)
    except Exception as problem:  # noqa: BLE001 every way to another machine fails in its own way
        out, error, code = "", f"{type(problem).__name__}: {problem}", 1
    if code == 0:
        return read_squeue(out), []
    return {}, [f"The scheduler of {where} could not be asked: {last_line(error) or f'exit code {code}'}."]
