"""Audit of a labelled dataset before any training: whether its frames may be fitted together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ase import Atoms

from phonosmith.core.errors import InputError
from phonosmith.core.manifest import recorded
from phonosmith.potentials.base import Potential
from phonosmith.reference.audit.baseline import baseline_findings
from phonosmith.reference.audit.consistency import consistency_findings
from phonosmith.reference.audit.labels import (
    broken_frames,
    duplicate_findings,
    geometry_findings,
    outlier_findings,
    repeated_findings,
)
from phonosmith.reference.audit.moments import moment_findings
from phonosmith.reference.audit.settings import settings_findings
from phonosmith.reference.datasets.dataset import dataset_digest
from phonosmith.reference.datasets.documents import AuditDocument, AuditOptions, Finding, OffsetFit, Severity, Verdict
from phonosmith.reference.datasets.geometry import grouped
from phonosmith.reference.datasets.offsets import fit_offsets
from phonosmith.structures.labels import FUNCTIONAL, SETTINGS, SOURCE, Labels, labels_of

CHECKS: tuple[Callable[[Sequence[Atoms], AuditOptions], Iterable[Finding]], ...] = (
    settings_findings,
    moment_findings,
    geometry_findings,
    duplicate_findings,
    outlier_findings,
    repeated_findings,
)
"""What is asked of frames that hold usable labels."""


def audit(
    frames: Sequence[Atoms], options: AuditOptions | None = None, baseline: Sequence[Labels] | None = None
) -> AuditDocument:
    """Judge whether frames may be trained on together.

    A ``baseline``, the predictions of a potential (the foundation) for the same frames, lets far more be seen: forces
    of other atoms or axes, stresses exchanged or scaled, energies a few meV/atom off; see ``predictions``.

    Provenance is read from ``atoms.info`` (functional, settings, potcar, kmesh, ediff, source), where imports and
    labels of this package put it. The verdict is ``pass``, ``pass_with_exclusions`` or ``refuse``, with reasons and the
    indices to leave out.
    """
    if not frames:
        raise InputError("There is no frame to audit.", "Give a dataset with at least one frame.")
    if baseline is not None and len(baseline) != len(frames):
        raise InputError(f"{len(baseline)} predictions were given for {len(frames)} frames.", "Give one for each.")
    limits = options or AuditOptions()
    with recorded(inputs={"dataset": dataset_digest(frames)}, settings=limits.model_dump()) as manifest:
        findings = broken_frames(frames)
        unusable = set(_excluded(findings))
        sound = [index for index in range(len(frames)) if index not in unusable]
        usable = [frames[index] for index in sound]
        noticed = [finding for check in CHECKS for finding in check(usable, limits)] if usable else []
        told = None if baseline is None else [baseline[index] for index in sound]
        noticed += _physics(usable, told, noticed, limits)
        offsets = _offsets(usable, noticed, limits)
        findings += [f.model_copy(update={"frames": [sound[index] for index in f.frames]}) for f in noticed]
        document = _document(frames, findings, offsets, limits)
    return document.model_copy(update={"manifest": manifest})


def _physics(
    frames: Sequence[Atoms], baseline: Sequence[Labels] | None, noticed: Sequence[Finding], limits: AuditOptions
) -> list[Finding]:
    """Compare labels with a baseline and with one another, leaving out what is excluded already."""
    findings: list[Finding] = []
    for look in (_against_baseline, consistency_findings):
        out = set(_excluded([*noticed, *findings]))
        left = [index for index in range(len(frames)) if index not in out]
        if look is consistency_findings:
            left = [index for index in left if not _by_potential(frames[index])]
        told = None if baseline is None else [baseline[index] for index in left]
        found = look([frames[index] for index in left], limits, told)
        findings += [f.model_copy(update={"frames": [left[index] for index in f.frames]}) for f in found]
    return findings


def _by_potential(atoms: Atoms) -> bool:
    """Tell whether the labels say that a potential made them.

    Its forces are the derivative of its energy; where its cutoff bends them sharply (silicon carbide at 0.1 Å), the
    work between two frames says nothing about that.
    """
    return str(atoms.info.get("engine", "")).startswith("forcefield")


def _against_baseline(
    frames: Sequence[Atoms], limits: AuditOptions, baseline: Sequence[Labels] | None
) -> list[Finding]:
    return [] if baseline is None else list(baseline_findings(frames, baseline, limits))


def predictions(potential: Potential, frames: Sequence[Atoms]) -> list[Labels]:
    """Return what a potential says about frames: the baseline of an audit."""
    evaluated = potential.evaluate([atoms.copy() for atoms in frames], stress=True)
    return [Labels(one.energy, one.forces, one.stress) for one in evaluated]


def _excluded(findings: Sequence[Finding]) -> list[int]:
    return sorted({index for finding in findings if finding.severity == "exclude" for index in finding.frames})


def kept_frames(frames: Sequence[Atoms], document: AuditDocument) -> list[Atoms]:
    """Return the frames an audit leaves in; a set it refused raises."""
    if document.verdict == "refuse":
        raise InputError(f"The audit refused these frames: {' '.join(document.reasons)}", "Mend the set first.")
    excluded = set(document.excluded)
    return [atoms for index, atoms in enumerate(frames) if index not in excluded]


def group_name(atoms: Atoms) -> str:
    """Return what separates energy scales: functional, settings and POTCARs where known, else the source."""
    if atoms.info.get(SETTINGS) is None:
        return str(atoms.info.get(SOURCE, "unknown"))
    parts = [atoms.info.get(FUNCTIONAL), atoms.info.get(SETTINGS), atoms.info.get("potcar")]
    return " / ".join(str(part) for part in parts if part)


def _offsets(frames: Sequence[Atoms], findings: list[Finding], limits: AuditOptions) -> OffsetFit | None:
    """Fit offsets between groups of frames and add a finding where one is significant."""
    groups = grouped(frames, lambda atoms: None if labels_of(atoms).energy is None else group_name(atoms))
    # hundreds of single-frame sources are the files of one campaign, not energy scales
    if not 1 < len(groups) <= max(2, len(frames) // 4):
        return None
    fit = fit_offsets({name: [frames[index] for index in members] for name, members in groups.items()})
    for offset in fit.offsets:
        if offset.method == "reference" or abs(offset.per_atom) <= max(limits.offset, 3 * offset.uncertainty):
            continue
        message = (
            f"energies of '{offset.source}' lie {1000 * offset.per_atom:+.1f} ± {1000 * offset.uncertainty:.1f}"
            f" meV/atom from those of '{fit.reference}' ({offset.method}): refit E0 per source before mixing them"
        )
        severity: Severity = "refuse" if offset.method == "shared" else "warn"
        indices = [i for i, atoms in enumerate(frames) if group_name(atoms) == offset.source]
        values = {"per_atom": offset.per_atom, **offset.elements}
        findings.append(
            Finding(check="energy_offset", severity=severity, message=message, frames=indices, values=values)
        )
    return fit


def _document(
    frames: Sequence[Atoms], findings: Sequence[Finding], offsets: OffsetFit | None, limits: AuditOptions
) -> AuditDocument:
    ordered = sorted(findings, key=lambda finding: ("refuse", "exclude", "warn").index(finding.severity))
    excluded = _excluded(ordered)
    reasons = [f"{f.check}: {f.message}." for f in ordered if f.severity == "refuse"]
    kept = len(frames) - len(excluded)
    if not reasons and kept < max(1, limits.keep * len(frames)):
        reasons.append(f"exclusions: only {kept} of {len(frames)} frames would remain.")
        ordered.insert(0, Finding(check="exclusions", severity="refuse", message=reasons[-1], frames=excluded))
    verdict: Verdict = "refuse" if reasons else ("pass_with_exclusions" if excluded else "pass")
    if verdict == "pass_with_exclusions":
        reasons = [f"{f.check}: {f.message}." for f in ordered if f.severity == "exclude"]
    functionals, settings, sources = (
        dict(Counter(str(atoms.info.get(key, "unknown")) for atoms in frames)) for key in (FUNCTIONAL, SETTINGS, SOURCE)
    )
    return AuditDocument(
        verdict=verdict,
        reasons=reasons,
        n_frames=len(frames),
        n_kept=kept,
        excluded=excluded,
        findings=ordered,
        functionals=functionals,
        settings=settings,
        sources=sources,
        offsets=offsets,
        manifest=None,
    )
