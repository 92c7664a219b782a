"""The report of a material: every potential compared with the reference and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from jobflow import JobConfig, OnMissing
from pydantic import Field
from pymatgen.core import Structure

from phonosmith.analysis.documents import (
    AuditedLabels,
    Cost,
    DisplacementCheck,
    MaterialReport,
    PhononSummary,
    PotentialReport,
    ReferenceReport,
    SamplingSummary,
    TrainingCurve,
)
from phonosmith.analysis.judgement import verdict_on
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.changing import job
from phonosmith.core.document import Awaited, Document, Missing
from phonosmith.core.errors import LabelError, MismatchError, PhonosmithError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.forgetting.documents import ForgettingDoc
from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
from phonosmith.evaluation.modes.documents import TransitionDoc
from phonosmith.evaluation.modes.scenarios import classify
from phonosmith.evaluation.phonons.committee import Committee
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononDoc
from phonosmith.evaluation.thermal.kappa import KappaDoc, conductivity_error
from phonosmith.evaluation.thermal.qha import QhaDoc
from phonosmith.evaluation.verdict import GivenLimits, Thresholds, unfit
from phonosmith.flows import costs
from phonosmith.flows.reference import check_forces
from phonosmith.flows.settings import Mode
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.documents import LabelReport
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.settings import get_settings
from phonosmith.training.documents import Errors, TrainingDocument

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.harmonic.model import HarmonicModel

T = TypeVar("T")

THINNED_STEPS = 60
"""Steps of a relaxation that a report keeps."""


class ReportSubject(Document):
    """What a report is about."""

    material: str = Field(description="name given to the material")
    key: str = Field(description="what job names call it: material, with what tells apart variants of it")
    campaign: str = Field(description="campaign it belongs to")
    mode: Mode = Field(description="with reference phonons, or production without")
    cell: str = Field(description="size of the sampling cell, or given (a matrix was)")
    seed: int = Field(description="of every random draw in training")
    reference: str = Field(description="who played or was DFT")
    rehearsal: bool = Field(description="reference data made by the VASP stand-in")
    mesh: int = Field(description="q-mesh of comparisons")
    limits: GivenLimits = Field(
        default_factory=dict, description="limits of the verdicts that the campaign sets itself"
    )
    thresholds: Thresholds = Field(
        default_factory=lambda: Thresholds.of(get_settings()),
        description="all limits of the verdicts, as they were where the flow was made: others make another report",
    )


class PotentialResults(Document):
    """What was computed of a potential. A result that was asked for and is null: its job failed."""

    asked: list[str] = Field(description="fields besides phonons that were asked for")
    phonons: Awaited[PhononDoc] | None = None
    elastic: Awaited[ElasticDoc] | None = None
    eos: Awaited[EosDoc] | None = None
    transitions: Awaited[TransitionDoc] | None = None
    qha: Awaited[QhaDoc] | None = None
    kappa: Awaited[KappaDoc] | None = None
    forgetting: Awaited[ForgettingDoc] | None = None


class ReferenceResults(PotentialResults):
    """What was computed by the reference."""

    checks: Awaited[LabelReport] | None = Field(None, description="displaced cells, in production mode")
    costs: list[Awaited[list[Cost]] | None] = Field(
        default_factory=list, description="what the calculations of a program took, by the flow they belong to"
    )


class TrainedPotential(Document):
    """One training and what was computed of its result."""

    strategy: str = Field(description="preset")
    n_train: int | None = Field(description="training structures asked; null: all")
    training: Awaited[TrainingDocument] | None = Field(description="null: the training failed")
    results: PotentialResults = Field(description="of the trained potential")
    committee: Awaited[Committee] | None = Field(
        None, description="what the trainings say together that chose its labels; null where none did"
    )
    spent: Awaited[list[Cost]] = Field(
        default_factory=list,
        description="what sampling, labels, trainings and phonons of all rounds took, where trainings chose the labels",
    )


class ReportInputs(Document):
    """Everything a report is made of: references to the outputs of other jobs until its own job runs."""

    sample: Awaited[SamplingDoc] | None
    labels: Awaited[AuditedLabels] | None
    subsets: dict[str, Awaited[DatasetRef] | None] = Field(description="training sets by the number of labels asked")
    reference: ReferenceResults
    foundation: PotentialRef
    base: PotentialResults = Field(description="of the foundation")
    trained: list[TrainedPotential]


def sampling_summary(sample: SamplingDoc) -> SamplingSummary:
    """Take from a sampling document what the report keeps: thinned energies, selected frames."""
    n_atoms = sample.supercell.n_atoms
    steps, energies, selected_steps, selected_energies = [], [], [], []
    for one in sample.configurations:
        last = len(one.energies) - 1
        shown = sorted({round(i * last / (THINNED_STEPS - 1)) for i in range(THINNED_STEPS)}) if last > 0 else [0]
        base = one.energies[-1]
        chosen = [frame for frame in one.frames if frame.split != "dropped"]
        steps.append(shown)
        energies.append([(one.energies[step] - base) / n_atoms for step in shown])
        selected_steps.append([frame.step + frame.between for frame in chosen])
        selected_energies.append([(frame.energy - base) / n_atoms for frame in chosen])
    return SamplingSummary(
        cell=sample.settings.cell,
        supercell_matrix=sample.supercell.matrix,
        n_atoms=n_atoms,
        volume_factors=[one.volume_factor for one in sample.configurations],
        steps=steps,
        energies=energies,
        selected_steps=selected_steps,
        selected_energies=selected_energies,
        warnings=list(sample.warnings),
    )


@dataclass
class _Case:
    """What every potential of one report is compared with, and what is noted on the way."""

    subject: ReportSubject
    reference: HarmonicModel | None
    checks: list[Atoms] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    base: PhononComparison | None = None
    transitions: TransitionDoc | None = None
    kappa: KappaDoc | None = None
    models: dict[tuple[str, int], HarmonicModel] = field(default_factory=dict)

    def lacks(self, what: str, reason: str) -> None:
        """Record, for machines and for people, that something is missing."""
        self.missing.append(Missing(what=what, reason=reason))
        self.notes.append(f"{what}: {reason}")

    def lack_parts(self, document: PhononDoc | EosDoc | TransitionDoc, owner: str) -> None:
        """Record what a document was made without."""
        for part in document.missing:
            self.lacks(f"{part.what} of {owner}", part.reason)

    def account(self, results: PotentialResults, owner: str) -> None:
        """Note which optional results of a potential or the reference are missing, and what the others took."""
        for kind in (kind for kind in results.asked if kind != "checks"):
            document: ElasticDoc | EosDoc | TransitionDoc | QhaDoc | KappaDoc | ForgettingDoc | None
            document = getattr(results, kind)
            name = f"{kind} {self.subject.key} {owner}"
            if isinstance(document, EosDoc | TransitionDoc):
                self.lack_parts(document, f"the {kind} of {owner}")
            if document is None:
                self.lacks(f"{kind} of {owner}", "no result, its job failed")
            elif isinstance(document, ElasticDoc | EosDoc):
                self.costs.append(costs.mechanics_cost(kind, name, document))
            else:
                self.costs.append(costs.plain_cost("follow" if kind == "transitions" else kind, name, document))

    def attempt(self, what: str, compare: Callable[[], T]) -> tuple[T | None, str]:
        """Return a comparison, or note why two results do not belong together and return that."""
        try:
            return compare(), ""
        except MismatchError as error:
            self.notes.append(f"{what}: {error.message}")
            return None, error.message

    def read_checks(self, reference: ReferenceResults) -> None:
        """Keep the displaced cells that the reference calculated."""
        from phonosmith.reference.datasets.dataset import get_dataset

        report = reference.checks
        if report is not None:
            self.costs.append(costs.check_cost(f"label {report.material.lower()}", report))
            self.checks = [atoms for ref in report.datasets.values() for atoms in get_dataset(ref)]
        elif "checks" in reference.asked:
            self.lacks("displaced cells", "the reference gave none")

    def displaced(self, ref: PotentialRef, owner: str) -> DisplacementCheck | None:
        """Compare forces in the displaced cells that the reference calculated."""
        if not self.checks:
            return None
        from phonosmith.potentials.registry import load

        try:
            return check_forces(load(ref), self.checks)
        except PhonosmithError as error:
            self.notes.append(f"displaced cells of {owner}: {error}")
            return None

    def entry(
        self,
        strategy: str,
        ref: PotentialRef,
        results: PotentialResults,
        owner: str,
        training: TrainingDocument | None = None,
        n_train: int = 0,
        committee: Committee | None = None,
    ) -> PotentialReport:
        """Return the report of one potential."""
        from phonosmith.evaluation.phonons.comparison import compare_phonons
        from phonosmith.evaluation.phonons.summary import harmonic_from_document

        comparison, moved, mismatch, transitions = None, None, "", results.transitions
        if results.phonons is None:
            self.lacks(f"phonons of {owner}", "no result, their job failed")
        else:
            self.lack_parts(results.phonons, owner)
            self.costs.append(costs.phonon_cost(f"phonon {self.subject.key} {owner}", results.phonons))
            model = harmonic_from_document(results.phonons, default_artefacts())
            what, mesh = f"phonons of {owner}", self.subject.mesh
            if self.reference is not None:
                comparison, mismatch = self.attempt(what, partial(compare_phonons, self.reference, model, mesh))
            smaller = [size for name, size in self.models if name == strategy and size < n_train]
            if smaller:
                before = self.models[strategy, max(smaller)]
                moved, _ = self.attempt(what, partial(compare_phonons, before, model, mesh))
            self.models[strategy, n_train] = model
        check = self.displaced(ref, owner)
        self.account(results, owner)
        if transitions is not None and self.transitions is not None:
            classified, _ = self.attempt(f"transitions of {owner}", partial(classify, self.transitions, transitions))
            transitions = classified or transitions
        report = PotentialReport(
            strategy=strategy,
            potential=ref,
            n_train=n_train,
            verdict=unfit("no_phonons", "not judged yet"),
            phonons=comparison,
            summary=None if results.phonons is None else PhononSummary.of(results.phonons),
            # where the truth is known a committee without it says no more; where not, its agreement is convergence
            expected_mae_thz=committee.mae_thz if committee and self.reference is None else None,
            phonon_change_thz=moved.mae_thz if moved else committee and committee.disagreement_thz,
            check=check,
            elastic=results.elastic and results.elastic.brief(),
            eos=results.eos,
            transitions=transitions,
            qha=results.qha,
            kappa=self.conductivity(results.kappa, owner),
            forgetting=results.forgetting,
        )
        return self.judged(report if training is None else _with_training(report, training), mismatch)

    def conductivity(self, document: KappaDoc | None, owner: str) -> KappaDoc | None:
        """Return a conductivity with its error against the reference's, where that has one."""
        if document is None or self.kappa is None:
            return document
        compare = partial(conductivity_error, document.result, self.kappa.result)
        return document.model_copy(update={"srme": self.attempt(f"conductivity of {owner}", compare)[0]})

    def judged(self, entry: PotentialReport, mismatch: str = "") -> PotentialReport:
        """Return an entry with its verdict; ``mismatch``: why its phonons cannot be compared with the reference's."""
        if mismatch:
            verdict = unfit("mismatch", f"cannot be compared: {mismatch}")
        else:
            verdict = verdict_on(entry, self.subject.thresholds, self.base)
        return entry.model_copy(update={"verdict": verdict})


