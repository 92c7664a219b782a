"""Energies against the work of forces and stress between neighbouring configurations.

Between two frames the energy changes by minus the mean forces times the displacement plus volume times mean stress
times strain, up to the third order. What labels that belong together leave is the error of that rule, a fraction of the
curvature part of the work (real labels: up to a third). A baseline, the predictions of a potential for the same frames,
makes most of that error known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from phonosmith.reference.datasets.documents import AuditOptions, Finding
from phonosmith.reference.datasets.geometry import displacement_and_strain, grouped
from phonosmith.structures.labels import Labels, labels_of

Array = NDArray[np.float64]

_NEIGHBOURS = 6
_ALLOWED = (0.6, 0.25)
"""Residual over the curvature part of the work, without and with a baseline. Over 900 real pairs (GPAW, VASP; up to
10 % strain and 900 K) the largest were 0.31 and 0.17."""
_ANHARMONIC = (0.02, 0.1)
"""Least and largest systematic error of the rule, over the curvature part of the work; in between it is
``_SYSTEMATIC`` times the typical residual. Hot crystals (900 K) reach slopes of 1.14 that way."""
_SYSTEMATIC = (6, 2)
"""Without and with a baseline."""
_ROUGH = 0.06
"""What nine in ten residuals are below, over the curvature part of the work, from which the whole tolerance of slopes
is needed: real sets (silicon and germanium at 300 to 900 K) reach slopes of 1.10 at 0.09 and 0.12."""
_SHEARS = ("yz", "xz", "xy")


@dataclass(frozen=True)
class Pairs:
    """Neighbouring frames; everything per atom, eV.

    Attributes
    ----------
    ends : indices of both frames
    change : energy of the second minus that of the first, less ``error``
    error : error of the rule as a baseline tells it; zero without one
    by_forces : work of forces along axis a times displacement along axis b
    by_stress : work of stress component c times strain component d, Voigt
    curved : size of the curvature part of the work
    baseline : whether there is one
    """

    ends: NDArray[np.int_]
    change: Array
    error: Array
    by_forces: Array
    by_stress: Array
    curved: Array
    baseline: bool

    @property
    def work(self) -> Array:
        """Work of forces and of stress, one row per pair."""
        forces, stress = (np.trace(tensor, axis1=1, axis2=2) for tensor in (self.by_forces, self.by_stress))
        return np.stack([forces, stress], axis=1)

    def keep(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs."""
        return replace(
            self,
            ends=self.ends[chosen],
            change=self.change[chosen],
            error=self.error[chosen],
            by_forces=self.by_forces[chosen],
            by_stress=self.by_stress[chosen],
            curved=self.curved[chosen],
        )


def consistency_findings(
    frames: Sequence[Atoms], limits: AuditOptions, baseline: Sequence[Labels] | None = None
) -> list[Finding]:
    """Find single frames that contradict their neighbours, and sets whose energies, forces and stress do not agree.

    Forces scaled on the way, a stress of wrong sign, unit or order, exchanged axes and single energies, forces or
    stresses from another calculation all show, as far as the frames differ enough for the work to be seen.
    """
    pairs = neighbours(frames, baseline)
    if len(pairs.change) < 8:
        return []
    odd, worst = _contradicting(pairs, limits.shift)
    few = len(odd) <= len(frames) // 4
    if wrong := _explained(pairs, limits, odd):
        return wrong
    if not odd:
        return []
    message = (
        f"{len(odd)} frames have energies up to {1000 * worst:.2g} meV/atom off what forces and stress of them and"
        " their neighbours say"
    )
    if not few:
        message += ": energies, forces and stress do not belong together"
        return [Finding(check="contradictions", severity="refuse", message=message, frames=odd)]
    rest = pairs.keep(np.asarray(~np.isin(pairs.ends, odd).any(axis=1)))
    left = _explained(rest, limits, []) if len(rest.change) >= 8 else []
    return left or [Finding(check="energy_shift", severity="exclude", message=message, frames=odd)]


def _explained(pairs: Pairs, limits: AuditOptions, odd: Sequence[int]) -> list[Finding]:
    """Return what is wrong with all labels alike, if that leaves far fewer frames odd than there seemed to be."""
    findings, (forces, stress) = _slopes(pairs, limits.slope)
    scaled = replace(pairs, by_forces=forces * pairs.by_forces, by_stress=stress * pairs.by_stress)
    if exchanged := _exchanged(pairs, scaled):
        return exchanged
    return findings if not odd or 2 * len(_contradicting(scaled, limits.shift)[0]) < len(odd) else []


