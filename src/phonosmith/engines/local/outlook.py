"""How far a run is: jobs known to come, what the running ones have reached, how long the rest will take."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from phonosmith.core.metadata import EPOCHS, MAKES, stage_of, step_of
from phonosmith.core.progress import progress_bar, spoken_time
from phonosmith.engines.local.state import DONE, FAILED, RUNNING, SETTLED, JobRow, Key

Show = Callable[[Sequence[JobRow]], None]
"""What is told about the jobs of a run, whenever one begins or ends and about once a second."""
Watcher = Callable[[], AbstractContextManager[Show]]

_LOG = "training/*/metrics.jsonl"
_TAIL = 2000
"""Bytes at the end of a training's log that hold its last line."""


@dataclass(frozen=True)
class Epoch:
    """Where a training is: epochs done and asked, validation force MAE (meV/Å)."""

    done: int
    of: int | None
    force_mae: float | None

    def words(self) -> str:
        """Return it as a bar shows it."""
        error = "" if self.force_mae is None else f", F {self.force_mae:.1f} meV/Å"
        return f"epoch {self.done}{'' if self.of is None else f'/{self.of}'}{error}"


@dataclass
class StageOutlook:
    """One stage: jobs done (failed and left out among them) of those known to come; seconds left where they are known.

    ``unmeasured``: none of its jobs has told yet how long one takes.
    """

    name: str
    done: int = 0
    total: int = 0
    failed: int = 0
    running: list[JobRow] = field(default_factory=list)
    seconds_left: float = 0.0
    unmeasured: bool = False


@dataclass
class Outlook:
    """A whole run, its stages in their order."""

    stages: list[StageOutlook]
    epochs: dict[Key, Epoch]
    elapsed: float

    @property
    def done(self) -> int:
        """Jobs that ended, failed and left out among them."""
        return sum(stage.done for stage in self.stages)

    @property
    def total(self) -> int:
        """Jobs there are and jobs known to come."""
        return sum(stage.total for stage in self.stages)

    @property
    def failed(self) -> int:
        """Jobs that failed."""
        return sum(stage.failed for stage in self.stages)

    @property
    def running(self) -> list[JobRow]:
        """Jobs at work."""
        return [row for stage in self.stages for row in stage.running]

    def left(self) -> str:
        """Say how long the rest will take: "at least" as long as no job of some stage has been timed."""
        seconds = sum(stage.seconds_left for stage in self.stages)
        unmeasured = any(stage.unmeasured for stage in self.stages)
        if unmeasured and not seconds:
            return ""
        return f"{'at least' if unmeasured else 'about'} {spoken_time(seconds)}"


class Forecast:
    """Makes outlooks of a run from what is seen of it; ``places``: jobs that run at a time."""

    def __init__(self, places: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.places, self.clock = places, clock
        self._begin = clock()
        self._since: dict[Key, float] = {}

    def outlook(self, rows: Sequence[JobRow]) -> Outlook:
        """Return how far the run is; a job that will make others counts for all of them from the start."""
        now = self.clock()
        stages: dict[str, StageOutlook] = {}
        took: defaultdict[str, list[float]] = defaultdict(list)
        epochs: dict[Key, Epoch] = {}
        for row in rows:
            stage = stages.setdefault(name := stage_of(row.name, row.metadata), StageOutlook(name))
            stage.total += 1
            stage.done += row.state in SETTLED
            stage.failed += row.state == FAILED
            if row.state == RUNNING:
                stage.running.append(row)
                self._since.setdefault(row.key, now)
                if name == "train" and (epoch := last_epoch(row)) is not None:
                    epochs[row.key] = epoch
            elif row.state == DONE and row.seconds is not None and not step_of(row.name, row.metadata):
                took[name].append(row.seconds)
            # what replaces a job takes over what was said of it, under the next index
            if row.state not in SETTLED and row.index == 1:
                stage.total += int(row.metadata.get(MAKES) or 0)
        for stage in stages.values():
            self._time(stage, took[stage.name], epochs, now)
        return Outlook([*stages.values()], epochs, now - self._begin)

    def _time(self, stage: StageOutlook, took: Sequence[float], epochs: dict[Key, Epoch], now: float) -> None:
        """Say how long the rest of a stage takes: by the mean of its ended jobs, running trainings by their epochs."""
        remaining = stage.total - stage.done
        mean = sum(took) / len(took) if took else None
        waiting, seconds = remaining - len(stage.running), 0.0
        whole: list[float] = []
        for row in stage.running:
            spent, epoch = now - self._since[row.key], epochs.get(row.key)
            if epoch is not None and epoch.of and epoch.done:
                whole.append(spent * epoch.of / epoch.done)
                seconds += max(whole[-1] - spent, 0.0)
            elif mean is not None:
                seconds += max(mean - spent, 0.0)
            else:
                stage.unmeasured = True
        each = mean if mean is not None else sum(whole) / len(whole) if whole else None
        if each is not None:
            seconds += waiting * each
        elif waiting:
            stage.unmeasured = True
        stage.seconds_left = seconds / max(1, min(self.places, remaining))


def last_epoch(row: JobRow) -> Epoch | None:
    """Return where a running training is, from the end of the log in its folder; None before its first epoch."""
    logs = [] if row.folder is None else sorted(Path(row.folder).glob(_LOG))
    try:
        with logs[-1].open("rb") as stream:
            stream.seek(max(0, logs[-1].stat().st_size - _TAIL))
            lines = stream.read().splitlines()
        record = json.loads(lines[-1])
        return Epoch(int(record["epoch"]), row.metadata.get(EPOCHS), record.get("valid_mae_forces_mev_per_angstrom"))
    except (IndexError, OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def jobs_bar(places: int = 1) -> Iterator[Show]:
    """Show one bar for all jobs on standard error: what runs, how many are done, how long the rest takes."""
    forecast = Forecast(places)
    with progress_bar("jobs") as move:

        def show(rows: Sequence[JobRow]) -> None:
            seen = forecast.outlook(rows)
            names = ", ".join(row.name for row in seen.running)[:50] or "jobs"
            told = next((f", {epoch.words()}" for epoch in seen.epochs.values()), "")
            failed = f"{seen.failed} failed, " if seen.failed else ""
            left = f", {left} left" if (left := seen.left()) else ""
            move(seen.done, seen.total, f"{failed}{names}{told}{left}")

        yield show
