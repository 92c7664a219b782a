"""Random lattice distortion and exact volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.sampling.rattle import round_cell, round_positions

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Distortion:
    """A distorted cell.

    Attributes
    ----------
    cell
        Row vectors, Å, oriented so that the deformation is a pure stretch (no rotation).
    length_factors, angle_factors
        Factors on a, b, c and on alpha, beta, gamma.
    volume_factor
        Volume after the distortion over volume before.
    """

    cell: Array
    length_factors: tuple[float, float, float]
    angle_factors: tuple[float, float, float]
    volume_factor: float


def distort_cell(cell: Array, seed: int, amount: float = 0.02) -> Distortion:
    """Return a cell (row vectors, Å) with each length and angle scaled by a random factor in [1 - amount, 1 + amount].

    The seed is that of numpy's frozen ``RandomState``; uniform numbers from it are exact on every platform. Extremely
    skewed cells and huge amounts are refused where no cell has the drawn angles.
    """
    from ase.geometry import cell_to_cellpar, cellpar_to_cell

    if not 0 <= amount < 0.5:
        raise InputError(f"A lattice distortion of {amount} is not between 0 and 0.5.", "The protocol uses 0.02.")
    uniform = np.random.RandomState(seed).random_sample(6)
    factors = 1.0 + amount * (2.0 * uniform - 1.0)
    parameters = cell_to_cellpar(cell)
    try:
        with np.errstate(invalid="raise"):
            raw = np.array(cellpar_to_cell(parameters * factors), dtype=float)
    except (AssertionError, FloatingPointError) as error:
        raise InputError(
            f"No cell has angles {np.round(parameters[3:] * factors[3:], 2).tolist()}°.",
            "Use a less skewed cell (small or large) or a smaller distortion.",
        ) from error
    if np.linalg.det(cell) < 0:
        raw = -raw
    # rows are acted on from the right: of the deformation gradient F = U R only the symmetric factor is kept
    left, values, _ = np.linalg.svd(np.linalg.solve(cell, raw))
    new = np.asarray(cell, dtype=float) @ ((left * values) @ left.T)
    volume_factor = float(abs(np.linalg.det(new) / np.linalg.det(cell)))
    a, b, c, alpha, beta, gamma = (float(factor) for factor in factors)
    return Distortion(new, (a, b, c), (alpha, beta, gamma), volume_factor)


def with_cell(atoms: Atoms, cell: Array, volume: float) -> Atoms:
    """Return a copy in another cell scaled isotropically to a volume in Å³, fractional coordinates kept.

    Cell and positions are rounded (see ``rattle``), which changes the volume by less than 1e-10 of itself.
    """
    if volume <= 0:
        raise InputError(f"A volume of {volume} Å³ is not positive.", "Give volume factors above 0.")
    scale = (volume / abs(float(np.linalg.det(cell)))) ** (1 / 3)
    new = round_cell(np.asarray(cell) * scale)
    copy = atoms.copy()
    fractional = np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T
    copy.set_cell(new)
    copy.positions = round_positions(fractional @ new)
    return copy
