"""Run a flow on one machine: persistent workers, slots by job name, retry, resume after kill -9, a summary at the end.

jobflow's ``run_locally`` is serial, forgets everything and starts over. This runner stays small: it is for one machine;
clusters use FireWorks or jobflow-remote with the same flows.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.attempts import PREVIOUS, set_aside
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.manifest import process_cores
from phonosmith.core.metadata import stage_of, step_of
from phonosmith.engines.local.state import DONE, FAILED, RUNNING, SETTLED, SKIPPED, WAITING, JobRow, RunState
from phonosmith.engines.local.worker import RESPONSE_FILE

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

POLL_SECONDS = 0.2
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


@dataclass
class RunSummary:
    """How a run ended."""

    done: int
    failed: list[JobRow]
    skipped: list[JobRow]
    executed: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Everything is done."""
        return not self.failed and not self.skipped


@dataclass
class _Worker:
    """A worker process and what it is doing."""

    slot: Slot
    process: subprocess.Popen[str]
    tasks: IO[str]
    answers: IO[str]
    job: JobRow | None = None
    since: float = 0.0
    ready: bool = False


def default_slots(count: int | None = None) -> list[Slot]:
    """Return one CPU slot for each core (or ``count``), each with one thread per library."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return [Slot("cpu", threads) for _ in range(count or process_cores())]


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
    progress
        Show a progress bar on standard error.
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
        progress: bool = False,
    ) -> None:
        self.root = Path(root).resolve()
        self.slots = list(slots) if slots is not None else default_slots()
        self.rules = dict(rules or {})
        self.retries, self.restarts, self.progress = retries, restarts, progress
        self.worker_memory_gb = worker_memory_gb
        if not self.slots:
            raise ConfigurationError("The local runner needs at least one slot.", "Give slots=[Slot('cpu')].")
        self.state = RunState(self.root / "run.sqlite")
        write_atomic(self.root / "store.json", json.dumps(store.as_dict()).encode())
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._stopped = False

    def run(self, flow: Flow | None = None) -> RunSummary:
        """Run what is not done yet and return a summary; without a flow, continue the run in the folder.

        A job that failed stays failed (see ``retry``), those that need it are skipped, all others run.
        """
        begin, executed = time.monotonic(), 0
        self.state.forget_running()
        if flow is not None:
            self.state.add_flow(flow)
        with _progress_bar(self.progress) as show:
            try:
                while self._advance():
                    show(self.state.rows())
                    executed += self._wait()
                show(self.state.rows())
            finally:
                self._shut_down()
        done, failed, skipped = (self.state.rows(state) for state in SETTLED)
        return RunSummary(len(done), failed, skipped, executed, time.monotonic() - begin)

    def _advance(self) -> bool:
        """Skip what cannot run, start what can; return whether anything is running."""
        changed = True
        while changed:
            changed = False
            for row, may_run in list(self.state.ready()):
                if _has_response(row):
                    # it finished just before the run was interrupted
                    self._finish(row, row.seconds or 0.0)
                    changed = True
                elif self._stopped or not may_run:
                    self.state.update(row.key, state=SKIPPED)
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
                [sys.executable, "-m", "phonosmith.engines.local.worker", str(self.root / "store.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **slot.environment},
                cwd=self.root,
                text=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        worker = _Worker(slot, process, process.stdin, process.stdout)
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _start(self, worker: _Worker, row: JobRow) -> None:
        label = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")[:60]
        folder = self.root / "jobs" / f"{label}-{row.uuid[:8]}-{row.index}"
        earlier = set_aside(folder, row.attempts) if folder.exists() and row.attempts else None
        folder.mkdir(parents=True, exist_ok=True)
        if earlier is not None:
            (folder / PREVIOUS).symlink_to(Path("..") / earlier.name, target_is_directory=True)
        row = replace(row, state=RUNNING, attempts=row.attempts + 1, folder=str(folder))
        self.state.update(row.key, state=row.state, attempts=row.attempts, folder=row.folder)
        worker.job, worker.since = row, time.monotonic()
        task = json.dumps({"document": self.state.document(row.key), "folder": row.folder})
        # the end of its answers is seen by the selector, which counts the loss
        with suppress(BrokenPipeError):
            worker.tasks.write(task + "\n")
            worker.tasks.flush()

    def _wait(self) -> int:
        """Wait for answers and take them; return how many jobs ended."""
        ended = 0
        for key, _ in self._selector.select(timeout=POLL_SECONDS):
            worker: _Worker = key.data
            line = worker.answers.readline()
            if line and not worker.ready:
                worker.ready = True
                continue
            row, worker.job = worker.job, None
            seconds = time.monotonic() - worker.since
            if not line:
                self._bury(worker, row, seconds)
            elif row is not None:
                answer = json.loads(line)
                if answer["error"] is None:
                    self._finish(row, seconds)
                else:
                    self._fail(row, answer["error"], self.retries, seconds)
                ended += 1
                if answer["memory_gb"] > self.worker_memory_gb:
                    self._end(worker)
        return ended

    def _bury(self, worker: _Worker, row: JobRow | None, seconds: float) -> None:
        """Deal with a worker that died."""
        self._end(worker)
        code = worker.process.returncode
        if not worker.ready:
            if row is not None:
                self.state.update(row.key, state=WAITING, attempts=row.attempts - 1)
            tail = (self.root / "workers.log").read_text(encoding="utf-8", errors="replace")[-600:]
            raise ConfigurationError(
                f"A worker ended with code {code} before its first job: {tail.strip()}",
                f"See {self.root / 'workers.log'}.",
            )
        if row is None:
            return
        if _has_response(row):
            self._finish(row, seconds)
        else:
            words = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._fail(row, f"its worker died ({words})", self.restarts, seconds)

    def _fail(self, row: JobRow, error: str, allowed: int, seconds: float) -> None:
        self.state.update(row.key, state=WAITING if row.attempts <= allowed else FAILED, error=error, seconds=seconds)

    def _finish(self, row: JobRow, seconds: float) -> None:
        """Record a finished job and add the jobs it made."""
        from monty.json import MontyDecoder

        assert row.folder is not None
        response: dict[str, Any] = MontyDecoder().decode((Path(row.folder) / RESPONSE_FILE).read_text(encoding="utf-8"))
        for kind in ("replace", "detour", "addition"):
            if response[kind] is not None:
                made = self.state.add_flow(response[kind])
                if kind == "detour":
                    # everything that depends on the job waits for these too
                    self.state.update(row.key, held_by=json.dumps(made))
        if response["stop_children"]:
            self.state.skip_children(row.uuid)
        self._stopped = self._stopped or bool(response["stop_jobflow"])
        self.state.update(row.key, state=DONE, seconds=seconds, error=None)

    def _shut_down(self) -> None:
        """End the workers this runner started; those at work are not waited for."""
        for worker in self._workers:
            with suppress(BrokenPipeError):
                worker.tasks.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in [*self._workers]:
            self._end(worker)

    def _end(self, worker: _Worker) -> None:
        """Let a worker end, by force when it takes long; a new one takes its place when a job needs it."""
        with suppress(BrokenPipeError):
            worker.tasks.close()
        try:
            worker.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        self._selector.unregister(worker.answers)
        worker.answers.close()
        self._workers.remove(worker)

    def retry(self, names: Sequence[str] | None = None) -> int:
        """Put failed jobs (all, or those named) back in line; the next ``run`` starts them."""
        return self.state.retry(names)


def _has_response(row: JobRow) -> bool:
    return row.folder is not None and (Path(row.folder) / RESPONSE_FILE).is_file()


@contextmanager
def _progress_bar(wanted: bool) -> Iterator[Callable[[Sequence[JobRow]], None]]:
    """Show a progress bar on standard error, or nothing; yield what tells it about the jobs."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not wanted) as bar:
        task = bar.add_task("jobs", total=None)

        def show(rows: Sequence[JobRow]) -> None:
            settled = sum(row.state in SETTLED for row in rows)
            running = ", ".join(row.name for row in rows if row.state == RUNNING)
            failed = sum(row.state == FAILED for row in rows)
            words = f"{failed} failed, " if failed else ""
            bar.update(task, total=len(rows), completed=settled, description=f"{words}{running[:50] or 'jobs'}")

        yield show
