"""How far every material is, from what the jobs in a store say about themselves.

Stage and material are in a job's metadata; jobs from before there was any are read by their names, which say the stage
first and the material second (``train si delta``). Done is what has an output. Failed is what was refused, what the
store keeps a reason of (`core.failures`), or what a report lists as failed. Missing is what another material of the
store has under the same name (``train ge delta`` where only ``train si delta`` exists), as long as the material has no
report.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from typing import Any

from jobflow import JobStore

from phonosmith.analysis.choice import FOUNDATION
from phonosmith.analysis.collection import store_query
from phonosmith.analysis.queries import Results, read_results
from phonosmith.core.failures import REFUSALS, failure_uuid, read_failures, refusal_of
from phonosmith.core.metadata import KEYS, MATERIAL, PACK, STAGE, material_of, stage_of, step_of

STAGES = (
    "sample", "replay", "label", "audit", "subset", "relax", "static", "displace", "curvature", "train", "phonon",
    "elastic", "eos", "follow", "qha", "kappa", "forgetting", "cost", "report",
    "committee",
)  # fmt: skip
"""Order in which stages are shown; others follow by name."""
_NAMED = re.compile(r"sample (.+) (?:primitive|small|large)|(?:phonon|elastic|eos) (.+) (?:reference|foundation)")
_OUTPUT_JOB = "store_inputs"
"""Name of the job jobflow adds for the output of a flow that replaces a job, with that job's metadata."""
_COUNTED = re.compile(r" (?:\d+/\d+|part \d+)$")
"""Ends of names whose number differs between materials: displaced cells, parts of a training."""


@dataclass
class StageStatus:
    """Numbers of jobs of one stage of one material; the last three only where a run or a queue was looked at.

    ``waiting`` needs other jobs, ``pending`` a worker or the scheduler.
    """

    done: int = 0
    failed: int = 0
    missing: int = 0
    running: int = 0
    waiting: int = 0
    pending: int = 0


@dataclass(frozen=True)
class LiveJob:
    """A job as whoever runs it knows it: ``state`` as the fields above, or another word; why it failed or waits."""

    name: str
    metadata: Mapping[str, Any]
    state: str
    reason: str = ""


@dataclass
class MaterialStatus:
    """How far one material is.

    Attributes
    ----------
    material
        Lower-case name in job names.
    n_reports, n_fit, best
        Finished reports (foundations, cells, seeds), fine-tuned potentials judged fit in them, best strategy of each.
    failed
        Jobs or strategies without a result, with the reason where the store or the run knows it.
    missing
        Names of jobs expected after the other materials.
    pending
        Numbers of jobs by what they wait for.
    """

    material: str
    n_reports: int = 0
    n_fit: int = 0
    best: list[str] = field(default_factory=list)
    stages: dict[str, StageStatus] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    pending: dict[str, int] = field(default_factory=dict)

    def stage(self, name: str) -> StageStatus:
        """Return the entry of a stage, made where it is missing."""
        return self.stages.setdefault(name, StageStatus())

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, stages in order."""
        order = {stage: place for place, stage in enumerate(STAGES)}
        names = sorted(self.stages, key=lambda name: (order.get(name, len(order)), name))
        return asdict(self) | {"stages": {name: asdict(self.stages[name]) for name in names}}


@dataclass
class StoreStatus:
    """What a store says about all materials, by name; ``n_jobs``: with an output, of whatever kind."""

    materials: dict[str, MaterialStatus]
    n_jobs: int
    notes: list[str] = field(default_factory=list)

    def find(self, name: str, metadata: Mapping[str, Any] | None = None) -> MaterialStatus | None:
        """Return the material a job of a stage belongs to; one that only the metadata know is added."""
        if name == _OUTPUT_JOB:
            return None
        said = (metadata or {}).get(MATERIAL) if STAGE in (metadata or {}) else None
        key = owner(name, self.materials) if said is None else str(said).lower()
        return None if key is None else self.materials.setdefault(key, MaterialStatus(key))

    def add_live(self, jobs: Iterable[LiveJob]) -> None:
        """Replace guesses about what is missing of the materials of some jobs by what their runner or queue knows."""
        guessed: set[str] = set()
        for job in jobs:
            if job.name == _OUTPUT_JOB:
                continue
            material = self.find(job.name, job.metadata)
            if material is None:
                # nothing of this material is in the store yet
                if not (key := material_of(job.name, job.metadata)):
                    continue
                material = self.materials.setdefault(key, MaterialStatus(key))
            if material.material not in guessed:
                guessed.add(material.material)
                material.missing.clear()
                for entry in material.stages.values():
                    entry.missing = 0
            stage = material.stage(stage_of(job.name, job.metadata))
            stage.running += job.state == "running"
            stage.waiting += job.state == "waiting"
            if job.state == "pending":
                stage.pending += 1
                material.pending[job.reason] = material.pending.get(job.reason, 0) + 1
            elif job.state == "failed":
                stage.failed += job.name not in material.failed
                material.failed[job.name] = job.reason or "failed"
            elif job.state == "missing":
                stage.missing += 1
                material.missing.append(job.name)


def owner(name: str, keys: Iterable[str]) -> str | None:
    """Return the longest key that follows the stage in a job's name; None when none does."""
    rest = f"{name.partition(' ')[2]} "
    return max((key for key in keys if rest.startswith(f"{key} ")), key=len, default=None)


