"""Job identities from content, so that the same work asked for twice is done once."""

from __future__ import annotations

import json
import uuid as uuid_module
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phonosmith.core.hashing import canonical_float, digest_canonical

if TYPE_CHECKING:
    from jobflow import Flow, Job

NAMESPACE = uuid_module.UUID("6f2f6d0e-5b7e-5f5e-9c55-7a2f6a4b7d10")
VOLATILE = ("uuid", "hosts", "index", "output")
DESCRIPTION: dict[str, Any] = {"metadata": {}, "metadata_updates": []}
"""What describes a job is no part of what it does: it counts as empty, as it was before jobs were described."""
MACHINE_TAGS = frozenset(
    {"NCORE", "NPAR", "KPAR", "NSIM", "LPLANE", "LSCALU", "LSCALAPACK", "NWRITE", "MAXMEM", "SYSTEM"}
)
"""INCAR tags of the machine, free to every worker: they change no result."""
KEEP_WAVEFUNCTIONS = "LWAVE"
"""A tag that writes one more file; false where nobody asked, as it was before anybody could."""
_NOT_WHAT = ("@version", "behind", "running")
"""Keys that say nothing of what a job does: versions of packages (an upgrade makes no finished job another one), where
its data come from, and how a program is started."""


def has_content_identity(uuid: str) -> bool:
    """Say whether a job's uuid was derived from its content (jobflow's own are random)."""
    return uuid_module.UUID(uuid).version == 5


def fix_identities(flow: Flow) -> Flow:
    """Give every job of a flow, in place, a uuid derived from what it does and what it depends on; return the flow.

    Two flows built from the same inputs get the same uuids, so a store that holds the outputs of one holds those of the
    other: adding a strategy to a finished campaign leaves only the new jobs to run. Jobs that are equal in everything
    (name, function, arguments, configuration) are told apart by counting. None may have run under its old uuid.
    """
    identified(flow, Counter())
    return flow


def identified(flow: Flow, counted: Counter[str]) -> list[tuple[Job, list[str]]]:
    """Do the same for one of several flows and return its jobs with the uuids of their parents, parents first.

    ``counted`` goes on from flow to flow: how often which content has been seen.
    """
    from monty.json import MontyDecoder, MontyEncoder

    from phonosmith.core.references import UUID, references_found_quickly, rename, renamed_in

    with references_found_quickly():
        ordered = list(flow.iterflow())
    renamed: dict[str, str] = {}
    for job, _ in ordered:
        before = json.dumps(job, cls=MontyEncoder)
        text = rename(before, renamed)
        done = json.loads(
            text, object_hook=_what_an_object_does, parse_float=canonical_float, parse_constant=canonical_float
        )
        content = digest_canonical({key: item for key, item in done.items() if key not in VOLATILE} | DESCRIPTION)
        counted[content] += 1
        renamed[job.uuid] = str(uuid_module.uuid5(NAMESPACE, f"{content}:{counted[content]}"))
        if text != before:
            job.function_args = tuple(renamed_in(one, renamed) for one in job.function_args)
            job.function_kwargs = {key: renamed_in(one, renamed) for key, one in job.function_kwargs.items()}
            if (bound := done["function"].get("@bound")) is not None and UUID.search(json.dumps(bound)):
                job.function = MontyDecoder().process_decoded(json.loads(text)["function"])
        job.set_uuid(renamed[job.uuid])
    for inner in _flows(flow):
        if inner.output is not None:
            inner.output = MontyDecoder().decode(rename(json.dumps(inner.output, cls=MontyEncoder), renamed))
    return [(job, [renamed.get(parent, parent) for parent in parents]) for job, parents in ordered]


def _flows(flow: Flow) -> Iterator[Flow]:
    """Yield a flow and those in it."""
    yield flow
    for member in flow.jobs:
        if hasattr(member, "jobs"):
            yield from _flows(member)


def identified_like_running(flow: Flow) -> Flow:
    """Return jobs that a running job makes, with identities from content where it has one itself."""
    from jobflow import CURRENT_JOB

    running = CURRENT_JOB.job
    return fix_identities(flow) if running is not None and has_content_identity(running.uuid) else flow


def what_is_done(plain: Any) -> Any:
    """Return a job's JSON without what makes it no other job: see `_NOT_WHAT`, and how atomate2's Makers start VASP."""
    return json.loads(json.dumps(plain), object_hook=_what_an_object_does)


def _what_an_object_does(plain: dict[str, Any]) -> dict[str, Any]:
    kept = {key: item for key, item in plain.items() if key not in _NOT_WHAT}
    if "run_vasp_kwargs" in kept:
        kept["run_vasp_kwargs"] = {}
    if isinstance(tags := kept.get("user_incar_settings"), dict):
        kept["user_incar_settings"] = {key: item for key, item in tags.items() if key not in MACHINE_TAGS}
        if KEEP_WAVEFUNCTIONS in tags:
            kept["user_incar_settings"][KEEP_WAVEFUNCTIONS] = False
    return kept
