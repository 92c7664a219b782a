"""Checks on labels: broken ones, outliers, duplicates, repeated numbers, overlapping atoms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from phonosmith.reference.accept import accept
from phonosmith.reference.audit.settings import counted, minority
from phonosmith.reference.datasets.documents import AuditOptions, Finding, Severity
from phonosmith.reference.datasets.geometry import grouped, near_duplicates, reduced_formula
from phonosmith.reference.outcome import Outcome
from phonosmith.structures.labels import DERIVED, HARMONIC, labels_of

Array = NDArray[np.float64]

_MAD_TO_SIGMA = 1.4826
_AT_REST = frozenset({"forces_zero", "stress_zero"})
"""What a calculation does not give, but force constants of a relaxed crystal do."""
_WITHOUT = {
    "energy": "phonosmith train needs one for every frame (displaced cells of phonopy supervise curvature instead); "
    "mace_run_train takes such frames with energy weight 0",
    "stress": "they teach energies and forces only",
}


def broken_frames(frames: Sequence[Atoms]) -> list[Finding]:
    """Frames without forces, with labels that are not finite, or with impossible geometry; frames without energy."""
    findings = []
    broken = set()
    for index, atoms in enumerate(frames):
        reasons = accept(Outcome.of_atoms(atoms), allow_rehearsal=True)  # rehearsals have a finding of their own
        if str(atoms.info.get(DERIVED, "")).startswith(HARMONIC):
            reasons = [reason for reason in reasons if reason.code not in _AT_REST]
        if reasons:
            message = f"frame {index}: {'; '.join(reason.message for reason in reasons)}"
            findings.append(Finding(check="labels", severity="exclude", message=message, frames=[index]))
            broken.add(index)
    for name, check in (("energy", "missing_energy"), ("stress", "missing_stress")):
        bare = [i for i, a in enumerate(frames) if i not in broken and getattr(labels_of(a), name) is None]
        if bare:
            message = f"{len(bare)} of {len(frames)} frames have no {name}: {_WITHOUT[name]}"
            findings.append(Finding(check=check, severity="warn", message=message, frames=bare))
    return findings


def geometry_findings(frames: Sequence[Atoms], limits: AuditOptions) -> Iterator[Finding]:
    """Foreign compositions, mixed periodicity, odd volumes and atoms on top of each other."""
    groups = grouped(frames, reduced_formula)
    if len(groups) > 1:
        few = max(map(len, groups.values())) >= limits.majority * len(frames)
        message = f"several compositions: {counted(groups)}"
        severity: Severity = "exclude" if few else "warn"
        yield Finding(check="composition", severity=severity, message=message, frames=minority(groups))
    periodic = grouped(frames, lambda atoms: "".join("T" if flag else "F" for flag in atoms.pbc))
    if len(periodic) > 1:
        yield Finding(check="periodicity", severity="warn", message=f"mixed periodicity: {counted(periodic)}")
    odd: list[int] = []
    for members in groups.values():
        full = [i for i in members if frames[i].cell.rank == 3]
        volumes = np.array([frames[i].get_volume() / len(frames[i]) for i in full])
        if len(volumes) > 4:
            ratio = volumes / np.median(volumes)
            odd += [full[k] for k in np.flatnonzero((ratio < 0.6) | (ratio > 1.6))]
    if odd:
        message = (
            f"{len(odd)} frames have a volume per atom far from the others' (surfaces, other phases or a wrong cell)"
        )
        yield Finding(check="volume", severity="warn", message=message, frames=sorted(odd))
    if near := [index for index, atoms in enumerate(frames) if _overlap(atoms) < limits.closest]:
        message = f"{len(near)} frames have atoms closer than {limits.closest:g} of the sum of their covalent radii"
        yield Finding(check="overlap", severity="exclude", message=message, frames=near)


def _overlap(atoms: Atoms) -> float:
    """Return the smallest distance over the sum of covalent radii; 9 when nothing is near."""
    first, second, distance = neighbor_list("ijd", atoms, 2.0)
    radii = covalent_radii[atoms.numbers]
    return float(np.min(distance / (radii[first] + radii[second]), initial=9.0))


def duplicate_findings(frames: Sequence[Atoms], _: AuditOptions) -> Iterator[Finding]:
    """Repeated configurations: harmless copies are dropped, contradicting labels are all dropped."""
    copies: list[int] = []
    contradictions: list[int] = []
    for group in near_duplicates(frames):
        labels = {index: labels_of(frames[index]) for index in group}
        energies = [label.energy for label in labels.values() if label.energy is not None]
        if len(energies) > 1 and np.ptp(energies) / len(frames[group[0]]) > 1e-3:
            contradictions += group
        else:
            # the fullest label of a configuration stays
            missing = {index: sum(value is None for value in astuple(label)) for index, label in labels.items()}
            copies += [index for index in group if index != min(group, key=lambda i: missing[i])]
    if copies:
        message = f"{len(copies)} frames repeat a configuration that is already there"
        yield Finding(check="duplicate", severity="exclude", message=message, frames=sorted(copies))
    if contradictions:
        message = (
            f"{len(contradictions)} frames share a configuration but not its energy (more than 1 meV/atom apart):"
            " nobody can tell which is right"
        )
        yield Finding(check="contradiction", severity="exclude", message=message, frames=sorted(contradictions))


def outlier_findings(frames: Sequence[Atoms], limits: AuditOptions) -> Iterator[Finding]:
    """Energies and forces far outside what the rest of the set spans."""
    far: list[int] = []
    groups = grouped(frames, lambda atoms: None if labels_of(atoms).energy is None else reduced_formula(atoms))
    for members in groups.values():
        per_atom = np.array([float(labels_of(frames[i]).energy or 0.0) / len(frames[i]) for i in members])
        middle = float(np.median(per_atom))
        width = _MAD_TO_SIGMA * float(np.median(np.abs(per_atom - middle)))
        limit = max(limits.energy_window, limits.energy_sigmas * width)
        far += [members[k] for k in np.flatnonzero(np.abs(per_atom - middle) > limit)]
    if far:
        message = f"{len(far)} frames have an energy per atom far outside the others'"
        yield Finding(check="energy_outlier", severity="exclude", message=message, frames=sorted(far))
    forces = [labels_of(atoms).forces for atoms in frames]
    largest = np.array([0.0 if f is None else np.linalg.norm(f, axis=1).max() for f in forces])
    typical = float(np.median(largest[largest > 0])) if np.any(largest > 0) else 0.0
    wild = np.flatnonzero((largest > limits.force_limit) | (largest > max(limits.force_ratio * typical, 5.0)))
    if len(wild):
        message = (
            f"{len(wild)} frames have forces up to {largest[wild].max():.1f} eV/Å (typical largest: {typical:.2f})"
        )
        yield Finding(check="force_outlier", severity="exclude", message=message, frames=wild.tolist())


def repeated_findings(frames: Sequence[Atoms], _: AuditOptions) -> Iterator[Finding]:
    """Find numbers that return to the last digit in another configuration: they were computed once and copied."""
    labels = [labels_of(atoms) for atoms in frames]
    alike = {index for group in near_duplicates(frames) for index in group}
    for name in ("forces", "stress"):
        values = {i: getattr(one, name) for i, one in enumerate(labels) if i not in alike}
        digests = {i: value.tobytes() for i, value in values.items() if value is not None and np.any(value)}
        groups: dict[bytes, list[int]] = defaultdict(list)
        for index, digest in digests.items():
            groups[digest].append(index)
        if copies := sorted(index for members in groups.values() if len(members) > 1 for index in members):
            message = f"{len(copies)} frames share their {name} to the last digit with another configuration"
            yield Finding(check="repeated_labels", severity="exclude", message=message, frames=copies)
