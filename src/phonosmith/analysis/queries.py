"""What a job store holds: potentials, materials, costs and failures as typed pandas frames; phases found.

Works on any jobflow ``JobStore``. One query with a projection reads only the numbers, never structures, curves or
tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phonosmith.analysis import columns as c
from phonosmith.analysis.choice import FOUNDATION, Choice
from phonosmith.analysis.documents import MATERIAL_SCHEMA
from phonosmith.core.errors import ConfigurationError, MismatchError
from phonosmith.evaluation.modes.scores import MaterialPhases, NamedPhase, score_material

if TYPE_CHECKING:
    import pandas as pd
    from jobflow import JobStore

REPORTS: dict[str, Any] = {
    # a range that an index on names serves: 'report ' up to the next character after the blank
    "name": {"$gte": "report ", "$lt": "report!"},
    "output.@class": "MaterialReport",
}
"""Filter for the reports of materials in a job store."""
OLDEST_SCHEMA = 1
_POTENTIAL_PATHS = (
    "strategy",
    "n_train",
    "potential.name",
    "potential.sha256",
    *dict.fromkeys(path for metric in c.METRICS for path in metric.paths()),
)
_REPORT_PATHS = (
    "schema_version", "material", "formula", "campaign", "mode", "cell", "seed", "reference", "rehearsal",
    "space_group", "space_group_number", "best", "gain", "failed", "costs",
    "labels.subsets", "labels.n_excluded", "labels.n_failed", "labels.train.n_frames",
    "structure.sites.label",
    "reference_result.phonons.n_displacements", "foundation.summary.n_displacements",
    *dict.fromkeys(
        metric.relative_to.removeprefix("report:") for metric in c.METRICS if metric.relative_to.startswith("report:")
    ),
)  # fmt: skip
PROJECTION: tuple[str, ...] = (
    "uuid",
    "index",
    "completed_at",
    *(f"output.{path}" for path in _REPORT_PATHS),
    *(f"output.foundation.{path}" for path in _POTENTIAL_PATHS),
    *(f"output.strategies.{path}" for path in _POTENTIAL_PATHS),
)
"""Fields that are read of each report."""
_PHASE = ("space_group", "space_group_number", "n_atoms_primitive")
_NEEDED = tuple(f"transitions.{part}.{name}" for part in ("initial", "phases") for name in _PHASE)
_PHASE_PATHS = (
    "uuid", "index", "completed_at", "output.schema_version", "output.material", "output.cell", "output.seed",
    "output.foundation.potential.name", "output.foundation.potential.sha256", "output.labels.subsets",
    "output.strategies.strategy", "output.strategies.n_train",
    *(f"output.{side}.{path}" for side in ("reference_result", "foundation", "strategies") for path in _NEEDED),
)  # fmt: skip


@dataclass
class Results:
    """Everything the reports of a store say, as frames.

    Attributes
    ----------
    potentials
        One row per potential: `columns.IDENTITY` and `columns.METRICS`.
    materials
        One row per report (material, foundation, cell, seed).
    costs
        One row per job or group of equal jobs.
    failures
        One row per strategy without a result.
    notes
        Reports that were left out, with the reason.
    """

    potentials: pd.DataFrame
    materials: pd.DataFrame
    costs: pd.DataFrame
    failures: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """No report was found."""
        return len(self.materials) == 0


def read_results(store: JobStore, campaign: str | None = None) -> Results:
    """Return what the reports in a job store say; of several of one material, foundation, cell and seed the newest.

    Parameters
    ----------
    store
        Any job store; it is connected where it is not.
    campaign
        Only reports of this campaign.
    """
    notes: list[str] = []
    potentials: list[dict[str, Any]] = []
    materials: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    for document in newest(find_reports(store, campaign, PROJECTION, notes)):
        report = document["output"]
        try:
            made = _rows(document, report)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            notes.append(f"job {document.get('uuid')}: report of {report.get('material')} is damaged: {error}")
            continue
        for rows, more in zip((potentials, materials, costs, failures), made, strict=True):
            rows.extend(more)
    return Results(
        c.frame((*c.IDENTITY, *c.METRICS), potentials),
        c.frame(c.MATERIAL, materials),
        c.frame(c.COST, costs),
        c.frame(c.FAILURE, failures),
        notes,
    )


def find_reports(
    store: JobStore, campaign: str | None, properties: tuple[str, ...], notes: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield projected documents whose output is a report of a version that can be read; note the others."""
    criteria = dict(REPORTS) | ({"output.campaign": campaign} if campaign is not None else {})
    for document in store_query(store, criteria, properties):
        version = document["output"].get("schema_version")
        if isinstance(version, int) and OLDEST_SCHEMA <= version <= MATERIAL_SCHEMA:
            yield document
            continue
        advice = (
            "install a newer phonosmith to read it"
            if isinstance(version, int) and version > MATERIAL_SCHEMA
            else "run the material again"
        )
        notes.append(
            f"job {document.get('uuid')}: report of {document['output'].get('material')} has layout {version}, "
            f"{OLDEST_SCHEMA} to {MATERIAL_SCHEMA} can be read: {advice}"
        )


