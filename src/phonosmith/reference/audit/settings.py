"""Checks on how labels were made: functional, settings, POTCARs, k-meshes, rehearsals."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ase import Atoms

from phonosmith.reference.datasets.documents import AuditOptions, Finding, Severity
from phonosmith.reference.datasets.geometry import grouped
from phonosmith.structures.cost import reciprocal_lengths
from phonosmith.structures.labels import FUNCTIONAL, SETTINGS


def counted(groups: Mapping[str, Sequence[int]]) -> str:
    """Describe groups by value and number of frames."""
    return ", ".join(f"{key} ({len(members)})" for key, members in groups.items())


def minority(groups: Mapping[str, Sequence[int]]) -> list[int]:
    """Return the frames outside the largest group."""
    largest = max(groups, key=lambda key: len(groups[key]))
    return sorted(index for key, members in groups.items() if key != largest for index in members)


def split_by_majority(groups: Mapping[str, Sequence[int]], check: str, what: str, majority: float) -> Finding:
    """Exclude a minority that differs; refuse a set whose largest group is less than a fraction ``majority`` of it."""
    values = {key: len(members) for key, members in groups.items()}
    others, most = minority(groups), max(values.values())
    severity: Severity = "exclude" if most >= majority * sum(values.values()) else "refuse"
    message = f"the frames mix {what}: {counted(groups)}; they do not lie on one energy surface"
    if severity == "exclude":
        message = f"{len(others)} frames differ in {what} from the other {most}: {counted(groups)}"
    return Finding(check=check, severity=severity, message=message, frames=others, values=values)


def settings_findings(frames: Sequence[Atoms], limits: AuditOptions) -> list[Finding]:
    """Return every finding about how the labels were made."""
    findings: list[Finding] = []
    fake = [index for index, atoms in enumerate(frames) if atoms.info.get("rehearsal")]
    if fake and not limits.allow_rehearsal:
        severity: Severity = "refuse" if len(fake) == len(frames) else "exclude"
        message = f"{len(fake)} frames come from a rehearsal with the VASP stand-in: they are no DFT"
        findings.append(Finding(check="rehearsal", severity=severity, message=message, frames=fake))
    for key, what in ((FUNCTIONAL, "the functional"), (SETTINGS, "settings")):
        groups = grouped(frames, lambda atoms, key=key: atoms.info.get(key))  # type: ignore[misc]
        if len(groups) > 1 and not (key == SETTINGS and _explained_by(frames, findings)):
            findings.append(split_by_majority(groups, key, what, limits.majority))
        if unknown := [index for index, atoms in enumerate(frames) if atoms.info.get(key) is None]:
            message = f"{len(unknown)} frames do not say which {what.removeprefix('the ')} made them"
            findings.append(Finding(check=key, severity="warn", message=message, frames=unknown))
    # every element needs one POTCAR in all frames, whatever else a frame contains
    named = (
        ((item.partition(":")[0],), item.partition(":")[2], index)
        for index, atoms in enumerate(frames)
        for item in str(atoms.info.get("potcar") or "").split(";")
    )
    findings += _splits((entry for entry in named if entry[1]), "potcar", "the POTCAR of {}", limits.majority)
    if not _one_spacing(frames):
        findings += _meshes(frames, limits)
    if loose := [index for index, atoms in enumerate(frames) if float(atoms.info.get("ediff") or 0) > limits.ediff]:
        worst = Counter(f"{float(frames[index].info['ediff']):.0e}" for index in loose)
        message = (
            f"{len(loose)} frames stopped their SCF at EDIFF {', '.join(worst)} eV: forces carry noise for phonons"
        )
        findings.append(Finding(check="ediff", severity="warn", message=message, frames=loose, values=dict(worst)))
    return findings


def _explained_by(frames: Sequence[Atoms], findings: Sequence[Finding]) -> bool:
    """Tell whether the frames that differ in functional are all that differ in settings."""
    apart = next((set(finding.frames) for finding in findings if finding.check == "functional"), set())
    pairs = {(atoms.info.get(FUNCTIONAL), atoms.info.get(SETTINGS)) for atoms in frames}
    rest = {atoms.info.get(SETTINGS) for index, atoms in enumerate(frames) if index not in apart}
    return bool(apart) and len(pairs) == len({functional for functional, _ in pairs}) and len(rest - {None}) <= 1


def _splits(
    entries: Iterable[tuple[tuple[object, ...], str, int]], check: str, what: str, majority: float
) -> list[Finding]:
    """Compare values of frames within each group; entries are key (its name first), value and frame."""
    table: dict[tuple[object, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for key, value, index in entries:
        table[key][value].append(index)
    several = {key: groups for key, groups in table.items() if len(groups) > 1}
    return [split_by_majority(groups, check, what.format(key[0]), majority) for key, groups in several.items()]


def _meshes(frames: Sequence[Atoms], limits: AuditOptions) -> list[Finding]:
    """Ask for equal meshes in equal cells and comparable spacings in different ones."""
    sizes = [np.round(np.log(np.maximum(atoms.cell.lengths(), 1e-6)) / 0.2).tolist() for atoms in frames]
    known = (
        ((atoms.get_chemical_formula(), *sizes[index]), str(atoms.info["kmesh"]), index)
        for index, atoms in enumerate(frames)
        if atoms.info.get("kmesh") is not None
    )
    findings = _splits(known, "kpoints", "the k-mesh of equal cells ({})", limits.majority)
    spacings = np.array([float(a.info["kspacing"]) for a in frames if a.info.get("kspacing") is not None])
    limit = limits.kspacing_ratio * spacings.min(initial=np.inf)
    if not findings and (coarse := [i for i, a in enumerate(frames) if float(a.info.get("kspacing") or 0) > limit]):
        message = (
            f"k-point spacings range from {spacings.min():.3f} to {spacings.max():.3f} Å⁻¹ (VASP's convention): check"
            " that energies of both are converged"
        )
        findings.append(Finding(check="kpoints", severity="warn", message=message, frames=coarse))
    return findings


def _one_spacing(frames: Sequence[Atoms]) -> bool:
    """Tell whether one KSPACING gives every mesh: N = ceil(|b| / k) confines k to |b|/N <= k < |b|/(N-1)."""
    low, high = 0.0, math.inf
    if len({str(atoms.info["kmesh"]).endswith("s") for atoms in frames if atoms.info.get("kmesh") is not None}) > 1:
        return False
    for atoms in frames:
        if atoms.info.get("kmesh") is None or atoms.cell.rank < 3:
            continue
        mesh = [int(value) for value in str(atoms.info["kmesh"]).rstrip("s").split("x")]
        for length, count in zip(reciprocal_lengths(atoms.cell.array), mesh, strict=True):
            low, high = max(low, length / count), min(high, length / (count - 1) if count > 1 else math.inf)
    return low <= high * (1 + 1e-9)
