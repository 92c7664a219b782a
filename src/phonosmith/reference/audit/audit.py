"""Audit of a labelled dataset before any training: whether its frames may be fitted together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from ase import Atoms

from phonosmith.core.errors import InputError
from phonosmith.core.manifest import recorded
from phonosmith.reference.audit.labels import (
    broken_frames,
    consistency_findings,
    duplicate_findings,
    geometry_findings,
    outlier_findings,
)
from phonosmith.reference.audit.settings import settings_findings
from phonosmith.reference.datasets.dataset import dataset_digest
from phonosmith.reference.datasets.documents import AuditDocument, AuditOptions, Finding, OffsetFit, Verdict
from phonosmith.reference.datasets.offsets import fit_offsets
from phonosmith.structures.labels import FUNCTIONAL, SETTINGS, SOURCE, labels_of

CHECKS: tuple[Callable[[Sequence[Atoms], AuditOptions], list[Finding]], ...] = (
    settings_findings,
    geometry_findings,
    duplicate_findings,
    outlier_findings,
    consistency_findings,
)
"""What is asked of frames that hold usable labels."""
_GRAVITY = {"refuse": 0, "exclude": 1, "warn": 2}


def audit(frames: Sequence[Atoms], options: AuditOptions | None = None) -> AuditDocument:
    """Judge whether frames may be trained on together.

    Parameters
    ----------
    frames
        Labelled configurations; provenance is read from ``atoms.info`` (functional, settings, potcar, kmesh, ediff,
        source), where imports and labels of this package put it.
    options
        Limits.

    Returns
    -------
    AuditDocument
        Verdict ``pass``, ``pass_with_exclusions`` or ``refuse``, with reasons and the indices to leave out.
    """
    if not frames:
        raise InputError("There is no frame to audit.", "Give a dataset with at least one frame.")
    limits = options or AuditOptions()
    with recorded(inputs={"dataset": dataset_digest(frames)}, settings=limits.model_dump()) as manifest:
        findings = broken_frames(frames)
        unusable = {index for finding in findings if finding.severity == "exclude" for index in finding.frames}
        sound = [index for index in range(len(frames)) if index not in unusable]
        usable = [frames[index] for index in sound]
        if usable:
            findings += [_renumbered(finding, sound) for check in CHECKS for finding in check(usable, limits)]
        offsets = _offsets(usable, findings, limits)
        document = _document(frames, findings, offsets, limits)
    return document.model_copy(update={"manifest": manifest})


def kept_frames(frames: Sequence[Atoms], document: AuditDocument) -> list[Atoms]:
    """Return the frames an audit leaves in.

    Raises
    ------
    InputError
        When the audit refused the set.
    """
    if document.verdict == "refuse":
        raise InputError(f"The audit refused these frames: {' '.join(document.reasons)}", "Mend the set first.")
    excluded = set(document.excluded)
    return [atoms for index, atoms in enumerate(frames) if index not in excluded]


def _renumbered(finding: Finding, indices: Sequence[int]) -> Finding:
    return finding.model_copy(update={"frames": [indices[index] for index in finding.frames]})


def group_name(atoms: Atoms) -> str:
    """Return what separates energy scales: functional, settings and POTCARs where known, else the source."""
    if atoms.info.get(SETTINGS) is None:
        return str(atoms.info.get(SOURCE, "unknown"))
    parts = [atoms.info.get(FUNCTIONAL), atoms.info.get(SETTINGS), atoms.info.get("potcar")]
    return " / ".join(str(part) for part in parts if part)


def _offsets(frames: Sequence[Atoms], findings: list[Finding], limits: AuditOptions) -> OffsetFit | None:
    """Fit offsets between groups of frames and add a finding where one is significant."""
    groups: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in frames:
        if labels_of(atoms).energy is not None:
            groups[group_name(atoms)].append(atoms)
    # hundreds of single-frame sources are the files of one campaign, not energy scales
    if not 1 < len(groups) <= max(2, len(frames) // 4):
        return None
    fit = fit_offsets(groups)
    for offset in fit.offsets:
        if offset.method == "reference" or abs(offset.per_atom) <= max(limits.offset, 3 * offset.uncertainty):
            continue
        message = (
            f"energies of '{offset.source}' lie {1000 * offset.per_atom:+.1f} ± {1000 * offset.uncertainty:.1f}"
            f" meV/atom from those of '{fit.reference}' ({offset.method}): refit E0 per source before mixing them"
        )
        severity = "refuse" if offset.method == "shared" else "warn"
        indices = [i for i, atoms in enumerate(frames) if group_name(atoms) == offset.source]
        findings.append(
            Finding(
                check="energy_offset",
                severity=severity,  # type: ignore[arg-type]
                message=message,
                frames=indices,
                values={"per_atom": offset.per_atom, **offset.elements},
            )
        )
    return fit


def _document(
    frames: Sequence[Atoms], findings: Sequence[Finding], offsets: OffsetFit | None, limits: AuditOptions
) -> AuditDocument:
    ordered = sorted(findings, key=lambda finding: _GRAVITY[finding.severity])
    excluded = sorted({index for finding in ordered if finding.severity == "exclude" for index in finding.frames})
    reasons = [f"{f.check}: {f.message}." for f in ordered if f.severity == "refuse"]
    kept = len(frames) - len(excluded)
    if not reasons and kept < max(1, limits.keep * len(frames)):
        reasons.append(f"exclusions: only {kept} of {len(frames)} frames would remain.")
        ordered.insert(0, Finding(check="exclusions", severity="refuse", message=reasons[-1], frames=excluded))
    verdict: Verdict = "refuse" if reasons else ("pass_with_exclusions" if excluded else "pass")
    if verdict == "pass_with_exclusions":
        reasons = [f"{f.check}: {f.message}." for f in ordered if f.severity == "exclude"]
    return AuditDocument(
        verdict=verdict,
        reasons=reasons,
        n_frames=len(frames),
        n_kept=kept,
        excluded=excluded,
        findings=ordered,
        functionals=dict(Counter(str(a.info.get(FUNCTIONAL, "unknown")) for a in frames)),
        settings=dict(Counter(str(a.info.get(SETTINGS, "unknown")) for a in frames)),
        sources=dict(Counter(str(a.info.get(SOURCE, "unknown")) for a in frames)),
        offsets=offsets,
        manifest=None,
    )
