"""What a local run knows about its jobs, in one SQLite file that survives kill -9.

A job is ``waiting``, ``running``, or settled: ``done``, ``failed``, or ``skipped`` because something it needs has no
result. Some jobs go on without a result they asked for (who collects labels, who writes the report). Whenever a job
ends well, everything settled that depends on it, however far, waits again: it was made without this result, or with an
earlier one. A job starts only when nothing it depends on, however far, is still to be done, so that nothing is
computed twice.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.userfiles import is_signed, sign

if TYPE_CHECKING:
    from jobflow import Flow

WAITING, RUNNING, DONE, FAILED, SKIPPED = "waiting", "running", "done", "failed", "skipped"
SETTLED = (DONE, FAILED, SKIPPED)

Key = tuple[str, int]
"""A job within a run: uuid and index."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    uuid TEXT NOT NULL, idx INTEGER NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, parents TEXT NOT NULL,
    tolerant INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, folder TEXT, error TEXT,
    seconds REAL, held_by TEXT NOT NULL DEFAULT '[]', position INTEGER NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}', made TEXT NOT NULL DEFAULT '[]', asked INTEGER NOT NULL DEFAULT 1,
    stopped INTEGER NOT NULL DEFAULT 0, stored INTEGER NOT NULL DEFAULT 0, result TEXT,
    signature TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (uuid, idx)
);
"""
_ADDED = {
    "metadata": "TEXT NOT NULL DEFAULT '{}'",
    "made": "TEXT NOT NULL DEFAULT '[]'",
    "asked": "INTEGER NOT NULL DEFAULT 1",
    "stopped": "INTEGER NOT NULL DEFAULT 0",
    "stored": "INTEGER NOT NULL DEFAULT 0",
    "result": "TEXT",
    "signature": "TEXT NOT NULL DEFAULT ''",
}
"""Columns that runs of earlier versions lack."""
_PLAIN = {"state", "attempts", "folder", "error", "seconds", "metadata", "asked", "stored", "result"}
"""Columns that say nothing about who needs whom."""
_ALWAYS = {"uuid", "idx", "name", "document", "parents", "tolerant", "state", "attempts", "position", "held_by"}


@dataclass(frozen=True)
class JobRow:
    """One job of a run."""

    uuid: str
    index: int
    name: str
    state: str
    attempts: int
    folder: str | None
    error: str | None
    seconds: float | None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Identity within the run."""
        return self.uuid, self.index


@dataclass(frozen=True)
class Incomplete:
    """A job that is done, but lacks results it asked for; ``missing``: the jobs that should have given them."""

    job: JobRow
    missing: list[str]


COLUMNS = "uuid, idx, name, state, attempts, folder, error, seconds, metadata"


@dataclass
class _Node:
    """A job as a knot of the graph of who needs whom."""

    name: str
    state: str
    parents: list[str]
    tolerant: bool
    held_by: list[Key]
    made: list[Key]
    stopped: bool
    stored: bool


class _Graph:
    """Who needs whom. A parent is a uuid: all jobs that have it, since one may have been replaced by others."""

    def __init__(self, nodes: dict[Key, _Node]) -> None:
        self.nodes = nodes
        self.by_uuid: defaultdict[str, list[Key]] = defaultdict(list)
        self.children: defaultdict[str, list[Key]] = defaultdict(list)
        for key, node in nodes.items():
            self.by_uuid[key[0]].append(key)
            for parent in node.parents:
                self.children[parent].append(key)

    def parents(self, key: Key) -> list[Key]:
        return [one for parent in self.nodes[key].parents for one in self.by_uuid[parent]]

    def needed(self, key: Key) -> list[Key]:
        """Return the parents of a job and what those want done before their children run."""
        parents = self.parents(key)
        return parents + [held for one in parents for held in self.nodes[one].held_by if held in self.nodes]

    def below(self, keys: Iterable[Key]) -> list[Key]:
        """Return everything that depends on some jobs, however far."""
        return self._reached(keys, lambda key: self.children[key[0]])

    def above(self, keys: Iterable[Key]) -> list[Key]:
        """Return everything that some jobs depend on, however far."""
        return self._reached(keys, self.parents)

    def _reached(self, keys: Iterable[Key], step: Callable[[Key], list[Key]]) -> list[Key]:
        seen: dict[Key, None] = {}
        rest = [one for key in keys for one in step(key)]
        while rest:
            key = rest.pop()
            if key not in seen:
                seen[key] = None
                rest += step(key)
        return list(seen)

    def unsettled(self) -> set[Key]:
        """Return the jobs that have something to be done before them, however far."""
        open_ones = [key for key, node in self.nodes.items() if node.state not in SETTLED]
        holders: defaultdict[Key, list[Key]] = defaultdict(list)
        for key, node in self.nodes.items():
            for held in node.held_by:
                holders[held].append(key)

        def after(key: Key) -> list[Key]:
            return [*self.children[key[0]], *(child for one in holders[key] for child in self.children[one[0]])]

        return set(self._reached(open_ones, after))


