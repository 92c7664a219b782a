"""Job stores whose documents carry seals: written by workers, checked by whoever asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bson import json_util
from jobflow import JobStore
from monty.json import jsanitize

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.sealing import SEAL, seal

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
                copied = json_util.dumps({"document": document, "save": save})
                write_atomic(self.folder / COPY, copied.encode("utf-8", "surrogatepass"))
        super().update(listed, key=key, save=save)


def sealed(document: Any) -> dict[str, Any]:
    """Return a job-store document with its seal."""
    plain: dict[str, Any] = jsanitize(document, strict=True, allow_bson=True)
    stamp = seal(plain["uuid"], plain["index"], plain["output"])
    return {**plain, "metadata": {**(plain.get("metadata") or {}), SEAL: stamp}}


def read_copy(folder: Path) -> tuple[dict[str, Any], Any] | None:
    """Return the copy of a document that a job has left in its folder, with what belongs into additional stores."""
    file = folder / COPY
    if not file.is_file():
        return None
    try:
        content = json_util.loads(file.read_text(encoding="utf-8", errors="surrogatepass"))
        return dict(content["document"]), content["save"]
    except (ValueError, KeyError, TypeError):
        return None
