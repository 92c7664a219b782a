"""What a study shows while it runs: stages with the time left, trainings with epochs, errors as they arrive.

A table on a terminal and in a notebook (plain HTML), lines where the output is a file or a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import PhonosmithError
from phonosmith.core.metadata import stage_of, step_of
from phonosmith.core.progress import spoken_time
from phonosmith.engines.local.outlook import Epoch, Forecast, Outlook, Show
from phonosmith.engines.local.session import open_folder_store
from phonosmith.engines.local.state import DONE, FAILED, RUNNING, JobRow

if TYPE_CHECKING:
    from jobflow import JobStore

REFERENCE, FOUNDATION = "reference", "foundation"
_DASH = "–"
_FORCES = "output.metrics.valid.{}.mae_forces_mev_per_angstrom"


@dataclass
class Potential:
    """What is known of one potential so far: force MAE in meV/Å, phonon MAE in THz."""

    state: str = ""
    force_mae: float | None = None
    phonon_mae: float | None = None


@dataclass
class Arrivals:
    """Errors of potentials, read from the store as soon as the jobs that know them are done."""

    store: JobStore
    mesh: int
    known: dict[str, Potential] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _reference: Any = None
    _waiting: dict[str, str] = field(default_factory=dict)

    def look(self, rows: Sequence[JobRow], epochs: dict[tuple[str, int], Epoch]) -> None:
        """Take in what has happened."""
        for row in rows:
            stage, strategy = stage_of(row.name, row.metadata), str(row.metadata.get("strategy") or "")
            if stage not in ("train", "phonon") or not strategy or step_of(row.name, row.metadata):
                continue
            if strategy != REFERENCE:
                one = self.known.setdefault(strategy, Potential())
                one.state = self._state(row, stage, one.state, epochs)
            if row.state != DONE or row.uuid in self._seen:
                continue
            self._seen.add(row.uuid)
            if stage == "train":
                self.known[strategy].force_mae = self._force_mae(row.uuid, "after")
                base = self.known.setdefault(FOUNDATION, Potential())
                # of the labels that every training is judged on
                if base.force_mae is None:
                    base.force_mae = self._force_mae(row.uuid, "before")
            elif strategy == REFERENCE:
                self._reference = self._phonons(row.uuid)
            else:
                self._waiting[strategy] = row.uuid
        if self._reference is not None:
            while self._waiting:
                strategy, uuid = self._waiting.popitem()
                self.known[strategy].phonon_mae = self._compare(uuid)

    @staticmethod
    def _state(row: JobRow, stage: str, before: str, epochs: dict[tuple[str, int], Epoch]) -> str:
        if row.state == FAILED:
            return f"{stage} failed"
        if row.state == RUNNING:
            return epochs[row.key].words() if row.key in epochs else {"train": "training"}.get(stage, "phonons")
        if row.state == DONE:
            return {"train": "trained"}.get(stage, "done")
        return before

    def _force_mae(self, uuid: str, when: str) -> float | None:
        path = _FORCES.format(when)
        found: Any = self.store.query_one({"uuid": uuid}, properties=[path]) or {}
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def _phonons(self, uuid: str) -> Any:
        from phonosmith.evaluation.phonons.documents import PhononDoc

        return PhononDoc.model_validate(self.store.get_output(uuid, load=True))

    def _compare(self, uuid: str) -> float | None:
        from phonosmith.evaluation.phonons.comparison import compare_phonons

        try:
            return compare_phonons(self._reference, self._phonons(uuid), self.mesh).mae_thz
        except PhonosmithError:
            # the report says why they cannot be compared
            return None


@dataclass(frozen=True)
class Sheet:
    """One moment of a study as text: head, stages, potentials."""

    head: str
    stages: list[tuple[str, str, str, str]]
    potentials: list[tuple[str, str, str, str]]


STAGE_COLUMNS = ("stage", "jobs", "left", "now")
POTENTIAL_COLUMNS = ("potential", "state", "force MAE meV/Å", "phonon MAE THz")


def sheet(title: str, outlook: Outlook, arrivals: Arrivals) -> Sheet:
    """Return what is shown of a moment."""
    left = f", {words} left" if outlook.done < outlook.total and (words := outlook.left()) else ""
    failed = f", {outlook.failed} failed" if outlook.failed else ""
    stages = []
    for stage in outlook.stages:
        time = spoken_time(stage.seconds_left) if stage.seconds_left and not stage.unmeasured else ""
        now = ", ".join(row.name.partition(" ")[2] for row in stage.running)
        stages.append((stage.name, f"{stage.done}/{stage.total}", time, now[:40]))
    potentials = [
        (name, one.state, _number(one.force_mae, ".1f"), _number(one.phonon_mae, ".3f"))
        for name, one in arrivals.known.items()
    ]
    head = f"{title}: {outlook.done} of {outlook.total} jobs in {spoken_time(outlook.elapsed)}{left}{failed}"
    return Sheet(head, stages, potentials)


def _number(value: float | None, form: str) -> str:
    return _DASH if value is None else format(value, form)


def as_html(shown: Sheet) -> str:
    """Return a moment as plain HTML."""
    return f"<p>{escape(shown.head)}</p>" + "".join(
        html_table(columns, rows)
        for columns, rows in ((STAGE_COLUMNS, shown.stages), (POTENTIAL_COLUMNS, shown.potentials))
        if rows
    )


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as plain HTML, every cell escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@contextmanager
def watching(title: str, folder: Path, mesh: int, places: int) -> Iterator[Show]:
    """Show a run in a folder where it suits: a notebook, a terminal, or lines on standard error."""
    forecast, arrivals = Forecast(places), Arrivals(open_folder_store(folder), mesh)
    draw = _notebook() or (_terminal if sys.stderr.isatty() else _lines)
    try:
        with draw() as paint:

            def show(rows: Sequence[JobRow]) -> None:
                outlook = forecast.outlook(rows)
                arrivals.look(rows, outlook.epochs)
                paint(sheet(title, outlook, arrivals))

            yield show
    finally:
        arrivals.store.close()


Paint = Callable[[Sheet], None]


@contextmanager
def _terminal() -> Iterator[Paint]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        made = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            made.add_row(*map(Text, row))
        return made

    with Live(console=Console(stderr=True), refresh_per_second=2, transient=True) as live:
        yield lambda shown: live.update(
            Group(
                Text(shown.head),
                table(STAGE_COLUMNS, shown.stages),
                Text(),
                table(POTENTIAL_COLUMNS, shown.potentials),
            )
        )


@contextmanager
def _lines() -> Iterator[Paint]:
    """Write a line whenever a stage has ended another tenth of its jobs, or something is known of a potential."""
    said: dict[str, str] = {}

    def paint(shown: Sheet) -> None:
        for name, jobs, left, _ in shown.stages:
            done, total = map(int, jobs.split("/"))
            if done and said.get(name) != (tenth := str(10 * done // max(total, 1))):
                said[name] = tenth
                print(f"{name} {jobs}{f', {left} left' if left else ''}", file=sys.stderr, flush=True)
        for name, state, force, phonon in shown.potentials:
            words = [f"force MAE {force} meV/Å"] * (force != _DASH) + [f"phonon MAE {phonon} THz"] * (phonon != _DASH)
            words += [state] * state.endswith("failed")
            if words and said.get(f"potential {name}") != str(words):
                said[f"potential {name}"] = str(words)
                print(f"{name}: {', '.join(words)}", file=sys.stderr, flush=True)

    yield paint


def _notebook() -> Callable[[], Any] | None:
    """Return what draws in a notebook; None outside of one."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import HTML, display

    shell = get_ipython()
    if shell is None or "IPKernelApp" not in shell.config:
        return None

    @contextmanager
    def draw() -> Iterator[Paint]:
        handle = display(HTML(""), display_id=True)
        yield lambda shown: handle.update(HTML(as_html(shown)))

    return draw
