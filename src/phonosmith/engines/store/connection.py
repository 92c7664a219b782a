"""One SQLite file, opened so that several processes and threads may write to it and none loses a document.

Write-ahead logging lets readers work while somebody writes. With ``synchronous="NORMAL"`` a transaction is in the
operating system's hands when ``update`` returns: killing the process costs nothing that was acknowledged. A power
failure or a crash of the operating system may cost the last transactions (the file stays consistent); ``"FULL"``
waits for the disk at every transaction and closes that gap for a few milliseconds each.

No open connection ever crosses a fork: SQLite's locks belong to a process, and a connection inherited by a child can
make either side believe in locks it does not hold. All connections are closed before a fork and reopened by whoever
needs one.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from phonosmith.core.errors import ConfigurationError

Synchronous = Literal["NORMAL", "FULL"]

# marks a file as ours, so that nobody's other database is ever written to
APPLICATION_ID = 0x50484E53
FORMAT_VERSION = 1
_PAGE_SIZE = 8192
_CACHE_KIB = 65_536


class Connection:
    """The connection of one store to its file; safe to use from several threads. ``timeout``: wait for a writer, s."""

    def __init__(self, path: str | Path, timeout: float, synchronous: Synchronous) -> None:
        if synchronous not in get_args(Synchronous):
            raise ConfigurationError(
                f"synchronous={synchronous!r} is not known.", f"Use one of {', '.join(get_args(Synchronous))}."
            )
        self.path = Path(path)
        self.timeout = timeout
        self.synchronous = synchronous
        self.lock = threading.RLock()
        self._raw: sqlite3.Connection | None = None
        _ALL.add(self)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time."""
        with self.lock, self._explained():
            if self._raw is None:
                self._raw = self._open()
            yield self._raw

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction that holds the file's only write lock; all of it is kept or none."""
        with self.reading() as raw:
            raw.execute("BEGIN IMMEDIATE")
            try:
                yield raw
                raw.execute("COMMIT")
            except BaseException:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close; the next use opens again."""
        with self.lock:
            if self._raw is not None:
                self._raw.close()
                self._raw = None

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The folder of the store {self.path} cannot be made: {error.strerror}.", "Choose a writable place."
            ) from error
        # the store's own lock keeps threads apart, so that SQLite need not insist on one
        raw = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def _prepare(self, raw: sqlite3.Connection) -> None:
        raw.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        # in this order: whoever makes a store marks the file before making the first table
        (n_tables,) = raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = raw.execute("PRAGMA application_id").fetchone()
        if application not in (0, APPLICATION_ID) or (application == 0 and n_tables):
            raise ConfigurationError(
                f"{self.path} is an SQLite database of something else.", "Give the store a file of its own."
            )
        if application == 0:
            raw.execute(f"PRAGMA page_size={_PAGE_SIZE}")
        self._enter_wal(raw)
        raw.execute(f"PRAGMA synchronous={self.synchronous}")
        if application == 0:
            marking = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT_VERSION}"
            raw.executescript(f"BEGIN IMMEDIATE; {marking}; COMMIT")
        (version,) = raw.execute("PRAGMA user_version").fetchone()
        if version > FORMAT_VERSION:
            raise ConfigurationError(
                f"{self.path} was written by a newer phonosmith (store format {version}).", "Upgrade phonosmith."
            )

    def _enter_wal(self, raw: sqlite3.Connection) -> None:
        # SQLite does not wait for its busy timeout when two processes switch a new file at the same moment
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                (mode,) = raw.execute("PRAGMA journal_mode=WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise ConfigurationError(
                f"{self.path} lies on a file system without shared memory (journal mode {mode!r}).",
                "Put the store on a local disk, or use a MongoDB job store for several machines.",
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            text = str(error)
            advice = next(said for words, said in _ADVICE.items() if re.search(words, text))
            raise ConfigurationError(f"Job store {self.path}: {text}.", advice.format(timeout=self.timeout)) from error


_ADVICE = {
    "locked": "Another process wrote for more than {timeout:g} s; raise the store's timeout or look for a stuck "
    "writer.",
    "not a database|malformed|encrypted": "The file is damaged or not a job store; restore a copy or choose "
    "another file. The store of a run on this machine can be moved away: 'phonosmith run' brings its documents back.",
    "readonly|unable to open": "Make the file and its folder writable, or choose another place.",
    "full|disk I/O": "Free disk space (the transaction was undone, earlier documents are safe).",
    "": "See https://sqlite.org/rescode.html.",
}
_ALL: weakref.WeakSet[Connection] = weakref.WeakSet()
_HELD: list[Connection] = []


def _before_fork() -> None:
    for connection in list(_ALL):
        connection.lock.acquire()
        _HELD.append(connection)
        connection.close()


def _after_fork() -> None:
    while _HELD:
        _HELD.pop().lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
