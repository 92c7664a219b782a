"""Effective phonons of a model crystal whose self-consistent answer has a closed form."""

import sys

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from scipy.optimize import brentq

from phonosmith.core.errors import InputError
from phonosmith.core.units import BOLTZMANN, PLANCK
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.phonons.mesh import sorted_frequencies
from phonosmith.evaluation.phonons.stability import judge_stability
from phonosmith.evaluation.thermal.effective import effective_harmonic
from phonosmith.potentials.ase_potential import AsePotential

EDGE, OFFSET, N = 4.0, 0.35, 2
SPRING, QUARTIC, LATTICE = -1.0, 12.0, 4.0  # eV/Å², eV/Å⁴, eV/Å²
MASSES = np.array([28.085, 12.011])
DALTON, ELECTRON_VOLT = 1.66053906660e-27, 1.602176634e-19
HBAR = PLANCK / (2 * np.pi)


class DoubleWells(Calculator):
    """A cubic lattice of two-atom units: relative motion in a quartic double well, centres of mass on springs."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        edge = atoms.cell.array[0, 0] / N
        fractions = atoms.positions / edge
        second = atoms.numbers == 6
        rest = np.rint(fractions - np.where(second, OFFSET, 0.0)[:, None])
        moved = atoms.positions - (rest + np.where(second, OFFSET, 0.0)[:, None]) * edge
        sites = np.rint(rest).astype(int) % N
        order = np.lexsort((second, *sites.T[::-1]))
        pairs = moved[order].reshape(N, N, N, 2, 3)
        relative = pairs[..., 1, :] - pairs[..., 0, :]
        share = MASSES / MASSES.sum()
        centre = np.einsum("s,xyzsk->xyzk", share, pairs)
        energy = (SPRING / 2 * relative**2 + QUARTIC / 4 * relative**4).sum()
        pull = SPRING * relative + QUARTIC * relative**3
        on_centre = np.zeros_like(centre)
        for axis in range(3):
            stretch = centre - np.roll(centre, 1, axis=axis)
            energy += LATTICE / 2 * (stretch**2).sum()
            on_centre += LATTICE * (stretch - np.roll(stretch, -1, axis=axis))
        gradient = np.stack([-pull, pull], axis=3) + on_centre[:, :, :, None, :] * share[:, None]
        forces = np.empty_like(moved)
        forces[order] = -gradient.reshape(-1, 3)
        self.results = {"energy": float(energy), "forces": forces}


def crystal():
    from pymatgen.core import Structure

    return Structure(np.eye(3) * EDGE, ["Si", "C"], [[0, 0, 0], [OFFSET] * 3])


def self_consistent_thz(temperature):
    """Return the frequency Ω of μΩ² = k + 3g<u²>, <u²> = ħ/(2μΩ) coth(ħΩ/2kT)."""
    reduced = MASSES.prod() / MASSES.sum() * DALTON
    unit = ELECTRON_VOLT * 1e20  # eV/Å² in N/m

    def excess(omega):
        squared = HBAR / (2 * reduced * omega) / np.tanh(HBAR * omega / (2 * BOLTZMANN * max(temperature, 1e-9)))
        return reduced * omega**2 - (SPRING + 3 * QUARTIC * squared * 1e20) * unit

    return brentq(excess, 1e12, 1e15) / (2 * np.pi * 1e12)


@pytest.fixture(scope="module")
def potential():
    return AsePotential(DoubleWells, ["Si", "C"])


@pytest.fixture(scope="module")
def harmonic(potential):
    return harmonic_from_potential(crystal(), potential, np.diag([N] * 3).tolist(), displacement=1e-3)


def test_forces_are_the_derivative_of_the_energy(potential):
    atoms = crystal().to_ase_atoms(msonable=False).repeat(N)
    atoms.rattle(0.2, seed=0)
    forces = potential.evaluate([atoms], stress=False)[0].forces
    step, direction = 1e-4, np.random.default_rng(1).normal(size=forces.shape)
    energies = []
    for sign in (1, -1):
        frame = atoms.copy()
        frame.positions += sign * step * direction
        energies.append(potential.evaluate([frame], stress=False)[0].energy)
    assert (energies[1] - energies[0]) / (2 * step) == pytest.approx((forces * direction).sum(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 300.0, 900.0])
def test_the_self_consistent_frequency_of_double_wells(potential, harmonic, temperature):
    assert not judge_stability(harmonic).stable_practical
    found = effective_harmonic(harmonic, potential, temperature, snapshots=200, seed=3)
    effective, summary = found.model, found.summary
    assert summary.converged
    assert judge_stability(effective).stable_practical
    gamma, border = sorted_frequencies(effective, np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    expected = self_consistent_thz(temperature)
    # six iterations of 200 cells of eight wells: 1 % of <u²> is sampling noise; single modes have a third of the
    # samples, and a soft mode answers noise several times over
    assert gamma[3:].mean() == pytest.approx(expected, rel=0.015)
    assert np.allclose(gamma[3:], expected, rtol=0.1)
    # springs between centres of mass are harmonic: untouched, and above the wells' frequency at the zone border
    acoustic = np.sqrt(4 * LATTICE * ELECTRON_VOLT * 1e20 / (MASSES.sum() * DALTON)) / (2 * np.pi * 1e12)
    assert border[3:].mean() == pytest.approx(acoustic, rel=0.01)
    assert border[:3].mean() == pytest.approx(expected, rel=0.03)
    # wells without third order: the free energy curves as the effective phonons do
    assert found.stable
    curved = sorted_frequencies(found.curvature, np.zeros((1, 3)))[0]
    assert np.allclose(curved[3:], expected, rtol=0.1)


def test_a_harmonic_crystal_stays_as_it_is(potential, harmonic, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "QUARTIC", 0.0)
    monkeypatch.setattr(sys.modules[__name__], "SPRING", 3.0)
    own = harmonic_from_potential(crystal(), potential, np.diag([N] * 3).tolist(), displacement=1e-3)
    found = effective_harmonic(own, potential, 300.0, snapshots=8)
    effective, summary = found.model, found.summary
    qpoints = np.array([[0.5, 0.0, 0.0], [0.5, 0.5, 0.5]])
    assert np.allclose(sorted_frequencies(effective, qpoints), sorted_frequencies(own, qpoints), atol=1e-4)
    assert summary.drift_thz < 1e-4
    # the free energy is then the harmonic one, without statistical error
    assert summary.free_energy_error == pytest.approx(0, abs=1e-6)


def test_bad_input(potential, harmonic):
    with pytest.raises(InputError, match="cannot be"):
        effective_harmonic(harmonic, potential, -1.0)
    with pytest.raises(InputError, match="cannot be"):
        effective_harmonic(harmonic, potential, 300.0, iterations=3)
