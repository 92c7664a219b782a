"""Harmonic thermodynamics of a crystal from its mesh frequencies.

Rule for modes that are not real: every mode at or below 0 THz is left out of all sums, as phonopy does, and the share
left out is reported. The sums are not rescaled: C_v of an unstable crystal is too low by k_B for every mode left out,
which is why the share belongs beside the number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.core.units import AVOGADRO, BOLTZMANN, PLANCK
from phonosmith.evaluation.phonons.documents import ThermalProperties

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.float64]

GAS_CONSTANT = BOLTZMANN * AVOGADRO
"""J/K/mol."""
MOLAR_QUANTUM = PLANCK * 1e12 * AVOGADRO
"""Energy of h·1 THz per mole, J/mol."""
CUTOFF_THZ = 0.0
"""Modes at or below are left out, THz."""


def _reduced(frequency: Array, temperature: float) -> Array:
    """Return hν/kT, below where exponentials overflow."""
    return np.minimum(MOLAR_QUANTUM * frequency / (GAS_CONSTANT * temperature), 600.0)


def mode_heat_capacity(frequency: Array, temperature: float) -> Array:
    """Return C_v of oscillators in J/K/mol; frequencies in THz, all positive."""
    if temperature <= 0:
        return np.zeros_like(frequency)
    half = _reduced(frequency, temperature) / 2
    return np.asarray(GAS_CONSTANT * (half / np.sinh(half)) ** 2)


def mode_entropy(frequency: Array, temperature: float) -> Array:
    """Return S of oscillators in J/K/mol; frequencies in THz, all positive."""
    if temperature <= 0:
        return np.zeros_like(frequency)
    x = _reduced(frequency, temperature)
    return np.asarray(GAS_CONSTANT * (x / np.expm1(x) - np.log(-np.expm1(-x))))


def mode_free_energy(frequency: Array, temperature: float) -> Array:
    """Return F with zero-point energy of oscillators in J/mol; frequencies in THz, all positive."""
    zero_point = np.asarray(0.5 * MOLAR_QUANTUM * frequency)
    if temperature <= 0:
        return zero_point
    return zero_point + GAS_CONSTANT * temperature * np.log(-np.expm1(-_reduced(frequency, temperature)))


def thermal_properties(
    frequencies: Array,
    weights: Array,
    temperatures: Sequence[float] = (300.0,),
    *,
    mesh: Sequence[int] = (),
) -> ThermalProperties:
    """Sum mode contributions over a mesh, whose numbers are noted in the document.

    Frequencies are in THz, imaginary ones negative, of shape (n_q, n_branches), with the weight of every q-point in any
    normalisation; temperatures in K.
    """
    if any(temperature < 0 or not np.isfinite(temperature) for temperature in temperatures):
        raise InputError(f"Temperatures {list(temperatures)} must be finite and not negative.", "Give them in K.")
    real = frequencies > CUTOFF_THZ
    omega, weight = frequencies[real], np.broadcast_to((weights / np.sum(weights))[:, None], real.shape)[real]
    return ThermalProperties(
        temperatures=[float(t) for t in temperatures],
        heat_capacity=[float(weight @ mode_heat_capacity(omega, t)) for t in temperatures],
        entropy=[float(weight @ mode_entropy(omega, t)) for t in temperatures],
        free_energy=[float(weight @ mode_free_energy(omega, t)) / 1000 for t in temperatures],
        zero_point_energy=float(weight @ mode_free_energy(omega, 0.0)) / 1000,
        n_modes=frequencies.shape[1],
        imaginary_share=float(1 - weight.sum() / frequencies.shape[1]),
        cutoff_thz=CUTOFF_THZ,
        mesh=[int(n) for n in mesh],
    )
