"""A model card: what a fine-tuned potential is, what it was made from, how far it may be trusted. Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.analysis.table import Table
from phonosmith.core.reading import read_document
from phonosmith.potentials.architecture import find_foundation
from phonosmith.training.documents import TrainingDocument
from phonosmith.training.spec import TrainSpec, make_spec

if TYPE_CHECKING:
    from jobflow import JobStore

    from phonosmith.potentials.documents import PotentialRef

DFT_CODES = ("vasp", "gpaw")
LIMITS = (
    "Made for one material: the model has its elements only and covers configurations like those it was trained on.",
    "Melts, surfaces, defects and other phases are not covered, unless the data say so.",
    "The verdict is about harmonic phonons against the reference named, nothing else.",
    "It knows no magnetic moments: it holds for the magnetic state of its labels, for none where they have no spin.",
    "It inherits what its reference lacks (functional, dispersion) and the licence of its foundation.",
)


@dataclass(frozen=True)
class Evidence:
    """What a store or a file says about one potential; any part may be missing."""

    training: TrainingDocument | None = None
    material: MaterialReport | None = None

    def judged(self, ref: PotentialRef) -> PotentialReport | None:
        """Return the report's part about a potential."""
        reports = self.material.strategies if self.material is not None else []
        return next((one for one in reports if one.potential.sha256 == ref.sha256), None)


def find_evidence(store: JobStore, ref: PotentialRef) -> Evidence:
    """Return the newest training document and material report of a job store about a potential."""

    def newest(criteria: dict[str, str]) -> dict[str, object] | None:
        found = store.query(criteria, sort={"completed_at": -1}, limit=1, load=True)
        return next((document["output"] for document in found), None)

    training = newest({"output.@class": "TrainingDocument", "output.model.sha256": ref.sha256})
    material = newest({"output.@class": "MaterialReport", "output.strategies.potential.sha256": ref.sha256})
    return Evidence(
        None if training is None else TrainingDocument.model_validate(training),
        None if material is None else MaterialReport.model_validate(material),
    )


def read_training(path: Path) -> TrainingDocument:
    """Read the training.json that a training wrote."""
    return read_document(path, TrainingDocument, "training document", "Give the training.json of a training.")


def model_card(ref: PotentialRef, evidence: Evidence) -> str:
    """Return the card of a potential as Markdown; what is not known is said to be unknown."""
    judged, trained = evidence.judged(ref), evidence.training
    # what a digest was resolved to knows neither name nor parents
    ref = judged.potential if judged is not None else trained.model if trained is not None and trained.model else ref
    parts = [
        _identity(ref),
        _verdict(ref, evidence),
        _training(evidence.training),
        _data(evidence),
        _section("Limits", _bullets(LIMITS)),
        _section("Use", _use(ref)),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _identity(ref: PotentialRef) -> str:
    lines = [
        f"architecture: {ref.architecture}",
        f"elements: {' '.join(ref.elements)}",
        f"sha256 of the artefact: `{ref.sha256}`",
        *([f"cutoff of a layer: {ref.cutoff:.2f} Å"] if ref.cutoff is not None else []),
        *([f"made from (sha256): {', '.join(f'`{parent[:12]}`' for parent in ref.parents)}"] if ref.parents else []),
    ]
    return f"# {ref.name}\n\n{_bullets(lines)}"


def _verdict(ref: PotentialRef, evidence: Evidence) -> str:
    report, judged = evidence.material, evidence.judged(ref)
    if report is None or judged is None:
        return _section("Verdict", "Not judged: no report on phonons of this potential was given.")
    made_up = ""
    if report.rehearsal:
        made_up = " (**not DFT: a stand-in played VASP**)"
    elif report.reference.split()[0] not in DFT_CODES:
        made_up = " (**not DFT: a potential plays the reference**)"
    fit = "fit for harmonic phonons" if judged.verdict.fit else "**not fit** for harmonic phonons"
    lines = [f"{report.formula} ({report.space_group}): {fit}, judged against {report.reference}{made_up}"]
    lines += judged.verdict.reasons
    before, after = report.foundation.phonons, judged.phonons
    if after is not None:
        was = f", foundation {before.mae_thz:.3f} THz" if before is not None else ""
        highest = _percent(after.omega_max_error_percent)
        lines.append(f"phonon MAE {after.mae_thz:.3f} THz{was}; highest frequency {highest}")
        stable = "stable" if after.candidate.stable_practical else "unstable"
        lines.append(f"predicts a dynamically {stable} crystal")
    limits = (f"{name} {value:g}" for name, value in judged.verdict.thresholds.items())
    lines.append(f"limits applied: {', '.join(limits)}")
    return _section("Verdict", _bullets(lines))


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"off by {value:+.2f} %"


def _training(training: TrainingDocument | None) -> str:
    if training is None:
        return _section("Training", "Not known: no training document was given.")
    usual = make_spec(training.strategy) if training.strategy != "custom" else TrainSpec()
    changed = {
        name: value for name, value in training.spec.model_dump().items() if value != usual.model_dump().get(name)
    }
    settings = ", ".join(f"{name}={value}" for name, value in changed.items() if name != "strategy")
    rows = []
    for split, errors in training.metrics.items():
        for label, name in (
            ("energy, meV/atom", "mae_energy_mev_per_atom"),
            ("forces, meV/Å", "mae_forces_mev_per_angstrom"),
            ("stress, meV/Å³", "mae_stress_mev_per_angstrom3"),
        ):
            before, after = getattr(errors.shifted, name), getattr(errors.after, name)
            if before is not None and after is not None:
                rows.append((f"{split} MAE {label} ({errors.after.n_structures})", f"{before:.3g}", f"{after:.3g}"))
    table = Table("", ["", "foundation", "tuned"], rows).drawn("pipe", str)
    lines = [
        f"strategy {training.strategy}; settings that differ from its preset: {settings or 'none'}",
        f"seed {training.seed}, {training.epochs_run} epochs ({training.stop_reason}), best {training.best_epoch}",
        f"{training.n_changed} of {training.n_parameters} parameters differ from the foundation's",
        *training.checks.findings,
        *training.notes,
    ]
    packages = (
        ""
        if training.manifest is None
        else ", ".join(f"{name} {version}" for name, version in training.manifest.packages.items())
    )
    return _section("Training", "\n\n".join([_bullets(lines), table, f"Software: {packages or 'not known'}."]))


def _data(evidence: Evidence) -> str:
    report, training = evidence.material, evidence.training
    lines = []
    if report is not None:
        labels = report.labels
        lines.append(
            f"{labels.train.n_frames} training and {labels.valid.n_frames} validation labels by {report.reference}; "
            f"audit: {labels.verdict}, {labels.n_excluded} left out, {labels.n_failed} failed"
        )
        lines += labels.findings
        name = report.foundation.potential.name
        known = find_foundation(name)
        note = known[1].note if known is not None else "training data and licence not known here"
        lines.append(f"foundation {name}: {note}")
    if training is not None and training.manifest is not None:
        lines += [f"{role} (sha256): `{digest[:16]}`" for role, digest in training.manifest.inputs.items()]
    return _section("Data", _bullets(lines) if lines else "Not known.")


def _use(ref: PotentialRef) -> str:
    lines = (
        f"phonosmith models export {ref.short} {ref.name}.model",
        f"phonosmith phonons CRYSTAL.cif --potential {ref.short} --out phonons",
    )
    return "\n".join(["```sh", *lines, "```"])