def _valid_errors(errors: Errors) -> dict[str, float | None]:
    return {
        "valid_force_mae": errors.mae_forces_mev_per_angstrom,
        "valid_energy_mae": errors.mae_energy_mev_per_atom,
        "valid_stress_mae": errors.mae_stress_mev_per_angstrom3,
    }


def _with_training(entry: PotentialReport, training: TrainingDocument) -> PotentialReport:
    return entry.model_copy(
        update={
            "training_seconds": training.seconds,
            "train_force_mae": training.metrics["train"].after.mae_forces_mev_per_angstrom,
            **_valid_errors(training.metrics["valid"].after),
            "parity": training.parity,
            "curve": TrainingCurve(
                epoch=[line["epoch"] for line in training.history],
                train_loss=[line.get("train_loss") for line in training.history],
                valid_loss=[line.get("valid_loss") for line in training.history],
                valid_force_mae=[line.get("valid_mae_forces_mev_per_angstrom") for line in training.history],
                best_epoch=training.best_epoch,
                stop_reason=training.stop_reason,
            ),
            "n_parameters": training.n_parameters,
            "n_changed": training.n_changed,
            "improved": training.improved,
        }
    )


def _quality(entry: PotentialReport) -> tuple[float, float]:
    """Order potentials: phonon MAE where there is one, else validation forces; unknown last."""
    mae = float("inf") if entry.phonons is None else entry.phonons.mae_thz
    return mae, float("inf") if entry.valid_force_mae is None else entry.valid_force_mae


