"""Harmonic thermodynamics of a crystal from its mesh frequencies.

Rule for modes that are not real: every mode at or below ``cutoff`` (0 THz by default, so every imaginary mode) is left
out of all sums, as phonopy does, and the share left out is reported. The sums are not rescaled: C_v of an unstable
crystal is too low by k_B for every mode left out, which is why the share belongs beside the number.
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


def mode_heat_capacity(frequency: Array, temperature: float) -> Array:
    """Return C_v of oscillators in J/K/mol; frequencies in THz, all positive."""
    if temperature <= 0:
        return np.zeros_like(frequency)
    x = MOLAR_QUANTUM * frequency / (GAS_CONSTANT * temperature)
    half = np.minimum(x / 2, 300.0)
    return np.asarray(GAS_CONSTANT * (half / np.sinh(half)) ** 2)


def mode_entropy(frequency: Array, temperature: float) -> Array:
    """Return S of oscillators in J/K/mol; frequencies in THz, all positive."""
    if temperature <= 0:
        return np.zeros_like(frequency)
    x = np.minimum(MOLAR_QUANTUM * frequency / (GAS_CONSTANT * temperature), 600.0)
    return np.asarray(GAS_CONSTANT * (x / np.expm1(x) - np.log(-np.expm1(-x))))


def mode_free_energy(frequency: Array, temperature: float) -> Array:
    """Return F with zero-point energy of oscillators in J/mol; frequencies in THz, all positive."""
    zero_point = 0.5 * MOLAR_QUANTUM * frequency
    if temperature <= 0:
        return np.asarray(zero_point)
    x = np.minimum(MOLAR_QUANTUM * frequency / (GAS_CONSTANT * temperature), 600.0)
    return np.asarray(zero_point + GAS_CONSTANT * temperature * np.log(-np.expm1(-x)))


def thermal_properties(
    frequencies: Array,
    weights: Array,
    temperatures: Sequence[float] = (300.0,),
    *,
    cutoff_thz: float = 0.0,
    mesh: Sequence[int] = (),
) -> ThermalProperties:
    """Sum mode contributions over a mesh.

    Parameters
    ----------
    frequencies, weights
        THz, imaginary ones negative, shape (n_q, n_branches); and of every q-point, in any normalisation.
    temperatures
        K.
    cutoff_thz
        Modes at or below are left out, THz.
    mesh
        Noted in the document.
    """
    if any(temperature < 0 or not np.isfinite(temperature) for temperature in temperatures):
        raise InputError(f"Temperatures {list(temperatures)} must be finite and not negative.", "Give them in K.")
    values = np.asarray(frequencies, dtype=float)
    share = np.broadcast_to((np.asarray(weights, dtype=float) / np.sum(weights))[:, None], values.shape)
    real = values > max(cutoff_thz, 0.0)
    omega, weight = values[real], share[real]
    return ThermalProperties(
        temperatures=[float(t) for t in temperatures],
        heat_capacity=[float(weight @ mode_heat_capacity(omega, t)) for t in temperatures],
        entropy=[float(weight @ mode_entropy(omega, t)) for t in temperatures],
        free_energy=[float(weight @ mode_free_energy(omega, t)) / 1000 for t in temperatures],
        zero_point_energy=float(weight @ mode_free_energy(omega, 0.0)) / 1000,
        n_modes=values.shape[1],
        imaginary_share=float(1 - weight.sum() / values.shape[1]),
        cutoff_thz=max(cutoff_thz, 0.0),
        mesh=[int(n) for n in mesh],
    )
