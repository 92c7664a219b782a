"""Documents of learning curves and of labelling until phonons stop moving."""

from __future__ import annotations

from pydantic import Field

from phonosmith.analysis.documents import Cost, PhononSummary
from phonosmith.core.document import Document
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.verdict import Verdict
from phonosmith.potentials.documents import PotentialRef


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
    n_labels: int = Field(description="reference calculations asked so far, validation included")
    n_train: int = Field(description="training structures")
    valid_force_mae: float = Field(description="meV/Å")
    improved: bool = Field(description="validation loss below the foundation's")
    phonon_change_thz: float | None = Field(None, description="phonon MAE against the round before, THz")
    spread_thz: float | None = Field(None, description="mean phonon MAE between pairs of the committee, THz")
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
    verdict: Verdict = Field(description="of the result, by the rule without reference phonons")
    n_labels: int = Field(description="reference calculations asked")
    n_labels_protocol: int = Field(description="those of the whole protocol: every sampled configuration")
    n_labels_saved: int = Field(description="difference of the two")
    n_displacements: int = Field(description="displaced cells that phonons by the reference would have taken on top")
    criteria: dict[str, float] = Field(description="limits applied, THz")
    costs: list[Cost] = Field(default_factory=list, description="what each stage took")
    manifest: Manifest = Field(description="provenance of the last decision")
