"""Checks on labels: outliers, duplicates, overlapping atoms, energies that fit their forces and stress."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from phonosmith.reference.accept import accept
from phonosmith.reference.audit.settings import counted, minority
from phonosmith.reference.datasets.documents import AuditOptions, Finding, Severity
from phonosmith.reference.datasets.geometry import displacement_and_strain, grouped, near_duplicates, reduced_formula
from phonosmith.reference.outcome import Outcome
from phonosmith.structures.labels import labels_of

Array = NDArray[np.float64]

_MAD_TO_SIGMA = 1.4826
_ANHARMONIC = 0.1
"""Error of the trapezoid rule over the curvature part of the work: a tenth at the amplitudes of training data."""
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
        if reasons := accept(Outcome.of_atoms(atoms), allow_rehearsal=True):  # rehearsals have a finding of their own
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


def consistency_findings(frames: Sequence[Atoms], limits: AuditOptions) -> list[Finding]:
    """Energies against the work of forces and stress between neighbouring configurations.

    Between two frames the energy changes by minus the mean forces times the displacement plus volume times mean stress
    times strain, up to the third order. Over many pairs both terms have slope one; forces scaled on the way, a stress
    of wrong sign or unit, and single energies from another calculation all show.
    """
    groups = grouped(frames, _comparable)
    rows = [pair for members in groups.values() if len(members) > 2 for pair in _pairs(frames, members)]
    if len(rows) < 8:
        return []
    table = np.array(rows)
    # where the slopes are wrong every residual is, and single frames mean nothing
    return _slopes(table, limits.slope) or _shifted(table, frames, limits.shift)


def _comparable(atoms: Atoms) -> bytes | None:
    labels = labels_of(atoms)
    known = labels.energy is not None and labels.forces is not None and atoms.cell.rank == 3
    return atoms.numbers.tobytes() if known else None


def _pairs(frames: Sequence[Atoms], members: Sequence[int]) -> Iterator[tuple[int, int, float, float, float, float]]:
    """Yield (i, j, energy change, force work, stress work, curvature part) per atom, three nearest of each frame."""
    fractions = np.array([frames[i].get_scaled_positions(wrap=False) for i in members])
    fractions = fractions - np.round(fractions - fractions[0])
    cells = np.array([frames[i].cell.array for i in members])
    points = np.concatenate([(fractions @ cells[0]).reshape(len(members), -1), cells.reshape(len(members), -1)], axis=1)
    neighbours = cKDTree(points).query(points, k=min(4, len(members)))[1]
    for one, near in zip(members, neighbours, strict=True):
        for other in (members[k] for k in near[1:]):
            if step := _work(frames[one], frames[other]):
                yield (one, other, *step)


def _work(one: Atoms, other: Atoms) -> tuple[float, float, float, float] | None:
    a, b = labels_of(one), labels_of(other)
    if a.forces is None or b.forces is None or a.energy is None or b.energy is None:
        return None
    moved, strain = displacement_and_strain(one, other)
    step, strained = float(np.abs(moved).max()), float(np.abs(strain).max())
    if step > 0.6 or strained > 0.08 or (step < 1e-4 and strained < 1e-5):
        return None
    size = len(one)
    by_forces = -0.5 * float(np.sum((a.forces + b.forces) * moved)) / size
    curved = abs(float(np.sum((b.forces - a.forces) * moved))) / (4 * size)
    by_stress = 0.0
    if strained > 1e-6:
        if a.stress is None or b.stress is None:
            return None
        first, second = a.stress * one.get_volume(), b.stress * other.get_volume()
        weights = np.array([1, 1, 1, 2, 2, 2]) * strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        before, after = float(weights @ first), float(weights @ second)
        by_stress = 0.5 * (before + after) / size
        curved += abs(after - before) / (4 * size)
    return (b.energy - a.energy) / size, by_forces, by_stress, curved


def _slopes(table: Array, tolerance: float) -> list[Finding]:
    """Fit energy changes by both kinds of work and compare the slopes with one.

    The trapezoid rule errs by a fraction of the curvature part of the work, and it may err the same way in all pairs
    (expansion softens every spring), so that part counts as a systematic error, not one that averages out.
    """
    change, work, doubt = table[:, 2], table[:, 3:5], _ANHARMONIC * table[:, 5] + 1e-7
    weights = 1 / doubt**2
    for _ in range(20):
        root = np.sqrt(weights)[:, None]
        slopes = np.linalg.lstsq(work * root, change * root[:, 0], rcond=None)[0]
        far = np.abs(change - work @ slopes) / doubt
        weights = 1 / (doubt**2 * np.maximum(1, far / max(3.0, 3 * float(np.median(far)))))
    findings = []
    wrong_stress = " (a slope of -1 is a wrong sign, 0.0062 a stress in GPa, -0.00062 one in VASP's kbar)"
    for column, (name, hint) in enumerate((("forces", ""), ("stress", wrong_stress))):
        size = float(np.sum(weights * work[:, column] ** 2))
        if np.count_nonzero(work[:, column]) < 8 or size == 0:
            continue
        slope = float(slopes[column])
        error = float(np.sum(weights * np.abs(work[:, column]) * doubt)) / size
        if abs(slope - 1) > tolerance + error:
            message = (
                f"energies change by {slope:.3g} ± {error:.2g} times the work of the {name}{hint}"
                f": {name} and energies do not belong together"
            )
            values = {"slope": slope, "error": error}
            findings.append(Finding(check=f"energy_{name}", severity="refuse", message=message, values=values))
    return findings


def _shifted(table: Array, frames: Sequence[Atoms], shift: float) -> list[Finding]:
    """Find frames whose energy disagrees with all their neighbours by about the same amount."""
    residual = table[:, 2] - table[:, 3] - table[:, 4]
    work = np.abs(table[:, 3]) + np.abs(table[:, 4])
    limit = max(shift, 10 * _MAD_TO_SIGMA * float(np.median(np.abs(residual))))
    # a residual below the work itself may be anharmonic; only larger ones speak of another energy scale
    clear = np.where(np.abs(residual) > work, residual, 0.0)
    pairs = {
        (min(one, other), max(one, other)): value if one < other else -value
        for (one, other), value in zip(table[:, :2].astype(int).tolist(), clear.tolist(), strict=True)
    }
    odd: list[int] = []
    worst = 0.0
    while len(odd) <= len(frames) // 4:
        by_frame: dict[int, list[float]] = defaultdict(list)
        for (one, other), value in pairs.items():
            by_frame[one].append(-value)
            by_frame[other].append(value)
        medians = {i: abs(float(np.median(values))) for i, values in by_frame.items() if len(values) > 1}
        far = max(medians, key=lambda i: medians[i], default=None)
        if far is None or medians[far] <= limit:
            break
        # its neighbours look odd only because of it: take it out before looking again
        odd.append(far)
        worst = max(worst, medians[far])
        pairs = {pair: value for pair, value in pairs.items() if far not in pair}
    if not odd or len(odd) > len(frames) // 4:
        return []
    message = (
        f"{len(odd)} frames have energies up to {1000 * worst:.1f} meV/atom off what the forces of their neighbours say"
    )
    return [Finding(check="energy_shift", severity="exclude", message=message, frames=sorted(odd))]