def store_query(store: JobStore, criteria: dict[str, Any], properties: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return projected documents of a job store, connected where it is not.

    Raises
    ------
    ConfigurationError
        When the store cannot be read.
    """
    try:
        store.connect()
        return list(store.query(criteria, properties=list(properties), load=False))
    except Exception as error:
        raise ConfigurationError(
            f"The job store {store.name} cannot be read: {type(error).__name__}: {error}.",
            "Check that its server runs and that jobflow.yaml or --store names the right one.",
        ) from error


def newest(documents: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest report of each material, foundation, cell and seed, by material."""
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for document in documents:
        report = document["output"]
        foundation = c.at(report, "foundation.potential.sha256")
        key = tuple(str(item) for item in (report.get("material"), foundation, report.get("cell"), report.get("seed")))
        if key not in best or _age(document) >= _age(best[key]):
            best[key] = document
    return [best[key] for key in sorted(best)]


def _age(document: Mapping[str, Any]) -> tuple[str, int]:
    return str(document.get("completed_at") or ""), int(document.get("index") or 0)


def _filled(columns: tuple[c.Column, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    return {column.name: c.checked(column, values.get(column.name)) for column in columns}


def _rows(document: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[list[dict[str, Any]], ...]:
    """Return the rows a report gives to each frame."""
    plain = ("material", "formula", "campaign", "cell", "reference", "rehearsal", "space_group", "space_group_number")
    # layout 1 knew neither mode nor seed
    common = {name: report.get(name) for name in (*plain, "best", "gain")} | {
        "mode": report.get("mode") or "comparison",
        "seed": report.get("seed") or 0,
        "foundation": c.at(report, "foundation.potential.name"),
        "uuid": document.get("uuid"),
        "completed_at": str(document.get("completed_at") or ""),
    }
    if not common["material"]:
        raise ValueError("it names no material")
    tuned = report.get("strategies") or []
    potentials = [_potential(part, report, common) for part in (report["foundation"], *tuned)]
    failed = report.get("failed") or []
    sites = c.at(report, "structure.sites")
    truth = c.at(report, "reference_result.phonons.n_displacements")
    material = common | {
        "n_atoms": len(sites) if sites else None,
        "n_potentials": len(tuned),
        "n_failed": len(failed),
        "n_labels_excluded": c.at(report, "labels.n_excluded"),
        "n_labels_failed": c.at(report, "labels.n_failed"),
        "n_displaced_cells": c.at(report, "foundation.summary.n_displacements") if truth is None else truth,
    }
    costs = [_cost(item, common) for item in report.get("costs") or []]
    failures = [_filled(c.FAILURE, common | {"what": what}) for what in failed]
    return potentials, [_filled(c.MATERIAL, material)], costs, failures


def _potential(part: Mapping[str, Any], report: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    values = {metric.name: c.checked(metric, metric.value(part, report)) for metric in c.METRICS}
    identity = dict(common) | {
        "strategy": part["strategy"],
        "n_train": part["n_train"],
        "training_set": training_set(part, report),
        "potential_sha256": c.at(part, "potential.sha256"),
    }
    return _filled(c.IDENTITY, identity) | values


def training_set(part: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the number of structures that was asked for, which the audit may have made smaller."""
    if part["n_train"] == 0:
        return ""
    subsets = c.at(report, "labels.subsets") or {}
    asked = [int(size) for size, ref in subsets.items() if c.at(ref, "n_frames") == part["n_train"]]
    return str(min(asked)) if asked else "all"


def _cost(item: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    hours = item["wall_seconds"] / 3600
    counted = {"core_hours": hours * (item.get("cores") or 1), "gpu_hours": hours * (item.get("gpus") or 0)}
    return _filled(c.COST, dict(common) | dict(item) | counted)


@dataclass(frozen=True)
class Phases:
    """Phases that imaginary modes lead to.

    Attributes
    ----------
    reference
        By material.
    by_strategy
        The same of each strategy, and of the foundation.
    notes
        What was left out, with the reason.
    """

    reference: dict[str, MaterialPhases]
    by_strategy: dict[str, dict[str, MaterialPhases]]
    notes: list[str]


def read_phases(store: JobStore, choice: Choice, campaign: str | None = None) -> Phases:
    """Return what the reports of a store say about phases found along imaginary modes.

    Parameters
    ----------
    store
        Any job store.
    choice
        Foundation, training set and cell; of several seeds the lowest counts.
    campaign
        Only reports of this campaign.
    """
    phases = Phases({}, {}, [])
    documents = newest(find_reports(store, campaign, _PHASE_PATHS, []))
    for document in sorted(documents, key=lambda one: one["output"].get("seed") or 0):
        report = document["output"]
        material = str(report["material"])
        wanted = c.at(report, "foundation.potential.name") == choice.foundation and report.get("cell") == choice.cell
        reference = _phases(report.get("reference_result"))
        if not wanted or reference is None or material in phases.reference:
            continue
        phases.reference[material] = reference
        parts = [(FOUNDATION, report["foundation"])]
        parts += [
            (part["strategy"], part)
            for part in report.get("strategies") or []
            if training_set(part, report) == choice.training_set
        ]
        for strategy, part in parts:
            theirs = _phases(part)
            if theirs is None:
                continue
            try:
                score_material(reference, theirs)
            except MismatchError as error:
                phases.notes.append(f"{strategy}, {material}: {error.message}")
                continue
            phases.by_strategy.setdefault(strategy, {})[material] = theirs
    return phases


def _phases(part: Mapping[str, Any] | None) -> MaterialPhases | None:
    """Return the phases of one side, None where no modes were followed."""
    document = c.at(part, "transitions")
    if not document:
        return None
    return MaterialPhases(
        initial=_named(document["initial"]), final=[_named(one) for one in document.get("phases") or []]
    )


def _named(phase: Mapping[str, Any]) -> NamedPhase:
    return NamedPhase(
        space_group=phase["space_group"], number=phase["space_group_number"], n_atoms=phase["n_atoms_primitive"]
    )
