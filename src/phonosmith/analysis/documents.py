"""What a material's flow reports: the documents that queries, tables, figures and the HTML report are made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.document import Document, Missing
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.forgetting.documents import ForgettingDoc
from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
from phonosmith.evaluation.modes.documents import TransitionDoc
from phonosmith.evaluation.phonons.committee import Interval
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononDoc
from phonosmith.evaluation.thermal.kappa import KappaDoc
from phonosmith.evaluation.thermal.qha import QhaDoc
from phonosmith.evaluation.verdict import GivenLimits, Verdict
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.training.documents import ForceParity

MATERIAL_SCHEMA = 2


class Cost(Document):
    """What one job, or a group of equal jobs, took."""

    stage: str = Field(description="sample, label, audit, train, phonon, elastic, eos, follow, ...")
    name: str = Field(description="job name")
    wall_seconds: float = Field(description="wall time of all calculations together, s")
    cores: int = Field(1, description="processor cores available to it")
    gpus: int = Field(0, description="GPUs used")
    n_atoms: int | None = Field(None, description="atoms of one calculation")
    n_calculations: int = Field(1, description="calculations in it")


class SamplingSummary(Document):
    """How the configurations of a material were made, small enough to keep in every report."""

    cell: str = Field(description="primitive, small or large")
    supercell_matrix: list[list[int]] = Field(description="integer rows: supercell = matrix @ primitive vectors")
    n_atoms: int = Field(description="atoms of the sampling supercell")
    volume_factors: list[float] = Field(description="one per trajectory")
    steps: list[list[int]] = Field(description="steps shown of each trajectory (thinned)")
    energies: list[list[float]] = Field(description="foundation energy at those steps above the last, eV per atom")
    selected_steps: list[list[float]] = Field(
        description="steps of the selected frames of each trajectory; 0.6 lies between the start and the first step"
    )
    selected_energies: list[list[float]] = Field(description="their energies above the last, eV per atom")
    warnings: list[str] = Field(default_factory=list)


class AuditedLabels(Document):
    """Labels of one material after the audit."""

    material: str = Field(description="material")
    train: DatasetRef = Field(description="training labels, outermost first")
    valid: DatasetRef = Field(description="validation labels")
    verdict: str = Field(description="pass or pass_with_exclusions")
    n_excluded: int = Field(description="labels the audit left out")
    n_failed: int = Field(description="frames without a label")
    missing: list[Missing] = Field(default_factory=list, description="label jobs without a label, and why")
    subsets: dict[str, DatasetRef] = Field(
        default_factory=dict,
        description="the first training labels, by the number asked (fewer where there are not more)",
    )
    findings: list[str] = Field(default_factory=list, description="what the audit found, in sentences")
    label_seconds: float = Field(description="wall time of all reference calculations together, s")
    label_cores: int = Field(1, description="processor cores of one reference calculation")


class TrainingCurve(Document):
    """Course of one training, epoch 0 (the start) first."""

    epoch: list[int] = Field(description="epoch")
    train_loss: list[float | None] = Field(description="loss over the training set")
    valid_loss: list[float | None] = Field(description="loss over the validation set")
    valid_force_mae: list[float | None] = Field(description="validation force MAE, meV/Å")
    best_epoch: int = Field(description="epoch the weights are from")
    stop_reason: str = Field("", description="why training ended")


class PhononSummary(Document):
    """What a report needs to draw the phonons of one side again."""

    force_constants: ArtefactRef = Field(description="compact force constants with the cells they belong to (npz)")
    supercell_matrix: list[list[int]] = Field(description="supercell of the phonon cell")
    n_atoms_supercell: int
    n_displacements: int = Field(description="displaced cells that were (or would have been) calculated")
    space_group: str = Field(description="international symbol of the relaxed cell")
    omega_max_thz: float = Field(description="highest frequency, THz")
    stable: bool = Field(description="no commensurate mode below the strict threshold")
    stable_practical: bool | None = Field(None, description="no commensurate mode below the practical threshold")
    seconds: float = Field(description="wall time, s")

    @classmethod
    def of(cls, document: PhononDoc) -> PhononSummary:
        """Take from a phonon document what the report keeps."""
        same = ("force_constants", "supercell_matrix", "n_atoms_supercell", "n_displacements", "space_group")
        return cls(
            **{name: getattr(document, name) for name in (*same, "omega_max_thz")},
            stable=document.stability.stable,
            stable_practical=document.stability.stable_practical,
            seconds=document.manifest.wall_seconds,
        )


class DisplacementCheck(Document):
    """Forces of a potential in a few displaced cells that the reference calculated as well."""

    n_cells: int = Field(description="displaced cells")
    n_atoms: int = Field(description="atoms in each")
    force_mae: float = Field(description="mean |ΔF| over components, meV/Å")
    relative_percent: float = Field(description="norm of all ΔF over the norm of all reference forces, percent")


class ReferenceReport(Document):
    """The reference's own results; every part that was not computed is null."""

    phonons: PhononSummary | None = Field(None, description="null in production mode")
    elastic: ElasticDoc | None = None
    eos: EosDoc | None = None
    transitions: TransitionDoc | None = None
    qha: QhaDoc | None = Field(None, description="quasi-harmonic properties")
    kappa: KappaDoc | None = Field(None, description="lattice thermal conductivity")