def _require_results(subject: ReportSubject, inputs: ReportInputs) -> AuditedLabels:
    """Return the labels with their subsets; nothing can be judged without them and the reference's phonons."""
    if inputs.labels is None or (subject.mode == "comparison" and inputs.reference.phonons is None):
        missing = "labels" if inputs.labels is None else "reference phonons"
        raise LabelError(f"{subject.material} has no {missing}.", "Look at the failed job and run it again.")
    subsets = {size: ref for size, ref in inputs.subsets.items() if ref is not None}
    return inputs.labels.model_copy(update={"subsets": subsets})


def _judge_trained(
    case: _Case, base: PotentialReport, audited: AuditedLabels, trained: list[TrainedPotential]
) -> tuple[PotentialReport, list[PotentialReport], list[str]]:
    """Return the foundation's entry with its validation errors, those of trained potentials, and what failed."""
    entries: list[PotentialReport] = []
    failed: list[str] = []
    several = len({one.n_train for one in trained}) > 1
    for one in trained:
        name = f"{one.strategy} {one.n_train}" if several else one.strategy
        if one.training is None or (one.results.phonons is None and case.subject.mode == "comparison"):
            failed.append(name)
            case.lacks(name, f"{'training' if one.training is None else 'phonons'} failed")
            continue
        used = audited.train if one.n_train is None else audited.subsets[str(one.n_train)]
        if one.n_train is not None and used.n_frames < one.n_train:
            case.notes.append(f"{name}: {used.n_frames} labels, {one.n_train} were asked")
        if one.spent:
            # sampling and labels are counted already
            case.costs += [cost for cost in one.spent if cost.stage in {"train", "phonon"}]
        else:
            atoms = round(used.n_atoms / used.n_frames)
            case.costs.append(costs.training_cost(f"train {case.subject.key} {name}", one.training, atoms))
        # the foundation's own errors, energies after the shift training used
        base = base.model_copy(update=_valid_errors(one.training.metrics["valid"].shifted))
        assert one.training.model is not None  # run_training always registers its model
        given = (one.strategy, one.training.model, one.results, name, one.training, used.n_frames, one.committee)
        entries.append(case.entry(*given))
    return base, sorted(entries, key=_quality), failed


