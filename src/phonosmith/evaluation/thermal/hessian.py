"""Curvature of the free energy about the sites of a crystal: whether it is stable at a temperature.

Effective force constants (`effective`) are positive wherever the well between the sites is wide enough to hold the
motion, whatever the sites are to the crystal. Its mean positions stay where they are only if the free energy rises in
every direction. To the lowest order (Bianco et al., Phys. Rev. B 96, 014111 (2017), without the fourth order between
the two vertices) its curvature is, in coordinates u√m and modes of the effective force constants Φ,

    ∂²F/∂R_a∂R_b = Φ_ab - 1/2 Σ_μν Φ_aμν Φ_bμν G_μν,
    G_μν = ħ / (2 ω_μ ω_ν) [(1 + n_μ + n_ν) / (ω_μ + ω_ν) - (n_μ - n_ν) / (ω_μ - ω_ν)],

Φ_aμν being the mean third derivative over the thermal motion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.core.units import ATOMIC_MASS, BOLTZMANN, ELEMENTARY_CHARGE, HBAR
from phonosmith.harmonic.model import HarmonicModel, full_force_constants

Array = NDArray[np.float64]

MOST_ATOMS = 128
"""Third order of larger supercells does not fit a common memory: 0.45 GB here, several times."""
HBAR_SQUARED = HBAR**2 / (ATOMIC_MASS * ELEMENTARY_CHARGE * 1e-20)
"""ħ² in eV Å² amu."""
BOLTZMANN_EV = BOLTZMANN / ELEMENTARY_CHARGE


def free_energy_hessian(
    model: HarmonicModel, displacements: Array, forces: Array, temperature: float
) -> HarmonicModel | None:
    """Return the curvature of the free energy as force constants; None where the effective ones are imaginary already.

    ``model`` has the effective force constants at a temperature (K); displacements (Å, cells × atoms × 3) were drawn
    from them and had the given forces (eV/Å). Noise in third order, which enters squared, is taken out to first order
    by the halves of the data (jackknife).

    Raises
    ------
    InputError
        When the supercell has more than `MOST_ATOMS` atoms.
    """
    if (count := len(model.phonon.supercell)) > MOST_ATOMS:
        raise InputError(
            f"The free energy's curvature of {count} atoms needs third order of them all (limit {MOST_ATOMS}).",
            "Choose a smaller supercell.",
        )
    second = full_force_constants(model.phonon).transpose(0, 2, 1, 3).reshape(3 * count, 3 * count)
    energies, modes = _modes(second, np.asarray(model.phonon.supercell.masses))
    if (energies <= 0).any():
        return None

    def taken(part: slice) -> Array:
        third = _third_order(model, displacements[part], forces[part])
        return softening(np.einsum("abc,bm,cn->amn", third, modes, modes, optimize=True), energies, temperature)

    halves = (taken(slice(0, None, 2)) + taken(slice(1, None, 2))) / 2
    curvature = second - (2 * taken(slice(None)) - halves)
    phonon = model.phonon.replicate()
    phonon.force_constants = np.ascontiguousarray(curvature.reshape(count, 3, count, 3).transpose(0, 2, 1, 3))
    phonon.nac_params = model.phonon.nac_params
    return HarmonicModel(phonon, "symfc", f"{model.source}, curvature of the free energy")


def softening(vertices: Array, energies: Array, temperature: float) -> Array:
    """Return 1/2 Σ_μν Φ_aμν Φ_bμν G_μν (see above), in the unit of ``vertices``² times amu² Å⁴/eV.

    Vertices Φ_aμν have two axes of modes whose ħω (eV, positive) are ``energies``; the temperature is in K.
    """
    one, other = energies[:, None], energies[None, :]
    occupied, slope = _occupation(energies, temperature)
    difference = one - other
    close = np.abs(difference) < 1e-6 * (one + other)
    falling = np.where(
        close,
        (slope[:, None] + slope[None, :]) / 2,
        (occupied[:, None] - occupied[None, :]) / np.where(close, 1.0, difference),
    )
    rising = (1 + occupied[:, None] + occupied[None, :]) / (one + other)
    weights = HBAR_SQUARED**2 / (2 * one * other) * (rising - falling)
    flat = vertices.reshape(len(vertices), -1)
    return np.asarray(0.5 * (flat * weights.ravel()) @ flat.T)


def _occupation(energies: Array, temperature: float) -> tuple[Array, Array]:
    """Return n and dn/dε (1/eV) of modes with energies ε in eV."""
    if temperature <= 0:
        return np.zeros_like(energies), np.zeros_like(energies)
    kelvin = BOLTZMANN_EV * temperature
    occupied = 1 / np.expm1(np.minimum(energies / kelvin, 700.0))
    return occupied, -occupied * (occupied + 1) / kelvin


def _modes(second: Array, masses: Array) -> tuple[Array, Array]:
    """Return ħω (eV, negative where imaginary) of a supercell's modes without translations, and their patterns / √m."""
    roots = np.repeat(np.sqrt(masses), 3)
    translations = np.kron((np.sqrt(masses) / np.linalg.norm(np.sqrt(masses)))[:, None], np.eye(3))
    moving = np.linalg.qr(np.hstack([translations, np.eye(len(roots))]))[0][:, 3:]
    dynamical = moving.T @ (second / np.outer(roots, roots)) @ moving
    values, vectors = np.linalg.eigh((dynamical + dynamical.T) / 2)
    return np.sign(values) * np.sqrt(HBAR_SQUARED * np.abs(values)), (moving @ vectors) / roots[:, None]


def _third_order(model: HarmonicModel, displacements: Array, forces: Array) -> Array:
    """Return force constants of third order of the supercell, eV/Å³, fitted beside second order, shape (3n, 3n, 3n)."""
    from phonopy.interface.symfc import SymfcFCSolver

    phonon = model.phonon
    solver = SymfcFCSolver(
        phonon.supercell,
        displacements=np.ascontiguousarray(displacements),
        forces=np.ascontiguousarray(forces),
        symmetry=phonon.symmetry,
    )
    solver.run(orders=[2, 3], is_compact_fc=False)
    count = 3 * len(phonon.supercell)
    return np.asarray(solver.force_constants[3].transpose(0, 3, 1, 4, 2, 5).reshape(count, count, count))
