"""Run a flow on one machine: persistent workers, slots by job name, retry, resume after kill -9, a summary at the end.

jobflow's ``run_locally`` is serial, forgets everything and starts over. This runner stays small: it is for one machine;
clusters use FireWorks or jobflow-remote with the same flows.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import selectors
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from phonosmith.core.attempts import PREVIOUS, set_aside
from phonosmith.core.errors import ConfigurationError, mask_secrets
from phonosmith.core.failures import FailedJob, keep_failures
from phonosmith.core.manifest import process_cores
from phonosmith.core.metadata import stage_of, step_of
from phonosmith.engines.local.outlook import Show, Watcher, jobs_bar
from phonosmith.engines.local.state import (
    FAILED,
    RUNNING,
    SETTLED,
    SKIPPED,
    WAITING,
    Incomplete,
    JobRow,
    Key,
    RunState,
)
from phonosmith.engines.local.worker import RESULT, read_response
from phonosmith.potentials.device import CARDS_VARIABLE, visible_cards
from phonosmith.settings import ENV_PREFIX, get_settings

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

DEVICE_VARIABLE = f"{ENV_PREFIX}DEVICE"
POLL_SECONDS = 0.2
TELL_SECONDS = 1.0
WORKER_MEMORY_GB = 2.5
"""A worker that holds more than this after a job is replaced by a new one: libraries keep some memory of every model
they compile, about 30 MB for each training, and a campaign has hundreds."""


@dataclass(frozen=True)
class Slot:
    """A place where one job at a time runs: ``cpu``, ``gpu`` or any name used in the rules.

    ``environment``: variables of its worker, e.g. ``{"CUDA_VISIBLE_DEVICES": "0"}``.
    """

    kind: str = "cpu"
    environment: Mapping[str, str] = field(default_factory=dict)


ORPHAN_SECONDS = 20.0
"""How long workers of a runner that was killed may take to end, s."""


@dataclass
class RunSummary:
    """How a run ended, of the jobs still asked for.

    ``waiting``: jobs an interruption left; ``incomplete``: jobs that are done, but without something they asked for;
    ``reused``: jobs that handed on the result of an equal one, not among those executed.
    """

    done: int
    failed: list[JobRow]
    skipped: list[JobRow]
    executed: int
    seconds: float
    waiting: list[JobRow] = field(default_factory=list)
    incomplete: list[Incomplete] = field(default_factory=list)
    reused: int = 0

    @property
    def ok(self) -> bool:
        """Everything is done, from everything it asked for."""
        return not (self.failed or self.skipped or self.waiting or self.incomplete)

    def and_then(self, more: RunSummary) -> RunSummary:
        """Return how a run ended that was taken up again."""
        return replace(
            more,
            executed=self.executed + more.executed,
            reused=self.reused + more.reused,
            seconds=self.seconds + more.seconds,
        )


@dataclass
class _Worker:
    """A worker process and what it is doing."""

    slot: Slot
    process: subprocess.Popen[bytes]
    tasks: IO[bytes]
    answers: IO[bytes]
    job: JobRow | None = None
    since: float = 0.0
    ready: bool = False
    overdue: str = ""


def default_slots(count: int | None = None) -> list[Slot]:
    """Return one CPU slot for each core (or ``count``), each with one thread per library."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return [Slot("cpu", threads) for _ in range(count or process_cores())]


def gpu_slots(cards: int, each: int = 1) -> list[Slot]:
    """Return slots of GPUs, ``each`` of them with a card of its own or a share of one.

    The cards are the first of those this process may use (CUDA_VISIBLE_DEVICES). Jobs there insist on their card,
    unless PHONOSMITH_DEVICE says something else.

    Raises
    ------
    ConfigurationError
        For more cards than there are.
    """
    device = get_settings().device
    if device == "cpu":
        # asked for in so many words: places as on a node with GPUs, and no card is touched
        return [Slot("gpu", {CARDS_VARIABLE: ""}) for _ in range(cards * each)]
    seen = visible_cards()
    if cards > len(seen):
        given = os.environ.get(CARDS_VARIABLE)
        where = "torch sees" if given is None else f"{CARDS_VARIABLE}={given} names"
        raise ConfigurationError(
            f"gpu={cards} asks for {cards} GPUs, {where} {len(seen)}.",
            "Ask for fewer (gpu=1x3: one, with three jobs at a time), or set PHONOSMITH_DEVICE=cpu to train on "
            "processors; without 'gpu' trainings take the other places.",
        )
    insisting = {} if DEVICE_VARIABLE in os.environ else {DEVICE_VARIABLE: "cuda"}
    return [Slot("gpu", {CARDS_VARIABLE: card, **insisting}) for card in seen[:cards] for _ in range(each)]