def _roots(keys: Iterable[str]) -> list[str]:
    """Return the keys that do not continue another one word by word: materials without their variants."""
    roots: list[str] = []
    for key in sorted(keys, key=len):
        if not any(f"{key} ".startswith(f"{root} ") for root in roots):
            roots.append(key)
    return sorted(roots)


def read_status(store: JobStore) -> StoreStatus:
    """Return how far every material in a job store is."""
    # key by key: the seal beside them would have every document read whole
    described = (f"metadata.{key}" for key in (*KEYS, "refused"))
    documents = store_query(store, {"output": {"$ne": None}}, ("uuid", "index", "name", *described))
    results = read_results(store)
    failures = {failure_uuid(one.uuid): one for one in read_failures(store).values()}
    refusals = {str(one["uuid"]): refusal_of(one) for one in store_query(store, REFUSALS, ("uuid", "output.reasons"))}
    # calculations inside a flow are called the same for every material
    jobs: dict[tuple[str, str], tuple[Mapping[str, Any], str]] = {}
    for document in documents:
        name, metadata = str(document.get("name") or ""), document.get("metadata") or {}
        why = refusals.get(str(document["uuid"]), "") if metadata.get("refused") else ""
        if (failed := failures.get(str(document["uuid"]))) is not None:
            name, why = failed.job, failed.error or "failed"
        job = str(metadata.get(MATERIAL) or ""), name
        # a later job of the same name may have succeeded
        if job not in jobs or not why:
            jobs[job] = metadata, why
    said = [metadata for metadata, _ in jobs.values()]
    matches = (_NAMED.fullmatch(name) for (_, name), (metadata, _) in jobs.items() if STAGE not in metadata)
    keys = {match[1] or match[2] for match in matches if match}
    keys |= {str(one[MATERIAL]).lower() for one in said if one.get(STAGE) and one.get(MATERIAL)}
    keys |= {str(name).lower() for name in results.materials["material"]}
    materials = {key: MaterialStatus(key) for key in _roots(keys)}
    status = StoreStatus(
        materials, len({document["uuid"] for document in documents} - failures.keys()), list(results.notes)
    )
    ends: set[tuple[str, str]] = set()
    have: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for (_, name), (metadata, why) in sorted(jobs.items(), key=itemgetter(0)):
        material = status.find(name, metadata)
        if material is None or (_is_helper(name, metadata) and not why):
            continue
        stage = stage_of(name, metadata)
        rest = name.removeprefix(f"{stage} {material.material}")
        have[material.material].add((stage, rest))
        if not _COUNTED.search(name):
            ends.add((stage, rest))
        if why:
            material.stage(stage).failed += 1
            material.failed[name] = why
        else:
            material.stage(stage).done += 1
    _add_reports(materials, results, {name for (_, name), (_, why) in jobs.items() if not why})
    for key, material in materials.items():
        if material.n_reports:
            continue
        for stage, rest in sorted(ends - have[key]):
            material.stage(stage).missing += 1
            material.missing.append(f"{stage} {key}{rest}")
    return status


def _is_helper(name: str, metadata: Mapping[str, Any]) -> bool:
    """Say whether a job's work is counted by other jobs: of trainings in a pack those count that collect them."""
    if stage_of(name, metadata) == "train":
        return metadata.get("strategy") == PACK
    return bool(step_of(name, metadata))


def _add_reports(materials: dict[str, MaterialStatus], results: Results, done: set[str]) -> None:
    """Add what reports say: verdicts, and strategies that ended without a result; ``done``: names of jobs with one."""

    def entry(material: object) -> MaterialStatus:
        # the name of every report is among the keys, so that it has an owner
        return materials[owner(f"report {str(material).lower()}", materials) or ""]

    for row in results.materials.to_dict("records"):
        entry(row["material"]).n_reports += 1
        entry(row["material"]).best += [row["best"]] if row["best"] else []
    tuned = results.potentials[results.potentials["strategy"] != FOUNDATION]
    for name, answers in tuned.groupby("material")["fit"]:
        entry(name).n_fit += int(answers.fillna(value=False).sum())
    for row in results.failures.to_dict("records"):
        material = entry(row["material"])
        name = f"train {material.material} {row['what']}"
        # a report from before a training succeeded, or of an earlier version of the campaign, knows no better
        if name not in done and name not in material.failed:
            material.failed[name] = "no result, see the report"
            material.stage("train").failed += 1
