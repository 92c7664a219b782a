"""The report of a material: every potential compared with the reference and judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import JobConfig, OnMissing, job
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
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import LabelError, MismatchError, PhonosmithError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.forgetting.documents import ForgettingDoc
from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
from phonosmith.evaluation.modes.documents import TransitionDoc
from phonosmith.evaluation.modes.scenarios import classify
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononDoc
from phonosmith.evaluation.verdict import Verdict, judge, judge_production
from phonosmith.flows import costs
from phonosmith.flows.jobs import read_document
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.documents import LabelReport
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.settings import get_settings
from phonosmith.training.documents import TrainingDocument

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.harmonic.model import HarmonicModel

THINNED_STEPS = 60
"""Steps of a relaxation that a report keeps."""
_KINDS: dict[str, Any] = {
    "elastic": ElasticDoc, "eos": EosDoc, "transitions": TransitionDoc, "forgetting": ForgettingDoc,
}  # fmt: skip


def training_curve(training: TrainingDocument) -> TrainingCurve:
    """Take the course of a training from its record of epochs."""
    lines = training.history
    return TrainingCurve(
        epoch=[line["epoch"] for line in lines],
        train_loss=[line.get("train_loss") for line in lines],
        valid_loss=[line.get("valid_loss") for line in lines],
        valid_force_mae=[line.get("valid_mae_forces_mev_per_angstrom") for line in lines],
        best_epoch=training.best_epoch,
        stop_reason=training.stop_reason,
    )


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
        selected_steps.append([frame.step for frame in chosen])
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

    about: dict[str, Any]
    reference: HarmonicModel | None
    checks: list[Atoms]
    notes: list[str] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    base: PhononComparison | None = None
    transitions: TransitionDoc | None = None
    models: dict[tuple[str, int], Any] = field(default_factory=dict)

    @property
    def production(self) -> bool:
        """No reference phonons were paid for."""
        return bool(self.about["mode"] == "production")

    def optional(self, results: dict[str, Any], owner: str) -> dict[str, Any]:
        """Read the optional results of a potential or the reference; what is missing is named."""
        found = {}
        for kind, document in _KINDS.items():
            if kind not in results:
                continue
            if results[kind] is None:
                self.notes.append(f"{kind} of {owner}: no result, its job failed")
                continue
            found[kind] = read_document(document, results[kind])
            if kind == "transitions" and self.transitions is not None:
                try:
                    found[kind] = classify(self.transitions, found[kind])
                except MismatchError as error:
                    self.notes.append(f"transitions of {owner}: {error.message}")
            name = f"{kind} {self.about['key']} {owner}"
            if kind in ("elastic", "eos"):
                self.costs.append(costs.mechanics_cost(kind, name, found[kind]))
            else:
                self.costs.append(costs.plain_cost("follow" if kind == "transitions" else kind, name, found[kind]))
        return found

    def displaced(self, ref: PotentialRef, owner: str) -> DisplacementCheck | None:
        """Compare forces in the displaced cells that the reference calculated."""
        if not self.checks:
            return None
        from phonosmith.flows.checks import check_forces
        from phonosmith.potentials.registry import load

        try:
            return check_forces(load(ref), self.checks)
        except PhonosmithError as error:
            self.notes.append(f"displaced cells of {owner}: {error}")
            return None

    def compared(self, model: HarmonicModel, other: HarmonicModel, owner: str) -> tuple[PhononComparison | None, str]:
        """Return the comparison of a potential's phonons with others; without one, why they cannot be compared."""
        from phonosmith.evaluation.phonons.comparison import compare_phonons

        try:
            return compare_phonons(other, model, self.about["mesh"]), ""
        except MismatchError as error:
            self.notes.append(f"phonons of {owner}: {error.message}")
            return None, error.message

    def entry(
        self, strategy: str, results: dict[str, Any], training: TrainingDocument | None, n_train: int, owner: str
    ) -> PotentialReport:
        """Return the report of one potential."""
        from phonosmith.evaluation.phonons.summary import harmonic_from_document

        phonons = None if results.get("phonons") is None else read_document(PhononDoc, results["phonons"])
        ref = read_document(PotentialRef, results["potential"]) if training is None else training.model
        assert ref is not None  # run_training always registers its model
        comparison, change, mismatch = None, None, ""
        if phonons is not None:
            self.costs.append(costs.phonon_cost(f"phonon {self.about['key']} {owner}", phonons))
            model = harmonic_from_document(phonons, default_artefacts())
            if self.reference is not None:
                comparison, mismatch = self.compared(model, self.reference, owner)
            smaller = [size for name, size in self.models if name == strategy and size < n_train]
            if smaller:
                moved, _ = self.compared(model, self.models[strategy, max(smaller)], owner)
                change = None if moved is None else moved.mae_thz
            self.models[strategy, n_train] = model
        found = PotentialReport(
            strategy=strategy,
            potential=ref,
            n_train=n_train,
            verdict=Verdict(fit=False, reasons=["not judged yet"], thresholds={}),
            phonons=comparison,
            summary=None if phonons is None else PhononSummary.of(phonons),
            phonon_change_thz=change,
            check=self.displaced(ref, owner),
            **self.optional(results, owner),
        )
        if training is not None:
            found = found.model_copy(update=_training_fields(training))
        return self.judged(found, mismatch)

    def judged(self, entry: PotentialReport, mismatch: str = "") -> PotentialReport:
        """Return an entry with its verdict; ``mismatch``: why its phonons cannot be compared with the reference's."""
        improved = entry.improved is not False
        if mismatch:
            verdict = Verdict(fit=False, reasons=[f"cannot be compared: {mismatch}"], thresholds={})
        elif entry.summary is None:
            verdict = Verdict(fit=False, reasons=["its phonons could not be computed"], thresholds={})
        elif entry.phonons is not None:
            verdict = judge(entry.phonons, get_settings(), self.base, improved=improved)
        else:
            verdict = judge_production(
                get_settings(),
                valid_force_mae=entry.valid_force_mae,
                phonon_change_thz=entry.phonon_change_thz,
                check_percent=None if entry.check is None else entry.check.relative_percent,
                improved=improved,
                stable=entry.summary.stable_practical,
                trained=entry.n_train > 0,
            )
        return entry.model_copy(update={"verdict": verdict})


