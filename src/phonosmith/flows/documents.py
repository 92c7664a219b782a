"""What a material's flow reports."""

from __future__ import annotations

from pydantic import BaseModel, Field

from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.phonon_documents import PhononComparison
from phonosmith.evaluation.verdict import Verdict
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.dataset_documents import DatasetRef


class AuditedLabels(BaseModel):
    """Labels of one material after the audit."""

    material: str = Field(description="material")
    train: DatasetRef = Field(description="training labels, outermost first")
    valid: DatasetRef = Field(description="validation labels")
    verdict: str = Field(description="pass or pass_with_exclusions")
    n_excluded: int = Field(description="labels the audit left out")
    n_failed: int = Field(description="frames without a label")
    findings: list[str] = Field(default_factory=list, description="what the audit found, in sentences")
    label_seconds: float = Field(description="wall time of all reference calculations together, s")


class PotentialReport(BaseModel):
    """One potential of one material: how it was made and how it compares with the reference."""

    strategy: str = Field(description="strategy, or 'foundation'")
    potential: PotentialRef = Field(description="the potential")
    phonons: PhononComparison = Field(description="against the reference, on one mesh")
    verdict: Verdict = Field(description="fit for phonons of this material?")
    n_train: int = Field(description="training structures; 0 for the foundation")
    training_seconds: float | None = Field(None, description="wall time of the training, s")
    valid_force_mae: float | None = Field(None, description="validation force MAE, meV/Å")
    valid_energy_mae: float | None = Field(None, description="validation energy MAE, meV/atom")
    n_changed: int | None = Field(None, description="parameters that differ from the foundation's")
    improved: bool | None = Field(None, description="validation loss below the foundation's")


class MaterialReport(BaseModel):
    """Everything about one material, from sampling to verdicts."""

    schema_version: int = Field(1, description="version of this document's layout")
    material: str = Field(description="name given to the material")
    formula: str = Field(description="reduced formula")
    reference: str = Field(description="who played or was DFT")
    rehearsal: bool = Field(description="reference data made by the VASP stand-in")
    labels: AuditedLabels = Field(description="labels used")
    foundation: PotentialReport = Field(description="the foundation as it came")
    strategies: list[PotentialReport] = Field(description="each fine-tuned potential, best phonons first")
    failed: list[str] = Field(default_factory=list, description="strategies without a result")
    best: str | None = Field(None, description="strategy with the smallest phonon MAE")
    gain: float | None = Field(None, description="foundation's phonon MAE over the best strategy's")
    manifest: Manifest = Field(description="provenance")
