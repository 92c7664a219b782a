"""Slack's lattice thermal conductivity from elastic moduli: equations 1-4 of arXiv:2604.01017 and nothing else.

κ = A(γ) M δ n^{1/3} Θ³ / (γ² T), with the *acoustic* Debye temperature Θ = Θ_D n^{-1/3}, where Θ_D is the Debye
temperature of all 3n modes and n the number of atoms in the primitive cell
(Slack, J. Phys. Chem. Solids 34, 321 (1973)).
A(γ) is Julian's factor (Phys. Rev. 137, A128 (1965)),
0.849·3·4^{1/3}/(20π³ (1 - 0.514/γ + 0.228/γ²)) (k_B/ħ)³ in SI, which is
2.43e-6/(1 - 0.514/γ + 0.228/γ²) W/(m K) for M in amu, δ in Å, Θ and T in K.
"""

from __future__ import annotations

import math

from phonosmith.core.errors import InputError
from phonosmith.core.units import ATOMIC_MASS, BOLTZMANN, HBAR, KG_PER_M3_PER_AMU_PER_A3
from phonosmith.evaluation.mechanics.documents import SlackConductivity


def sound_velocities(bulk_modulus: float, shear_modulus: float, density: float) -> tuple[float, float]:
    """Return transverse and longitudinal sound velocity in m/s (equations 3 and 4).

    Moduli are Voigt-Reuss-Hill averages in GPa, the density is in kg/m³.
    """
    if bulk_modulus <= 0 or shear_modulus <= 0 or density <= 0:
        raise InputError(
            f"Sound velocities need positive moduli and density (K = {bulk_modulus:g} GPa, G = {shear_modulus:g} GPa).",
            "The crystal is elastically unstable or its tensor is wrong; look at the elastic document.",
        )
    v_t = math.sqrt(shear_modulus * 1e9 / density)
    v_l = math.sqrt((bulk_modulus + 4 / 3 * shear_modulus) * 1e9 / density)
    return v_t, v_l


def poisson_ratio(v_transverse: float, v_longitudinal: float) -> float:
    """Return ν from the two sound velocities (second part of equation 2)."""
    ratio = (v_transverse / v_longitudinal) ** 2
    return (1 - 2 * ratio) / (2 - 2 * ratio)


def gruneisen_parameter(poisson: float) -> float:
    """Return γ = 3/2 (1 + ν)/(2 - 3ν) (first part of equation 2)."""
    return 1.5 * (1 + poisson) / (2 - 3 * poisson)


def julian_factor(gruneisen: float) -> float:
    """Return A(γ) in W/(m K) for M in amu, δ in Å, Θ and T in K."""
    prefactor = 0.849 * 3 * 4 ** (1 / 3) / (20 * math.pi**3) * (BOLTZMANN / HBAR) ** 3 * ATOMIC_MASS * 1e-10
    return prefactor / (1 - 0.514 / gruneisen + 0.228 / gruneisen**2)


def debye_temperature(v_transverse: float, v_longitudinal: float, volume_per_atom: float) -> tuple[float, float]:
    """Return the Debye temperature of all modes (K) and the mean sound velocity (m/s).

    Θ_D = ħ/k_B (6π²/δ³)^{1/3} v_m with v_m = [ (2/v_T³ + 1/v_L³)/3 ]^{-1/3}; volume per atom δ³ in Å³.
    """
    v_mean = (3 / (2 / v_transverse**3 + 1 / v_longitudinal**3)) ** (1 / 3)
    cutoff = (6 * math.pi**2 / (volume_per_atom * 1e-30)) ** (1 / 3)
    return HBAR / BOLTZMANN * cutoff * v_mean, v_mean


def slack_conductivity(
    bulk_modulus: float,
    shear_modulus: float,
    volume: float,
    masses: list[float],
    temperature: float = 300.0,
) -> SlackConductivity:
    """Return Slack's conductivity of a crystal.

    Moduli are Voigt-Reuss-Hill averages (GPa), the volume that of the primitive cell (Å³), with the mass of each of its
    atoms (amu); the temperature is in K.
    """
    n = len(masses)
    if n == 0 or volume <= 0 or temperature <= 0:
        raise InputError("Slack's formula needs a primitive cell with atoms, a volume and a temperature above zero.")
    density = sum(masses) / volume * KG_PER_M3_PER_AMU_PER_A3
    v_t, v_l = sound_velocities(bulk_modulus, shear_modulus, density)
    nu = poisson_ratio(v_t, v_l)
    gamma = gruneisen_parameter(nu)
    if gamma <= 0:
        raise InputError(f"The Grüneisen parameter from ν = {nu:.3f} is not positive.", "Check the elastic tensor.")
    theta, v_mean = debye_temperature(v_t, v_l, volume / n)
    acoustic = theta * n ** (-1 / 3)
    delta = (volume / n) ** (1 / 3)
    kappa = julian_factor(gamma) * sum(masses) / n * delta * n ** (1 / 3) * acoustic**3 / (gamma**2 * temperature)
    return SlackConductivity(
        kappa=kappa,
        temperature=temperature,
        gruneisen=gamma,
        poisson=nu,
        v_transverse=v_t,
        v_longitudinal=v_l,
        v_mean=v_mean,
        debye_temperature=theta,
        acoustic_debye_temperature=acoustic,
        density=density,
    )
