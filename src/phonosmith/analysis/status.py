"""How far every material is, from what the jobs in a store say about themselves.

Stage and material are in a job's metadata; jobs from before there was any are read by their names, which say the stage
first and the material second (``train si delta``). Done is what has an output. Failed is what was refused or what a
report lists as failed. Missing is what another material of the store has under the same name (``train ge delta`` where
only ``train si delta`` exists), as long as the material has no report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from phonosmith.analysis.queries import Results, read_results, store_query
from phonosmith.core.metadata import MATERIAL, STAGE, stage_of, step_of

if TYPE_CHECKING:
    from jobflow import JobStore

STAGES = (
    "sample", "replay", "label", "audit", "subset", "relax", "static", "displace", "curvature", "train", "phonon",
    "elastic", "eos", "follow", "forgetting", "cost", "report",
)  # fmt: skip
"""Order in which stages are shown; others follow by name."""
_SAMPLED = re.compile(r"sample (?P<key>.+) (?:primitive|small|large)")
_SIDE = re.compile(r"(?:phonon|elastic|eos) (?P<key>.+) (?:reference|foundation)")
_OUTPUT_JOB = "store_inputs"
"""Name of the job jobflow adds for the output of a flow that replaces a job, with that job's metadata."""
_COUNTED = re.compile(r" (?:\d+/\d+|part \d+)$")
"""Ends of names whose number differs between materials: displaced cells, parts of a training."""


@dataclass
class StageStatus:
    """Jobs of one stage of one material.

    Attributes
    ----------
    done, failed, missing
        Numbers of jobs; ``running`` and ``waiting`` only where a run was looked at.
    """

    done: int = 0
    failed: int = 0
    missing: int = 0
    running: int = 0
    waiting: int = 0


@dataclass
class MaterialStatus:
    """How far one material is.

    Attributes
    ----------
    material
        Lower-case name in job names.
    n_reports
        Finished reports (foundations, cells, seeds).
    n_fit
        Fine-tuned potentials judged fit in them.
    best
        Best strategy of each report.
    stages
        Jobs by stage.
    failed
        Names of jobs or strategies without a result, with the reason where the store or the run knows it.
    missing
        Names of jobs expected after the other materials.
    """

    material: str
    n_reports: int = 0
    n_fit: int = 0
    best: list[str] = field(default_factory=list)
    stages: dict[str, StageStatus] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

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
    """What a store says about all materials.

    Attributes
    ----------
    materials
        By name.
    n_jobs
        Jobs with an output, of whatever kind.
    notes
        Reports that cannot be read.
    """

    materials: dict[str, MaterialStatus]
    n_jobs: int
    notes: list[str] = field(default_factory=list)

    def find(self, name: str, metadata: Mapping[str, Any] | None = None) -> MaterialStatus | None:
        """Return the material a job belongs to; one that only the metadata know is added."""
        key = material_of(name, metadata, self.materials)
        return None if key is None else self.materials.setdefault(key, MaterialStatus(key))


def material_of(name: str, metadata: Mapping[str, Any] | None, keys: Iterable[str]) -> str | None:
    """Return the material of a job that belongs to a stage, else None."""
    if name == _OUTPUT_JOB:
        return None
    if metadata and STAGE in metadata and MATERIAL in metadata:
        return str(metadata[MATERIAL]).lower()
    return owner(name, keys)


def owner(name: str, keys: Iterable[str]) -> str | None:
    """Return the longest key that follows the stage in a job's name; None when none does."""
    rest = f"{name.partition(' ')[2]} "
    return max((key for key in keys if rest.startswith(f"{key} ")), key=len, default=None)


def _roots(keys: Iterable[str]) -> list[str]:
    """Return the keys that do not continue another one word by word: materials without their variants."""
    every = sorted(set(keys), key=len)
    roots: list[str] = []
    for key in every:
        if not any(f"{key} ".startswith(f"{root} ") for root in roots):
            roots.append(key)
    return sorted(roots)


def read_status(store: JobStore) -> StoreStatus:
    """Return how far every material in a job store is."""
    documents = store_query(store, {"output": {"$ne": None}}, ("uuid", "index", "name", "metadata"))
    results = read_results(store)
    jobs: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        name, metadata = str(document.get("name") or ""), document.get("metadata") or {}
        # a later job of the same name may have succeeded
        if name not in jobs or not metadata.get("refused"):
            jobs[name] = metadata
    keys = {
        match["key"]
        for name, metadata in jobs.items()
        for match in (_SAMPLED.fullmatch(name), _SIDE.fullmatch(name))
        if match and STAGE not in metadata
    }
    keys |= {str(said[MATERIAL]).lower() for said in jobs.values() if said.get(STAGE) and said.get(MATERIAL)}
    keys |= {str(name).lower() for name in results.materials["material"]}
    materials = {key: MaterialStatus(key) for key in _roots(keys)}
    status = StoreStatus(materials, len({document["uuid"] for document in documents}), list(results.notes))
    ends: set[tuple[str, str]] = set()
    have: dict[str, set[tuple[str, str]]] = {key: set() for key in materials}
    for name, metadata in sorted(jobs.items(), key=lambda item: item[0]):
        material = status.find(name, metadata)
        if material is None or step_of(name, metadata):
            continue
        stage = stage_of(name, metadata)
        rest = name.removeprefix(f"{stage} {material.material}")
        have.setdefault(material.material, set()).add((stage, rest))
        if not _COUNTED.search(name):
            ends.add((stage, rest))
        if metadata.get("refused"):
            material.stage(stage).failed += 1
            material.failed[name] = "refused by the label gate"
        else:
            material.stage(stage).done += 1
    _add_reports(materials, results)
    for key, material in materials.items():
        if material.n_reports:
            continue
        for stage, rest in sorted(ends - have[key]):
            material.stage(stage).missing += 1
            material.missing.append(f"{stage} {key}{rest}")
    return status


def _add_reports(materials: dict[str, MaterialStatus], results: Results) -> None:
    """Add what reports say: verdicts, and strategies that ended without a result."""
    fit = results.potentials[(results.potentials["strategy"] != "foundation")]
    for row in results.materials.to_dict("records"):
        key = owner(f"report {str(row['material']).lower()}", materials)
        if key is not None:
            materials[key].n_reports += 1
            materials[key].best += [row["best"]] if row["best"] else []
    for name, group in fit.groupby("material"):
        key = owner(f"report {str(name).lower()}", materials)
        if key is not None:
            materials[key].n_fit += int(group["fit"].fillna(value=False).sum())
    for row in results.failures.to_dict("records"):
        key = owner(f"report {str(row['material']).lower()}", materials)
        if key is not None:
            materials[key].failed[f"train {key} {row['what']}"] = "no result, see the report"
            materials[key].stage("train").failed += 1
