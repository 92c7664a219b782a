"""Birch-Murnaghan equation of state: the closed form, its exact least-squares fit, and a rule for outliers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phonosmith.core.errors import ConvergenceError, InputError
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.mechanics.documents import EosFit

Array = NDArray[np.float64]

VOLUME_FACTORS = tuple(round(0.95 + 0.01 * i, 2) for i in range(11))
"""±5 % in steps of 1 %: the volumes of the published protocol."""
MIN_POINTS = 7
MAX_OUTLIERS = 3
OUTLIER_FACTOR = 8.0
OUTLIER_FLOOR_EV = 2e-4


def birch_murnaghan_energy(
    volumes: ArrayLike, energy: float, volume: float, bulk_modulus: float, derivative: float
) -> Array:
    """Return E(V) in eV of the third-order Birch-Murnaghan equation; volumes in Å³, E0 in eV, B0 in GPa.

    With y = (V0/V)^(2/3): E = E0 + 9 V0 B0/16 [ (y-1)³ B0' + (y-1)² (6 - 4y) ].
    """
    y = (volume / np.asarray(volumes, dtype=float)) ** (2 / 3)
    stiffness = 9 * volume * bulk_modulus / GPA_PER_EV_PER_A3 / 16
    return np.asarray(energy + stiffness * ((y - 1) ** 3 * derivative + (y - 1) ** 2 * (6 - 4 * y)))


def _solve(volumes: Array, energies: Array) -> tuple[float, float, float, float]:
    """Return E0, V0, B0 (GPa), B0' of the exact least-squares fit.

    E(V) is a cubic polynomial in x = V^(-2/3), so the fit is linear; V0 is where its derivative vanishes.
    """
    scale = float(np.mean(volumes)) ** (-2 / 3)
    x = volumes ** (-2 / 3) / scale
    polynomial = np.polynomial.Polynomial.fit(x, energies - energies.min(), 3).convert()
    slope, curvature, third = (polynomial.deriv(order) for order in (1, 2, 3))
    roots = [float(r.real) for r in slope.roots() if abs(r.imag) < 1e-9 and curvature(r.real) > 0]
    if not roots:
        raise ConvergenceError("The energies have no minimum in volume.", "Widen the volume range or check the points.")
    x0 = min(roots, key=lambda root: abs(root - 1))
    volume = float((x0 * scale) ** -1.5)
    # derivatives with respect to volume through x ∝ V^(-2/3)
    dx, d2x = -2 / 3 * x0 / volume, 10 / 9 * x0 / volume**2
    e2 = float(curvature(x0)) * dx**2
    e3 = float(third(x0)) * dx**3 + 3 * float(curvature(x0)) * dx * d2x
    minimum = float(polynomial(x0) + energies.min())
    return minimum, volume, volume * e2 * GPA_PER_EV_PER_A3, -1 - volume * e3 / e2


def _studentized(volumes: Array, energies: Array, dropped: tuple[int, ...]) -> tuple[Array, float]:
    """Return each point's deviation from the fit to the others, reduced by its prediction error, and that fit's spread.

    Both in eV; the spread is corrected for the four fitted parameters, the deviation of a point that was left out is
    divided by sqrt(1 + leverage), so that an extrapolated end point is not blamed for being extrapolated.
    """
    used = np.delete(np.arange(len(volumes)), dropped)
    x = volumes ** (-2 / 3)
    design = np.vander((x - x.mean()) / np.ptp(x), 4)
    coefficients, *_ = np.linalg.lstsq(design[used], energies[used], rcond=None)
    difference = energies - design @ coefficients
    spread = float(np.sqrt(np.sum(difference[used] ** 2) / max(len(used) - 4, 1)))
    leverage = np.einsum("ij,jk,ik->i", design, np.linalg.pinv(design[used].T @ design[used]), design)
    return difference / np.sqrt(1 + leverage), spread


def _outliers(volumes: Array, energies: Array, n_atoms: int) -> tuple[list[int], list[str]]:
    """Return the indices of points the others cannot explain, and why."""
    for count in range(min(MAX_OUTLIERS, len(volumes) - MIN_POINTS), 0, -1):
        # outliers spoil every fit that contains one: the right ones to drop leave the smallest spread behind
        choices = itertools.combinations(range(len(volumes)), count)
        dropped = min(choices, key=lambda points: _studentized(volumes, energies, points)[1])
        deviation, spread = _studentized(volumes, energies, dropped)
        if np.abs(deviation[list(dropped)]).min() > max(OUTLIER_FACTOR * spread, OUTLIER_FLOOR_EV * n_atoms):
            reasons = [
                f"point {i} (V = {volumes[i]:.3f} Å³) deviates by {1000 * deviation[i] / n_atoms:.3f} meV/atom "
                f"from the fit to the others, whose spread is {1000 * spread / n_atoms:.4f} meV/atom"
                for i in dropped
            ]
            return list(dropped), reasons
    return [], []


def fit_birch_murnaghan(volumes: Sequence[float], energies: Sequence[float], n_atoms: int = 1) -> EosFit:
    """Fit the Birch-Murnaghan equation to volumes (Å³) and energies (eV) per cell, leaving out outliers.

    Rule for outliers: of all ways to leave out up to three points (seven must stay), the one with the smallest spread
    of the others is looked at, for three, two and one points. They are excluded when each of them deviates from the fit
    to the others by more than 8 times that fit's spread *and* by more than 0.2 meV for each of the cell's atoms.

    Raises
    ------
    InputError
        With fewer than 7 points or non-finite values.
    ConvergenceError
        When the energies have no minimum.
    """
    v, e = np.asarray(volumes, dtype=float), np.asarray(energies, dtype=float)
    if v.shape != e.shape or len(v) < MIN_POINTS:
        raise InputError(f"An equation of state needs at least {MIN_POINTS} points, got {len(v)}.", "Add volumes.")
    if not (np.isfinite([v, e]).all() and (v > 0).all()):
        raise InputError("Volumes and energies must be finite and volumes positive.", "Remove the failed points.")
    excluded, reasons = _outliers(v, e, n_atoms)
    v, e = np.delete(v, excluded), np.delete(e, excluded)
    energy, volume, bulk, derivative = _solve(v, e)
    fitted = birch_murnaghan_energy(v, energy, volume, bulk, derivative)
    warning = f"the equilibrium volume {volume:.3f} Å³ lies outside the volumes used: extrapolated"
    return EosFit(
        energy=energy,
        volume=volume,
        bulk_modulus=bulk,
        bulk_modulus_derivative=derivative,
        rms_residual=float(np.sqrt(np.mean((e - fitted) ** 2))),
        n_points=len(v),
        excluded=excluded,
        reasons=reasons,
        warnings=[] if v.min() <= volume <= v.max() else [warning],
    )
