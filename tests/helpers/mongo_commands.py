"""MongoDB's commands on an in-memory mongomock client: what `mongo_server` answers with."""

from __future__ import annotations

import importlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import bson
import pymongo.errors
from pymongo import ReturnDocument

LARGEST_DOCUMENT = 16 * 1024 * 1024
LARGEST_MESSAGE = 48_000_000
FIRST_BATCH = 101
_BATCH_BYTES = 15_000_000
_ALL = 10**9
_LOG = logging.getLogger(__name__)

Document = dict[str, Any]


def _mongomock() -> Any:
    """Return the mongomock that maggma brings."""
    from maggma.stores import mongolike

    return importlib.import_module(mongolike.mongomock.__name__)


class CommandError(Exception):
    """A refusal with MongoDB's code."""

    def __init__(self, code: int, message: str, name: str = "Error") -> None:
        super().__init__(message)
        self.code, self.message, self.name = code, message, name


class Engine:
    """The commands of a server, on one in-memory mongomock client."""

    def __init__(self) -> None:
        self.client = _mongomock().MongoClient()
        self._lock = threading.RLock()
        self._cursors: dict[int, tuple[str, list[Document]]] = {}
        self._numbers = itertools.count(1000)

    def answer(self, command: Document) -> Document:
        """Carry out one command and return the reply, refusals included."""
        with self._lock:
            try:
                return self._dispatch(command)
            except CommandError as error:
                return {"ok": 0.0, "code": error.code, "codeName": error.name, "errmsg": error.message}
            except pymongo.errors.DuplicateKeyError as error:
                return {"ok": 0.0, "code": 11000, "codeName": "DuplicateKey", "errmsg": str(error)}
            except pymongo.errors.OperationFailure as error:
                return {"ok": 0.0, "code": error.code or 8, "errmsg": str(error)}
            except Exception as error:  # noqa: BLE001 a server answers whatever happens
                _LOG.exception("command failed: %.300s", command)
                return {"ok": 0.0, "code": 8, "codeName": "UnknownError", "errmsg": f"{type(error).__name__}: {error}"}

    def _dispatch(self, command: Document) -> Document:
        if command.get("autocommit") is False:
            message = "Transaction numbers are only allowed on a replica set member or mongos"
            raise CommandError(20, message, "IllegalOperation")
        name = next(iter(command))
        found = getattr(self, f"_do_{name.lower()}", None)
        if found is None:
            raise CommandError(59, f"no such command: '{name}'", "CommandNotFound")
        database = self.client[command.get("$db", "admin")]
        reply: Document = found(command, database, command[name])
        return {**reply, "ok": 1.0}

    # ---- connection

    def _do_hello(self, *_: Any) -> Document:
        return {
            "helloOk": True,
            "ismaster": True,
            "isWritablePrimary": True,
            "maxBsonObjectSize": LARGEST_DOCUMENT,
            "maxMessageSizeBytes": LARGEST_MESSAGE,
            "maxWriteBatchSize": 100_000,
            "localTime": datetime.now(UTC),
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": 1,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "readOnly": False,
        }

    _do_ismaster = _do_hello

    def _nothing(self, *_: Any) -> Document:
        return {}

    _do_ping = _do_endsessions = _do_aborttransaction = _do_committransaction = _nothing

    def _do_buildinfo(self, *_: Any) -> Document:
        return {"version": "7.0.0", "versionArray": [7, 0, 0, 0], "maxBsonObjectSize": LARGEST_DOCUMENT}

    # ---- reading

    def _cursor(
        self, namespace: str, documents: Iterable[Document], size: int | None, *, single: bool = False
    ) -> Document:
        """Return a first batch, limited in number and bytes, and keep the rest for getMore."""
        left = list(documents)
        wanted = FIRST_BATCH if size is None else size
        first: list[Document] = []
        held = 0
        for document in left[:wanted]:
            held += len(bson.encode(document))
            if first and held > _BATCH_BYTES:
                break
            first.append(document)
        rest = left[len(first) :]
        number = 0
        if rest and not single:
            number = next(self._numbers)
            self._cursors[number] = (namespace, rest)
        return {"cursor": {"id": bson.Int64(number), "ns": namespace, "firstBatch": first}}

    def _do_getmore(self, command: Document, _: Any, number: int) -> Document:
        if number not in self._cursors:
            raise CommandError(43, f"cursor id {number} not found", "CursorNotFound")
        namespace, rest = self._cursors.pop(number)
        reply = self._cursor(namespace, rest, command.get("batchSize") or _ALL)
        reply["cursor"]["nextBatch"] = reply["cursor"].pop("firstBatch")
        return reply

    def _do_killcursors(self, command: Document, *_: Any) -> Document:
        killed = [number for number in command["cursors"] if self._cursors.pop(number, None)]
        return {"cursorsKilled": killed}

    def _do_find(self, command: Document, database: Any, name: str) -> Document:
        found = database[name].find(command.get("filter") or {}, command.get("projection") or None)
        if command.get("sort"):
            found = found.sort(list(command["sort"].items()))
        if command.get("skip"):
            found = found.skip(command["skip"])
        if command.get("limit"):
            found = found.limit(abs(command["limit"]))
        single = command.get("singleBatch", False)
        return self._cursor(f"{database.name}.{name}", found, command.get("batchSize"), single=single)

    def _do_aggregate(self, command: Document, database: Any, name: str) -> Document:
        size = (command.get("cursor") or {}).get("batchSize")
        return self._cursor(f"{database.name}.{name}", database[name].aggregate(command["pipeline"]), size)

    def _do_count(self, command: Document, database: Any, name: str) -> Document:
        return {"n": min(database[name].count_documents(command.get("query") or {}), command.get("limit") or _ALL)}

    def _do_distinct(self, command: Document, database: Any, name: str) -> Document:
        return {"values": database[name].distinct(command["key"], command.get("query") or {})}

    # ---- writing

    def _do_insert(self, command: Document, database: Any, name: str) -> Document:
        def insert(document: Document) -> tuple[int, int, Any]:
            if len(bson.encode(document)) > LARGEST_DOCUMENT:
                raise CommandError(10334, "BSONObj size is invalid: documents hold up to 16 MB")
            database[name].insert_one(document)
            return 1, 0, None

        return _write_each(command, command["documents"], insert)

    def _do_update(self, command: Document, database: Any, name: str) -> Document:
        def update(item: Document) -> tuple[int, int, Any]:
            collection, change = database[name], item["u"]
            options: Document = {"upsert": bool(item.get("upsert"))}
            if _is_replacement(change):
                result = collection.replace_one(item["q"], change, **options)
            else:
                if item.get("arrayFilters"):
                    options["array_filters"] = item["arrayFilters"]
                method = collection.update_many if item.get("multi") else collection.update_one
                result = method(item["q"], change, **options)
            new = result.upserted_id
            return max(result.matched_count, int(new is not None)), result.modified_count or 0, new

        return _write_each(command, command["updates"], update)

    def _do_delete(self, command: Document, database: Any, name: str) -> Document:
        def delete(item: Document) -> tuple[int, int, Any]:
            collection = database[name]
            return (
                (collection.delete_one if item.get("limit") else collection.delete_many)(item["q"]).deleted_count,
                0,
                None,
            )

        return _write_each(command, command["deletes"], delete)

    def _do_findandmodify(self, command: Document, database: Any, name: str) -> Document:
        collection, query = database[name], command.get("query") or {}
        options: Document = {"sort": list(command["sort"].items()) if command.get("sort") else None}
        if command.get("fields"):
            options["projection"] = command["fields"]
        if command.get("remove"):
            value = collection.find_one_and_delete(query, **options)
        else:
            change = command["update"]
            options["upsert"] = bool(command.get("upsert"))
            options["return_document"] = ReturnDocument.AFTER if command.get("new") else ReturnDocument.BEFORE
            if command.get("arrayFilters"):
                options["array_filters"] = command["arrayFilters"]
            method = collection.find_one_and_replace if _is_replacement(change) else collection.find_one_and_update
            value = method(query, change, **options)
        return {"value": value, "lastErrorObject": {"n": int(value is not None), "updatedExisting": value is not None}}

    # ---- databases, collections, indices

    def _do_listdatabases(self, *_: Any) -> Document:
        names = self.client.list_database_names()
        return {"databases": [{"name": name, "sizeOnDisk": 1, "empty": False} for name in names], "totalSize": 1}

    def _do_listcollections(self, command: Document, database: Any, _: Any) -> Document:
        wanted = (command.get("filter") or {}).get("name")
        names = [name for name in database.list_collection_names() if not isinstance(wanted, str) or name == wanted]
        described = [{"name": name, "type": "collection", "options": {}, "info": {"readOnly": False}} for name in names]
        return self._cursor(f"{database.name}.$cmd.listCollections", described, _ALL)

    def _do_create(self, _: Document, database: Any, name: str) -> Document:
        if name not in database.list_collection_names():
            database.create_collection(name)
        return {}

    def _do_drop(self, _: Document, database: Any, name: str) -> Document:
        database[name].drop()
        return {}

    def _do_dropdatabase(self, _: Document, database: Any, __: Any) -> Document:
        self.client.drop_database(database.name)
        return {"dropped": database.name}

    def _do_createindexes(self, command: Document, database: Any, name: str) -> Document:
        for index in command["indexes"]:
            options = {key: index[key] for key in ("unique", "sparse", "name") if key in index}
            database[name].create_index(list(index["key"].items()), **options)
        return {"numIndexesBefore": 1, "numIndexesAfter": 1 + len(command["indexes"])}

    def _do_listindexes(self, _: Document, database: Any, name: str) -> Document:
        found = [
            {"v": 2, "key": dict(index["key"]), "name": label, **({"unique": True} if index.get("unique") else {})}
            for label, index in database[name].index_information().items()
        ]
        return self._cursor(f"{database.name}.{name}", found, _ALL)

    def _do_dropindexes(self, command: Document, database: Any, name: str) -> Document:
        if command["index"] == "*":
            database[name].drop_indexes()
        else:
            database[name].drop_index(command["index"])
        return {}


def _is_replacement(change: Any) -> bool:
    return isinstance(change, dict) and not any(key.startswith("$") for key in change)


def _write_each(
    command: Document, items: Iterable[Document], write: Callable[[Document], tuple[int, int, Any]]
) -> Document:
    """Write item by item, stopping at the first refusal unless the command says unordered."""
    done, modified = 0, 0
    upserted: list[Document] = []
    refused: list[Document] = []
    for number, item in enumerate(items):
        try:
            count, changed, new = write(item)
        except pymongo.errors.DuplicateKeyError as error:
            refused.append({"index": number, "code": 11000, "errmsg": str(error)})
        except CommandError as error:
            refused.append({"index": number, "code": error.code, "errmsg": error.message})
        except pymongo.errors.WriteError as error:
            refused.append({"index": number, "code": error.code or 8, "errmsg": str(error)})
        else:
            done, modified = done + count, modified + changed
            if new is not None:
                upserted.append({"index": number, "_id": new})
        if refused and command.get("ordered", True):
            break
    reply: Document = {"n": done, "nModified": modified}
    if upserted:
        reply["upserted"] = upserted
    if refused:
        reply["writeErrors"] = refused
    return reply
