"""Learning curves, and the documents of labelling until phonons stop moving."""

from __future__ import annotations

import itertools

from pydantic import Field

from phonosmith.analysis.documents import AuditedLabels, Cost, MaterialReport, PhononSummary
from phonosmith.core.document import Document
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.phonons.committee import Committee
from phonosmith.evaluation.verdict import Verdict
from phonosmith.potentials.documents import PotentialRef
from phonosmith.training.documents import TrainingDocument


class CurvePoint(Document):
    """One training-set size of one strategy."""

    n_train: int = Field(description="training structures")
    phonon_mae_thz: float | None = Field(None, description="against the reference, THz; null in production mode")
    phonon_change_thz: float | None = Field(None, description="against the next smaller training set, THz")
    train_force_mae: float | None = Field(None, description="meV/Å")
    valid_force_mae: float | None = Field(None, description="meV/Å")
    fit: bool = Field(description="verdict")


class LearningCurve(Document):
    """One strategy over nested training sets."""

    strategy: str = Field(description="strategy")
    points: list[CurvePoint] = Field(description="smallest training set first")
    sufficient: int | None = Field(None, description="smallest training set from which on the verdict is fit")


class LearningCurveReport(Document):
    """How phonons and forces improve with the number of labels."""

    schema_version: int = Field(1, description="version of this document's layout")
    material: str = Field(description="material")
    mode: str = Field(description="comparison or production")
    foundation_phonon_mae_thz: float | None = Field(None, description="of the foundation, THz")
    foundation_force_mae: float | None = Field(None, description="of the foundation on the validation set, meV/Å")
    curves: list[LearningCurve] = Field(description="one per strategy")
    failed: list[str] = Field(default_factory=list, description="strategies and sizes without a result")
    manifest: Manifest = Field(description="provenance")


class AdaptiveRound(Document):
    """One round: labels of one more layer, training, phonons."""

    number: int = Field(description="1, 2, ...")
    asked: list[int] = Field(
        default_factory=list, description="training configurations labelled in this round, by their place"
    )
    n_labels: int = Field(description="reference calculations asked so far, validation included")
    n_train: int = Field(description="training structures")
    valid_force_mae: float = Field(description="meV/Å")
    improved: bool = Field(description="validation loss below the foundation's")
    phonon_change_thz: float | None = Field(None, description="phonon MAE against the round before, THz")
    spread_thz: float | None = Field(None, description="mean phonon MAE between pairs of the committee, THz")
    committee: Committee | None = Field(
        None, description="what the members say together; null without a committee, or where they cannot be compared"
    )
    force_std: dict[int, float] = Field(
        default_factory=dict,
        description="configurations not labelled yet, by their place among the training configurations: root mean "
        "square over atoms of the standard deviation of a force between members, eV/Å",
    )
    verdict: Verdict = Field(description="by the rule without reference phonons")
    potential: PotentialRef = Field(description="first of the committee")
    phonons: PhononSummary = Field(description="its phonons")


class AdaptiveReport(Document):
    """Labelling until phonons stopped moving."""

    schema_version: int = Field(1, description="version of this document's layout")
    material: str = Field(description="material")
    formula: str = Field(description="reduced formula")
    strategy: str = Field(description="strategy")
    rounds: list[AdaptiveRound] = Field(description="in order")
    stopped: bool = Field(description="the criterion was met; otherwise everything sampled is labelled")
    reason: str = Field(description="why it ended, with numbers")
    potential: PotentialRef = Field(description="the result")
    labels: AuditedLabels | None = Field(None, description="the labels it was trained on")
    training: TrainingDocument | None = Field(None, description="its training")
    committee: Committee | None = Field(None, description="what the last round's trainings say together")
    verdict: Verdict = Field(description="of the result, by the rule without reference phonons")
    n_labels: int = Field(description="reference calculations asked")
    n_labels_protocol: int = Field(description="those of the whole protocol: every sampled configuration")
    n_labels_saved: int = Field(description="difference of the two")
    n_displacements: int = Field(description="displaced cells that phonons by the reference would have taken on top")
    criteria: dict[str, float] = Field(description="limits applied, THz")
    costs: list[Cost] = Field(default_factory=list, description="what each stage took")
    manifest: Manifest = Field(description="provenance of the last decision")


def learning_curves(report: MaterialReport) -> list[LearningCurve]:
    """Sort the potentials of a report into one curve per strategy."""
    curves = []
    for strategy in sorted({entry.strategy for entry in report.strategies}):
        entries = sorted((e for e in report.strategies if e.strategy == strategy), key=lambda e: e.n_train)
        points = [
            CurvePoint(
                n_train=entry.n_train,
                phonon_mae_thz=None if entry.phonons is None else entry.phonons.mae_thz,
                phonon_change_thz=entry.phonon_change_thz,
                train_force_mae=entry.train_force_mae,
                valid_force_mae=entry.valid_force_mae,
                fit=entry.verdict.fit,
            )
            for entry in entries
        ]
        fit = [point.n_train for point in itertools.takewhile(lambda point: point.fit, reversed(points))]
        curves.append(LearningCurve(strategy=strategy, points=points, sufficient=fit[-1] if fit else None))
    return curves
