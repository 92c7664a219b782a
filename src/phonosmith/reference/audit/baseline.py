"""Labels against the predictions of a potential for the same frames: a foundation is soft, but not in another place.

Foundations miss forces by a factor (0.9 to 2 in the median of a set), energies by a few meV/atom beyond a constant,
stresses by some kbar. What differs by more, or in kind, was not computed for that frame or was changed on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.reference.audit.consistency import axis_orders, stress_orders
from phonosmith.reference.datasets.documents import AuditOptions, Finding, Severity
from phonosmith.structures.labels import Labels, labels_of

Array = NDArray[np.float64]

SCALE = 2.5
"""Labels over predictions, or the reverse, in the median of a set: beyond, it is another unit."""
_FEWEST = 6
_DENSE = 1.4
"""Largest ratio of a frame's volume per atom to the typical one at which it is compared."""
_FRAME_SCALE = 0.08
"""Deviation of a frame's force scale from the others' that is never odd."""
_STRESS = 0.003
"""eV/Å³ (5 kbar): smaller differences are not looked at."""
_STRESS_ODD, _STRESS_FAR = 0.002, 4.0
"""eV/Å³ (3 kbar) and `_deviations` from the line through most frames beyond which a stress is wrong; real sets (DFT
silicon, germanium, salt against Nequix) reach 2.7 deviations."""
_ENERGY = 0.01
_UNLIKE = 0.1
"""One minus the correlation of forces with the foundation's, beyond the others': noise, or another calculation."""
_FORCE_ODD, _FORCE_FAR = 0.005, 6.0
"""The same, and its `_deviations`, where all frames resemble the foundation alike; real sets reach 4."""
_SIGMAS = 8 * 1.4826
_LOUD = 0.05
"""eV/Å, root mean square: smaller forces are not compared. Foundations leave 0.02 in anatase where DFT has none."""
_ALLOWANCE = 0.2
"""What a foundation may miss of a frame's energy above the typical one, beside the scatter."""
_MOST = 0.6
"""Share of the frames that a line has to pass through: more than half are sound."""
_LEAST_SPREAD = 0.25


def baseline_findings(frames: Sequence[Atoms], baseline: Sequence[Labels], limits: AuditOptions) -> Iterator[Finding]:
    """Find frames, and sets, whose labels differ from a potential's predictions in more than softness."""
    if not frames:
        return
    volumes = np.array([atoms.get_volume() / len(atoms) if atoms.cell.rank == 3 else np.inf for atoms in frames])
    # of surfaces and molecules among crystals a foundation knows far less
    dense = np.flatnonzero(np.abs(np.log(volumes / np.median(volumes))) < np.log(_DENSE)).tolist()
    chosen, labels, told = (
        [frames[i] for i in dense],
        [labels_of(frames[i]) for i in dense],
        [baseline[i] for i in dense],
    )
    for finding in (
        *_forces(labels, told, limits),
        *_stresses(labels, told, limits),
        *_energies(chosen, labels, told, limits),
    ):
        yield finding.model_copy(update={"frames": [dense[i] for i in finding.frames]})


def _judged(check: str, what: str, odd: Sequence[int], compared: int, limits: AuditOptions) -> Iterator[Finding]:
    if odd:
        severity: Severity = "exclude" if len(odd) <= (1 - limits.keep) * compared else "refuse"
        message = f"{len(odd)} of {compared} frames have {what}"
        yield Finding(check=check, severity=severity, message=message, frames=sorted(odd))


def _forces(labels: Sequence[Labels], baseline: Sequence[Labels], limits: AuditOptions) -> Iterator[Finding]:
    loud = []
    for index, (one, other) in enumerate(zip(labels, baseline, strict=True)):
        if one.forces is None or other.forces is None or one.forces.shape != other.forces.shape:
            continue
        # relaxed structures have forces of nearly zero, about which a foundation says nothing
        if min(np.mean(one.forces**2), np.mean(other.forces**2)) > _LOUD**2:
            loud.append((index, one.forces, other.forces))
    if not loud:
        return
    indices = np.array([index for index, _, _ in loud])
    given, told = [one for _, one, _ in loud], [other for _, _, other in loud]
    products = np.array([float(np.sum(a * b)) for a, b in zip(given, told, strict=True)])
    sizes = np.array([(float(np.sum(a * a)), float(np.sum(b * b))) for a, b in zip(given, told, strict=True)])
    alike = products / np.sqrt(np.maximum(sizes.prod(axis=1), 1e-30))
    turned = np.array([_turned(a, b) for a, b in zip(given, told, strict=True)])
    typical = float(np.median(alike))
    apart = typical - alike > max(_UNLIKE, _SIGMAS * float(np.median(np.abs(alike - typical))))
    apart |= (1 - alike > _FORCE_ODD) & (_deviations(1 - alike) > _FORCE_FAR)
    other_atoms = (alike < 0.5) | turned | apart
    yield from _judged(
        "foreign_forces",
        "forces that do not resemble the foundation's (of other atoms, axes or structures)",
        indices[other_atoms].tolist(),
        len(indices),
        limits,
    )
    slopes = products / sizes[:, 1]
    sound = ~other_atoms
    if np.count_nonzero(sound) < _FEWEST:
        return
    middle = float(np.median(slopes[sound]))
    if not 1 / SCALE < middle < SCALE:
        message = f"forces are {middle:.3g} times the foundation's: another unit, or scaled"
        yield Finding(check="force_scale", severity="refuse", message=message, values={"slope": middle})
    else:
        away = np.abs(slopes / middle - 1)
        far = sound & (away > min(0.5, max(_FRAME_SCALE, _SIGMAS * float(np.median(away[sound])))))
        what = f"forces scaled differently from the others' ({middle:.2f} times the foundation's)"
        yield from _judged("force_scale", what, indices[far].tolist(), len(indices), limits)


