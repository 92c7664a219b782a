"""Phases found along imaginary modes, from the reports of a store: what table 4 counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from phonosmith.analysis.choice import FOUNDATION, Choice, in_order
from phonosmith.analysis.columns import at
from phonosmith.analysis.queries import find_reports, newest, training_set
from phonosmith.analysis.table_format import DASH, Block, Table, number, tidy
from phonosmith.core.errors import MismatchError
from phonosmith.evaluation.modes.scores import MaterialPhases, NamedPhase, PhaseScores, score_material, score_phases

if TYPE_CHECKING:
    from jobflow import JobStore

    from phonosmith.analysis.published import Published

_PHASE = ("space_group", "space_group_number", "n_atoms_primitive")
_NEEDED = tuple(f"transitions.{part}.{name}" for part in ("initial", "phases") for name in _PHASE)
_PATHS = (
    "uuid", "index", "completed_at", "output.schema_version", "output.material", "output.cell", "output.seed",
    "output.foundation.potential.name", "output.foundation.potential.sha256", "output.labels.subsets",
    "output.strategies.strategy", "output.strategies.n_train",
    *(f"output.{side}.{path}" for side in ("reference_result", "foundation", "strategies") for path in _NEEDED),
)  # fmt: skip


def read_phases(
    store: JobStore, choice: Choice, campaign: str | None = None
) -> tuple[dict[str, MaterialPhases], dict[str, dict[str, MaterialPhases]], list[str]]:
    """Return the phases of the reference by material, those of each strategy, and what was left out with the reason.

    Parameters
    ----------
    store
        Any job store.
    choice
        Foundation, training set and cell; of several seeds the lowest counts.
    campaign
        Only reports of this campaign.
    """
    truth: dict[str, MaterialPhases] = {}
    found: dict[str, dict[str, MaterialPhases]] = {}
    notes: list[str] = []
    documents = newest(find_reports(store, campaign, _PATHS, []))
    for document in sorted(documents, key=lambda one: one["output"].get("seed") or 0):
        report = document["output"]
        material = str(report["material"])
        wanted = at(report, "foundation.potential.name") == choice.foundation and report.get("cell") == choice.cell
        reference = _phases(report.get("reference_result"))
        if not wanted or reference is None or material in truth:
            continue
        truth[material] = reference
        parts = [(FOUNDATION, report["foundation"])]
        parts += [
            (part["strategy"], part)
            for part in report.get("strategies") or []
            if training_set(part, report) == choice.training_set
        ]
        for strategy, part in parts:
            phases = _phases(part)
            if phases is None:
                continue
            try:
                score_material(reference, phases)
            except MismatchError as error:
                notes.append(f"{strategy}, {material}: {error.message}")
                continue
            found.setdefault(strategy, {})[material] = phases
    return truth, found, notes


def _phases(part: Mapping[str, Any] | None) -> MaterialPhases | None:
    """Return the phases of one side, None where no modes were followed."""
    document = at(part, "transitions")
    if not document:
        return None
    return MaterialPhases(
        initial=_named(document["initial"]), final=[_named(one) for one in document.get("phases") or []]
    )


def _named(phase: Mapping[str, Any]) -> NamedPhase:
    return NamedPhase(
        space_group=phase["space_group"], number=phase["space_group_number"], n_atoms=phase["n_atoms_primitive"]
    )


def phase_table(
    truth: Mapping[str, MaterialPhases],
    found: Mapping[str, Mapping[str, MaterialPhases]],
    choice: Choice,
    published: Published | None = None,
    notes: list[str] | None = None,
) -> Table | None:
    """Return precision, recall and F1 of the phases found along imaginary modes (published table 4)."""
    if not found:
        return None
    strategies = in_order(list(found))
    scores = {one: score_phases(truth, found[one]) for one in strategies}
    rows = [
        ["precision, %", *(_percent(scores[one].precision) for one in strategies)],
        ["recall, %", *(_percent(scores[one].recall) for one in strategies)],
        ["F1", *(DASH if scores[one].f1 is None else number(scores[one].f1) for one in strategies)],
        ["materials in precision", *(str(scores[one].n_precision) for one in strategies)],
        ["materials in recall", *(str(scores[one].n_recall) for one in strategies)],
    ]
    blocks = [Block(["new phases", *strategies], rows)]
    data = [_numbers("this store", one, scores[one]) for one in strategies]
    if published:
        names = in_order(list(published.phases))
        theirs = [
            ["precision, %", *(number(published.phases[one].precision, 0) for one in names)],
            ["recall, %", *(number(published.phases[one].recall, 0) for one in names)],
            ["F1", *(number(published.phases[one].f1) for one in names)],
        ]
        blocks.append(Block(["new phases", *names], theirs, published.label))
        data += [{"source": published.label, "strategy": one} | published.phases[one].model_dump() for one in names]
        for row in data[len(strategies) :]:
            row["precision_percent"], row["recall_percent"] = row.pop("precision"), row.pop("recall")
    words = "equal in space group and atoms of the primitive cell, the initial phase left out on both sides"
    return Table(
        "table4_new_phases",
        f"New phases along imaginary modes: {choice}",
        blocks,
        tidy(data),
        [words, *(notes or [])],
    )


def _percent(share: float | None) -> str:
    return DASH if share is None else number(100 * share, 0)


def _numbers(source: str, strategy: str, scores: PhaseScores) -> dict[str, Any]:
    return {
        "source": source,
        "strategy": strategy,
        "precision_percent": None if scores.precision is None else 100 * scores.precision,
        "recall_percent": None if scores.recall is None else 100 * scores.recall,
        "f1": scores.f1,
        "n_precision": scores.n_precision,
        "n_recall": scores.n_recall,
    }
