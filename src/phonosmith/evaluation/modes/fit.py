"""Minima between grid points, their symmetry, and how parabolic a grid of energies is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _monomials(points: Array, powers: NDArray[np.int64]) -> Array:
    return np.asarray(np.prod(points[:, None, :] ** powers[None], axis=2))


def _slopes(points: Array, powers: NDArray[np.int64], axis: int) -> Array:
    lower = np.maximum(powers - np.eye(powers.shape[1], dtype=int)[axis], 0)
    return powers[:, axis] * _monomials(points, lower)


def interpolated_minimum(
    point: Array, energy: float, samples: Sequence[tuple[Array, float, Array | None]], width: float
) -> tuple[Array, float]:
    """Return position and energy of the minimum of a polynomial through the neighbourhood of a grid minimum.

    With slopes, or five points in one dimension, the polynomial is of fourth degree, else of second. The grid point
    itself is returned where the samples do not determine the polynomial or its minimum lies outside the box of
    neighbours.

    Parameters
    ----------
    point, energy
        The grid minimum, Å√amu and eV.
    samples
        (position, energy, gradient or None) of the points of its box, itself included.
    width
        Grid step, Å√amu.
    """
    from scipy.optimize import minimize

    dimension = len(point)
    places = (np.array([place for place, _, _ in samples]) - point) / width
    slopes = [slope * width for _, _, slope in samples if slope is not None]
    known = len(slopes) == len(samples)
    degree = 4 if known or (dimension == 1 and len(places) >= 5) else 2
    powers = np.array([p for p in itertools.product(range(degree + 1), repeat=dimension) if sum(p) <= degree])
    matrix, target = _monomials(places, powers), np.array([value for _, value, _ in samples]) - energy
    if known:
        matrix = np.vstack([matrix, *(_slopes(places, powers, axis) for axis in range(dimension))])
        target = np.concatenate([target, *np.array(slopes).T])
    scale = float(np.abs(target).max())
    coefficients, _, rank, _ = np.linalg.lstsq(matrix, target, rcond=1e-9)
    if rank < len(powers) or scale == 0:
        return point, energy

    def polynomial(x: Array) -> tuple[float, Array]:
        slope = [_slopes(x[None], powers, axis)[0] @ coefficients for axis in range(dimension)]
        return float(_monomials(x[None], powers)[0] @ coefficients) / scale, np.array(slope) / scale

    lowest = minimize(polynomial, np.zeros(dimension), jac=True, method="L-BFGS-B", bounds=[(-1.0, 1.0)] * dimension)
    if not np.all(np.isfinite(lowest.x)) or np.abs(lowest.x).max() > 0.999 or lowest.fun > 1e-6:
        return point, energy
    return point + width * lowest.x, energy + scale * float(lowest.fun)


def symmetrised(point: Array, operations: Array, tolerance: float) -> Array:
    """Return a point averaged over its images closer than a tolerance: minima lie on symmetry or well off it."""
    images = operations @ point
    return np.asarray(images[np.linalg.norm(images - point, axis=1) < tolerance].mean(axis=0))


def parabola_r2(axis: Array, energies: Array) -> float | None:
    """Return R² of the best quadratic form Σ c_kl Q_k Q_l through a grid of energies (nan: not known)."""
    dimension = energies.ndim
    grid = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
    known = np.isfinite(energies.ravel())
    points, values = grid[known], energies.ravel()[known]
    pairs = list(itertools.combinations_with_replacement(range(dimension), 2))
    if len(values) <= len(pairs):
        return None
    matrix = np.column_stack([np.ones(len(points)), *(points[:, i] * points[:, j] for i, j in pairs)])
    spread = float(((values - values.mean()) ** 2).sum())
    left = values - matrix @ np.linalg.lstsq(matrix, values, rcond=None)[0]
    return 1 - float((left**2).sum()) / spread if spread > 0 else None