def _training_fields(training: TrainingDocument) -> dict[str, Any]:
    after = training.metrics["valid"].after
    return {
        "training_seconds": training.seconds,
        "train_force_mae": training.metrics["train"].after.mae_forces_mev_per_angstrom,
        "valid_force_mae": after.mae_forces_mev_per_angstrom,
        "valid_energy_mae": after.mae_energy_mev_per_atom,
        "valid_stress_mae": after.mae_stress_mev_per_angstrom3,
        "curve": training_curve(training),
        "n_parameters": training.n_parameters,
        "n_changed": training.n_changed,
        "improved": training.improved,
    }


def _foundation_fields(training: TrainingDocument) -> dict[str, Any]:
    """Return the foundation's own errors on the validation labels, energies after the shift training used."""
    before = training.metrics["valid"].shifted
    return {
        "valid_force_mae": before.mae_forces_mev_per_angstrom,
        "valid_energy_mae": before.mae_energy_mev_per_atom,
        "valid_stress_mae": before.mae_stress_mev_per_angstrom3,
    }


def _quality(entry: PotentialReport) -> tuple[float, float]:
    """Order potentials: phonon MAE where there is one, else validation forces; unknown last."""
    mae = float("inf") if entry.phonons is None else entry.phonons.mae_thz
    return mae, float("inf") if entry.valid_force_mae is None else entry.valid_force_mae


def _check_labels(value: Any, case: _Case) -> list[Atoms]:
    from phonosmith.reference.datasets.dataset import get_dataset

    if value is None:
        if case.about.get("n_checks"):
            case.notes.append("displaced cells: the reference gave none")
        return []
    report = read_document(LabelReport, value)
    case.costs.append(costs.check_cost(f"label {report.material.lower()}", report))
    return [atoms for ref in report.datasets.values() for atoms in get_dataset(ref)]


