"""The embedded job store: a maggma ``Store`` on one SQLite file, for documents and blobs, without any server.

Heads are small and scanned as a whole when no index helps; bodies lie in a table of their own so that a scan never
reads them. The only text put into SQL is the collection's name, which holds nothing but letters, digits and ``_-.``,
and the expressions of the module ``query``; every value travels as an argument.
"""

# ruff: noqa: S608

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
from bson.errors import BSONError
from bson.objectid import ObjectId
from maggma.core import Store, StoreError
from monty.json import jsanitize
from pymongo.errors import DuplicateKeyError, WriteError

from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.engines.store import results
from phonosmith.engines.store.connection import Connection, Synchronous
from phonosmith.engines.store.documents import Document, decode_body, encode_head, normal_criteria, path_of, shown
from phonosmith.engines.store.query import Clause, column, json_path, paths_seen, where

if TYPE_CHECKING:
    from jobflow import JobStore

# fields whose value picks about one document of a job store
_IDENTIFYING = ("_id", "uuid", "blob_uuid", "job_uuid")
_INDEXED = ("uuid", "name", "blob_uuid", "job_uuid")
_MOST_METADATA_INDICES = 16
_PAGE = 64


@dataclass
class _Match:
    """A document that matched: its row, what it is sorted by, and the projected document when the head sufficed."""

    row: int
    order: list[tuple[int, Any]]
    document: Document | None


