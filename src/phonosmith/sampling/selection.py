"""Choose frames along relaxations: equally spaced in energy, physical, distinct, outermost first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError

Array = NDArray[np.float64]

FLAT = 1e-6
"""An energy drop in eV per atom below which a trajectory counts as already converged."""


FAR = 0.2
"""Distance to a rung, as a part of the energy drop, from which it is reported."""


@dataclass(frozen=True)
class Selection:
    """Frames chosen from one trajectory.

    Attributes
    ----------
    steps
        Chosen steps, outermost first, strictly increasing.
    targets
        Energies wanted for them, eV.
    fractions
        Achieved fraction of the energy drop, 0 at the start.
    reasons
        Why there are fewer than asked, or what was left out.
    """

    steps: tuple[int, ...]
    targets: tuple[float, ...]
    fractions: tuple[float, ...]
    reasons: tuple[str, ...] = ()


def select_by_energy(
    energies: Sequence[float],
    n_select: int = 4,
    *,
    fraction: float = 0.9,
    usable: Sequence[bool] | None = None,
    n_atoms: int = 1,
) -> Selection:
    """Choose steps whose energies are nearest to an equally spaced ladder from the start to a part of the drop.

    The rungs are E(start) - x (E(start) - E(lowest)), x = 0 … ``fraction``. No step sits exactly on a rung, and an
    energy need not fall monotonically, so the increasing sequence of distinct steps with the least summed squared
    distance to the rungs is found by dynamic programming: no step is taken twice and the order is kept. The first
    chosen step is always the start.

    Parameters
    ----------
    energies
        Energy of every step, eV.
    n_select
        Rungs of the ladder.
    fraction
        Part of the energy drop at which the last rung sits.
    usable
        Steps that may be chosen; the ladder starts at the first usable one.
    n_atoms
        To judge the drop per atom.
    """
    if n_select < 1 or not 0 < fraction <= 1:
        raise InputError(f"{n_select} frames up to {fraction} of the drop cannot be chosen.", "Use e.g. 4 and 0.9.")
    values = np.asarray(energies, dtype=float)
    allowed = np.flatnonzero(np.ones(len(values), bool) if usable is None else np.asarray(usable, dtype=bool))
    reasons: list[str] = []
    if len(allowed) < len(values):
        left_out = sorted(set(range(len(values))) - set(allowed.tolist()))
        shown = ", ".join(str(step) for step in left_out[:5]) + (" …" if len(left_out) > 5 else "")
        reasons.append(f"{len(left_out)} unphysical steps left out ({shown})")
    if len(allowed) == 0:
        return Selection((), (), (), (*reasons, "no physical step in this trajectory"))
    kept = values[allowed]
    lowest = int(np.argmin(kept))
    drop = float(kept[0] - kept[lowest])
    if len(kept) == 1 or drop <= FLAT * n_atoms:
        reasons.append(f"the trajectory starts converged (energy drop {drop:.2e} eV): its start alone is taken")
        return Selection((int(allowed[0]),), (float(kept[0]),), (0.0,), tuple(reasons))
    wanted = min(n_select, lowest + 1)
    if wanted < n_select:
        reasons.append(f"only {wanted} distinct steps down to the lowest energy: {wanted} instead of {n_select} taken")
    rungs = kept[0] - drop * np.linspace(0.0, fraction, wanted) if wanted > 1 else kept[:1]
    # steps after the lowest energy only oscillate around the minimum
    chosen = _nearest_increasing(kept[: lowest + 1], rungs)
    fractions = tuple(float((kept[0] - kept[index]) / drop) for index in chosen)
    wanted_fractions = np.linspace(0.0, fraction, wanted) if wanted > 1 else np.zeros(1)
    missed = float(np.abs(np.array(fractions) - wanted_fractions).max())
    if missed > FAR:
        reasons.append(f"the energy falls in coarse steps: rungs are missed by up to {100 * missed:.0f} % of the drop")
    return Selection(
        tuple(int(allowed[index]) for index in chosen), tuple(float(rung) for rung in rungs), fractions, tuple(reasons)
    )


def _nearest_increasing(values: Array, rungs: Array) -> list[int]:
    """Return strictly increasing indices, the first being 0, with least summed squared distance to the rungs."""
    scale = float(np.ptp(values)) or 1.0
    cost = ((values[None, :] - np.asarray(rungs)[:, None]) / scale) ** 2
    n_rungs, n_values = cost.shape
    total = np.full((n_rungs, n_values), np.inf)
    origin = np.zeros((n_rungs, n_values), dtype=int)
    total[0, 0] = cost[0, 0]
    for rung in range(1, n_rungs):
        best, where = np.inf, 0
        for index in range(rung, n_values):
            if total[rung - 1, index - 1] < best:
                best, where = float(total[rung - 1, index - 1]), index - 1
            total[rung, index] = best + cost[rung, index]
            origin[rung, index] = where
    path = [int(np.argmin(total[-1]))]
    for rung in range(n_rungs - 1, 0, -1):
        path.append(int(origin[rung, path[-1]]))
    return path[::-1]


def unphysical_reason(
    shortest: float, largest_force: float, *, min_distance: float, max_force: float, energy: float = 0.0
) -> str | None:
    """Return why a frame must not be calculated, or None.

    Parameters
    ----------
    shortest, min_distance
        Shortest interatomic distance found and allowed, Å.
    largest_force, max_force
        Largest force found and allowed, eV/Å.
    energy
        eV, must be finite.
    """
    if not np.isfinite(energy) or not np.isfinite(largest_force):
        return "energy or forces are not finite"
    if shortest < min_distance:
        return f"atoms {shortest:.2f} Å apart (limit {min_distance:.2f} Å)"
    if largest_force > max_force:
        return f"force of {largest_force:.1f} eV/Å (limit {max_force:.1f} eV/Å)"
    return None


def near_duplicates(positions: Sequence[Array], tolerance: float) -> list[int]:
    """Return indices of frames in which no atom is more than ``tolerance`` Å away from an earlier kept frame.

    Frames are of one trajectory: same cell, same order of atoms, no wrapping.
    """
    kept: list[int] = []
    repeated: list[int] = []
    for index, current in enumerate(positions):
        close = any(np.linalg.norm(current - positions[other], axis=1).max() <= tolerance for other in kept)
        (repeated if close else kept).append(index)
    return repeated


def validation_index(volume_factors: Sequence[float]) -> int:
    """Return which trajectory is the validation set: the one at the unscaled volume.

    Raises
    ------
    InputError
        When no factor is 1.
    """
    for index, factor in enumerate(volume_factors):
        if abs(factor - 1.0) < 1e-9:
            return index
    raise InputError(
        f"None of the volume factors {list(volume_factors)} is 1: there is no validation trajectory.", "Include 1.0."
    )


def training_order(volume_factors: Sequence[float], n_frames: Sequence[int]) -> list[tuple[int, int]]:
    """Return (trajectory, layer) of the training frames, outermost first, then inner layer by layer.

    Within a layer the largest volume change comes first, compression before expansion, so that any prefix of the list
    is one of the paper's nested training sets. The validation trajectory is left out.

    Parameters
    ----------
    volume_factors
        Volume of every trajectory over the unscaled one.
    n_frames
        Chosen frames of every trajectory.
    """
    validation = validation_index(volume_factors)
    others = [index for index in range(len(volume_factors)) if index != validation]
    outer = sorted(others, key=lambda index: (-round(abs(volume_factors[index] - 1.0), 9), volume_factors[index]))
    layers = range(max((n_frames[index] for index in others), default=0))
    return [(index, layer) for layer in layers for index in outer if layer < n_frames[index]]
