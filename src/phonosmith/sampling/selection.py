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


@dataclass(frozen=True)
class Selection:
    """Frames chosen from one trajectory.

    Attributes
    ----------
    steps
        Outermost first, strictly increasing.
    targets, drop
        Energies wanted for them; the energy drop: both eV.
    fractions, parts
        Achieved and wanted fractions of the energy drop, 0 at the start.
    reasons
        Why there are fewer than asked, or what was left out.
    """

    steps: tuple[int, ...]
    targets: tuple[float, ...]
    fractions: tuple[float, ...]
    parts: tuple[float, ...]
    drop: float = 0.0
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

    The rungs are E(start) - x (E(start) - E(lowest)), x = 0 … ``fraction``. No step sits exactly on a rung (see
    `rungs`), and an energy need not fall monotonically, so the increasing sequence of distinct steps with the least
    summed squared distance to the rungs is found by dynamic programming: no step is taken twice and the order is kept.
    The first chosen step is always the start.

    Parameters
    ----------
    energies
        Of every step, eV.
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
    mask = np.ones(len(energies), bool) if usable is None else np.asarray(usable, dtype=bool)
    allowed, left_out = np.flatnonzero(mask), np.flatnonzero(~mask)
    reasons: list[str] = []
    if len(left_out):
        shown = ", ".join(map(str, left_out[:5])) + (" …" if len(left_out) > 5 else "")
        reasons.append(f"{len(left_out)} unphysical steps left out ({shown})")
    if len(allowed) == 0:
        return Selection((), (), (), (), reasons=(*reasons, "no physical step in this trajectory"))
    kept = np.asarray(energies, dtype=float)[allowed]
    lowest = int(np.argmin(kept))
    drop = float(kept[0] - kept[lowest])
    if len(kept) == 1 or drop <= FLAT * n_atoms:
        reasons.append(f"the trajectory starts converged (energy drop {drop:.2e} eV): its start alone is taken")
        return Selection((int(allowed[0]),), (float(kept[0]),), (0.0,), (0.0,), reasons=tuple(reasons))
    wanted = min(n_select, lowest + 1)
    if wanted < n_select:
        reasons.append(f"only {wanted} distinct steps down to the lowest energy: {wanted} instead of {n_select} taken")
    parts = np.linspace(0.0, fraction, wanted)
    rungs = kept[0] - drop * parts
    # steps after the lowest energy only oscillate around the minimum
    chosen = _nearest_increasing(kept[: lowest + 1], rungs)
    fractions = (kept[0] - kept[chosen]) / drop
    steps = tuple(allowed[chosen].tolist())
    return Selection(
        steps, tuple(rungs.tolist()), tuple(fractions.tolist()), tuple(parts.tolist()), drop, tuple(reasons)
    )


def _nearest_increasing(values: Array, rungs: Array) -> list[int]:
    """Return strictly increasing indices, the first being 0, with least summed squared distance to the rungs."""
    scale = float(np.ptp(values)) or 1.0
    cost = ((values[None, :] - np.asarray(rungs)[:, None]) / scale) ** 2
    # cheapest way to each rung (row) that ends in each step (column)
    total = np.full(cost.shape, np.inf)
    total[0, 0] = cost[0, 0]
    for rung in range(1, len(cost)):
        total[rung, 1:] = np.minimum.accumulate(total[rung - 1])[:-1] + cost[rung, 1:]
    path = [int(np.argmin(total[-1]))]
    for ways in total[-2::-1]:
        path.append(int(np.argmin(ways[: path[-1]])))
    return path[::-1]


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
    """Return which trajectory is the validation set: the one at the unscaled volume."""
    unscaled = [index for index, factor in enumerate(volume_factors) if abs(factor - 1.0) < 1e-9]
    if not unscaled:
        raise InputError(
            f"None of the volume factors {list(volume_factors)} is 1: there is no validation trajectory.",
            "Include 1.0.",
        )
    return unscaled[0]


def training_order(volume_factors: Sequence[float], n_frames: Sequence[int]) -> list[tuple[int, int]]:
    """Return (trajectory, layer) of the training frames, outermost first, then inner layer by layer.

    Within a layer the largest volume change comes first, compression before expansion, so that any prefix of the list
    is one of the paper's nested training sets. The validation trajectory is left out.
    """
    validation = validation_index(volume_factors)
    others = [index for index in range(len(volume_factors)) if index != validation]
    outer = sorted(others, key=lambda index: (-round(abs(volume_factors[index] - 1.0), 9), volume_factors[index]))
    layers = range(max((n_frames[index] for index in others), default=0))
    return [(index, layer) for layer in layers for index in outer if layer < n_frames[index]]
