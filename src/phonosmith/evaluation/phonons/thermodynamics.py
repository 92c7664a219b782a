"""Harmonic thermodynamics of a crystal from its mesh frequencies.

Rule for modes that are not real: every mode at or below ``cutoff`` (0 THz by default, so every imaginary mode) is left
out of all sums, as phonopy does, and the share left out is reported. The sums are not rescaled: C_v of an unstable
crystal is too low by k_B for every mode left out, which is why the share belongs beside the number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import ConvergenceError, InputError
from phonosmith.core.units import AVOGADRO, BOLTZMANN, PLANCK
from phonosmith.evaluation.phonons.documents import ThermalProperties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phonosmith.harmonic.model import HarmonicModel

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
    frequencies
        THz, imaginary ones negative, shape (n_q, n_branches).
    weights
        Weight of every q-point (any normalisation).
    temperatures
        K.
    cutoff_thz
        Modes at or below are left out, THz.
    mesh
        Noted in the document.

    Returns
    -------
    ThermalProperties
        Per mole of primitive cells.
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


def converged_thermal_properties(
    model: HarmonicModel,
    temperatures: Sequence[float] = (300.0,),
    *,
    tolerance: float = 5e-4,
    meshes: Sequence[int] = (8, 12, 16, 20, 26, 32, 40),
) -> ThermalProperties:
    """Increase the mesh until C_v, S and F change by less than ``tolerance`` (relative), and return the last sums.

    Raises
    ------
    ConvergenceError
        When the finest mesh still changes a value by more.
    """
    from phonosmith.evaluation.phonons.comparison import mesh_frequencies

    last: Array | None = None
    change = np.inf
    for size in meshes:
        sampled = mesh_frequencies(model, size)
        found = thermal_properties(sampled.frequencies, sampled.weights, temperatures, mesh=sampled.mesh)
        now = np.array([found.heat_capacity, found.entropy, found.free_energy])
        if last is not None:
            change = float(np.max(np.abs(now - last) / np.maximum(np.abs(now), 1e-3)))
            if change < tolerance:
                return found
        last = now
    raise ConvergenceError(
        f"Thermal properties of {model.formula} still change by {change:.1e} at a {meshes[-1]}³ mesh.",
        "Allow finer meshes or a larger tolerance.",
    )