class SQLiteStore(Store):
    """A maggma store in one SQLite file: crash-safe, for many threads and processes of one machine.

    Everything maggma asks of a store works as with MongoDB (same operators, same types: dates come back as naive UTC
    with milliseconds, ObjectIds and bytes as they were). One ``update`` is one transaction: all of its documents are
    kept or none. A document given to a finished ``update`` survives ``kill -9``; see the module ``connection`` for
    power failures. A query sees each document whole; one that is rewritten while the query is read appears in its old
    or new form.

    Parameters
    ----------
    path
        The SQLite file; made when missing. Local disks only: SQLite's locks do not hold on network file systems.
    collection_name
        Several stores share a file under different names.
    synchronous
        "NORMAL" survives a killed process, "FULL" a power failure as well (slower).
    timeout
        How long to wait for another writer, s.
    kwargs
        Of maggma's ``Store`` (last_updated_field, last_updated_type, validator).
    """

    def __init__(
        self,
        path: str | Path,
        collection_name: str = "documents",
        key: str = "task_id",
        synchronous: Synchronous = "NORMAL",
        timeout: float = 60.0,
        **kwargs: Any,
    ) -> None:
        if str(path) == ":memory:" or not str(path):
            raise ConfigurationError("SQLiteStore needs a file.", "Use maggma's MemoryStore for a store in memory.")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", collection_name):
            raise ConfigurationError(
                f"Collection name {collection_name!r} is not usable.", "Use letters, digits, '_', '-' and '.'."
            )
        # absolute, because jobs change the working directory and stores travel to other processes
        self.path = str(Path(path).expanduser().absolute())
        self.collection_name = collection_name
        self.synchronous = synchronous
        self.timeout = timeout
        self.kwargs = kwargs
        self._connection = Connection(self.path, timeout, synchronous)
        self._connected = False
        self._indices: set[str] = set()
        self._heads, self._bodies = f'"{collection_name}:heads"', f'"{collection_name}:bodies"'
        super().__init__(key=key, **kwargs)

    @property
    def name(self) -> str:
        """Return a string that represents this store."""
        return f"sqlite://{self.path}/{self.collection_name}"

    @property
    def _collection(self) -> SQLiteStore:
        """The store itself: there is no pymongo collection below it."""
        self._require()
        return self

    def _require(self) -> Connection:
        if not self._connected:
            raise StoreError("Must connect SQLiteStore before attempting to use it")
        return self._connection

    def connect(self, force_reset: bool = False) -> None:
        """Open the file, making tables and indices where they are missing."""
        if self._connected and not force_reset:
            return
        self._connection.close()
        needed = {self.key, *_INDEXED}
        with self._connection.reading() as raw:
            self._indices = self._known_indices(raw)
        # indices are made after both tables in one transaction: where they are, everything is
        if not needed <= self._indices:
            with self._connection.writing() as raw:
                raw.execute(
                    f"CREATE TABLE IF NOT EXISTS {self._heads}"
                    "(id INTEGER PRIMARY KEY, oid TEXT NOT NULL UNIQUE, head TEXT NOT NULL)"
                )
                raw.execute(f"CREATE TABLE IF NOT EXISTS {self._bodies}(id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
                for key in sorted(needed):
                    self._make_index(raw, key)
                self._indices = self._known_indices(raw)
        self._connected = True

    def close(self) -> None:
        """Close the file; ``connect`` opens it again."""
        self._connection.close()
        self._connected = False

    # ---- reading

    def count(self, criteria: Document | None = None, hint: dict[str, Any] | None = None) -> int:  # noqa: ARG002
        """Count the documents that match."""
        if criteria:
            return sum(1 for _ in self._matches(criteria))
        with self._require().reading() as raw:
            return int(raw.execute(f"SELECT count(*) FROM {self._heads}").fetchone()[0])

    def query(
        self,
        criteria: Document | None = None,
        properties: dict[str, Any] | list[str] | None = None,
        sort: dict[str, Any] | None = None,
        hint: dict[str, Any] | None = None,  # noqa: ARG002
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[Document]:
        """Yield the documents that match; arguments as for maggma's MongoStore, ``hint`` is left to SQLite."""
        projection = results.checked_projection(properties)
        order = results.sort_order(sort)
        end = skip + limit if limit else None
        matches = list(islice(self._matches(criteria or {}, order, projection), None if order else end))
        # stable, so that sorting by the last field first leaves ties to the fields before it
        for place, (_, direction) in reversed(list(enumerate(order))):
            matches.sort(key=lambda match: match.order[place], reverse=direction < 0)
        matches = matches[skip:end]
        for start in range(0, len(matches), _PAGE):
            page = matches[start : start + _PAGE]
            bodies = self._bodies_of([match.row for match in page if match.document is None])
            for match in page:
                if match.document is not None:
                    yield match.document
                elif match.row in bodies:
                    yield results.project(decode_body(bodies[match.row]), projection)

    def query_one(self, criteria: Any = None, properties: Any = None, sort: Any = None) -> Document | None:
        """Return the first document that `query` would, looking at no more than it takes to find it."""
        return next(self.query(criteria, properties, sort, limit=1), None)

    def distinct(self, field: str, criteria: Document | None = None, all_exist: bool = False) -> list[Any]:  # noqa: ARG002
        """Return every value of a field once, in the order met; arrays count by their elements."""
        documents = self.query(criteria, properties={field: 1, "_id": int(field == "_id")})
        return results.distinct_values(documents, field)

    def groupby(
        self,
        keys: list[str] | str,
        criteria: Document | None = None,
        properties: dict[str, Any] | list[str] | None = None,
        sort: dict[str, Any] | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[Document, list[Document]]]:
        """Yield (values of the keys, documents) for each combination of values; who lacks a key is left out.

        ``sort``, ``skip`` and ``limit`` act on the documents before they are grouped.
        """
        names = [keys] if isinstance(keys, str) else list(keys)
        wanted = [*properties, *names] if properties else None
        yield from results.grouped(self.query(criteria, wanted, sort=sort, skip=skip, limit=limit), names)

    def _bodies_of(self, rows: list[int]) -> dict[int, bytes]:
        """Return the bodies of those rows that still exist."""
        if not rows:
            return {}
        with self._require().reading() as raw:
            marks = ",".join("?" * len(rows))
            return dict(raw.execute(f"SELECT id, body FROM {self._bodies} WHERE id IN ({marks})", rows))

    def _candidates(self, raw: sqlite3.Connection, clause: Clause) -> sqlite3.Cursor:
        """Return (row, head) of every document that satisfies a condition, in the order of insertion."""
        return raw.execute(f"SELECT id, head FROM {self._heads} WHERE {clause[0]} ORDER BY id", clause[1])

    def _matches(
        self,
        criteria: Mapping[str, Any],
        order: Sequence[tuple[str, int]] = (),
        projection: Mapping[str, Any] | None = None,
    ) -> Iterator[_Match]:
        """Yield what matches, in the order of insertion.

        SQL narrows the search, the head decides where it shows all the criteria look at, the body elsewhere.
        """
        criteria = normal_criteria(criteria)
        seen = paths_seen(criteria)
        if seen is not None:
            seen += [path_of(key) for key, _ in order]
        kept = None
        if projection and results.is_inclusion(projection):
            kept = [path_of(key) for key in {**projection, "_id": 1}]
        with self._require().reading() as raw:
            for row, text in self._candidates(raw, where(criteria, (self.key, *_IDENTIFYING))):
                head = json.loads(text) if seen or kept else {}
                document = shown(head, seen) if seen is not None else None
                if document is None:
                    document = decode_body(self._bodies_of([row])[row])
                if results.matches(criteria, document):
                    part = None
                    if kept is not None:
                        part = shown(head, kept) if document is head else document
                    projected = None if part is None else results.project(part, projection or {})
                    yield _Match(row, results.sort_values(document, order), projected)

    # ---- writing

    def update(self, docs: list[Document] | Document, key: list[str] | str | None = None) -> None:
        """Insert documents, or replace those that agree in the key (the store's own by default), in one transaction.

        What cannot be stored (an integer beyond 64 bits, a key with a null byte) is an `InputError`.
        """
        keys = [key] if isinstance(key, str) else list(key or [self.key])
        items: Iterable[Document] = docs if isinstance(docs, list) else [docs]
        clean = [jsanitize(item, allow_bson=True, recursive_msonable=True) for item in items]
        prepared = [({name: item[name] for name in keys}, item) for item in clean if self._is_valid(item)]
        if not prepared:
            return
        self._index_metadata([item for _, item in prepared])
        with self._require().writing() as raw:
            for search, item in prepared:
                self._replace(raw, search, item)

    def _is_valid(self, document: Document) -> bool:
        if self.validator is None or self.validator.is_valid(document):
            return True
        errors = self.validator.validation_errors(document)
        if self.validator.strict:
            raise ValueError(errors)
        self.logger.error(errors)
        return False

    def _replace(self, raw: sqlite3.Connection, search: Document, document: Document) -> None:
        existing = next(self._matches(search, projection={"_id": 1}), None)
        if existing is None:
            document = {"_id": ObjectId(), **document}
        else:
            known = existing.document or decode_body(self._bodies_of([existing.row])[existing.row])
            if document.get("_id", known["_id"]) != known["_id"]:
                raise WriteError(f"The _id {known['_id']!r} of the document with {search} cannot be changed.", 66)
            document = {"_id": known["_id"], **document}
        try:
            body = bson.encode(document)
        except (BSONError, OverflowError) as error:
            raise InputError(
                f"The document with {search} cannot be stored: {error}.",
                "Keep to what MongoDB can hold, e.g. integers of 64 bits; put large arrays into artefacts.",
            ) from error
        head = encode_head(document)
        try:
            if existing is None:
                oid = repr(results.identity(document["_id"]))
                row = raw.execute(f"INSERT INTO {self._heads}(oid, head) VALUES(?, ?)", (oid, head)).lastrowid
                raw.execute(f"INSERT INTO {self._bodies}(id, body) VALUES(?, ?)", (row, body))
            else:
                raw.execute(f"UPDATE {self._heads} SET head=? WHERE id=?", (head, existing.row))
                raw.execute(f"UPDATE {self._bodies} SET body=? WHERE id=?", (body, existing.row))
        except sqlite3.IntegrityError as error:
            raise DuplicateKeyError(f"{self.name}: {error} (document with {search})", 11000) from error

    def remove_docs(self, criteria: Document) -> None:
        """Remove the documents that match."""
        with self._require().writing() as raw:
            rows = [(match.row,) for match in self._matches(criteria or {})]
            for table in (self._heads, self._bodies):
                raw.executemany(f"DELETE FROM {table} WHERE id=?", rows)

    # ---- indices

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Make an index on a dotted key and tell whether it exists now.

        A unique index holds for scalars; like MongoDB's it counts a missing field as null.
        """
        if key in self._indices and not unique:
            return True
        try:
            with self._require().writing() as raw:
                made = self._make_index(raw, key, unique=unique)
        except sqlite3.IntegrityError:
            return False
        if made:
            self._indices.add(key)
        return made

    def _known_indices(self, raw: sqlite3.Connection) -> set[str]:
        """Return the dotted keys that have an index."""
        prefix = f"{self.collection_name}:index:"
        names = raw.execute("SELECT name FROM sqlite_master WHERE type='index' AND tbl_name=?", (self._heads[1:-1],))
        return {
            name.removeprefix(prefix) for (name,) in names if name.startswith(prefix) and not name.endswith(":unique")
        }

    def _make_index(self, raw: sqlite3.Connection, key: str, *, unique: bool = False) -> bool:
        """Make an index on the expression of a dotted key; False for a key SQLite cannot address."""
        expression = column(key)
        if expression is None:
            return False
        name = f"{self.collection_name}:index:{key}"
        # a job's outputs are asked for by uuid and index together
        columns = f"{expression},{column('index')}" if key == "uuid" else expression
        raw.execute(f'CREATE INDEX IF NOT EXISTS "{name}" ON {self._heads}({columns})')
        if unique:
            # true is not 1, and a missing field counts as null; what a mark hides cannot be told apart
            is_bool = f"ifnull(json_type(head,{json_path(path_of(key))}) IN ('true','false'),0)"
            raw.execute(
                f'CREATE UNIQUE INDEX IF NOT EXISTS "{name}:unique" ON {self._heads}'
                f"(ifnull({expression},x'00'),{is_bool}) WHERE ({expression}) IS NOT x''"
            )
        return True

    def _index_metadata(self, documents: list[Document]) -> None:
        """Make an index for each scalar key of ``metadata`` that is new, up to a bound."""
        kept = [item["metadata"] for item in documents if isinstance(item.get("metadata"), dict)]
        keys = {f"metadata.{name}": 1 for item in kept for name, value in item.items() if not isinstance(value, dict)}
        new = [key for key in keys if key not in self._indices]
        room = _MOST_METADATA_INDICES - sum(index.startswith("metadata.") for index in self._indices)
        for key in new[: max(room, 0)]:
            self.ensure_index(key)

    # ---- identity

    def _identity(self) -> tuple[str, ...]:
        return self.path, self.collection_name, self.last_updated_field

    def __hash__(self) -> int:
        return hash(self._identity())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SQLiteStore) and self._identity() == other._identity()


def open_embedded_jobstore(path: str | Path, synchronous: Synchronous = "NORMAL") -> JobStore:
    """Return a connected jobflow ``JobStore`` on one SQLite file, with the additional store ``data`` for large outputs.

    ``path`` is made when missing; ``synchronous`` as for `SQLiteStore`.
    """
    from jobflow import JobStore

    store = JobStore(
        SQLiteStore(path, "outputs", key="uuid", synchronous=synchronous),
        additional_stores={"data": SQLiteStore(path, "data", key="blob_uuid", synchronous=synchronous)},
    )
    store.connect()
    return store
