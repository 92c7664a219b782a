"""What a fine-tuning takes and reports, alone or with others, and whether it did what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.document import Awaited, Document
from phonosmith.core.manifest import Manifest
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.training.spec import TrainSpec


class Errors(Document):
    """Mean absolute errors over one split."""

    mae_energy_mev_per_atom: float = Field(description="mean |dE|/n over structures, meV/atom")
    mae_forces_mev_per_angstrom: float = Field(description="mean |dF| over Cartesian components, meV/Å")
    mae_stress_mev_per_angstrom3: float | None = Field(
        None, description="mean |dS| over the six components of labelled structures, meV/Å³"
    )
    loss: float = Field(description="training loss averaged over structures, weights included")
    n_structures: int = Field(description="structures in the split")


class SplitErrors(Document):
    """Errors of one split before and after training, evaluated in float64."""

    before: Errors = Field(description="the foundation as it was handed in, before any energy shift")
    shifted: Errors = Field(description="the foundation with the atomic reference energies used in training")
    after: Errors = Field(description="the trained model")


class CurvatureErrors(Document):
    """Curvature errors over the irreducible Hessian columns, evaluated in float64."""

    source: str = Field(description="where the force constants came from")
    n_atoms: int = Field(description="atoms in the supercell")
    n_columns: int = Field(description="irreducible columns, out of 3 n_atoms")
    method: str = Field(description="autograd or fd (finite difference)")
    mae_before_ev_per_angstrom2: float = Field(description="mean |dΦ| of the foundation, eV/Å²")
    mae_after_ev_per_angstrom2: float = Field(description="mean |dΦ| of the trained model, eV/Å²")
    judged_source: str = Field("", description="whose columns judged epochs beside the validation structures, if any")
    n_columns_judged: int = Field(0, description="irreducible columns that judged; not among n_columns")
    judged_before_ev_per_angstrom2: float | None = Field(None, description="mean |dΦ| of the foundation on them, eV/Å²")
    judged_after_ev_per_angstrom2: float | None = Field(None, description="and of the trained model, eV/Å²")
    steps: int = Field(description="optimizer steps the curvature term took part in")
    seconds_per_step: float | None = Field(None, description="wall time of the curvature part of a step, s")


class ReplayUse(Document):
    """What replay did."""

    mode: str = Field(description="cotrain or head")
    labels: str = Field(description="foundation (labelled by the foundation itself) or given")
    n_structures: int = Field(description="structures drawn")
    visits: int = Field(description="times a replay structure was in a step")
    before: Errors = Field(description="foundation on the replay structures")
    after: Errors = Field(description="trained model (its replay head, where it has one) on the replay structures")


class ForceParity(Document):
    """Force components of the validation labels beside the predictions, evenly drawn from all of them."""

    label: list[float] = Field(description="of the reference, meV/Å")
    before: list[float] = Field(description="of the foundation, meV/Å")
    after: list[float] = Field(description="of the trained model, meV/Å")
    n_components: int = Field(description="components there are")


class TrainingChecks(Document):
    """Whether what was asked for happened."""

    passed: bool = Field(description="every check held")
    not_improved: bool = Field(description="not better than the foundation (see improved): do not use this model")
    findings: list[str] = Field(default_factory=list, description="what failed, in sentences")


class TrainingDocument(Document):
    """Result of one fine-tuning: model card and evidence."""

    name: str = Field(description="human name of the model")
    strategy: str = Field(description="preset the settings started from")
    spec: TrainSpec = Field(description="every setting")
    seed: int = Field(description="seed of every random draw")
    metrics: dict[str, SplitErrors] = Field(description="errors by split: train, valid")
    parity: ForceParity | None = Field(None, description="forces of validation labels and predictions")
    improved: bool = Field(
        description="validation loss (plus the weighted error of columns that judge, if any) below the foundation's, "
        "both with the same energy reference"
    )
    finished: bool = Field(description="False: stopped by the walltime guard and resumable")
    stop_reason: str = Field(description="why training ended")
    epochs_run: int = Field(description="epochs trained")
    best_epoch: int = Field(description="epoch the weights are from; 0 is the start")
    seconds: float = Field(description="wall time of the fit, s")
    steps: int = Field(description="optimizer steps")
    device: str = Field("", description="where it was trained: cpu, cuda or cuda:N; empty in older documents")
    device_reason: str = Field("", description="why there: asked for, or the measured times of a step")
    deterministic: bool | None = Field(
        None,
        description="True: repeating it gives the same bits on the same machine (CPU, or a GPU with "
        "deterministic=true); False: sums on the GPU were not ordered, so it agrees to rounding only",
    )
    n_parameters: int = Field(description="parameters of the resulting model")
    n_trainable: int = Field(description="parameters that were free to change (low-rank: those of the adapters)")
    n_changed: int = Field(description="parameters of the resulting model that differ from the foundation's")
    change_norm: float = Field(description="Euclidean norm of the change of all parameters")
    change_relative: float = Field(description="that norm over the norm of the foundation's parameters")
    changed_by_block: dict[str, int] = Field(description="changed parameters by block")
    n_parameters_foundation: int = Field(description="parameters of the foundation before pruning")
    e0_shift_ev: dict[str, float] = Field(
        description="change of the atomic reference energies by element, eV, final shift included"
    )
    e0_final_shift_ev: dict[str, float] = Field(
        default_factory=dict,
        description="the part of it made after training, eV; empty where none was made (setting e0_final_shift)",
    )
    curvature: CurvatureErrors | None = Field(None, description="force-constant term, where used")
    replay: ReplayUse | None = Field(None, description="replay, where used")
    checks: TrainingChecks = Field(description="did what was asked for happen?")
    model: PotentialRef | None = Field(None, description="the trained model in the artefact store")
    checkpoint: ArtefactRef | None = Field(None, description="where an unfinished training goes on, in the store")
    log: ArtefactRef | None = Field(None, description="metrics log (JSON lines) in the artefact store")
    history: list[dict[str, Any]] = Field(default_factory=list, description="one record per epoch")
    notes: list[str] = Field(default_factory=list, description="choices made on the way")
    manifest: Manifest | None = Field(None, description="inputs, settings, versions, seed, wall time")


class TrainingInputs(Document):
    """What one training takes; references to the outputs of other jobs until its own job runs.

    An input that was asked for and is missing when the job runs: the job that makes it failed.
    """

    material: str = Field("", description="short name of the material")
    foundation: Awaited[PotentialRef] | None = Field(description="potential to start from")
    train: Awaited[DatasetRef] | None = Field(description="training labels")
    valid: Awaited[DatasetRef] | None = Field(description="validation labels")
    replay: Awaited[DatasetRef] | None = Field(None, description="replay structures, where the strategy uses them")
    force_constants: Awaited[ArtefactRef] | None = Field(None, description="phonopy file, where the strategy uses it")


class PackedTraining(Document):
    """What became of one of several trainings in a pack; without document and error it has not begun."""

    key: str = Field(description="which training: strategy, settings, seed and inputs")
    document: TrainingDocument | None = Field(None, description="its result; none when it failed")
    error: str = Field("", description="why it failed, or why its result is refused")
    checkpoint: ArtefactRef | None = Field(None, description="where a failed one can go on, in the artefact store")
    card: str = Field("", description="GPU of its process, as in CUDA_VISIBLE_DEVICES, where there were several")

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.error) or (self.document is not None and self.document.finished)


class PackReport(Document):
    """What became of trainings that ran side by side, in the order they were asked for."""

    schema_version: int = Field(2, description="version of this document")
    trainings: list[PackedTraining] = Field(description="one entry for each")
    manifest: Manifest | None = Field(None, description="versions, wall time of the job")

    def find(self, key: str) -> PackedTraining | None:
        """Return one of the trainings."""
        return next((one for one in self.trainings if one.key == key), None)


def is_improved(valid: SplitErrors, curvature: CurvatureErrors | None, spec: TrainSpec) -> bool:
    """Say whether a model beats the foundation by what chose its best epoch.

    That is the validation loss, plus the weighted error of the columns that judge where there are any.
    """
    before, after = valid.shifted.loss, valid.after.loss
    if curvature is not None and curvature.judged_before_ev_per_angstrom2 is not None:
        before += spec.curvature_weight * curvature.judged_before_ev_per_angstrom2
        after += spec.curvature_weight * (curvature.judged_after_ev_per_angstrom2 or 0.0)
    return after < before


def check_training(
    spec: TrainSpec,
    frozen: Sequence[str],
    *,
    improved: bool,
    best_epoch: int,
    changed_by_block: Mapping[str, int],
    replay_visits: int,
    curvature_steps: int,
) -> TrainingChecks:
    """Compare what happened with what the strategy asked for; every failure is a sentence."""
    moved = [name for name in frozen if changed_by_block.get(name, 0)]
    unchanged = best_epoch > 0 and not any(changed_by_block.values())
    failed = {
        "The validation loss is not below the foundation's: the model is not better.": not improved,
        "No epoch was better than the start: the weights are those it began with.": best_epoch == 0,
        f"Blocks that were to be frozen changed: {', '.join(moved)}.": moved,
        "No parameter changed although training ran.": unchanged,
        "Replay was asked for, but no replay structure took part.": spec.uses_replay and replay_visits == 0,
        "A curvature term was asked for, but took part in no step.": spec.uses_curvature and curvature_steps == 0,
    }
    findings = [text for text, holds in failed.items() if holds]
    return TrainingChecks(passed=not findings, not_improved=not improved, findings=findings)
