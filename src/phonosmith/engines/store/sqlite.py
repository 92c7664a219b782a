"""The embedded job store: a maggma ``Store`` on one SQLite file, for documents and blobs, without any server."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson.errors import BSONError
from bson.objectid import ObjectId
from maggma.core import Store, StoreError
from monty.json import jsanitize
from pymongo.errors import DuplicateKeyError, WriteError

from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.engines.store import documents as sqlite_documents
from phonosmith.engines.store import query as sqlite_query
from phonosmith.engines.store import results as mongo_results
from phonosmith.engines.store.connection import Connection, Synchronous
from phonosmith.engines.store.tables import Tables

if TYPE_CHECKING:
    from jobflow import JobStore

# fields whose value picks about one document of a job store
_IDENTIFYING = ("_id", "uuid", "blob_uuid", "job_uuid")
_INDEXED = ("uuid", "name", "blob_uuid", "job_uuid")
_MOST_METADATA_INDICES = 16
_PAGE = 64


@dataclass
class _Found:
    """A document that matched: its row, what it is sorted by, and the projected document when the head sufficed."""

    row: int
    order: list[tuple[int, Any]] = field(default_factory=list)
    document: dict[str, Any] | None = None


def _value_at(place: int, item: _Found) -> tuple[int, Any]:
    return item.order[place]


class SQLiteStore(Store):
    """A maggma store in one SQLite file: crash-safe, for many threads and processes of one machine.

    Everything maggma asks of a store works as with MongoDB (same operators, same types: dates come back as naive UTC
    with milliseconds, ObjectIds and bytes as they were). One ``update`` is one transaction: all of its documents are
    kept or none. A document given to a finished ``update`` survives ``kill -9``; see ``sqlite_connection`` for power
    failures. A query sees each document whole; one that is rewritten while the query is read appears in its old or
    new form.

    Parameters
    ----------
    path
        The SQLite file; made when missing. Local disks only: SQLite's locks do not hold on network file systems.
    collection_name
        Several stores share a file under different names.
    key
        Main key of the documents.
    synchronous
        "NORMAL" survives a killed process, "FULL" a power failure as well (slower).
    timeout
        How long to wait for another writer, s.
    kwargs
        Passed to maggma's ``Store`` (last_updated_field, last_updated_type, validator).
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
        # absolute, because jobs change the working directory and stores travel to other processes
        self.path = str(Path(path).expanduser().absolute())
        self.collection_name = collection_name
        self.synchronous = synchronous
        self.timeout = timeout
        self.kwargs = kwargs
        self._connection = Connection(self.path, timeout, synchronous)
        self._connected = False
        self._indices: set[str] = set()
        self._tables = Tables(collection_name)
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
        with self._connection.reading() as raw:
            self._indices = self._tables.indices(raw)
            complete = self._tables.exist(raw) and self._indices.issuperset({self.key, *_INDEXED})
        if not complete:
            with self._connection.writing() as raw:
                self._tables.make(raw)
                for key in sorted({self.key, *_INDEXED}):
                    self._tables.make_index(raw, key)
                self._indices = self._tables.indices(raw)
        self._connected = True

    def close(self) -> None:
        """Close the file; ``connect`` opens it again."""
        self._connection.close()
        self._connected = False

    # ---- reading

    def count(self, criteria: dict[str, Any] | None = None, hint: dict[str, Any] | None = None) -> int:  # noqa: ARG002
        """Count the documents that match."""
        if not criteria:
            with self._require().reading() as raw:
                return self._tables.count(raw)
        return len(self._find(criteria))

    def query(
        self,
        criteria: dict[str, Any] | None = None,
        properties: dict[str, Any] | list[str] | None = None,
        sort: dict[str, Any] | None = None,
        hint: dict[str, Any] | None = None,  # noqa: ARG002
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Yield the documents that match.

        Parameters
        ----------
        criteria
            MongoDB filter.
        properties
            Fields to return: a list, or a mapping to 1 (keep) or 0 (leave out).
        sort
            Keys with direction 1 or -1 (or maggma's Sort).
        hint
            Accepted as MongoStore does; SQLite chooses its index itself.
        skip
            Number of documents to leave out at the beginning.
        limit
            Largest number of documents; 0 for all.
        """
        projection = mongo_results.checked_projection(properties)
        order = mongo_results.sort_order(sort)
        if not criteria and not order and not projection:
            yield from self._everything(skip, limit)
            return
        found = self._find(criteria or {}, order, projection, 0 if order else skip + limit if limit else 0)
        # stable, so that sorting by the last field first leaves ties to the fields before it
        for place, (_, direction) in reversed(list(enumerate(order))):
            found.sort(key=partial(_value_at, place), reverse=direction < 0)
        found = found[skip : skip + limit] if limit else found[skip:]
        for start in range(0, len(found), _PAGE):
            page = found[start : start + _PAGE]
            bodies = self._bodies_of([item.row for item in page if item.document is None])
            for item in page:
                if item.document is not None:
                    yield item.document
                elif item.row in bodies:
                    yield mongo_results.project(sqlite_documents.decode_body(bodies[item.row]), projection)

    def distinct(self, field: str, criteria: dict[str, Any] | None = None, all_exist: bool = False) -> list[Any]:  # noqa: ARG002
        """Return every value of a field once, in the order met; arrays count by their elements."""
        documents = self.query(criteria, properties={field: 1, "_id": int(field == "_id")})
        return mongo_results.distinct_values(documents, field)

    def groupby(
        self,
        keys: list[str] | str,
        criteria: dict[str, Any] | None = None,
        properties: dict[str, Any] | list[str] | None = None,
        sort: dict[str, Any] | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield (values of the keys, documents) for each combination of values; who lacks a key is left out.

        ``sort``, ``skip`` and ``limit`` act on the documents before they are grouped.
        """
        names = [keys] if isinstance(keys, str) else list(keys)
        wanted = list(properties or [])
        documents = self.query(criteria, [*wanted, *names] if wanted else None, sort=sort, skip=skip, limit=limit)
        yield from mongo_results.grouped(documents, names)

    def _everything(self, skip: int, limit: int) -> Iterator[dict[str, Any]]:
        connection = self._require()
        last, left = -1, limit or None
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            with connection.reading() as raw:
                rows = self._tables.page(raw, last, size, skip)
            if not rows:
                return
            skip, last = 0, rows[-1][0]
            left = None if left is None else left - len(rows)
            for _, body in rows:
                yield sqlite_documents.decode_body(body)

    def _bodies_of(self, rows: list[int]) -> dict[int, bytes]:
        if not rows:
            return {}
        with self._require().reading() as raw:
            return self._tables.bodies(raw, rows)

    def _find(
        self,
        criteria: Mapping[str, Any],
        order: list[tuple[str, int]] | None = None,
        projection: Mapping[str, Any] | None = None,
        enough: int = 0,
    ) -> list[_Found]:
        """Return what matches, in the order of insertion.

        SQL narrows the search, the head decides where it shows all the criteria look at, the body elsewhere.
        """
        criteria = sqlite_documents.normal_criteria(criteria)
        clause = sqlite_query.where(criteria, frozenset((self.key, *_IDENTIFYING)))
        seen = sqlite_query.paths_seen(criteria)
        if seen is not None:
            seen += [sqlite_query.path_of(key) for key, _ in order or []]
        shown = None
        if projection and mongo_results.is_inclusion(projection):
            shown = [sqlite_query.path_of(key) for key in {**projection, "_id": 1}]
        found: list[_Found] = []
        with self._require().reading() as raw:
            for row, text in self._tables.candidates(raw, clause):
                head = json.loads(text)
                document = sqlite_documents.visible_part(head, seen) if seen is not None else None
                if document is None:
                    document = sqlite_documents.decode_body(self._tables.body(raw, row))
                if criteria and not mongo_results.matches(criteria, document):
                    continue
                item = _Found(row, mongo_results.sort_values(document, order or []))
                if shown is not None and projection:
                    part = sqlite_documents.visible_part(head, shown)
                    item.document = None if part is None else mongo_results.project(part, projection)
                found.append(item)
                if enough and len(found) >= enough:
                    break
        return found

    # ---- writing

    def update(self, docs: list[dict[str, Any]] | dict[str, Any], key: list[str] | str | None = None) -> None:
        """Insert documents, or replace those that agree in the key, in one transaction.

        Parameters
        ----------
        docs
            One document or several.
        key
            Field or fields that tell documents apart; default is the store's key.

        Raises
        ------
        InputError
            When a document holds something that cannot be stored (an integer beyond 64 bits, a key with a null byte).
        """
        keys = [key] if isinstance(key, str) else list(key or [self.key])
        items: Iterable[dict[str, Any]] = docs if isinstance(docs, list) else [docs]
        clean = [jsanitize(item, allow_bson=True, recursive_msonable=True) for item in items]
        prepared = [({name: item[name] for name in keys}, item) for item in clean if self._is_valid(item)]
        if not prepared:
            return
        self._index_metadata([item for _, item in prepared])
        with self._require().writing() as raw:
            for search, item in prepared:
                self._replace(raw, search, item)

    def _is_valid(self, document: dict[str, Any]) -> bool:
        if self.validator is None or self.validator.is_valid(document):
            return True
        errors = self.validator.validation_errors(document)
        if self.validator.strict:
            raise ValueError(errors)
        self.logger.error(errors)
        return False

    def _replace(self, raw: sqlite3.Connection, search: dict[str, Any], document: dict[str, Any]) -> None:
        existing = next(iter(self._find(search, projection={"_id": 1}, enough=1)), None)
        if existing is not None:
            known = existing.document or sqlite_documents.decode_body(self._tables.body(raw, existing.row))
            if document.get("_id", known["_id"]) != known["_id"]:
                raise WriteError(f"The _id {known['_id']!r} of the document with {search} cannot be changed.", 66)
            document = {"_id": known["_id"], **document}
        else:
            document = {"_id": ObjectId(), **document}
        try:
            body = sqlite_documents.encode_body(document)
        except (BSONError, OverflowError) as error:
            raise InputError(
                f"The document with {search} cannot be stored: {error}.",
                "Keep to what MongoDB can hold, e.g. integers of 64 bits; put large arrays into artefacts.",
            ) from error
        head = sqlite_documents.encode_head(document)
        try:
            if existing is not None:
                self._tables.replace(raw, existing.row, head, body)
            else:
                self._tables.insert(raw, repr(mongo_results.identity(document["_id"])), head, body)
        except sqlite3.IntegrityError as error:
            raise DuplicateKeyError(f"{self.name}: {error} (document with {search})", 11000) from error

    def remove_docs(self, criteria: dict[str, Any]) -> None:
        """Remove the documents that match."""
        with self._require().writing() as raw:
            self._tables.delete(raw, [item.row for item in self._find(criteria or {})])

    # ---- indices

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Make an index on a dotted key and tell whether it exists now.

        A unique index holds for scalars; like MongoDB's it counts a missing field as null.
        """
        if key in self._indices and not unique:
            return True
        try:
            with self._require().writing() as raw:
                made = self._tables.make_index(raw, key, unique=unique)
        except sqlite3.IntegrityError:
            return False
        if made:
            self._indices.add(key)
        return made

    def _index_metadata(self, documents: list[dict[str, Any]]) -> None:
        """Make an index for each scalar key of ``metadata`` that is new, up to a bound."""
        found = [item.get("metadata") for item in documents]
        flat = [name for item in found if isinstance(item, dict) for name in item if not isinstance(item[name], dict)]
        new = [key for key in dict.fromkeys(f"metadata.{name}" for name in flat) if key not in self._indices]
        room = _MOST_METADATA_INDICES - sum(index.startswith("metadata.") for index in self._indices)
        for key in new[: max(room, 0)]:
            self.ensure_index(key)

    # ---- identity

    def __hash__(self) -> int:
        return hash((self.path, self.collection_name, self.last_updated_field))

    def __eq__(self, other: object) -> bool:
        fields = ("path", "collection_name", "last_updated_field")
        return isinstance(other, SQLiteStore) and all(getattr(self, name) == getattr(other, name) for name in fields)


def open_embedded_jobstore(path: str | Path, synchronous: Synchronous = "NORMAL") -> JobStore:
    """Return a connected jobflow ``JobStore`` on one SQLite file, with the additional store ``data`` for large outputs.

    Parameters
    ----------
    path
        The SQLite file; made when missing.
    synchronous
        "NORMAL" survives a killed process, "FULL" a power failure as well.
    """
    from jobflow import JobStore

    store = JobStore(
        SQLiteStore(path, "outputs", key="uuid", synchronous=synchronous),
        additional_stores={"data": SQLiteStore(path, "data", key="blob_uuid", synchronous=synchronous)},
    )
    store.connect()
    return store
