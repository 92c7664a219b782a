"""A flow carried out in a folder: store and run side by side, one session at a time, losses mended, reports at the end.

The folder of a campaign, a demonstration or a study holds ``store.sqlite`` and ``run``.
"""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.metadata import stage_of
from phonosmith.engines.local.mending import Mender
from phonosmith.engines.local.runner import LocalRunner, RunSummary, Slot
from phonosmith.engines.store.sqlite import open_embedded_jobstore

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.engines.local.outlook import Watcher
    from phonosmith.engines.local.state import JobRow

Chosen = Callable[[list["JobRow"]], "list[str] | None"]
"""Takes the failed jobs and names those to be started again; None: all."""
STORE, RUN = "store.sqlite", "run"


@dataclass
class Outcome:
    """How a session ended.

    Attributes
    ----------
    reports
        Of the materials that were asked for and have one.
    restored, repeated, lost
        Documents put back from the folders of their jobs; jobs done again for what was lost; what could not be mended.
    interrupted
        By Ctrl-C or a signal: the next session goes on.
    """

    summary: RunSummary
    reports: list[MaterialReport]
    restored: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Everything asked for is there."""
        return self.summary.ok and not self.lost


def prepare_folder(folder: Path) -> None:
    """Make the folder, or say why it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        advice = "Choose another folder with --out."
        raise ConfigurationError(f"Cannot write into {folder}: {error.strerror}.", advice) from error


def open_folder_store(folder: Path) -> JobStore:
    """Return the job store of a folder, connected."""
    store = open_embedded_jobstore(folder / STORE)
    store.connect()
    return store


def carry_out(
    folder: Path,
    flow: Flow | None,
    *,
    slots: Sequence[Slot] | None = None,
    time_limits: Mapping[str, float] | None = None,
    progress: bool | Watcher = False,
    trust: bool = False,
    again: Chosen | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run a flow in a folder, or go on with what it holds; only what is not done yet is run.

    Parameters
    ----------
    flow
        With identities from content; None: what the folder was asked last.
    slots, time_limits, progress, trust
        See `LocalRunner`.
    again
        Names the failed jobs that are started again; by default they stay failed.
    say
        Told what was lost since the last session.
    """
    prepare_folder(folder)
    with _alone(folder), _ending_like_ctrl_c():
        store = open_folder_store(folder)
        runner = LocalRunner(store, folder / RUN, slots=slots, time_limits=time_limits, progress=progress, trust=trust)
        if again is not None:
            runner.retry(again(runner.state.rows("failed", asked=True)))
        if flow is not None:
            runner.ask(flow)
        mender = Mender(runner.state, store, default_artefacts(), folder / RUN)
        interrupted = False
        try:
            if losses := mender.mend():
                say(f"Lost since the last run: {losses}.")
            summary = runner.run()
            while mender.mend_again():
                summary = summary.and_then(runner.run())
        except KeyboardInterrupt:
            interrupted, summary = True, runner.summary()
        lost = [] if interrupted else mender.remaining()
        reports = _reports(store, runner)
        store.close()
    return Outcome(summary, reports, mender.restored, mender.repeated, lost, interrupted)


@contextmanager
def _ending_like_ctrl_c() -> Iterator[None]:
    """Let what asks this process to end (a scheduler, a closed terminal) do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second runner out of the folder; the lock ends with this process, however it ends."""
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"Another phonosmith is running the campaign in {folder}."
            raise ConfigurationError(message, "Wait for it, or choose another --out.") from error
        yield


def _reports(store: JobStore, runner: LocalRunner) -> list[MaterialReport]:
    """Return the finished reports that are asked for, with what their committees leave open."""
    from phonosmith.analysis.committees import with_expected
    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.analysis.judgement import rejudged
    from phonosmith.analysis.queries import read_expected

    rows = [row for row in runner.state.rows("done", asked=True) if stage_of(row.name, row.metadata) == "report"]
    there = [row.uuid for row in rows if store.count({"uuid": row.uuid})]
    reports = [MaterialReport.model_validate(store.get_output(uuid, load=True)) for uuid in there]
    expected = read_expected(store)
    return [rejudged(with_expected(report, expected)) for report in reports] if expected else reports