def _deviations(errors: Array) -> Array:
    """Return how far errors lie above the typical one, in robust deviations of their logarithms.

    What a foundation misses is spread over a decade or two within one set; what was not computed for its frame lies
    beyond.
    """
    logarithms = np.log(np.maximum(errors, 1e-6))
    away = logarithms - np.median(logarithms)
    return np.asarray(away / max(1.4826 * float(np.median(np.abs(away))), _LEAST_SPREAD))


def _from_most(given: Array, told: Array, slope: float) -> Array:
    """Return the largest deviation of each frame's stress from the line (one slope) through most of the frames.

    Least trimmed squares: fit, keep the frames that fit best, fit again.
    """
    offset = np.median(given - slope * told, axis=0)
    count = max(_FEWEST - 1, int(np.ceil(_MOST * len(given))))
    for _ in range(20):
        off = np.abs(given - slope * told - offset).max(axis=1)
        kept = np.argsort(off, kind="stable")[:count]
        middle = told[kept].mean(axis=0)
        size = float(np.sum((told[kept] - middle) ** 2))
        # where most frames are unstrained they say nothing about the slope
        if size > told[kept].size * (_STRESS / 3) ** 2:
            slope = float(np.sum((told[kept] - middle) * (given[kept] - given[kept].mean(axis=0)))) / size
        offset = (given[kept] - slope * told[kept]).mean(axis=0)
    return np.asarray(np.abs(given - slope * told - offset).max(axis=1))


def _turned(given: Array, told: Array) -> bool:
    """Tell whether forces resemble the predictions far better with axes exchanged."""
    as_given = float(np.sum((given - told) ** 2))
    least = min(float(np.sum((given - told @ order) ** 2)) for order, _ in axis_orders())
    return least < 0.3 * as_given and as_given > 0.1 * float(np.sum(told**2))


def _stresses(labels: Sequence[Labels], baseline: Sequence[Labels], limits: AuditOptions) -> Iterator[Finding]:
    pairs = zip(labels, baseline, strict=True)
    known = [i for i, (one, other) in enumerate(pairs) if one.stress is not None and other.stress is not None]
    if len(known) < _FEWEST:
        return
    given, told = (np.array([side[i].stress for i in known]) for side in (labels, baseline))
    spread, expected = given - np.median(given, axis=0), told - np.median(told, axis=0)
    loud = np.abs(expected) > _STRESS
    slope = 1.0
    if np.count_nonzero(loud) >= _FEWEST:
        slope = float(np.median(spread[loud] / expected[loud]))
        if not 1 / SCALE < slope < SCALE:
            message = f"stresses change by {slope:.3g} times the foundation's: wrong sign, unit, or not computed"
            yield Finding(check="stress_scale", severity="refuse", message=message, values={"slope": slope})
            return
        # a soft foundation is soft in every component
        expected = slope * expected
        as_given = float(np.sum(np.abs(spread - expected)))
        least, name = min((float(np.sum(np.abs(spread[:, order] - expected))), name) for order, name in stress_orders())
        if least < 0.6 * as_given:
            message = f"stresses follow the foundation's {as_given / least:.1f} times better in the order {name}"
            yield Finding(check="exchanged_stress", severity="refuse", message=message)
            return
    off = _from_most(given, told, slope)
    far = (off > _STRESS_ODD) & (_deviations(off) > _STRESS_FAR)
    what = f"a stress up to {off.max():.3g} eV/Å³ from where the foundation and the other frames expect it"
    yield from _judged("foreign_stress", what, np.array(known)[far].tolist(), len(known), limits)


def _energies(
    frames: Sequence[Atoms], labels: Sequence[Labels], baseline: Sequence[Labels], limits: AuditOptions
) -> Iterator[Finding]:
    """Compare energies after a fit of one constant per element and one softness.

    Another zero of energy does not count, nor does a foundation that is too soft.
    """
    known = [i for i in range(len(frames)) if labels[i].energy is not None and baseline[i].energy is not None]
    elements = sorted({symbol for i in known for symbol in frames[i].symbols})
    if len(known) < max(_FEWEST, 2 * len(elements) + 2):
        return
    shares = np.array([[frames[i].symbols.count(symbol) / len(frames[i]) for symbol in elements] for i in known])
    told = np.array([(baseline[i].energy or 0.0) / len(frames[i]) for i in known])
    off = np.array([(labels[i].energy or 0.0) / len(frames[i]) for i in known]) - told
    terms = np.column_stack([shares, told - np.median(told)])
    weights = np.ones(len(off))
    for _ in range(50):
        root = np.sqrt(weights)
        fitted = terms @ np.linalg.lstsq(terms * root[:, None], off * root, rcond=1e-8)[0]
        away = np.abs(off - fitted)
        weights = 1 / np.maximum(away, 1e-6)
    far = away > max(_ENERGY, _SIGMAS * float(np.median(away))) + _ALLOWANCE * np.abs(told - np.median(told))
    what = f"an energy up to {1000 * away.max():.0f} meV/atom from where the foundation and the other frames expect it"
    yield from _judged("foreign_energy", what, np.array(known)[far].tolist(), len(known), limits)
