"""What a local run knows about its jobs, in one SQLite file that survives kill -9."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import ConfigurationError

if TYPE_CHECKING:
    from jobflow import Flow

WAITING, RUNNING, DONE, FAILED, SKIPPED = "waiting", "running", "done", "failed", "skipped"
SETTLED = (DONE, FAILED, SKIPPED)

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    uuid TEXT NOT NULL, idx INTEGER NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, parents TEXT NOT NULL,
    tolerant INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, folder TEXT, error TEXT,
    seconds REAL, held_by TEXT NOT NULL DEFAULT '[]', position INTEGER NOT NULL, metadata TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (uuid, idx)
);
"""


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
    def key(self) -> tuple[str, int]:
        """Identity within the run."""
        return self.uuid, self.index


COLUMNS = "uuid, idx, name, state, attempts, folder, error, seconds, metadata"


def _row(*columns: Any) -> JobRow:
    *plain, metadata = columns
    return JobRow(*plain, json.loads(metadata))


class RunState:
    """The job table of one run folder.

    Parameters
    ----------
    path
        SQLite file; created when missing.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.executescript(SCHEMA)
            if "metadata" not in {row[1] for row in self.connection.execute("PRAGMA table_info(jobs)")}:
                # a run from before jobs were described
                self.connection.execute("ALTER TABLE jobs ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'")
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"Cannot keep the run in {path}: {error}.", "Choose a writable folder.") from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def add_flow(self, flow: Flow) -> list[tuple[str, int]]:
        """Add the jobs of a flow that are not known yet and return the keys of all of them."""
        from jobflow import OnMissing
        from monty.json import MontyEncoder

        keys = []
        with self.transaction():
            (position,) = self.connection.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()
            for offset, (job, parents) in enumerate(flow.iterflow(), start=1):
                # an output job that replaces its predecessor must not wait for itself
                needed = sorted({parent for parent in parents if parent != job.uuid})
                tolerant = job.config.on_missing_references != OnMissing.ERROR
                self.connection.execute(
                    "INSERT OR IGNORE INTO jobs "
                    "(uuid, idx, name, document, parents, tolerant, state, position, metadata) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        job.uuid,
                        job.index,
                        job.name,
                        json.dumps(job, cls=MontyEncoder),
                        json.dumps(needed),
                        int(tolerant),
                        WAITING,
                        position + offset,
                        json.dumps(job.metadata),
                    ),
                )
                keys.append((job.uuid, job.index))
        return keys

    def transaction(self) -> _Transaction:
        """Group writes so that all or none of them survive."""
        return _Transaction(self.connection)

    def rows(self, *states: str) -> list[JobRow]:
        """Return jobs in the order they were added, all or those in some states."""
        where = f"WHERE state IN ({','.join('?' * len(states))})" if states else ""
        query = f"SELECT {COLUMNS} FROM jobs {where} ORDER BY position"  # noqa: S608
        return [_row(*columns) for columns in self.connection.execute(query, states)]

    def document(self, key: tuple[str, int]) -> str:
        """Return a job as JSON."""
        (found,) = self.connection.execute("SELECT document FROM jobs WHERE uuid = ? AND idx = ?", key).fetchone()
        return str(found)

    def update(self, key: tuple[str, int], **values: str | float | None) -> None:
        """Change columns of a job."""
        names = ", ".join(f"{name} = ?" for name in values)
        self.connection.execute(
            f"UPDATE jobs SET {names} WHERE uuid = ? AND idx = ?",  # noqa: S608
            (*values.values(), *key),
        )

    def hold(self, key: tuple[str, int], by: Iterable[tuple[str, int]]) -> None:
        """Make everything that depends on a job wait for other jobs too (a detour)."""
        self.update(key, held_by=json.dumps([list(item) for item in by]))

    def forget_running(self) -> int:
        """Put jobs that were running when the run was interrupted back in line; return how many."""
        cursor = self.connection.execute("UPDATE jobs SET state = ? WHERE state = ?", (WAITING, RUNNING))
        return cursor.rowcount

    def retry(self, names: Iterable[str] | None = None) -> int:
        """Put failed jobs and what was skipped because of them back in line; return how many failed ones there were.

        Parameters
        ----------
        names
            Only failed jobs with these names; skipped jobs return in any case.
        """
        chosen = [row for row in self.rows(FAILED) if names is None or row.name in set(names)]
        with self.transaction():
            for row in [*chosen, *(self.rows(SKIPPED) if chosen else [])]:
                self.update(row.key, state=WAITING, error=None, attempts=0)
        return len(chosen)

    def ready(self) -> Iterator[tuple[JobRow, bool]]:
        """Yield waiting jobs whose parents are settled, with whether they may run (else: to be skipped)."""
        states = {
            (uuid, idx): state for uuid, idx, state in self.connection.execute("SELECT uuid, idx, state FROM jobs")
        }
        by_uuid: dict[str, list[tuple[str, int]]] = {}
        for key in states:
            by_uuid.setdefault(key[0], []).append(key)
        holds = {
            (uuid, idx): [tuple(item) for item in json.loads(held)]
            for uuid, idx, held in self.connection.execute("SELECT uuid, idx, held_by FROM jobs WHERE held_by != '[]'")
        }
        query = f"SELECT {COLUMNS}, parents, tolerant FROM jobs WHERE state = ? ORDER BY position"  # noqa: S608
        for *columns, parents, tolerant in self.connection.execute(query, (WAITING,)).fetchall():
            keys = [key for parent in json.loads(parents) for key in by_uuid.get(parent, [])]
            everything = keys + [held for key in keys for held in holds.get(key, [])]
            if any(states[key] not in SETTLED for key in everything):
                continue
            good = all(states[key] == DONE for key in keys)
            yield _row(*columns), good or bool(tolerant)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on an exception."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self.connection.execute("COMMIT" if kind is None else "ROLLBACK")


def now() -> float:
    """Return the time in seconds, for durations."""
    return time.monotonic()
