"""Work that has been done already is not done again: its result is found by the content of what it used.

The uuid of a job follows from the jobs it depends on (`core.identity`), so a larger training set gives every job after
the audit another one. What a training really uses - its data sets, settings and foundation - is known only when it
runs. A `reused` function then looks for a document that says it was made from the same, and hands it on.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ArtefactError
from phonosmith.core.hashing import digest_json
from phonosmith.core.identity import has_content_identity, what_is_done
from phonosmith.core.sealing import SEAL, altered_fields, artefacts_in, seal

if TYPE_CHECKING:
    from jobflow import Job, JobStore

CONTENT, REUSED = "content", "reused"
"""Keys of a document's metadata: digest of what it was made from; uuid of the job whose result it hands on."""
P = ParamSpec("P")
R = TypeVar("R")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_BY = ("sha256", "dtype")


def used_content(value: Any) -> Any:
    """Return arguments as plain data in which potentials, data sets and artefacts are their content alone."""
    from monty.json import MontyEncoder

    return _used(what_is_done(json.loads(json.dumps(value, cls=MontyEncoder))))


def _used(plain: Any) -> Any:
    if isinstance(plain, dict):
        digest = plain.get("sha256")
        if isinstance(digest, str) and _SHA256.fullmatch(digest):
            return {key: plain[key] for key in _READ_BY if key in plain}
        return {key: _used(item) for key, item in plain.items()}
    return [_used(item) for item in plain] if isinstance(plain, list) else plain


def reused(
    *ignoring: str, using: Callable[..., Mapping[str, Any]] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a job's function hand on the result that an equal job has left in the job store.

    Two jobs are equal when the function's name and its arguments are, apart from those in ``ignoring``; ``using`` gives
    what counts in place of the arguments. Only jobs with an identity from content take part, with an exposed store;
    where that knows no results of others (jobflow-remote's workers), they go round by the artefact store. A
    result counts only as long as its seal and every artefact it names are whole. It may be the job's own: whoever lost
    the folder of a run, or its state, still has what the store holds.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            from jobflow import CURRENT_JOB, Response

            job: Job | None = CURRENT_JOB.job
            if job is None or not has_content_identity(job.uuid):
                return function(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            said = {name: value for name, value in bound.arguments.items() if name not in ignoring}
            counting = using(*args, **kwargs) if using else said
            key = content_key(function.__name__, counting)
            document, silent = _found(key)
            if document is not None:
                from monty.json import MontyDecoder

                job.metadata |= {CONTENT: key, REUSED: document["uuid"]}
                output: R = MontyDecoder().process_decoded(document["output"])
                return output
            answer = function(*args, **kwargs)
            if not isinstance(answer, Response) and getattr(answer, "finished", True):
                job.metadata[CONTENT] = key
                if silent and not job.metadata.get("refused"):
                    _shelve(key, answer)
            return answer

        return run

    return wrap


def content_key(function: str, counting: Mapping[str, Any]) -> str:
    """Return the digest that documents of equal jobs share."""
    return digest_json({"function": function, "used": used_content(counting)})


def made_before(function: str, counting: Mapping[str, Any]) -> Any | None:
    """Return what a job left in the running job's store that called a `reused` function with the same content.

    It is for jobs that do the work of several others; the same conditions hold.
    """
    from jobflow import CURRENT_JOB

    job: Job | None = CURRENT_JOB.job
    if job is None or not has_content_identity(job.uuid):
        return None
    document, _ = _found(content_key(function, counting))
    return None if document is None else document["output"]


def _found(key: str) -> tuple[Mapping[str, Any] | None, bool]:
    """Return a whole document that was made from the same content, and whether the running job's store is silent."""
    from jobflow import CURRENT_JOB

    if not CURRENT_JOB.job.config.expose_store:
        return None, False
    store: JobStore = CURRENT_JOB.store
    field = f"metadata.{CONTENT}"
    if only_results_travel():
        shelved = default_artefacts().shelved(key)
        with suppress(ValueError, RecursionError):
            document = json.loads(shelved or b"null")
            return (document if isinstance(document, Mapping) and _is_whole(document) else None), True
        return None, True
    store.ensure_index(field)
    return next((one for one in store.query({field: key}, load=True) if _is_whole(one)), None), False


def only_results_travel() -> bool:
    """Tell whether the running job's store is one of its own that gives its results away and knows no others.

    So it is on jobflow-remote's workers, where what a failed job has left in it is thrown away as well.
    """
    module = sys.modules.get("jobflow_remote.jobs.run")
    return module is not None and module.CURRENT_JOBDOC.job_doc is not None


def _is_whole(document: Mapping[str, Any]) -> bool:
    """Tell whether a document holds a result, as it was sealed, and everything it names is there."""
    said = document.get("metadata") or {}
    if document.get("output") is None or said.get("refused") or altered_fields(document):
        return False
    try:
        for ref in artefacts_in(document["output"]):
            default_artefacts().get_bytes(ref)
    except ArtefactError:
        return False
    return True


def _shelve(key: str, answer: Any) -> None:
    """Keep the running job's result in the artefact store, under the digest of what it was made from."""
    from jobflow import CURRENT_JOB
    from monty.json import jsanitize

    job: Job = CURRENT_JOB.job
    output = jsanitize(answer, strict=True, enum_values=True)
    sealed = {SEAL: seal(job.uuid, job.index, output)}
    document = {"uuid": job.uuid, "index": job.index, "output": output, "metadata": sealed}
    default_artefacts().shelve(key, json.dumps(document).encode("utf-8", "surrogatepass"))
