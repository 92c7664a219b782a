"""What a local run knows about its jobs, in one SQLite file that survives kill -9."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    metadata TEXT NOT NULL DEFAULT '{}', signature TEXT NOT NULL DEFAULT '',
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
    def key(self) -> Key:
        """Identity within the run."""
        return self.uuid, self.index


COLUMNS = "uuid, idx, name, state, attempts, folder, error, seconds, metadata"


def _row(*columns: Any) -> JobRow:
    return JobRow(*(*columns[:-1], json.loads(columns[-1])))


class RunState:
    """The job table of one run folder, in an SQLite file that is made when missing."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.executescript(SCHEMA)
            known = {row[1] for row in self.connection.execute("PRAGMA table_info(jobs)")}
            # a run from before jobs were described, or signed
            for column, empty in (("metadata", "{}"), ("signature", "")):
                if column not in known:
                    self.connection.execute(f"ALTER TABLE jobs ADD COLUMN {column} TEXT NOT NULL DEFAULT '{empty}'")
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"Cannot keep the run in {path}: {error}.", "Choose a writable folder.") from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def add_flow(self, flow: Flow) -> list[Key]:
        """Add the jobs of a flow that are not known yet and return the keys of all of them."""
        from jobflow import OnMissing
        from monty.json import MontyEncoder

        keys = []
        with self.transaction():
            (position,) = self.connection.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()
            for offset, (job, parents) in enumerate(flow.iterflow(), start=1):
                document = json.dumps(job, cls=MontyEncoder)
                # an output job that replaces its predecessor must not wait for itself
                needed = sorted({parent for parent in parents if parent != job.uuid})
                row = {
                    "uuid": job.uuid,
                    "idx": job.index,
                    "name": job.name,
                    "document": document,
                    "parents": json.dumps(needed),
                    "tolerant": job.config.on_missing_references != OnMissing.ERROR,
                    "state": WAITING,
                    "position": position + offset,
                    "metadata": json.dumps(job.metadata),
                    "signature": sign(job.uuid, str(job.index), document),
                }
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                query = f"INSERT OR IGNORE INTO jobs ({names}) VALUES ({marks})"  # noqa: S608
                self.connection.execute(query, tuple(row.values()))
                keys.append((job.uuid, job.index))
        return keys

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes so that all or none of them survive."""
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            yield

    def rows(self, *states: str) -> list[JobRow]:
        """Return jobs in the order they were added, all or those in some states."""
        where = f"WHERE state IN ({','.join('?' * len(states))})" if states else ""
        query = f"SELECT {COLUMNS} FROM jobs {where} ORDER BY position"  # noqa: S608
        return [_row(*columns) for columns in self.connection.execute(query, states)]

    def document(self, key: Key) -> str:
        """Return a job as JSON; one that this user has not signed is refused."""
        query = "SELECT name, document, signature FROM jobs WHERE uuid = ? AND idx = ?"
        name, document, signature = self.connection.execute(query, key).fetchone()
        if not is_signed(signature, key[0], str(key[1]), document):
            raise self._foreign([name])
        return str(document)

    def require_own(self, *, trust: bool = False) -> None:
        """Refuse a run with jobs this user has not signed, because jobs are code; with ``trust`` sign them all."""
        query = "SELECT uuid, idx, name, document, signature FROM jobs ORDER BY position"
        foreign = [
            (uuid, index, name)
            for uuid, index, name, document, signature in self.connection.execute(query)
            if not is_signed(signature, uuid, str(index), document)
        ]
        if foreign and not trust:
            raise self._foreign([name for _, _, name in foreign])
        with self.transaction():
            for uuid, index, _ in foreign:
                where = "WHERE uuid = ? AND idx = ?"
                (document,) = self.connection.execute(f"SELECT document FROM jobs {where}", (uuid, index)).fetchone()  # noqa: S608
                self.update((uuid, index), signature=sign(uuid, str(index), document))

    def _foreign(self, names: list[str]) -> ConfigurationError:
        (path,) = (row[2] for row in self.connection.execute("PRAGMA database_list") if row[1] == "main")
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return ConfigurationError(
            f"{path} holds jobs that you have not written here, or that were altered since: {names[0]}{others}.",
            "A job is code that runs as you. If you trust whoever made this folder, say --trust; "
            "else take the campaign file alone and run it into a folder of your own.",
        )

    def update(self, key: Key, **values: str | float | None) -> None:
        """Change columns of a job."""
        names = ", ".join(f"{name} = ?" for name in values)
        query = f"UPDATE jobs SET {names} WHERE uuid = ? AND idx = ?"  # noqa: S608
        self.connection.execute(query, (*values.values(), *key))

    def forget_running(self) -> None:
        """Put jobs that were running when the run was interrupted back in line."""
        self.connection.execute("UPDATE jobs SET state = ? WHERE state = ?", (WAITING, RUNNING))

    def skip_children(self, parent: str) -> None:
        """Skip everything that waits for a job, however far."""
        stopped = {parent}
        query = "SELECT uuid, idx, parents FROM jobs WHERE state = ? ORDER BY position"
        for uuid, index, parents in self.connection.execute(query, (WAITING,)).fetchall():
            if stopped.intersection(json.loads(parents)):
                stopped.add(uuid)
                self.update((uuid, index), state=SKIPPED)

    def retry(self, names: Iterable[str] | None = None) -> int:
        """Put failed jobs and what was skipped because of them back in line; return how many failed ones there were.

        With ``names`` only failed jobs of these names; skipped jobs return in any case.
        """
        again = [row for row in self.rows(FAILED) if names is None or row.name in set(names)]
        with self.transaction():
            for row in [*again, *(self.rows(SKIPPED) if again else [])]:
                self.update(row.key, state=WAITING, error=None, attempts=0)
        return len(again)

    def ready(self) -> Iterator[tuple[JobRow, bool]]:
        """Yield waiting jobs whose parents are settled, with whether they may run (else: to be skipped)."""
        states: dict[Key, str] = {}
        by_uuid: dict[str, list[Key]] = {}
        holds: dict[Key, list[Key]] = {}
        for uuid, index, state, held in self.connection.execute("SELECT uuid, idx, state, held_by FROM jobs"):
            states[uuid, index] = state
            by_uuid.setdefault(uuid, []).append((uuid, index))
            holds[uuid, index] = [(other, number) for other, number in json.loads(held)]
        query = f"SELECT {COLUMNS}, parents, tolerant FROM jobs WHERE state = ? ORDER BY position"  # noqa: S608
        for *columns, parents, tolerant in self.connection.execute(query, (WAITING,)).fetchall():
            keys = [key for parent in json.loads(parents) for key in by_uuid.get(parent, [])]
            everything = keys + [held for key in keys for held in holds[key]]
            if any(states[key] not in SETTLED for key in everything):
                continue
            good = all(states[key] == DONE for key in keys)
            yield _row(*columns), good or bool(tolerant)
