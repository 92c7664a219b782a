"""What a job store holds: potentials, materials, costs and failures as typed pandas frames; phases found.

Works on any jobflow ``JobStore``. One query with a projection reads only the numbers, never structures, curves or
tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jobflow import JobStore

from phonosmith.analysis import columns as c
from phonosmith.analysis.choice import Choice
from phonosmith.analysis.collection import (
    FLAT,
    FRAMES,
    JOB,
    NAMES,
    Row,
    current_rows,
    find_reports,
    newest,
    read_expected,
    training_set,
)
from phonosmith.core.errors import MismatchError
from phonosmith.evaluation.modes.scores import MaterialPhases, NamedPhase, score_material

__all__ = ["REFERENCE", "Phases", "Results", "find_reports", "newest", "read_expected", "read_phases", "read_results"]

_PHASE_PATHS = (
    *JOB, "output.schema_version", "output.material", "output.cell", "output.seed",
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


def read_results(store: JobStore, campaign: str | None = None) -> Results:
    """Return what the reports in a job store, or of one campaign, say.

    Of several of one material, foundation, cell and seed the newest counts. The store is connected where it is not. The
    numbers come from the flat collection beside the reports, brought up to date (`current_rows`).
    """
    flat, notes = current_rows(store, campaign)
    chosen = newest(flat, FLAT)
    potentials, materials, costs, failures = (
        c.frame(columns, [one["common"] | row for one in chosen for row in one[name]])
        for name, columns in zip(NAMES, FRAMES, strict=True)
    )
    return Results(potentials, materials, costs, failures, notes)


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
