"""What a job is - stage, material, variant, strategy - as jobflow metadata, which stores keep and index.

Names are for people. Jobs from before there was metadata are read by their names: stage first, material second.

========== ============================================================================================
key        value
========== ============================================================================================
stage      ``sample``, ``label``, ``audit``, ``train``, ``phonon``, ``elastic``, ``report``, ...
step       ``start`` or ``collect`` for jobs of a stage that only hand out or collect its work
material   lower-case name of the material
variant    name of the material with what tells apart foundation, cell and seed, as job names have it
strategy   preset of training, or ``foundation``, ``reference``; ``pack``: one job that runs several trainings
n_train    training structures asked, where a campaign has several sizes
makes      how many jobs it will make when it runs, as far as is known before
epochs     epochs a training was asked for
========== ============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Member = TypeVar("Member", bound=Any)
"""A job or a flow."""
STAGE, STEP, MATERIAL, MAKES, EPOCHS = "stage", "step", "material", "makes", "epochs"
PACK = "pack"
"""Strategy of a job that runs several trainings; each has a job of its own that collects its result."""
KEYS = (STAGE, STEP, MATERIAL, "variant", "strategy", "n_train", MAKES, EPOCHS)
_OWN = (STAGE, STEP, MAKES)
"""What is said of a job alone, not of those it makes."""


def describe(member: Member, **what: str | int | None) -> Member:
    """Say what a job, or every job of a flow and those they will make, are, by the keys above; None says nothing.

    What is said already stays.
    """
    said = {key: value for key, value in what.items() if value not in (None, "")}
    unknown = sorted(set(said) - set(KEYS))
    if unknown:
        raise ValueError(f"Jobs are described by {', '.join(KEYS)}, not by {unknown[0]}.")
    if not hasattr(member, "function"):
        for inner in member.jobs:
            describe(inner, **what)
        return member
    new = {key: value for key, value in said.items() if key not in member.metadata}
    member.metadata.update(new)
    # jobs made on the way belong to the same material, but have a stage of their own or none
    common = {key: value for key, value in new.items() if key not in _OWN}
    if common:
        member.update_metadata(common)
    return member


def named(member: Member, stage: str, variant: str, *words: str, **what: str | int | None) -> Member:
    """Name a fresh job by stage, variant and further words, and describe it by the first two and other keys."""
    member.name = " ".join([stage, variant, *words])
    return describe(member, stage=stage, variant=variant, **what)


def inherit(member: Member) -> Member:
    """Describe jobs that a running job makes like the job itself, its step apart."""
    from jobflow import CURRENT_JOB

    running = CURRENT_JOB.job
    known = {} if running is None else {key: running.metadata.get(key) for key in KEYS if key not in (STEP, MAKES)}
    return describe(member, **known)


def name_of_part(part: int, default: str) -> str:
    """Return the running job's name with the number, from 2, of the part of its work that follows it."""
    from jobflow import CURRENT_JOB

    own_name = CURRENT_JOB.job.name if CURRENT_JOB.job is not None else default
    return f"{own_name.removesuffix(f' part {part - 1}')} part {part}"


def stage_of(name: str, metadata: Mapping[str, Any] | None) -> str:
    """Return the stage of a job: what its metadata says, else the first word of its name.

    >>> stage_of("train si delta", None), stage_of("tuned silicon", {"stage": "train"})
    ('train', 'train')
    """
    return str((metadata or {}).get(STAGE) or name.partition(" ")[0])


def material_of(name: str, metadata: Mapping[str, Any] | None) -> str:
    """Return the material of a job, in lower case: what its metadata says, else the second word of its name.

    >>> material_of("train si delta", None), material_of("tuned", {"material": "ge"}), material_of("report", {})
    ('si', 'ge', '')
    """
    second = name.partition(" ")[2].partition(" ")[0]
    return str((metadata or {}).get(MATERIAL) or second).lower()


def step_of(name: str, metadata: Mapping[str, Any] | None) -> str:
    """Return ``start`` or ``collect`` for a job that only hands out or collects the work of its stage, else ``""``."""
    if STAGE in (metadata or {}):
        return str((metadata or {}).get(STEP) or "")
    last = name.rpartition(" ")[2]
    return last if name.startswith("label ") and last in ("start", "collect") else ""
