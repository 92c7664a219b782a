"""What a job store holds: potentials, materials, costs and failures as typed pandas frames; phases found.

Works on any jobflow ``JobStore``. One query with a projection reads only the numbers, never structures, curves or
tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jobflow import JobStore

from phonosmith.analysis import columns as c
from phonosmith.analysis.choice import Choice
from phonosmith.analysis.committees import ANY, Expected
from phonosmith.analysis.documents import MATERIAL_SCHEMA
from phonosmith.analysis.judgement import VERDICT_PATHS, fit_by_todays_limits
from phonosmith.core.errors import ConfigurationError, MismatchError
from phonosmith.evaluation.modes.scores import MaterialPhases, NamedPhase, score_material
from phonosmith.evaluation.phonons.committee import Interval

Row = dict[str, Any]
REPORTS: Row = {
    # a range that an index on names serves: 'report ' up to the next character after the blank
    "name": {"$gte": "report ", "$lt": "report!"},
    "output.@class": "MaterialReport",
}
"""Filter for the reports of materials in a job store."""
COMMITTEES: Row = {
    "name": {"$gte": "committee ", "$lt": "committee!"},
    "output.@class": "CommitteeReport",
}
"""Filter for what is known of committees."""
OLDEST_SCHEMA = 1
_METRIC_PATHS = dict.fromkeys(path for metric in c.METRICS for path in (metric.path, metric.relative_to) if path)
_POTENTIAL_PATHS = (
    "strategy", "n_train", "potential.name", "potential.sha256",
    *(path for path in dict.fromkeys((*_METRIC_PATHS, *VERDICT_PATHS)) if not path.startswith("report:")),
)  # fmt: skip
_REPORT_PATHS = (
    "schema_version", "material", "formula", "campaign", "mode", "cell", "seed", "reference", "rehearsal",
    "space_group", "space_group_number", "best", "gain", "failed", "costs", "limits",
    "labels.subsets", "labels.n_excluded", "labels.n_failed", "labels.train.n_frames",
    "structure.sites.label",
    "reference_result.phonons.n_displacements", "foundation.summary.n_displacements",
    *(path.removeprefix("report:") for path in _METRIC_PATHS if path.startswith("report:")),
)  # fmt: skip
_JOB = ("uuid", "index", "completed_at")
PROJECTION: tuple[str, ...] = (
    *_JOB,
    *(f"output.{path}" for path in _REPORT_PATHS),
    *(f"output.{part}.{path}" for part in ("foundation", "strategies") for path in _POTENTIAL_PATHS),
)
"""Fields that are read of each report."""
_PHASE_PATHS = (
    *_JOB, "output.schema_version", "output.material", "output.cell", "output.seed",
    "output.foundation.potential.name", "output.foundation.potential.sha256", "output.labels.subsets",
    *(f"output.{part}.{name}" for part in ("foundation", "strategies") for name in ("strategy", "n_train")),
    *(
        f"output.{part}.transitions.{phases}.{name}"
        for part in ("reference_result", "foundation", "strategies")
        for phases in ("initial", "phases")
        for name in ("space_group", "space_group_number", "n_atoms_primitive")
    ),
    *(
        f"output.{part}.transitions.modes.{name}"
        for part in ("reference_result", "foundation", "strategies")
        for name in (
            "q", "label", "frequency_thz", "skipped", "single_minimum", "n_atoms",
            *(f"pathways.{end}.{what}" for end in ("displaced", "final")
              for what in ("space_group", "n_atoms_primitive", "energy_difference_ev_per_atom")),
            "pathways.converged", "pathways.scenario", "pathways.note",
        )
    ),
)  # fmt: skip
REFERENCE = "reference"


@dataclass
class Results:
    """Everything the reports of a store say, as frames; notes: reports that were left out, with the reason.

    A row is a potential (`columns.IDENTITY` and `columns.METRICS`), a report (material, foundation, cell, seed), a job
    or group of equal jobs, a strategy without a result.
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


_FRAMES = ((*c.IDENTITY, *c.METRICS), c.MATERIAL, c.COST, c.FAILURE)
"""Columns of the frames in their order."""


