"""Monte Carlo rattling (hiphive) calibrated to an asked mean displacement."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import ConvergenceError, InputError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

POSITION_DIGITS = 8
"""Positions are rounded to 1e-8 Å: what extended XYZ keeps, and coarse enough to hide last-bit differences."""
CELL_DIGITS = 10
"""Cell vectors are rounded to 1e-10 Å."""
ATTEMPTS = 12
"""Most draws of one calibration with one stream of random numbers; one or two do unless distances are tight."""
STREAMS = 5
"""Most streams tried: in a cell of few atoms a single refused step can make the asked mean unreachable."""
MEAN_OF_NORMAL = float(np.sqrt(8 / np.pi))
"""Mean length of a vector of three independent standard normal numbers."""


@dataclass(frozen=True)
class Rattled:
    """Displacements of one configuration and how they came about.

    Attributes
    ----------
    displacements
        Å, without rigid translation.
    sigma
        Standard deviation of one Monte Carlo step, Å.
    mean
        Achieved mean length of the displacements, Å.
    min_distance
        Distance below which hiphive refuses steps, Å.
    warnings
        What was not achieved.
    """

    displacements: Array
    sigma: float
    mean: float
    min_distance: float
    warnings: tuple[str, ...] = ()


def draw_seed(seed: int, *labels: str | int) -> int:
    """Return a 31-bit seed for one labelled draw: the same on every platform and independent of all other draws."""
    text = ":".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def round_positions(positions: Array) -> Array:
    """Round positions in Å to what is kept of them."""
    return np.round(positions, POSITION_DIGITS) + 0.0


def round_cell(cell: Array) -> Array:
    """Round cell vectors in Å to what is kept of them."""
    return np.round(cell, CELL_DIGITS) + 0.0


def rattle(
    atoms: Atoms,
    seed: int,
    *,
    mean_displacement: float = 0.1,
    min_distance: float,
    n_iter: int = 10,
    tolerance: float = 0.02,
) -> Rattled:
    """Return Monte Carlo rattle displacements whose mean length is what was asked.

    hiphive's amplitude is the standard deviation of one step, not of the result. Here that amplitude is adjusted, with
    the stream of random numbers held fixed, until the mean length of the displacements (rigid translation removed)
    agrees with the asked one. Where a stream cannot give it, the next one derived from the seed is tried.

    Parameters
    ----------
    seed
        Of hiphive's generator (numpy's frozen ``RandomState``).
    mean_displacement
        Asked mean length, Å.
    min_distance
        Steps bringing atoms closer than this are hardly ever accepted, Å. Lowered (with a warning) when an atom finds
        no acceptable step at all.
    n_iter
        Monte Carlo cycles.
    tolerance
        Relative deviation of the mean that ends the calibration.
    """
    if mean_displacement < 0 or min_distance <= 0 or n_iter < 1:
        raise InputError(
            f"Rattling by {mean_displacement} Å with a shortest distance of {min_distance} Å in {n_iter} cycles is not "
            "possible.",
            "Give a displacement of at least 0, a positive distance and at least one cycle.",
        )
    still = np.zeros((len(atoms), 3))
    notes: list[str] = []
    if mean_displacement > 0 and len(atoms) == 1:
        notes.append("a cell of one atom cannot be rattled: moving its only atom moves the whole crystal")
    if mean_displacement == 0 or len(atoms) == 1:
        return Rattled(still, 0.0, 0.0, min_distance, tuple(notes))
    free = np.sqrt((len(atoms) - 1) / len(atoms))
    first = float(mean_displacement / (MEAN_OF_NORMAL * np.sqrt(n_iter) * free))
    best = (np.inf, first, still)
    for stream in range(STREAMS):
        sigma = first
        for attempt in range(ATTEMPTS):
            drawn = seed if stream == 0 else draw_seed(seed, "stream", stream)
            displacements, used = _draw(atoms, sigma, min_distance, n_iter, drawn)
            if used < min_distance:
                notes.append(
                    f"no acceptable rattle steps at {min_distance:.2f} Å: shortest distance lowered to {used:.2f} Å"
                )
                min_distance = used
            mean = mean_length(displacements)
            error = abs(mean / mean_displacement - 1)
            if error < best[0]:
                best = (error, sigma, displacements)
            if error <= tolerance or mean == 0:
                break
            # one refused step changes all later draws, so the mean jumps with sigma: varied damping keeps off cycles
            sigma *= float((mean_displacement / mean) ** (1.0 - 0.5 * (0.618 * attempt % 1.0)))
        if best[0] <= tolerance:
            break
    error, sigma, displacements = best
    achieved = mean_length(displacements)
    if error > 0.1:
        notes.append(
            f"mean displacement {achieved:.3f} Å instead of {mean_displacement:.3f} Å (the least deviation found)"
        )
    return Rattled(displacements, sigma, achieved, min_distance, tuple(notes))


def mean_length(displacements: Array) -> float:
    """Return the mean length of displacement vectors, in their unit."""
    return float(np.mean(np.linalg.norm(displacements, axis=1)))


def _draw(atoms: Atoms, sigma: float, min_distance: float, n_iter: int, seed: int) -> tuple[Array, float]:
    """Return displacements without rigid translation and the shortest distance really used."""
    from hiphive.structure_generation.rattle import mc_rattle

    allowed = min_distance
    for _ in range(10):
        try:
            drawn = np.asarray(mc_rattle(atoms, sigma, allowed, n_iter=n_iter, max_attempts=500, seed=seed), float)
        except Exception as error:
            # hiphive has no exception of its own for a jammed atom
            if "maximum number of attempts" not in str(error):
                raise
            allowed *= 0.9
            continue
        return drawn - drawn.mean(axis=0), allowed
    raise ConvergenceError(
        f"Atoms of {atoms.get_chemical_formula()} cannot be rattled without overlaps.",
        "Lower min_distance_fraction or the asked displacement.",
    )
