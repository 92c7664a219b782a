"""Job stores whose documents carry seals: written by workers, checked by whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bson import json_util
from jobflow import JobStore
from monty.json import jsanitize
from pydantic import Field

from phonosmith.core.artefacts import ArtefactRef, ArtefactStore, write_atomic
from phonosmith.core.document import Document
from phonosmith.core.errors import ArtefactError
from phonosmith.core.sealing import SEAL, altered_fields, artefacts_in, seal

_CHUNK = 500
COPY = "document.json"
"""Name of the copy of a job's document in the folder it ran in."""


class SealedJobStore(JobStore):  # type: ignore[misc]  # jobflow has no type information
    """A job store as a worker writes to it: every document is sealed, and copied into the folder of its job."""

    folder: Path | None = None

    @classmethod
    def over(cls, store: JobStore, folder: Path | None = None) -> SealedJobStore:
        """Return a job store over the same stores as another one."""
        made = cls(store.docs_store, store.additional_stores, store.save, store.load)
        made.folder = folder
        return made

    def update(self, docs: Any, key: Any = None, save: Any = None) -> None:
        """Write documents, or replace those that agree in the key."""
        listed = [sealed(one) for one in (docs if isinstance(docs, list) else [docs])]
        if self.folder is not None:
            # before the store: what it acknowledges can be restored from here
            for document in listed:
                write_atomic(self.folder / COPY, json_util.dumps(document).encode("utf-8", "surrogatepass"))
        super().update(listed, key=key, save=save)


def sealed(document: Any) -> dict[str, Any]:
    """Return a job-store document with its seal."""
    plain: dict[str, Any] = jsanitize(document, strict=True, allow_bson=True)
    stamp = seal(plain["uuid"], plain["index"], plain["output"])
    return {**plain, "metadata": {**(plain.get("metadata") or {}), SEAL: stamp}}


class AlteredDocument(Document):
    """A document that is not what its job wrote."""

    job: str = Field(description="name of the job")
    uuid: str = Field(description="its uuid")
    index: int = Field(description="which of its documents, from 1")
    fields: list[str] = Field(description="altered fields of its output, as precisely as the seal knows them")


class DamagedArtefact(Document):
    """A model, data set or force constants that a document names and that is not there as it was."""

    sha256: str = Field(description="its identity")
    kind: str = Field(description="what it is")
    job: str = Field(description="a job whose document names it")
    problem: str = Field(description="missing or altered")


class StoreCheck(Document):
    """What became of the documents of a job store and of the artefacts they name."""

    n_documents: int = Field(description="documents read")
    n_unsealed: int = Field(description="documents from before there were seals, or of jobs that write none")
    n_artefacts: int = Field(description="artefacts read")
    altered: list[AlteredDocument] = Field(default_factory=list, description="altered documents")
    artefacts: list[DamagedArtefact] = Field(default_factory=list, description="missing or altered artefacts")
    missing: list[str] = Field(default_factory=list, description="finished jobs of a local run without a document")

    @property
    def ok(self) -> bool:
        """Nothing is altered or missing."""
        return not (self.altered or self.artefacts or self.missing)


def keys_in(store: JobStore, uuids: Sequence[str]) -> set[tuple[str, int]]:
    """Return uuid and index of every document that a store holds of some jobs."""
    found: set[tuple[str, int]] = set()
    for start in range(0, len(uuids), _CHUNK):
        criteria = {"uuid": {"$in": list(uuids[start : start + _CHUNK])}}
        found |= {(one["uuid"], one["index"]) for one in store.query(criteria, properties=["uuid", "index"])}
    return found


def whole_documents(store: JobStore, uuids: Sequence[str]) -> dict[tuple[str, int], bool]:
    """Return uuid and index of every document of some jobs that is as it was sealed, and whether it is a refusal."""
    found: dict[tuple[str, int], bool] = {}
    for start in range(0, len(uuids), _CHUNK):
        for one in store.query({"uuid": {"$in": list(uuids[start : start + _CHUNK])}}, load=True):
            if not altered_fields(one):
                found[one["uuid"], one["index"]] = bool((one.get("metadata") or {}).get("refused"))
    return found


def check_store(
    store: JobStore, artefacts: ArtefactStore, progress: Callable[[int, int | None, str], None] | None = None
) -> StoreCheck:
    """Read every document of a job store and every artefact they name, and compare them with seal and identity.

    ``progress`` is told how many of how many have been read, and the name of the last.
    """
    made = StoreCheck(n_documents=0, n_unsealed=0, n_artefacts=0)
    named: dict[str, tuple[str, ArtefactRef]] = {}
    store.connect()
    total = store.count()
    for document in store.query({}, load=True):
        made.n_documents += 1
        name = str(document.get("name"))
        if progress is not None:
            progress(made.n_documents, total, name)
        fields = altered_fields(document)
        made.n_unsealed += fields is None
        if fields:
            made.altered.append(
                AlteredDocument(job=name, uuid=document["uuid"], index=document["index"], fields=fields)
            )
            continue
        for ref in artefacts_in(document.get("output")):
            named.setdefault(ref.sha256, (name, ref))
    for name, ref in named.values():
        made.n_artefacts += 1
        if progress is not None:
            progress(made.n_artefacts, len(named), f"{ref.kind} of {name}")
        try:
            artefacts.get_bytes(ref)
        except ArtefactError:
            problem = "altered" if artefacts.has(ref) else "missing"
            made.artefacts.append(DamagedArtefact(sha256=ref.sha256, kind=ref.kind, job=name, problem=problem))
    return made


def read_copy(folder: Path) -> dict[str, Any] | None:
    """Return the copy of a document that a job has left in its folder, large parts included."""
    file = folder / COPY
    if not file.is_file():
        return None
    try:
        return dict(json_util.loads(file.read_text(encoding="utf-8", errors="surrogatepass")))
    except (ValueError, TypeError):
        return None
