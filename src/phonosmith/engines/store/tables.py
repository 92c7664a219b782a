"""The two tables of one collection and its indices: every SQL statement of the embedded store.

Heads are small and scanned as a whole when no index helps; bodies lie in a table of their own so that a scan never
reads them. The only text put into SQL is the collection's name, which holds nothing but letters, digits and ``_-.``,
and the expressions of ``sqlite_query``; every value travels as an argument.
"""

# ruff: noqa: S608

from __future__ import annotations

import re
import sqlite3
from typing import Any

from phonosmith.core.errors import ConfigurationError
from phonosmith.engines.store.query import Clause, column, json_path, path_of

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_UNIQUE = ":unique"


class Tables:
    """Statements for one collection.

    Parameters
    ----------
    collection
        Name of the collection.
    """

    def __init__(self, collection: str) -> None:
        if not _NAME.fullmatch(collection):
            raise ConfigurationError(
                f"Collection name {collection!r} is not usable.", "Use letters, digits, '_', '-' and '.'."
            )
        self.collection = collection
        self._heads = f'"{collection}:heads"'
        self._bodies = f'"{collection}:bodies"'

    def exist(self, raw: sqlite3.Connection) -> bool:
        """Tell whether the tables are there."""
        name = self._heads[1:-1]
        return bool(raw.execute("SELECT count(*) FROM sqlite_master WHERE name=?", (name,)).fetchone()[0])

    def make(self, raw: sqlite3.Connection) -> None:
        """Make the tables where they are missing."""
        raw.execute(
            f"CREATE TABLE IF NOT EXISTS {self._heads}"
            "(id INTEGER PRIMARY KEY, oid TEXT NOT NULL UNIQUE, head TEXT NOT NULL)"
        )
        raw.execute(f"CREATE TABLE IF NOT EXISTS {self._bodies}(id INTEGER PRIMARY KEY, body BLOB NOT NULL)")

    def count(self, raw: sqlite3.Connection) -> int:
        """Count all documents."""
        return int(raw.execute(f"SELECT count(*) FROM {self._heads}").fetchone()[0])

    def candidates(self, raw: sqlite3.Connection, where: Clause) -> sqlite3.Cursor:
        """Return (row, head) of every document that satisfies a condition, in the order of insertion."""
        return raw.execute(f"SELECT id, head FROM {self._heads} WHERE {where[0]} ORDER BY id", where[1])

    def plan(self, raw: sqlite3.Connection, where: Clause) -> str:
        """Return how SQLite would look for the candidates."""
        query = f"EXPLAIN QUERY PLAN SELECT id, head FROM {self._heads} WHERE {where[0]} ORDER BY id"
        return "; ".join(str(row[3]) for row in raw.execute(query, where[1]))

    def body(self, raw: sqlite3.Connection, row: int) -> bytes:
        """Return one body."""
        return bytes(raw.execute(f"SELECT body FROM {self._bodies} WHERE id=?", (row,)).fetchone()[0])

    def bodies(self, raw: sqlite3.Connection, rows: list[int]) -> dict[int, bytes]:
        """Return the bodies of those rows that still exist."""
        marks = ",".join("?" * len(rows))
        return dict(raw.execute(f"SELECT id, body FROM {self._bodies} WHERE id IN ({marks})", rows))

    def page(self, raw: sqlite3.Connection, after: int, size: int, skip: int) -> list[tuple[int, bytes]]:
        """Return the next bodies after a row."""
        query = f"SELECT id, body FROM {self._bodies} WHERE id>? ORDER BY id LIMIT ? OFFSET ?"
        return raw.execute(query, (after, size, skip)).fetchall()

    def insert(self, raw: sqlite3.Connection, oid: str, head: str, body: bytes) -> None:
        """Add a document."""
        cursor = raw.execute(f"INSERT INTO {self._heads}(oid, head) VALUES(?, ?)", (oid, head))
        raw.execute(f"INSERT INTO {self._bodies}(id, body) VALUES(?, ?)", (cursor.lastrowid, body))

    def replace(self, raw: sqlite3.Connection, row: int, head: str, body: bytes) -> None:
        """Put a document in the place of another."""
        raw.execute(f"UPDATE {self._heads} SET head=? WHERE id=?", (head, row))
        raw.execute(f"UPDATE {self._bodies} SET body=? WHERE id=?", (body, row))

    def delete(self, raw: sqlite3.Connection, rows: list[int]) -> None:
        """Remove documents."""
        marks = [(row,) for row in rows]
        raw.executemany(f"DELETE FROM {self._heads} WHERE id=?", marks)
        raw.executemany(f"DELETE FROM {self._bodies} WHERE id=?", marks)

    def indices(self, raw: sqlite3.Connection) -> set[str]:
        """Return the dotted keys that have an index."""
        prefix = f"{self.collection}:index:"
        rows = raw.execute("SELECT name FROM sqlite_master WHERE type='index' AND tbl_name=?", (self._heads[1:-1],))
        return {name.removeprefix(prefix) for (name,) in rows if name.startswith(prefix) and not name.endswith(_UNIQUE)}

    def make_index(self, raw: sqlite3.Connection, key: str, *, unique: bool = False) -> bool:
        """Make an index on the expression of a dotted key; False for a key SQLite cannot address."""
        expression = column(key)
        if expression is None:
            return False
        name = f"{self.collection}:index:{key}"
        # a job's outputs are asked for by uuid and index together
        more: list[Any] = [column("index")] if key == "uuid" else []
        raw.execute(f'CREATE INDEX IF NOT EXISTS "{name}" ON {self._heads}({",".join([expression, *more])})')
        if unique:
            # true is not 1, and a missing field counts as null; what a mark hides cannot be told apart
            is_bool = f"ifnull(json_type(head,{json_path(path_of(key))}) IN ('true','false'),0)"
            raw.execute(
                f'CREATE UNIQUE INDEX IF NOT EXISTS "{name}{_UNIQUE}" ON {self._heads}'
                f"(ifnull({expression},x'00'),{is_bool}) WHERE ({expression}) IS NOT x''"
            )
        return True