@job(output_schema=MaterialReport, config=JobConfig(on_missing_references=OnMissing.NONE))
def report_material(subject: ReportSubject, structure: Structure, inputs: ReportInputs) -> MaterialReport:
    """Compare every potential with the reference and judge it; what has no result is named.

    Without labels, or in comparison mode reference phonons, nothing can be judged: a `LabelError`.
    """
    from phonosmith.evaluation.phonons.summary import harmonic_from_document

    audited, key = _require_results(subject, inputs), subject.key
    production = subject.mode == "production"
    truth = None if production else inputs.reference.phonons
    settings = {"mesh": subject.mesh, "mode": subject.mode, "limits": subject.thresholds.model_dump()}
    digests = {"train": audited.train.sha256, "valid": audited.valid.sha256}
    with recorded(digests, settings, subject.seed) as manifest:
        case = _Case(subject, None if truth is None else harmonic_from_document(truth, default_artefacts()))
        case.read_checks(inputs.reference)
        if inputs.sample is not None:
            case.costs.append(costs.sampling_cost(f"sample {key}", inputs.sample))
        case.costs.append(costs.label_cost(f"label {key}", audited))
        if audited.n_failed:
            why = "; ".join(f"{one.what}: {one.reason}" for one in audited.missing)
            case.lacks(f"{audited.n_failed} labels", why or "their calculations failed or were refused")
        if truth is not None:
            case.lack_parts(truth, "reference")
            case.costs.append(costs.phonon_cost(f"phonon {key} reference", truth))
        case.costs += [cost for group in inputs.reference.costs for cost in group or []]
        case.account(inputs.reference, "reference")
        case.transitions, case.kappa = inputs.reference.transitions, inputs.reference.kappa
        base = case.entry("foundation", inputs.foundation, inputs.base, "foundation")
        case.base = base.phonons
        base, entries, failed = _judge_trained(case, base, audited, inputs.trained)
    best = entries[0] if entries else None
    group, number = structure.get_space_group_info()
    return MaterialReport(
        **subject.model_dump(exclude={"mesh", "thresholds"}),
        formula=structure.composition.reduced_formula,
        structure=structure.as_dict() if truth is None else truth.structure,
        space_group=group if truth is None else truth.space_group,
        space_group_number=number if truth is None else truth.space_group_number,
        sampling=None if inputs.sample is None else sampling_summary(inputs.sample),
        labels=audited,
        reference_result=ReferenceReport(
            phonons=None if truth is None else PhononSummary.of(truth),
            elastic=inputs.reference.elastic and inputs.reference.elastic.brief(),
            eos=inputs.reference.eos,
            transitions=inputs.reference.transitions,
            qha=inputs.reference.qha,
            kappa=inputs.reference.kappa,
        ),
        foundation=case.judged(base) if production else base,
        strategies=entries,
        failed=failed,
        missing=case.missing,
        notes=list(dict.fromkeys(case.notes)),
        best=None if best is None else best.strategy,
        gain=base.phonons.mae_thz / best.phonons.mae_thz if base.phonons and best and best.phonons else None,
        costs=case.costs,
        manifest=manifest,
    )
