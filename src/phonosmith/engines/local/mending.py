"""What of a finished run has been lost since, and how little has to be done again for it.

A document that is gone or altered is put back from the copy its job left in its folder; where that is gone too the job
runs again. A model or data set that is gone or altered is made again by the job that makes it. What depends on a
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
from phonosmith.core.errors import ArtefactError, ConfigurationError
from phonosmith.core.sealing import altered_fields, artefacts_in
from phonosmith.engines.local.state import DONE, JobRow, Key, RunState
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
        Artefacts that are gone or altered, with the job that makes them.
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


def find_losses(state: RunState, store: JobStore, artefacts: ArtefactStore) -> Losses:
    """Look at the documents of all done jobs that are asked for, and at the artefacts they name.

    The content of an artefact is read only where its file is younger than the document that names it first.
    """
    rows = {row.key: row for row in state.rows(DONE, asked=True)}
    losses, seen = Losses(), set[Key]()
    naming: dict[str, tuple[ArtefactRef, dict[Key, str]]] = {}
    for document in _documents(store, sorted({uuid for uuid, _ in rows})):
        key = document["uuid"], document["index"]
        if key not in rows:
            continue
        seen.add(key)
        if fields := altered_fields(document):
            losses.altered.append((rows[key], fields))
            continue
        for ref in artefacts_in(document.get("output")):
            if ref.kind not in _NOT_RESULTS:
                naming.setdefault(ref.sha256, (ref, {}))[1][key] = str(document.get("completed_at") or "")
    losses.missing = [row for key, row in rows.items() if key not in seen]
    bad = [(ref, when) for ref, when in naming.values() if not _is_whole(artefacts, ref, min(when.values()))]
    for (ref, when), makers in zip(bad, state.origins(when for _, when in bad), strict=True):
        losses.artefacts.append((rows[min(makers, key=when.__getitem__)], ref))
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


@dataclass
class Mender:
    """Brings a run back to what it was; see the module."""

    state: RunState
    store: JobStore
    artefacts: ArtefactStore
    root: Path
    restored: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
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
        self._repeat([*again, *(row for row, _ in losses.artefacts)])
        write_atomic(self.root / _PLACE, json.dumps({"place": self._place()}).encode())
        return said

    def mend_again(self) -> bool:
        """After a run, let jobs run again for what is lost now; say whether there are any."""
        losses = self._losses()
        return self._repeat([*losses.missing, *(row for row, _ in (*losses.altered, *losses.artefacts))]) > 0

    def remaining(self) -> list[str]:
        """Return what is still lost, in sentences."""
        return self._losses().lines()

    def _losses(self) -> Losses:
        return find_losses(self.state, self.store, self.artefacts)

    def _restore(self, row: JobRow) -> bool:
        copy = None if row.folder is None else read_copy(Path(row.folder))
        if copy is None or (copy.get("uuid"), copy.get("index")) != row.key or altered_fields(copy) != []:
            return False
        self.store.update(copy, key=["uuid", "index"], save=self._large_parts(row))
        self.restored.append(row.name)
        return True

    def _large_parts(self, row: JobRow) -> dict[str, Any]:
        """Return what of a job's output belongs into which additional store, as jobflow has it when the job runs."""
        from monty.json import MontyDecoder

        kept = MontyDecoder().decode(self.state.document(row.key))._kwargs  # noqa: SLF001 jobflow keeps it nowhere else
        return {name: "output" if what is True else what for name, what in kept.items()}

    def _repeat(self, rows: Iterable[JobRow]) -> int:
        """Let done jobs run again, none of them for ever; return how many."""
        chosen = {row.key: row for row in rows if self._times[row.key] < _MOST_REPETITIONS}
        self._times.update(chosen.keys())
        self.state.reopen(chosen)
        self.repeated += [row.name for row in chosen.values()]
        return len(chosen)

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
