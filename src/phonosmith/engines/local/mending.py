"""What of a finished run has been lost since, and how little has to be done again for it.

A document that is gone or altered is put back from the copy its job left in its folder; where that is gone too the job
runs again. A model or data set that is gone or altered is made again by the job that made it first. What depends on a
job that ran again follows only where its result is another one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.artefacts import ArtefactRef, ArtefactStore, DirectoryBackend, write_atomic
from phonosmith.core.attempts import set_aside
from phonosmith.core.errors import ArtefactError, ConfigurationError
from phonosmith.core.sealing import altered_fields, artefacts_in, result_digest
from phonosmith.engines.local.state import DONE, WAITING, JobRow, Key, RunState
from phonosmith.engines.local.worker import RESPONSE_FILE, RESULT
from phonosmith.engines.store.sealed import read_copy

if TYPE_CHECKING:
    from jobflow import JobStore

_CHUNK = 200
_MOST_REPETITIONS = 2
_MOST_NAMES = 3
_NOT_RESULTS = ("log", "checkpoint", "trajectory")
"""Kinds of artefacts that nothing else is made from."""
_PLACE = "artefacts.json"


@dataclass
class Losses:
    """What is not as the jobs of a run left it.

    Attributes
    ----------
    missing, altered
        Done jobs whose document is gone; altered fields of those whose document is another one.
    artefacts
        By the job that made them first: artefacts that are gone or altered.
    """

    missing: list[JobRow] = field(default_factory=list)
    altered: list[tuple[JobRow, list[str]]] = field(default_factory=list)
    artefacts: list[tuple[JobRow, ArtefactRef]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.altered or self.artefacts)

    def said(self) -> str:
        """Return all of them in one line, the first few by name."""
        counted = {
            "documents are gone from the store": [row.name for row in self.missing],
            "documents were altered in the store": [f"{row.name}: {fields[0]}" for row, fields in self.altered],
            "artefacts are gone or altered": [f"{ref.kind} of {row.name}" for row, ref in self.artefacts],
        }
        parts = [
            f"{len(names)} {words} ({', '.join(names[:_MOST_NAMES])}{', ...' if len(names) > _MOST_NAMES else ''})"
            for words, names in counted.items()
            if names
        ]
        return "; ".join(parts)

    def lines(self) -> list[str]:
        """Return one sentence for each."""
        return [
            *(f"{row.name}: its document is gone from the store" for row in self.missing),
            *(f"{row.name}: its document was altered in {', '.join(fields[:4])}" for row, fields in self.altered),
            *(f"{row.name}: its {ref.kind} {ref.sha256[:12]} is gone or altered" for row, ref in self.artefacts),
        ]


def find_losses(state: RunState, store: JobStore, artefacts: ArtefactStore, *, leaving: Iterable[str] = ()) -> Losses:
    """Look at the documents of all done jobs, except some uuids, and at the artefacts they name.

    The content of an artefact is read only where its file is younger than the document that names it first.
    """
    left = set(leaving)
    rows = {row.key: row for row in state.rows(DONE) if row.uuid not in left}
    losses = Losses()
    first: dict[str, tuple[str, Key, ArtefactRef]] = {}
    seen: set[Key] = set()
    for document in _documents(store, sorted({uuid for uuid, _ in rows})):
        key = document["uuid"], document["index"]
        if key not in rows:
            continue
        seen.add(key)
        if fields := altered_fields(document):
            losses.altered.append((rows[key], fields))
            continue
        for ref in artefacts_in(document.get("output")):
            naming = str(document.get("completed_at") or ""), key, ref
            if ref.kind not in _NOT_RESULTS and (ref.sha256 not in first or naming[0] < first[ref.sha256][0]):
                first[ref.sha256] = naming
    losses.missing = [row for key, row in rows.items() if key not in seen]
    for when, key, ref in first.values():
        if not _is_whole(artefacts, ref, when):
            losses.artefacts.append((rows[key], ref))
    return losses


def _documents(store: JobStore, uuids: list[str]) -> Iterable[dict[str, Any]]:
    for start in range(0, len(uuids), _CHUNK):
        yield from store.query({"uuid": {"$in": uuids[start : start + _CHUNK]}}, load=True)


def _is_whole(artefacts: ArtefactStore, ref: ArtefactRef, named: str) -> bool:
    if not artefacts.has(ref):
        return False
    backend = artefacts.backend
    if not isinstance(backend, DirectoryBackend):
        return True
    found = backend.path(ref.sha256).stat()
    if found.st_size == ref.size and found.st_mtime <= datetime.fromisoformat(named).timestamp():
        return True
    try:
        artefacts.get_bytes(ref)
    except ArtefactError:
        return False
    return True


def _answered(row: JobRow) -> str | None:
    """Return the digest of a job's result that its own answer holds; older answers hold none."""
    try:
        answer = json.loads((Path(row.folder or "") / RESPONSE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if answer.get(RESULT) is None else str(answer[RESULT])


@dataclass
class Mender:
    """Brings a run back to what it was; see the module. ``leaving``: uuids of jobs nobody asks for any more."""

    state: RunState
    store: JobStore
    artefacts: ArtefactStore
    root: Path
    leaving: set[str] = field(default_factory=set)
    restored: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    _before: dict[Key, str | None] = field(default_factory=dict)
    _times: Counter[Key] = field(default_factory=Counter)

    def mend(self) -> str:
        """Put back what can be put back, let the jobs run again whose results cannot; return what was lost, or ''."""
        losses = self._losses()
        said = losses.said()
        if losses.artefacts:
            self._require_same_place(losses)
        again = [row for row in (*losses.missing, *(row for row, _ in losses.altered)) if not self._restore(row)]
        if self.restored and not losses.artefacts:
            # documents that are back name artefacts as well
            losses.artefacts = self._losses().artefacts
        self._requeue([*again, *(row for row, _ in losses.artefacts)])
        write_atomic(self.root / _PLACE, json.dumps({"place": self._place()}).encode())
        return said

    def follow(self) -> bool:
        """After a run, let jobs run again whose inputs are others now; say whether there are any."""
        changed = {key for key, before in self._before.items() if before is None or before != self._result(key)}
        done = {row.key for row in self.state.rows(DONE)}
        parents = {uuid for uuid, index in changed if (uuid, index) in done}
        self._before = {}
        query = "SELECT uuid, idx, parents FROM jobs WHERE state = ?"
        children = {
            (uuid, index)
            for uuid, index, needed in self.state.connection.execute(query, (DONE,))
            if parents.intersection(json.loads(needed)) and uuid not in self.leaving
        }
        losses = self._losses()
        rows = [row for row in self.state.rows(DONE) if row.key in children]
        again = [*rows, *losses.missing, *(row for row, _ in (*losses.altered, *losses.artefacts))]
        return self._requeue(again) > 0

    def remaining(self) -> list[str]:
        """Return what is still lost, in sentences."""
        return self._losses().lines()

    def _losses(self) -> Losses:
        return find_losses(self.state, self.store, self.artefacts, leaving=self.leaving)

    def _restore(self, row: JobRow) -> bool:
        copy = None if row.folder is None else read_copy(Path(row.folder))
        if copy is None or (copy[0].get("uuid"), copy[0].get("index")) != row.key or altered_fields(copy[0]) != []:
            return False
        self.store.update(copy[0], key=["uuid", "index"], save=copy[1])
        self.restored.append(row.name)
        return True

    def _requeue(self, rows: Iterable[JobRow]) -> int:
        """Put done jobs back in line, what they had replaced themselves by left out; return how many."""
        chosen = {row.key: row for row in rows if self._times[row.key] < _MOST_REPETITIONS}
        with self.state.transaction():
            for key, row in chosen.items():
                self._times[key] += 1
                self._before[key] = self._result(key) or _answered(row)
                for later in self.state.rows(DONE):
                    if later.uuid == row.uuid and later.index > row.index:
                        self._before[later.key] = self._result(later.key) or _answered(later)
                        self.state.connection.execute("DELETE FROM jobs WHERE uuid = ? AND idx = ?", later.key)
                if row.folder is not None and Path(row.folder).is_dir():
                    # its answer lies there: with it the job would count as done
                    set_aside(Path(row.folder), 0)
                self.state.update(key, state=WAITING, error=None, attempts=0, folder=None)
                self.repeated.append(row.name)
        return len(chosen)

    def _result(self, key: Key) -> str | None:
        """Return the digest of a job's result, None where there is none to be trusted."""
        document = self.store.query_one({"uuid": key[0], "index": key[1]}, load=True)
        if document is None or altered_fields(document):
            return None
        return result_digest(document.get("output"))

    def _place(self) -> str:
        backend = self.artefacts.backend
        return str(backend.root) if isinstance(backend, DirectoryBackend) else str(backend.store.name)

    def _require_same_place(self, losses: Losses) -> None:
        """Refuse to make everything again only because the artefact store is another one today."""
        file = self.root / _PLACE
        before = json.loads(file.read_text(encoding="utf-8"))["place"] if file.is_file() else self._place()
        if before != self._place():
            raise ConfigurationError(
                f"{len(losses.artefacts)} artefacts of this run are not in {self._place()}; it kept them in {before}.",
                "Set PHONOSMITH_ARTEFACTS (or _STORE) to that place again, or move its content to the new one.",
            )