def read_results(store: JobStore, campaign: str | None = None) -> Results:
    """Return what the reports in a job store, or of one campaign, say.

    Of several of one material, foundation, cell and seed the newest counts. The store is connected where it is not.
    """
    notes: list[str] = []
    reports: list[list[list[Row]]] = []
    expected = read_expected(store, campaign)
    for document in newest(find_reports(store, campaign, PROJECTION, notes)):
        try:
            made = [
                [{column.name: c.checked(column, row.get(column.name)) for column in columns} for row in rows]
                for columns, rows in zip(_FRAMES, _rows(document, document["output"], expected), strict=True)
            ]
            reports.append(made)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            name = document["output"].get("material")
            notes.append(f"job {document.get('uuid')}: report of {name} is damaged: {error}")
    frames = [[row for made in reports for row in made[place]] for place in range(len(_FRAMES))]
    potentials, materials, costs, failures = map(c.frame, _FRAMES, frames)
    return Results(potentials, materials, costs, failures, notes)


def find_reports(store: JobStore, campaign: str | None, properties: tuple[str, ...], notes: list[str]) -> Iterator[Row]:
    """Yield projected documents whose output is a report of a version that can be read; note the others."""
    criteria = REPORTS | ({"output.campaign": campaign} if campaign is not None else {})
    for document in store_query(store, criteria, properties):
        version = document["output"].get("schema_version")
        if isinstance(version, int) and OLDEST_SCHEMA <= version <= MATERIAL_SCHEMA:
            yield document
            continue
        newer = isinstance(version, int) and version > MATERIAL_SCHEMA
        notes.append(
            f"job {document.get('uuid')}: report of {document['output'].get('material')} has layout {version}, "
            f"{OLDEST_SCHEMA} to {MATERIAL_SCHEMA} can be read: "
            + ("install a newer phonosmith to read it" if newer else "run the material again")
        )


def read_expected(store: JobStore, campaign: str | None = None) -> Expected:
    """Return the phonon MAE that the committees of a job store, or of one campaign, leave open; the newest count."""
    criteria = COMMITTEES | ({"output.campaign": campaign} if campaign is not None else {})
    paths = ("strategy", "potentials", "committee.mae_thz")
    properties = ("completed_at", "output.material", *(f"output.committees.{path}" for path in paths))
    expected: dict[tuple[str, str], Interval] = {}
    for document in sorted(
        store_query(store, criteria, properties), key=lambda one: str(one.get("completed_at") or "")
    ):
        output = document["output"]
        for one in output.get("committees") or []:
            if one["strategy"] != ANY:
                interval = Interval.model_validate(c.at(one, "committee.mae_thz"))
                expected |= {(output["material"], sha256): interval for sha256 in one["potentials"]}
    return expected


def store_query(store: JobStore, criteria: Row, properties: tuple[str, ...]) -> list[Row]:
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


def newest(documents: Iterable[Row]) -> list[Row]:
    """Return the newest report of each material, foundation, cell and seed, by material."""
    best: dict[tuple[str, ...], Row] = {}
    paths = ("material", "foundation.potential.sha256", "cell", "seed")
    for document in sorted(documents, key=lambda one: (str(one.get("completed_at") or ""), int(one.get("index") or 0))):
        best[tuple(str(c.at(document["output"], path)) for path in paths)] = document
    return [best[key] for key in sorted(best)]


def _rows(document: Row, report: Row, expected: Expected) -> tuple[list[Row], ...]:
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
    for part in tuned:
        of = expected.get((str(common["material"]), str(c.at(part, "potential.sha256"))))
        part["expected_mae_thz"] = None if of is None else of.model_dump()
    potentials = [
        common
        | {name: part[name] for name in ("strategy", "n_train")}
        | {"training_set": training_set(part, report), "potential_sha256": c.at(part, "potential.sha256")}
        | {metric.name: c.checked(metric, metric.value(part, report)) for metric in c.METRICS}
        | {"fit": fit_by_todays_limits(part, report)}
        for part in (report["foundation"], *tuned)
    ]
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
    costs = []
    for item in report.get("costs") or []:
        hours = item["wall_seconds"] / 3600
        counted = {"core_hours": hours * (item.get("cores") or 1), "gpu_hours": hours * (item.get("gpus") or 0)}
        costs.append(common | item | counted)
    return potentials, [material], costs, [common | {"what": what} for what in failed]