class LocalRunner:
    """Runs the jobs of a flow in worker processes.

    Parameters
    ----------
    store
        JobStore every worker opens; it must live on disk or a server (the embedded store does).
    root
        Folder of the run: state, one folder per job.
    rules
        Job-name prefix to slot kind, e.g. ``{"train": "gpu"}``; first match wins, everything else runs on ``cpu``. A
        kind without a slot falls back to any slot. By default jobs that train run on ``gpu``.
    retries, restarts
        How often a job is started again that raised, or whose worker died.
    time_limits
        Longest time of a job in seconds, by its stage or the beginning of its name (first match wins), e.g.
        ``{"label": 1800}``. What takes longer is ended, fails with that reason, and its worker is replaced.
    progress
        Show a progress bar on standard error; or what is entered for a run and then told about its jobs.
    trust
        Take over a folder whose jobs this user has not signed: they are code that runs as this user.
    """

    def __init__(
        self,
        store: JobStore,
        root: str | Path,
        *,
        slots: Sequence[Slot] | None = None,
        rules: Mapping[str, str] | None = None,
        retries: int = 0,
        restarts: int = 1,
        worker_memory_gb: float = WORKER_MEMORY_GB,
        time_limits: Mapping[str, float] | None = None,
        progress: bool | Watcher = False,
        trust: bool = False,
    ) -> None:
        self.root = Path(root).resolve()
        self.slots = list(slots) if slots is not None else default_slots()
        self.rules = dict(rules or {})
        self.retries, self.restarts = retries, restarts
        self.worker_memory_gb, self.time_limits = worker_memory_gb, dict(time_limits or {})
        if not self.slots:
            raise ConfigurationError("The local runner needs at least one slot.", "Give slots=[Slot('cpu')].")
        self.watcher = partial(jobs_bar, len(self.slots)) if progress is True else progress or None
        self.state = RunState(self.root / "run.sqlite")
        self.state.require_own(trust=trust)
        self._store = json.dumps(store.as_dict())
        # runs of earlier versions kept it, password and all, where everybody could read it
        (self.root / "store.json").unlink(missing_ok=True)
        self.store = store
        self._begin, self._executed = time.monotonic(), 0
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._stopped = False
        self._reused = 0

    def run(self, flow: Flow | None = None) -> RunSummary:
        """Run what is not done yet and return a summary; without a flow, continue the run in the folder.

        A job that failed stays failed (see ``retry``), those that need it are skipped, all others run. What Ctrl-C or
        kill -9 interrupts begins again with the next ``run``.
        """
        self._begin, self._executed, self._reused = time.monotonic(), 0, 0
        with self._only_workers():
            self.state.forget_running()
            if flow is not None:
                self.state.add_flow(flow)
            with nullcontext() if self.watcher is None else self.watcher() as show:
                try:
                    while self._advance():
                        self._executed += self._wait(show)
                    if show is not None:
                        show(self.state.rows(asked=True))
                finally:
                    self._shut_down()
        self._keep_failures()
        return self.summary()

    def _keep_failures(self) -> None:
        """Let the store say which jobs of this run have failed and why; the state of the run does where it is away."""
        from pymongo.errors import PyMongoError

        failed = (
            FailedJob.of(row.name, row.uuid, row.index, row.error or "", row.metadata)
            for row in self.state.rows(FAILED, asked=True)
        )
        try:
            self.store.connect()
            keep_failures(self.store, failed, [row.key for row in self.state.rows()])
        except (OSError, sqlite3.Error, PyMongoError) as error:
            warnings.warn(f"The store could not be told why jobs failed: {mask_secrets(str(error))}", stacklevel=2)

    def summary(self) -> RunSummary:
        """Return how the run stands, and what the last call of `run` did, even if it was interrupted."""
        done, failed, skipped, waiting = (self.state.rows(state, asked=True) for state in (*SETTLED, WAITING))
        seconds = time.monotonic() - self._begin
        executed, lacking = self._executed - self._reused, self.state.incomplete()
        return RunSummary(len(done), failed, skipped, executed, seconds, waiting, lacking, self._reused)

    def ask(self, flow: Flow) -> None:
        """Make a flow what the run is about: of other jobs only those it needs are run and reported from now on."""
        self.state.add_flow(flow)
        self.state.ask(job.uuid for job, _ in flow.iterflow())

    @contextmanager
    def _only_workers(self) -> Iterator[None]:
        """Wait until workers of an earlier runner have ended: they would write into the folders of repeated jobs.

        Each worker holds the lock, by the open file it inherits, for as long as it lives.
        """
        deadline = time.monotonic() + ORPHAN_SECONDS
        with (self.root / "workers.lock").open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise ConfigurationError(
                            f"Another runner, or a worker of one, is at work in {self.root}.",
                            "Wait for it, or end its processes.",
                        ) from error
                    time.sleep(0.05)
            self._lock = handle.fileno()
            yield

    def _advance(self) -> bool:
        """Skip what cannot run, start what can; return whether anything is running."""
        changed = True
        while changed:
            changed = False
            for row, lacks in list(self.state.ready()):
                if _response(row) is not None:
                    # it finished just before the run was interrupted
                    self._finish(row, row.seconds or 0.0)
                    changed = True
                    break
                if self._stopped or lacks is not None:
                    self.state.end_without_result(row, SKIPPED, lacks or "the run was stopped by a job", self._withdraw)
                    changed = True
                elif (worker := self._free_worker(row)) is not None:
                    self._start(worker, row)
        return any(worker.job is not None for worker in self._workers)

    def _free_worker(self, row: JobRow) -> _Worker | None:
        """Return an idle worker, if need be a new one, for a job; None when every place it could have is taken."""
        kinds = [slot.kind for slot in self.slots]
        trains = stage_of(row.name, row.metadata) == "train" and not step_of(row.name, row.metadata)
        kind = "gpu" if trains and not self.rules else "cpu"
        kind = next((kind for prefix, kind in self.rules.items() if row.name.startswith(prefix)), kind)
        if kind not in kinds:
            kind = "cpu" if "cpu" in kinds else kinds[0]
        for worker in self._workers:
            if worker.job is None and worker.slot.kind == kind:
                return worker
        taken = [id(worker.slot) for worker in self._workers]
        slot = next((slot for slot in self.slots if slot.kind == kind and id(slot) not in taken), None)
        return None if slot is None else self._spawn(slot)

    def _spawn(self, slot: Slot) -> _Worker:
        with (self.root / "workers.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "phonosmith.engines.local.worker", str(self.root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_worker_environment(slot),
                # a line that waits in a buffer of this process is one the selector never tells of
                bufsize=0,
                # Ctrl-C is for the runner; and whatever a job has started ends with its worker
                start_new_session=True,
                pass_fds=(self._lock,),
            )
        assert process.stdin is not None
        assert process.stdout is not None
        worker = _Worker(slot, process, io.BufferedWriter(process.stdin), process.stdout)  # type: ignore[arg-type]
        # a worker that is gone already is noticed by the selector
        with suppress(BrokenPipeError):
            worker.tasks.write(self._store.encode() + b"\n")
            worker.tasks.flush()
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _start(self, worker: _Worker, row: JobRow) -> None:
        label = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")[:60]
        folder = self.root / "jobs" / f"{label}-{row.uuid[:8]}-{row.index}"
        earlier = set_aside(folder, max(row.attempts, 1)) if folder.exists() else None
        folder.mkdir(parents=True, exist_ok=True)
        # a job that is run again because what it needs has changed is not to go on from what it left
        if earlier is not None and row.folder is not None:
            (folder / PREVIOUS).symlink_to(Path("..") / earlier.name, target_is_directory=True)
        row = replace(row, state=RUNNING, attempts=row.attempts + 1, folder=str(folder))
        self.state.update(row.key, state=row.state, attempts=row.attempts, folder=row.folder)
        worker.job, worker.since, worker.overdue = row, time.monotonic(), ""
        task = json.dumps({"document": self.state.document(row.key), "folder": row.folder})
        # the end of its answers is seen by the selector, which counts the loss
        with suppress(BrokenPipeError):
            worker.tasks.write(task.encode() + b"\n")
            worker.tasks.flush()

    def _wait(self, show: Show | None) -> int:
        """Wait until a job ends; return how many did."""
        ended = 0
        rows, told = [] if show is None else self.state.rows(asked=True), 0.0
        while not ended:
            if show is not None and time.monotonic() - told > TELL_SECONDS:
                show(rows)
                told = time.monotonic()
            for key, _ in self._selector.select(timeout=POLL_SECONDS):
                worker: _Worker = key.data
                line = worker.answers.readline()
                if line and not worker.ready:
                    # what it took to start is no time of its job
                    worker.ready, worker.since = True, time.monotonic()
                    continue
                row, worker.job = worker.job, None
                seconds = time.monotonic() - worker.since
                if not line:
                    self._bury(worker, row, seconds)
                elif row is not None:
                    self._take(worker, row, json.loads(line), seconds)
                ended += 1
            self._end_overdue()
        return ended

    def _take(self, worker: _Worker, row: JobRow, answer: dict[str, Any], seconds: float) -> None:
        """Take a worker's answer about a job."""
        if answer.get("no_room"):
            # no fault of the job, and the next ones would fare no better
            self.state.update(row.key, state=WAITING, attempts=row.attempts - 1)
            raise ConfigurationError(
                f"'{row.name}' could not write what it had: {answer['error']}.",
                "Make room, or the place writable, and give the same command again: what is done stays done.",
            )
        if answer["error"] is None:
            self._reused += bool(answer.get("reused"))
            self._finish(row, seconds)
        else:
            self._fail(row, answer["error"], self.retries, seconds)
        if answer["memory_gb"] > self.worker_memory_gb:
            self._end(worker)

    def _end_overdue(self) -> None:
        """Kill workers whose job takes longer than it may; that they died is seen like any other death."""
        for worker in self._workers:
            if worker.job is None or not worker.ready or worker.overdue:
                continue
            limit = time_limit(self.time_limits, worker.job)
            if limit is not None and time.monotonic() - worker.since > limit:
                worker.overdue = f"it took longer than its time limit of {limit:g} s and was ended"
                _kill(worker)

    def _bury(self, worker: _Worker, row: JobRow | None, seconds: float) -> None:
        """Deal with a worker that died."""
        self._end(worker)
        _kill(worker)
        code = worker.process.returncode
        # one that is killed while it starts (memory is short) is like any other; one that gives up cannot work here
        if not worker.ready and code >= 0:
            if row is not None:
                self.state.update(row.key, state=WAITING, attempts=row.attempts - 1)
            tail = (self.root / "workers.log").read_text(encoding="utf-8", errors="replace")[-600:]
            raise ConfigurationError(
                f"A worker ended with code {code} before its first job: {tail.strip()}",
                f"See {self.root / 'workers.log'}.",
            )
        if row is None:
            return
        if _response(row) is not None:
            self._finish(row, seconds)
        elif worker.overdue:
            self._fail(row, worker.overdue, 0, seconds)
        else:
            words = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._fail(row, f"its worker died ({words})", self.restarts, seconds)

    def _fail(self, row: JobRow, error: str, allowed: int, seconds: float) -> None:
        if row.attempts <= allowed:
            self.state.update(row.key, state=WAITING, error=error, seconds=seconds)
        else:
            self.state.end_without_result(replace(row, seconds=seconds), FAILED, error, self._withdraw)

    def _finish(self, row: JobRow, seconds: float) -> None:
        """Record a finished job and add the jobs it made."""
        response = _response(row)
        if response is None:
            self._fail(row, "its response was altered or removed after it ended", self.retries, seconds)
            return
        made = {kind: flow for kind in ("replace", "detour", "addition") if (flow := response[kind]) is not None}
        stop, result = bool(response["stop_children"]), response.get(RESULT)
        self.state.finish(row.key, seconds, made, self._withdraw, result=result, stop=stop)
        self._stopped = self._stopped or bool(response["stop_jobflow"])

    def _withdraw(self, key: Key) -> None:
        """Take the result of a job that is no longer valid out of the store, but not the reasons of a refusal."""
        self.store.connect()
        self.store.remove_docs({"uuid": key[0], "index": key[1], "metadata.refused": {"$ne": True}})

    def _shut_down(self) -> None:
        """End the workers this runner started; those at work are not waited for, their jobs begin again later."""
        for worker in self._workers:
            with suppress(BrokenPipeError):
                worker.tasks.close()
            if worker.job is not None:
                _kill(worker)
                # nobody's fault; where the state cannot be written it says "running", which the next run knows as well
                with suppress(ConfigurationError):
                    self.state.update(worker.job.key, state=WAITING, attempts=worker.job.attempts - 1)
        for worker in [*self._workers]:
            self._end(worker)

    def _end(self, worker: _Worker) -> None:
        """Let a worker end, by force when it takes long; a new one takes its place when a job needs it."""
        with suppress(BrokenPipeError):
            worker.tasks.close()
        try:
            worker.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            _kill(worker)
            worker.process.wait()
        self._selector.unregister(worker.answers)
        worker.answers.close()
        self._workers.remove(worker)

    def retry(self, names: Sequence[str] | None = None) -> int:
        """Put failed jobs (all, or those named) back in line; the next ``run`` starts them."""
        return self.state.retry(names)


def time_limit(limits: Mapping[str, float], row: JobRow) -> float | None:
    """Return how long a job may take, s, by its stage or the beginning of its name; None without limit."""
    stage = stage_of(row.name, row.metadata)
    return next((limit for what, limit in limits.items() if stage == what or row.name.startswith(what)), None)


def _kill(worker: _Worker) -> None:
    """End a worker and every program its job has started."""
    with suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)


def _response(row: JobRow) -> dict[str, Any] | None:
    return None if row.folder is None else read_response(Path(row.folder), row.uuid, row.index)


def _worker_environment(slot: Slot) -> dict[str, str]:
    """Return a worker's variables: like this process's, but nothing is imported from whatever folder it is in."""
    # an empty entry, as ``PYTHONPATH=$PYTHONPATH:...`` leaves it, means the current folder
    kept = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    python = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in kept)}
    return {**os.environ, **python, **slot.environment}
