"""Jobs that join stages: audit of labels, force constants for curvature supervision, the material's report."""

from __future__ import annotations

from typing import Any, TypeVar

from jobflow import JobConfig, OnMissing, job
from pydantic import BaseModel

from phonosmith.analysis.documents import (
    AuditedLabels,
    MaterialReport,
    PhononSummary,
    PotentialReport,
    ReferenceReport,
    TrainingCurve,
)
from phonosmith.core.artefacts import ArtefactRef, default_artefacts
from phonosmith.core.errors import LabelError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.phonon_documents import PhononDoc
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.documents import LabelReport
from phonosmith.training.documents import TrainingDocument

Document = TypeVar("Document", bound=BaseModel)


def read_document(kind: type[Document], value: Any) -> Document:
    """Return a document whether it comes as an object or as the dictionary a store keeps."""
    if isinstance(value, kind):
        return value
    return kind.model_validate({key: item for key, item in dict(value).items() if not key.startswith("@")})


@job(output_schema=AuditedLabels)
def audit_material(report: Any, n_train: int | None = None) -> AuditedLabels:
    """Audit the labels of one material and keep what may be trained on.

    Parameters
    ----------
    report
        ``LabelReport`` of the labelling.
    n_train
        Use only the first so many training labels (outermost first); all when None.

    Raises
    ------
    LabelError
        When the audit refuses the set or leaves a split empty.
    """
    from phonosmith.reference.audit import AuditOptions, audit
    from phonosmith.reference.datasets import get_dataset, put_dataset

    labels = read_document(LabelReport, report)
    splits = {name: get_dataset(labels.datasets[name]) for name in ("train", "valid")}
    frames = [*splits["train"], *splits["valid"]]
    document = audit(frames, AuditOptions(allow_rehearsal=labels.rehearsal))
    words = [str(finding.message) for finding in document.findings]
    if document.verdict == "refuse":
        raise LabelError(f"The labels of {labels.material} are refused: {'; '.join(words)}.", "Repair them and rerun.")
    excluded = set(document.excluded)
    first = len(splits["train"])
    train = [atoms for index, atoms in enumerate(splits["train"]) if index not in excluded][:n_train]
    valid = [atoms for index, atoms in enumerate(splits["valid"], start=first) if index not in excluded]
    if not train or not valid:
        raise LabelError(f"The audit of {labels.material} leaves no labels to train or validate on.", "; ".join(words))
    return AuditedLabels(
        material=labels.material,
        train=put_dataset(train, name=f"{labels.material} train"),
        valid=put_dataset(valid, name=f"{labels.material} valid"),
        verdict=document.verdict,
        n_excluded=len(excluded),
        n_failed=len(labels.failures),
        findings=words,
        label_seconds=labels.wall_seconds,
    )


@job(output_schema=ArtefactRef)
def force_constants_file(phonons: Any) -> ArtefactRef:
    """Write the force constants of a phonon document as a phonopy file into the artefact store."""
    import tempfile
    from pathlib import Path

    from phonosmith.evaluation.harmonic import harmonic_from_document

    model = harmonic_from_document(read_document(PhononDoc, phonons), default_artefacts())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phonopy.yaml"
        model.phonon.save(path, settings={"force_constants": True, "force_sets": False, "displacements": False})
        return default_artefacts().put_file(path, kind="force_constants")


def _entry(
    strategy: str, phonons: PhononDoc, reference: Any, foundation: Any, training: TrainingDocument | None, mesh: int
) -> PotentialReport:
    from phonosmith.evaluation.harmonic import harmonic_from_document
    from phonosmith.evaluation.phonons import compare_phonons
    from phonosmith.evaluation.verdict import judge
    from phonosmith.settings import get_settings

    candidate = harmonic_from_document(phonons, default_artefacts())
    comparison = compare_phonons(reference, candidate, mesh)
    improved = True if training is None else training.improved
    ref = phonons.potential
    if ref is None:
        raise LabelError(f"The phonons of {strategy} do not name their potential.", "Use FastPhononMaker.")
    after = training.metrics["valid"].after if training is not None else None
    return PotentialReport(
        strategy=strategy,
        potential=ref,
        phonons=comparison,
        summary=PhononSummary.of(phonons),
        verdict=judge(comparison, get_settings(), foundation, improved=improved),
        n_train=0,
        training_seconds=None if training is None else training.seconds,
        train_force_mae=None if training is None else training.metrics["train"].after.mae_forces_mev_per_angstrom,
        valid_force_mae=None if after is None else after.mae_forces_mev_per_angstrom,
        valid_energy_mae=None if after is None else after.mae_energy_mev_per_atom,
        valid_stress_mae=None if after is None else after.mae_stress_mev_per_angstrom3,
        curve=None if training is None else training_curve(training),
        n_parameters=None if training is None else training.n_parameters,
        n_changed=None if training is None else training.n_changed,
        improved=None if training is None else training.improved,
    )


def _phonon_mae(entry: PotentialReport) -> float:
    """Return the phonon MAE, THz; infinite where phonons were not compared."""
    return float("inf") if entry.phonons is None else entry.phonons.mae_thz


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


@job(output_schema=MaterialReport, config=JobConfig(on_missing_references=OnMissing.NONE))
def report_material(
    material: str,
    engine: str,
    rehearsal: bool,
    labels: Any,
    reference: Any,
    foundation: Any,
    strategies: list[str],
    trainings: list[Any],
    phonons: list[Any],
    mesh: int = 20,
) -> MaterialReport:
    """Compare every potential with the reference and judge it; strategies without a result are named.

    Raises
    ------
    LabelError
        When labels, reference or foundation phonons are missing: nothing can be compared.
    """
    from phonosmith.evaluation.harmonic import harmonic_from_document

    for name, value in (("labels", labels), ("reference phonons", reference), ("foundation phonons", foundation)):
        if value is None:
            raise LabelError(f"{material} has no {name}.", "Look at the failed job and run it again.")
    audited = read_document(AuditedLabels, labels)
    truth = read_document(PhononDoc, reference)
    with recorded({"train": audited.train.sha256, "valid": audited.valid.sha256}, {"mesh": mesh}) as manifest:
        model = harmonic_from_document(truth, default_artefacts())
        base = _entry("foundation", read_document(PhononDoc, foundation), model, None, None, mesh)
        entries, failed = [], []
        for strategy, training, found in zip(strategies, trainings, phonons, strict=True):
            if training is None or found is None:
                failed.append(strategy)
                continue
            made = read_document(TrainingDocument, training)
            entry = _entry(strategy, read_document(PhononDoc, found), model, base.phonons, made, mesh)
            entries.append(entry.model_copy(update={"n_train": audited.train.n_frames}))
    entries.sort(key=_phonon_mae)
    best = entries[0] if entries else None
    return MaterialReport(
        material=material,
        formula=truth.formula,
        reference=engine,
        rehearsal=rehearsal,
        structure=truth.structure,
        space_group=truth.space_group,
        space_group_number=truth.space_group_number,
        labels=audited,
        reference_result=ReferenceReport(phonons=PhononSummary.of(truth)),
        foundation=base,
        strategies=entries,
        failed=failed,
        best=None if best is None else best.strategy,
        gain=None if best is None else _phonon_mae(base) / _phonon_mae(best),
        manifest=manifest,
    )


@job(output_schema=PotentialRef)
def resolve_potential(name: str) -> PotentialRef:
    """Return the identity of a potential that a user named, on the worker that will use it."""
    from phonosmith.potentials.registry import resolve

    return resolve(name)