class RunState:
    """The job table of one run folder, in an SQLite file that is made when missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: _Graph | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"Cannot keep the run in {path}: {error}.", "Choose a writable folder.") from error
        with self._explained():
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            tables = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            columns = {row[1] for row in self.connection.execute("PRAGMA table_info(jobs)")}
            if tables and not columns >= _ALWAYS:
                self.connection.close()
                raise ConfigurationError(
                    f"{path} is an SQLite file of something else: it has no table of jobs as a run keeps it.",
                    "Move it away, or choose another folder.",
                )
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.executescript(SCHEMA)
            for name in [name for name in _ADDED if columns and name not in columns]:
                self.connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {_ADDED[name]}")
                if name == "stored":
                    self.connection.execute("UPDATE jobs SET stored = 1 WHERE state = ?", (DONE,))

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            words = str(error)
            if "full" in words or "disk I/O" in words:
                advice = "Make room and give the same command again: what is done stays done."
            elif "readonly" in words or "unable to open" in words:
                advice = "Choose a writable folder, or make this one writable."
            elif "locked" in words:
                advice = "Another process holds the file; wait for it or end it."
            else:
                advice = (
                    "The file is damaged. Restore a copy of it, or move it away and run the campaign again: labels, "
                    "trainings and evaluations that the job store holds are not repeated."
                )
            raise ConfigurationError(f"Cannot keep the run in {self.path}: {words}.", advice) from error

    def _all(self, query: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Return every row of a query, or of a change none."""
        with self._explained():
            return self.connection.execute(query, tuple(values)).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes so that all or none of them survive."""
        with self._explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                with self.connection:
                    yield
            except BaseException:
                self._known = None
                raise

    def _graph(self) -> _Graph:
        """Return the graph of the jobs; read once, since nobody else writes while a run is open."""
        if self._known is None:
            self._known = self._read_graph()
        return self._known

    def _read_graph(self) -> _Graph:
        query = "SELECT uuid, idx, name, state, parents, tolerant, held_by, made, stopped, stored FROM jobs"
        nodes = {}
        for uuid, index, name, state, parents, tolerant, held_by, made, stopped, stored in self._all(query):
            held, others = ([(other, number) for other, number in json.loads(text)] for text in (held_by, made))
            nodes[uuid, index] = _Node(
                name, state, json.loads(parents), bool(tolerant), held, others, bool(stopped), bool(stored)
            )
        return _Graph(nodes)

    # ---- what there is

    def rows(self, *states: str, asked: bool = False) -> list[JobRow]:
        """Return jobs in the order they were added, all or those in some states, or only those still asked for."""
        conditions = [f"state IN ({','.join('?' * len(states))})"] if states else []
        conditions += ["asked = 1"] if asked else []
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        found = self._all(f"SELECT {COLUMNS} FROM jobs {where} ORDER BY position", states)  # noqa: S608
        return [self._row(columns) for columns in found]

    def _row(self, columns: Iterable[Any]) -> JobRow:
        *plain, metadata = columns
        row = JobRow(*(*plain, json.loads(metadata)))
        if row.folder is None:
            return row
        # a run that was moved or copied has its jobs' folders where it is now
        return replace(row, folder=str(self.path.absolute().parent / "jobs" / Path(row.folder).name))

    def document(self, key: Key) -> str:
        """Return a job as JSON; one that this user has not signed is refused."""
        ((name, document, signature),) = self._all(
            "SELECT name, document, signature FROM jobs WHERE uuid = ? AND idx = ?", key
        )
        if not is_signed(signature, key[0], str(key[1]), document):
            raise self._foreign([name])
        return str(document)

    def require_own(self, *, trust: bool = False) -> None:
        """Refuse a run with jobs this user has not signed, because jobs are code; with ``trust`` sign them all."""
        foreign = [
            (uuid, index, name)
            for uuid, index, name, document, signature in self._all(
                "SELECT uuid, idx, name, document, signature FROM jobs ORDER BY position"
            )
            if not is_signed(signature, uuid, str(index), document)
        ]
        if foreign and not trust:
            raise self._foreign([name for _, _, name in foreign])
        with self.transaction():
            for uuid, index, _ in foreign:
                ((document,),) = self._all("SELECT document FROM jobs WHERE uuid = ? AND idx = ?", (uuid, index))
                self.update((uuid, index), document=document)

    def _foreign(self, names: list[str]) -> ConfigurationError:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return ConfigurationError(
            f"{self.path} holds jobs that you have not written here, or that were altered since: {names[0]}{others}.",
            "A job is code that runs as you. If you trust whoever made this folder, say --trust; "
            "else take the campaign file alone and run it into a folder of your own.",
        )

    def incomplete(self) -> list[Incomplete]:
        """Return the jobs still asked for that are done without something they asked for, and what that is."""
        graph = self._graph()
        lost = [key for key, node in graph.nodes.items() if node.state != DONE]
        touched = set(graph.below(lost))
        found = []
        for row in self.rows(DONE, asked=True):
            if row.key in touched:
                above = [graph.nodes[key] for key in graph.above([row.key])]
                # what was left out is the consequence of what failed
                causes = [node for node in above if node.state not in (DONE, SKIPPED)] or above
                names = {node.name for node in causes if node.state != DONE}
                found.append(Incomplete(row, sorted(names)))
        return found

    def origins(self, groups: Iterable[Iterable[Key]]) -> list[list[Key]]:
        """Return, of each group of jobs, those that depend on none of the others in it, however far."""
        graph = self._graph()
        return [[key for key in some if not some.intersection(graph.above([key])) - {key}] for some in map(set, groups)]

    # ---- what is asked

    def add_flow(self, flow: Flow) -> list[Key]:
        """Add the jobs of a flow that are not known yet and return the keys of all of them."""
        with self.transaction():
            return self._add(flow)

    def ask(self, uuids: Iterable[str]) -> None:
        """Say which jobs the run is about from now on, with all they need and made; others are left as they are.

        A strategy that failed and was then taken out, or given other settings, must not keep a campaign from ending
        well.
        """
        graph = self._graph()
        rest = [key for uuid in set(uuids) for key in graph.by_uuid[uuid]]
        asked: set[Key] = set()
        while rest:
            key = rest.pop()
            if key in graph.nodes and key not in asked:
                asked.add(key)
                rest += [*graph.parents(key), *graph.by_uuid[key[0]], *graph.nodes[key].made]
        with self.transaction():
            for key, node in graph.nodes.items():
                self.update(key, asked=int(key in asked))
                if key in asked and node.state == SKIPPED and not node.stopped:
                    self._reopen(key)

    def _add(self, flow: Flow, *, again: bool = False) -> list[Key]:
        """Add the jobs of a flow; ``again``: its maker ran once more, so that known jobs may have become others."""
        from jobflow import OnMissing
        from monty.json import MontyEncoder

        from phonosmith.flows.routing import passes_on_one_result

        keys = []
        ((position,),) = self._all("SELECT coalesce(max(position), 0) FROM jobs")
        for offset, (job, parents) in enumerate(flow.iterflow(), start=1):
            # an output job that replaces its predecessor must not wait for itself
            needed = sorted({parent for parent in parents if parent != job.uuid})
            document = json.dumps(job, cls=MontyEncoder)
            row = {
                "uuid": job.uuid,
                "idx": job.index,
                "name": job.name,
                "document": document,
                "parents": json.dumps(needed),
                "tolerant": job.config.on_missing_references != OnMissing.ERROR and not passes_on_one_result(job),
                "state": WAITING,
                "position": position + offset,
                "metadata": json.dumps(job.metadata),
                "signature": sign(job.uuid, str(job.index), document),
            }
            key = (job.uuid, job.index)
            keys.append(key)
            if self._all("SELECT 1 FROM jobs WHERE uuid = ? AND idx = ?", key):
                self.update(key, asked=1)
                if again and self.document(key) != document:
                    self.update(key, **{name: row[name] for name in ("document", "parents", "tolerant")}, stopped=0)
                    self._reopen(key)
                continue
            self._known = None
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            self._all(f"INSERT INTO jobs ({names}) VALUES ({marks})", row.values())  # noqa: S608
        return keys

    # ---- what happens

    def update(self, key: Key, **values: str | float | None) -> None:
        """Change columns of a job; a document is signed."""
        if "document" in values:
            values |= {"signature": sign(key[0], str(key[1]), str(values["document"]))}
        names = ", ".join(f"{name} = ?" for name in values)
        self._all(f"UPDATE jobs SET {names} WHERE uuid = ? AND idx = ?", (*values.values(), *key))  # noqa: S608
        if self._known is not None and key in self._known.nodes:
            if set(values) <= _PLAIN:
                node = self._known.nodes[key]
                node.state = str(values.get("state", node.state))
                node.stored = bool(values.get("stored", node.stored))
            else:
                self._known = None

    def reopen(self, keys: Iterable[Key]) -> None:
        """Let jobs run again whose results are lost; what depends on them follows where the new ones are others."""
        with self.transaction():
            for key in keys:
                self._reopen(key)

    def _reopen(self, key: Key) -> None:
        """Let a job wait again, to be run as if for the first time: nothing its folder holds belongs to it."""
        self.update(key, state=WAITING, error=None, attempts=0, folder=None)

    def forget_running(self) -> None:
        """Put jobs that were running when the run was interrupted back in line."""
        self._all("UPDATE jobs SET state = ? WHERE state = ?", (WAITING, RUNNING))
        self._known = None

    def finish(
        self,
        key: Key,
        seconds: float,
        made: Mapping[str, Flow],
        withdraw: Callable[[Key], None],
        *,
        result: str | None = None,
        stop: bool = False,
    ) -> None:
        """Record that a job is done, add the jobs it made (by ``replace``, ``detour``, ``addition``), in one step.

        Everything settled that depends on the job waits again, unless its ``result`` (a digest) is the one it had
        before. When the job ran before, what it made then and makes no more is forgotten; ``withdraw`` takes results
        of such jobs out of the store. ``stop``: leave out everything that waits for it.
        """
        before = self._graph().nodes[key].made
        ((known,),) = self._all("SELECT result FROM jobs WHERE uuid = ? AND idx = ?", key)
        changed = result is None or result != known
        with self.transaction():
            groups = {kind: self._add(flow, again=bool(before)) for kind, flow in made.items()}
            now = [one for group in groups.values() for one in group]
            graph = self._graph()
            for gone in self._no_longer_made(graph, key, set(before) - set(now)):
                # what was a later output of this job would hide the new one; other results harm nobody
                if gone[0] == key[0]:
                    withdraw(gone)
                self._all("DELETE FROM jobs WHERE uuid = ? AND idx = ?", gone)
                self._known = None
            # everything that depends on the job waits for a detour, too
            held = json.dumps(groups.get("detour", []))
            self.update(key, state=DONE, seconds=seconds, error=None, stored=1, result=result)
            if made or before:
                self.update(key, made=json.dumps(now), held_by=held)
            if stop:
                self._stop_children(graph, key)
            elif changed:
                for child in graph.below([key]):
                    node = graph.nodes[child]
                    if child != key and node.state in SETTLED and not node.stopped:
                        self._reopen(child)

    def _no_longer_made(self, graph: _Graph, maker: Key, gone: set[Key]) -> list[Key]:
        """Return, of jobs that one does not make any more, those that nobody else made, with what they made."""
        others = {one for key, node in graph.nodes.items() if key != maker and key not in gone for one in node.made}
        left = [key for key in gone - others if key in graph.nodes]
        return left + [
            deeper for key in left for deeper in self._no_longer_made(graph, key, set(graph.nodes[key].made))
        ]

    def _stop_children(self, graph: _Graph, key: Key) -> None:
        """Skip everything that waits for a job, however far."""
        for child in graph.below([key]):
            if graph.nodes[child].state == WAITING:
                self.update(child, state=SKIPPED, stopped=1, error=f"left out by {graph.nodes[key].name}")

    def end_without_result(self, row: JobRow, state: str, error: str | None, withdraw: Callable[[Key], None]) -> None:
        """Record that a job failed or is left out; a result it had before is taken out of the store."""
        ((stored,),) = self._all("SELECT stored FROM jobs WHERE uuid = ? AND idx = ?", row.key)
        if stored:
            withdraw(row.key)
        self.update(row.key, state=state, error=error, seconds=row.seconds, stored=0, result=None)

    def retry(self, names: Iterable[str] | None = None) -> int:
        """Put failed jobs, and what was left out because of them, back in line; return how many failed ones there were.

        With ``names`` only failed jobs of these names. What is done without their results waits again as soon as those
        are there; a failure that repeats itself costs nothing else.
        """
        wanted = None if names is None else set(names)
        again = [row for row in self.rows(FAILED, asked=True) if wanted is None or row.name in wanted]
        graph = self._graph()
        with self.transaction():
            for row in again:
                # its folder stays: a training goes on from its last checkpoint
                self.update(row.key, state=WAITING, error=None, attempts=0)
            for key in graph.below([row.key for row in again]):
                if graph.nodes[key].state == SKIPPED and not graph.nodes[key].stopped:
                    self._reopen(key)
        return len(again)

    def ready(self) -> Iterator[tuple[JobRow, str | None]]:
        """Yield waiting jobs with nothing left to be done before them, with what they lack if that keeps them out."""
        graph = self._graph()
        blocked = graph.unsettled()
        for row in self.rows(WAITING, asked=True):
            if row.key in blocked:
                continue
            lost = [graph.nodes[key] for key in graph.parents(row.key) if graph.nodes[key].state != DONE]
            if lost and not graph.nodes[row.key].tolerant:
                yield row, f"'{lost[0].name}' {'failed' if lost[0].state == FAILED else 'was left out'}"
            else:
                yield row, None