def training_set(part: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the number of structures that was asked for, which the audit may have made smaller."""
    if part["n_train"] == 0:
        return ""
    subsets = c.at(report, "labels.subsets") or {}
    asked = [int(size) for size, ref in subsets.items() if c.at(ref, "n_frames") == part["n_train"]]
    return str(min(asked)) if asked else "all"


@dataclass(frozen=True)
class Phases:
    """Phases that imaginary modes lead to, by material, and the ways there; notes: what was left out, with the reason.

    Attributes
    ----------
    pathways
        A row for each relaxation, for each mode without a minimum and for each material without any, by strategy
        (``reference`` among them): what the published tables 6 to 11 list.
    """

    reference: dict[str, MaterialPhases]
    by_strategy: dict[str, dict[str, MaterialPhases]]
    notes: list[str]
    pathways: dict[str, list[Row]]


def read_phases(store: JobStore, choice: Choice, campaign: str | None = None) -> Phases:
    """Return what the reports of a store say about phases found along imaginary modes; the lowest seed counts."""
    phases = Phases({}, {}, [], {})
    documents = newest(find_reports(store, campaign, _PHASE_PATHS, []))
    for report in sorted((one["output"] for one in documents), key=lambda report: report.get("seed") or 0):
        material = str(report["material"])
        about = c.at(report, "foundation.potential.name"), report.get("cell")
        reference = _phases(report.get("reference_result"))
        if about != (choice.foundation, choice.cell) or reference is None or material in phases.reference:
            continue
        phases.reference[material] = reference
        phases.pathways.setdefault(REFERENCE, []).extend(_pathways(material, report["reference_result"]))
        for part in (report["foundation"], *(report.get("strategies") or [])):
            theirs = _phases(part)
            if theirs is None or training_set(part, report) not in ("", choice.training_set):
                continue
            try:
                score_material(reference, theirs)
            except MismatchError as error:
                phases.notes.append(f"{part['strategy']}, {material}: {error.message}")
                continue
            phases.by_strategy.setdefault(part["strategy"], {})[material] = theirs
            phases.pathways.setdefault(part["strategy"], []).extend(_pathways(material, part))
    return phases


def _phases(part: Mapping[str, Any] | None) -> MaterialPhases | None:
    """Return the phases of one side, None where no modes were followed."""
    document = c.at(part, "transitions")
    if not document:
        return None
    initial, *final = (
        NamedPhase(space_group=one["space_group"], number=one["space_group_number"], n_atoms=one["n_atoms_primitive"])
        for one in (document["initial"], *(document.get("phases") or []))
    )
    return MaterialPhases(initial=initial, final=final)


def _pathways(material: str, part: Mapping[str, Any]) -> list[Row]:
    """Return the rows of one material and potential."""
    initial, modes = c.at(part, "transitions.initial"), c.at(part, "transitions.modes") or []
    common = {
        "material": material,
        "n_imaginary": len(modes),
        "n_not_followed": sum(bool(mode.get("skipped")) for mode in modes),
        "initial_space_group": initial["space_group"],
        "initial_atoms": initial["n_atoms_primitive"],
    }
    rows: list[Row] = []
    for mode in modes:
        if mode.get("skipped"):
            continue
        of_mode = common | {
            "q": "/".join(f"{value:.4g}" for value in mode["q"]),
            "label": mode.get("label") or "",
            "frequency_thz": mode["frequency_thz"],
            "supercell_atoms": mode.get("n_atoms"),
        }
        if mode.get("single_minimum"):
            rows.append(of_mode | {"outcome": "single minimum"})
        for pathway in mode.get("pathways") or []:
            final = pathway.get("final") or {}
            rows.append(
                of_mode
                | {
                    "displaced_space_group": c.at(pathway, "displaced.space_group"),
                    "final_space_group": final.get("space_group"),
                    "final_atoms": final.get("n_atoms_primitive"),
                    "energy_gain_ev_per_atom": None if not final else -final["energy_difference_ev_per_atom"],
                    "scenario": pathway.get("scenario"),
                    "outcome": "relaxed" if pathway.get("converged") else pathway.get("note") or "not converged",
                }
            )
    return rows or [common | {"outcome": "no imaginary mode" if not modes else "not followed"}]