@job(output_schema=MaterialReport, config=JobConfig(on_missing_references=OnMissing.NONE))
def report_material(
    about: dict[str, Any],
    sample: Any,
    labels: Any,
    subsets: dict[str, Any],
    reference: dict[str, Any],
    foundation: dict[str, Any],
    results: list[dict[str, Any]],
    structure: Structure,
) -> MaterialReport:
    """Compare every potential with the reference and judge it; what has no result is named.

    Parameters
    ----------
    about
        Names, mode, mesh.
    sample, labels, subsets
        ``SamplingDoc``, ``AuditedLabels``, and the training sets by the number of labels asked.
    reference, foundation
        Results by kind.
    results
        One mapping per training: strategy, number asked, ``TrainingDocument``, results by kind.
    structure
        The crystal that was asked for.

    Raises
    ------
    LabelError
        When labels, or in comparison mode reference phonons, are missing: nothing can be judged.
    """
    from phonosmith.evaluation.phonons.summary import harmonic_from_document

    production = about["mode"] == "production"
    if labels is None or (not production and reference.get("phonons") is None):
        missing = "labels" if labels is None else "reference phonons"
        raise LabelError(f"{about['material']} has no {missing}.", "Look at the failed job and run it again.")
    audited = read_document(AuditedLabels, labels)
    audited.subsets = {size: read_document(DatasetRef, ref) for size, ref in subsets.items() if ref is not None}
    truth = None if production else read_document(PhononDoc, reference["phonons"])
    key = about["key"]
    inputs = {"train": audited.train.sha256, "valid": audited.valid.sha256}
    with recorded(inputs, {"mesh": about["mesh"], "mode": about["mode"]}, about["seed"]) as manifest:
        model = None if truth is None else harmonic_from_document(truth, default_artefacts())
        case = _Case(about, model, [])
        case.checks = _check_labels(reference.get("checks"), case)
        sampled = None if sample is None else read_document(SamplingDoc, sample)
        if sampled is not None:
            case.costs.append(costs.sampling_cost(f"sample {key}", sampled))
        case.costs.append(costs.label_cost(f"label {key}", audited))
        if truth is not None:
            case.costs.append(costs.phonon_cost(f"phonon {key} reference", truth))
        for group in reference.get("costs") or []:
            case.costs += [read_document(Cost, one) for one in group or []]
        side = ReferenceReport(
            phonons=None if truth is None else PhononSummary.of(truth), **case.optional(reference, "reference")
        )
        case.transitions = side.transitions
        base = case.entry("foundation", foundation, None, 0, "foundation")
        case.base = base.phonons
        entries, failed, several = [], [], len({item["n_train"] for item in results}) > 1
        for item in results:
            name = f"{item['strategy']} {item['n_train']}" if several else item["strategy"]
            if item["training"] is None or (item["phonons"] is None and not production):
                failed.append(name)
                case.notes.append(f"{name}: {'training' if item['training'] is None else 'phonons'} failed")
                continue
            made = read_document(TrainingDocument, item["training"])
            used = audited.train if item["n_train"] is None else audited.subsets[str(item["n_train"])]
            if item["n_train"] is not None and used.n_frames < item["n_train"]:
                case.notes.append(f"{name}: {used.n_frames} labels, {item['n_train']} were asked")
            atoms = round(used.n_atoms / used.n_frames)
            case.costs.append(costs.training_cost(f"train {key} {name}", made, atoms))
            base = base.model_copy(update=_foundation_fields(made))
            entries.append(case.entry(item["strategy"], item, made, used.n_frames, name))
    base = case.judged(base) if production else base
    entries.sort(key=_quality)
    best = entries[0] if entries else None
    first = base.phonons
    gain = first.mae_thz / best.phonons.mae_thz if first and best and best.phonons else None
    group, number = structure.get_space_group_info()
    return MaterialReport(
        material=about["material"],
        key=key,
        campaign=about["campaign"],
        mode=about["mode"],
        cell=about["cell"],
        seed=about["seed"],
        formula=structure.composition.reduced_formula,
        reference=about["reference"],
        rehearsal=about["rehearsal"],
        structure=structure.as_dict() if truth is None else truth.structure,
        space_group=group if truth is None else truth.space_group,
        space_group_number=number if truth is None else truth.space_group_number,
        sampling=None if sampled is None else sampling_summary(sampled),
        labels=audited,
        reference_result=side,
        foundation=base,
        strategies=entries,
        failed=failed,
        notes=list(dict.fromkeys(case.notes)),
        best=None if best is None else best.strategy,
        gain=gain,
        costs=case.costs,
        manifest=manifest,
    )