def neighbours(frames: Sequence[Atoms], baseline: Sequence[Labels] | None = None) -> Pairs:
    """Return the pairs of nearest frames of equal atoms, a few for each frame, that are near enough to be compared."""
    groups = grouped(frames, _comparable)
    found: dict[tuple[int, int], tuple[float, Array, Array, float, float]] = {}
    for members in groups.values():
        if len(members) < 3:
            continue
        for one, other in _nearest(frames, members):
            step = work(frames[one], frames[other], labels_of(frames[one]), labels_of(frames[other]))
            if step is None:
                continue
            error, curved = 0.0, step[3]
            if baseline is not None:
                known = work(frames[one], frames[other], baseline[one], baseline[other])
                if known is None:
                    continue
                error = known[0] - float(np.trace(known[1]) + np.trace(known[2]))
                curved = known[3]
            found[one, other] = (step[0] - error, step[1], step[2], curved, error)
    columns = list(zip(*found.values(), strict=True)) or [(), (), (), (), ()]
    return Pairs(
        np.array(list(found), dtype=int).reshape(-1, 2),
        np.array(columns[0], dtype=float),
        np.array(columns[4], dtype=float),
        np.array(columns[1], dtype=float).reshape(-1, 3, 3),
        np.array(columns[2], dtype=float).reshape(-1, 6, 6),
        np.array(columns[3], dtype=float),
        baseline is not None,
    )


def _comparable(atoms: Atoms) -> bytes | None:
    labels = labels_of(atoms)
    known = labels.energy is not None and labels.forces is not None and atoms.cell.rank == 3
    return atoms.numbers.tobytes() if known else None


def _nearest(frames: Sequence[Atoms], members: Sequence[int]) -> Iterator[tuple[int, int]]:
    fractions = np.array([frames[i].get_scaled_positions(wrap=False) for i in members])
    fractions = fractions - np.round(fractions - fractions[0])
    cells = np.array([frames[i].cell.array for i in members])
    points = np.concatenate([(fractions @ cells[0]).reshape(len(members), -1), cells.reshape(len(members), -1)], axis=1)
    near = cKDTree(points).query(points, k=min(_NEIGHBOURS + 1, len(members)))[1]
    pairs = {(min(one, k), max(one, k)) for one, row in enumerate(near) for k in row.tolist() if k != one}
    for one, other in sorted(pairs):
        yield members[one], members[other]


def work(one: Atoms, other: Atoms, a: Labels, b: Labels) -> tuple[float, Array, Array, float] | None:
    """Return energy change, work of forces by axes, work of stress by components and curvature part, eV/atom.

    None where frames are too far apart, or too near, for the comparison to mean anything.
    """
    if a.forces is None or b.forces is None or a.energy is None or b.energy is None:
        return None
    moved, strain = displacement_and_strain(one, other)
    step, strained = float(np.abs(moved).max()), float(np.abs(strain).max())
    if step > 0.6 or strained > 0.08 or (step < 1e-4 and strained < 1e-5):
        return None
    size = len(one)
    by_forces = -0.5 * (a.forces + b.forces).T @ moved / size
    curved = abs(float(np.sum((b.forces - a.forces) * moved))) / (4 * size)
    by_stress = np.zeros((6, 6))
    if strained > 1e-6:
        if a.stress is None or b.stress is None:
            return None
        first, second = a.stress * one.get_volume(), b.stress * other.get_volume()
        components = np.array([1, 1, 1, 2, 2, 2]) * strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        by_stress = 0.5 * np.outer(first + second, components) / size
        curved += abs(float(components @ (second - first))) / (4 * size)
    return (b.energy - a.energy) / size, by_forces, by_stress, curved


def _contradicting(pairs: Pairs, smallest: float) -> tuple[list[int], float]:
    """Return the frames that disagree with most of their neighbours, worst first taken out, and the largest residual.

    The neighbours of a wrong frame look odd only because of it, so it leaves before the others are looked at again.
    """
    off = pairs.change - pairs.work.sum(axis=1)
    # a foundation that is wrong about a pair is no witness against its labels
    residual = np.minimum(np.abs(off), np.abs(off + pairs.error))
    excess = residual / (_ALLOWED[pairs.baseline] * pairs.curved + smallest)
    left = {tuple(ends): k for k, ends in enumerate(pairs.ends.tolist())}
    odd: list[int] = []
    worst = 0.0
    while left:
        by_frame: dict[int, list[int]] = defaultdict(list)
        for ends, k in left.items():
            for end in ends:
                by_frame[end].append(k)
        medians = {i: float(np.median(excess[rows])) for i, rows in by_frame.items() if len(rows) > 1}
        far = max(medians, key=lambda i: medians[i], default=None)
        if far is None or medians[far] <= 1:
            break
        odd.append(far)
        worst = max(worst, float(np.median(residual[by_frame[far]])))
        left = {ends: k for ends, k in left.items() if far not in ends}
    return sorted(odd), worst