class PotentialReport(Document):
    """One potential of one material: how it was made and how it compares with the reference."""

    strategy: str = Field(description="strategy, or 'foundation'")
    potential: PotentialRef = Field(description="the potential")
    n_train: int = Field(description="training structures; 0 for the foundation")
    verdict: Verdict = Field(description="fit for phonons of this material?")
    phonons: PhononComparison | None = Field(
        None, description="against the reference, on one mesh; null in production mode"
    )
    expected_mae_thz: Interval | None = Field(
        None, description="phonon MAE that its committee, trainings with other seeds, leaves open, THz"
    )
    summary: PhononSummary | None = Field(None, description="its own phonons")
    phonon_change_thz: float | None = Field(
        None, description="phonon MAE against the same strategy's next smaller training set, THz"
    )
    check: DisplacementCheck | None = Field(None, description="forces in displaced cells the reference calculated")
    elastic: ElasticDoc | None = None
    eos: EosDoc | None = None
    transitions: TransitionDoc | None = None
    qha: QhaDoc | None = Field(None, description="quasi-harmonic properties")
    kappa: KappaDoc | None = Field(None, description="lattice thermal conductivity")
    forgetting: ForgettingDoc | None = Field(None, description="errors where it was not tuned, beside the foundation's")
    training_seconds: float | None = Field(None, description="wall time of the training, s")
    train_force_mae: float | None = Field(None, description="training force MAE, meV/Å")
    valid_force_mae: float | None = Field(None, description="validation force MAE, meV/Å")
    valid_energy_mae: float | None = Field(None, description="validation energy MAE, meV/atom")
    valid_stress_mae: float | None = Field(None, description="validation stress MAE, meV/Å³")
    parity: ForceParity | None = Field(None, description="forces of validation labels and predictions")
    n_parameters: int | None = Field(None, description="parameters of the model")
    n_changed: int | None = Field(None, description="parameters that differ from the foundation's")
    improved: bool | None = Field(None, description="validation loss below the foundation's")
    curve: TrainingCurve | None = Field(None, description="course of the training")


class MaterialReport(Document):
    """Everything about one material, foundation, cell size and seed, from sampling to verdicts."""

    schema_version: int = Field(MATERIAL_SCHEMA, description="version of this document's layout")
    material: str = Field(description="name given to the material")
    formula: str = Field(description="reduced formula")
    key: str = Field("", description="what its job names call it: material, with what tells apart variants of it")
    campaign: str = Field("", description="campaign it belongs to")
    mode: Literal["comparison", "production"] = Field(
        "comparison", description="comparison: reference phonons exist; production: they were not paid for"
    )
    structure: dict[str, Any] | None = Field(None, description="crystal, pymatgen Structure as a dictionary")
    space_group: str = Field("", description="international symbol")
    space_group_number: int | None = Field(None, description="international number")
    cell: str = Field("", description="size of the sampling cell: primitive, small, large, or given (a matrix was)")
    seed: int = Field(0, description="seed of every random draw")
    reference: str = Field(description="who played or was DFT")
    rehearsal: bool = Field(description="reference data made by the VASP stand-in")
    sampling: SamplingSummary | None = None
    labels: AuditedLabels = Field(description="labels used")
    reference_result: ReferenceReport = Field(default_factory=ReferenceReport, description="the reference's results")
    foundation: PotentialReport = Field(description="the foundation as it came")
    strategies: list[PotentialReport] = Field(
        description="each fine-tuned potential (strategy and number of training structures), best phonons first"
    )
    limits: GivenLimits = Field(
        default_factory=dict, description="limits of the verdicts that its campaign sets itself"
    )
    failed: list[str] = Field(
        default_factory=list,
        description="strategies (with the number of training structures asked, where several) without a result",
    )
    missing: list[Missing] = Field(
        default_factory=list, description="what was asked for and is not in this report, or was made without a part"
    )
    notes: list[str] = Field(default_factory=list, description="what a reader should know")
    best: str | None = Field(None, description="strategy with the smallest phonon MAE")
    gain: float | None = Field(None, description="foundation's phonon MAE over the best strategy's")
    costs: list[Cost] = Field(default_factory=list, description="what each job took")
    manifest: Manifest = Field(description="provenance")

    @field_validator("structure", mode="before")
    @classmethod
    def _as_dictionary(cls, value: Any) -> Any:
        """Accept the Structure that a job store makes of the dictionary when it resolves a reference."""
        return value.as_dict() if hasattr(value, "as_dict") else value
