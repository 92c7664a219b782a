"""The free energy's curvature against exact answers: two coupled oscillators, and the classical limit of a crystal."""

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import InputError
from phonosmith.core.units import BOLTZMANN, ELEMENTARY_CHARGE
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.thermal import hessian
from phonosmith.evaluation.thermal.hessian import HBAR_SQUARED, free_energy_hessian, softening
from phonosmith.harmonic.model import full_force_constants
from phonosmith.potentials.registry import load


def silicon(supercell):
    structure = AseAtomsAdaptor.get_structure(bulk("Si", a=5.43))
    return harmonic_from_potential(structure, load("embedded-reference"), np.diag([supercell] * 3).tolist())


@pytest.mark.parametrize("temperature", [0.0, 50.0, 400.0])
def test_one_oscillator_that_stiffens_another(temperature):
    """V = k(x) y²/2 with k = k0 + g x: F''(x) is that of the harmonic free energy of y, exactly, for third order only.

    Its part that third order makes is g/2 d<y²>/dx; <y²> = ħ/(2mω) coth(ħω/2kT) differentiates numerically.
    """
    stiffness, coupling, mass = 2.0, 0.7, 3.0  # eV/Å², eV/Å³, amu

    def squared(constant):
        energy = np.sqrt(HBAR_SQUARED * constant / mass)
        thermal = 1.0 if temperature == 0 else 1 / np.tanh(energy * ELEMENTARY_CHARGE / (2 * BOLTZMANN * temperature))
        return HBAR_SQUARED / (2 * mass * energy) * thermal

    step = 1e-4
    derivative = (
        coupling / 2 * (squared(stiffness + coupling * step) - squared(stiffness - coupling * step)) / (2 * step)
    )
    energy = np.array([np.sqrt(HBAR_SQUARED * stiffness / mass)])
    vertex = np.array([[[coupling / mass]]])
    assert softening(vertex, energy, temperature)[0, 0] == pytest.approx(-derivative, rel=1e-6)


def test_modes_of_nearly_one_frequency_meet_those_of_the_same():
    """The quotient of differences goes over into the derivative."""
    vertices = np.random.default_rng(0).normal(size=(3, 2, 2))
    apart, same = (softening(vertices, np.array([0.02, 0.02 + gap]), 300.0) for gap in (1e-7, 0.0))
    assert np.allclose(apart, same, rtol=1e-4)


@pytest.mark.slow
def test_the_classical_limit_of_a_crystal():
    """At 5000 K: Φ - kT/2 Φ3 Φ2⁻¹ Φ2⁻¹ Φ3, without modes; forces of third order themselves are fitted without noise."""
    model = silicon(2)
    second = full_force_constants(model.phonon)
    rng = np.random.default_rng(0)
    moved = rng.normal(scale=0.05, size=(60, len(second), 3))
    moved -= moved.mean(axis=1, keepdims=True)
    count = 3 * len(second)
    # any set of forces gives constants that obey every symmetry
    third = 5.0 * hessian._third_order(model, moved, rng.normal(size=moved.shape))
    flat = moved.reshape(60, -1)
    matrix = second.transpose(0, 2, 1, 3).reshape(count, count)
    forces = -(flat @ matrix) - np.einsum("abc,nb,nc->na", third, flat, flat, optimize=True) / 2
    found = free_energy_hessian(model, moved, forces.reshape(moved.shape), 5000.0)
    inverse = np.linalg.pinv(matrix, rcond=1e-8)
    energy = BOLTZMANN * 5000.0 / ELEMENTARY_CHARGE
    bubble = np.einsum("acd,ce,df,bef->ab", third, inverse, inverse, third, optimize=True)
    taken = matrix - full_force_constants(found.phonon).transpose(0, 2, 1, 3).reshape(count, count)
    # (ħω/kT)²/12 of the hardest mode, 15 THz at 5000 K, is 2e-3
    assert np.abs(taken - energy / 2 * bubble).max() < 3e-3 * np.abs(taken).max()
    assert np.abs(taken).max() > 0


def test_too_large_and_already_unstable(monkeypatch):
    model = silicon(1)
    model.phonon.force_constants = -np.asarray(full_force_constants(model.phonon))
    nothing = np.zeros((1, 2, 3))
    assert free_energy_hessian(model, nothing, nothing, 300.0) is None
    monkeypatch.setattr(hessian, "MOST_ATOMS", 1)
    with pytest.raises(InputError, match="of 2 atoms needs third order"):
        free_energy_hessian(model, nothing, nothing, 300.0)