def _slopes(pairs: Pairs, tolerance: float) -> tuple[list[Finding], tuple[float, float]]:
    """Fit energy changes by both kinds of work, compare the slopes with one and return them.

    The error of the rule may be the same way in all pairs (expansion softens every spring), so it counts as a
    systematic error, not one that averages out; how large it is, the scatter about the fit tells.
    """
    work, scale = pairs.work, pairs.curved + 1e-6
    weights = 1 / scale**2
    for _ in range(20):
        root = np.sqrt(weights)[:, None]
        slopes = np.linalg.lstsq(work * root, pairs.change * root[:, 0], rcond=None)[0]
        far = np.abs(pairs.change - work @ slopes) / scale
        weights = 1 / (scale**2 * np.maximum(1, far / max(0.01, 3 * float(np.median(far)))))
    typical, rough = (float(value) for value in np.quantile(far, [0.5, 0.9]))
    doubt = float(np.clip(_SYSTEMATIC[pairs.baseline] * typical, *_ANHARMONIC)) * pairs.curved + 1e-7
    # how both slopes answer an error of each pair: where the two kinds of work go together, they answer strongly
    answers = np.linalg.pinv(work * root) * root[:, 0]
    tolerance *= float(np.clip(rough / _ROUGH, 0.3, 1.0))
    findings = []
    wrong_stress = " (a slope of -1 is a wrong sign, 0.0062 a stress in GPa, -0.00062 one in VASP's kbar)"
    for column, (name, hint) in enumerate((("forces", ""), ("stress", wrong_stress))):
        size = float(np.sum(weights * work[:, column] ** 2))
        if np.count_nonzero(work[:, column]) < 8 or size == 0:
            continue
        slope = float(slopes[column])
        error = float(np.abs(answers[column]) @ doubt)
        if abs(slope - 1) > tolerance + error:
            message = (
                f"energies change by {slope:.3g} ± {error:.2g} times the work of the {name}{hint}"
                f": {name} and energies do not belong together"
            )
            values = {"slope": slope, "error": error}
            findings.append(Finding(check=f"energy_{name}", severity="refuse", message=message, values=values))
    return findings, (float(slopes[0]), float(slopes[1]))


def _exchanged(pairs: Pairs, scaled: Pairs) -> list[Finding]:
    """Ask whether energies follow the work far better when axes of forces, or components of stress, are exchanged.

    Better than as they are given, and than when they are ``scaled`` to fit.
    """
    if len(pairs.change) < 20:
        return []
    by_forces, by_stress = pairs.work.T
    scale = pairs.curved + 1e-6

    def misfit(forces: Array, stress: Array) -> float:
        return float(np.mean(np.abs(pairs.change - forces - stress) / scale))

    as_given = min(misfit(by_forces, by_stress), misfit(*scaled.work.T))
    best: list[tuple[float, str, str]] = []
    for order, name in axis_orders():
        best.append((misfit(np.einsum("pab,ab->p", pairs.by_forces, order), by_stress), "forces", name))
    for components, name in stress_orders():
        turned = pairs.by_stress[:, components, range(6)].sum(axis=1)
        best.append((misfit(by_forces, turned), "stress", name))
    least, what, name = min(best)
    if least >= 0.6 * as_given:
        return []
    message = f"energies follow the work {as_given / least:.1f} times better with {name} of the {what} exchanged"
    return [Finding(check=f"exchanged_{what}", severity="refuse", message=message, values={"gain": as_given / least})]


def axis_orders() -> Iterator[tuple[Array, str]]:
    """Yield every way but the right one to exchange axes or turn them round: matrix (from, to) and name."""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[range(3), order] = signs
        # all signs turned is a sign of the forces, which the slopes tell
        if order != (0, 1, 2) or len(set(signs)) > 1:
            yield (
                matrix,
                "axes " + " ".join(("-" if s < 0 else "") + "xyz"[k] for k, s in zip(order, signs, strict=True)),
            )


def stress_orders() -> Iterator[tuple[list[int], str]]:
    """Yield every way but the right one to exchange the diagonal, or the shear, components of a stress."""
    for diagonal, shear in product(permutations(range(3)), permutations(range(3))):
        if diagonal != (0, 1, 2) or shear != (0, 1, 2):
            names = " ".join(["xx", "yy", "zz"][k] for k in diagonal), " ".join(_SHEARS[k] for k in shear)
            yield [*diagonal, *(3 + k for k in shear)], " ".join(names)
