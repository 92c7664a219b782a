"""The bond crystal's forces and stress against differences of its energy."""

import numpy as np
from ase import Atoms

from helpers.bond_crystal import BondCalculator, bond_frequency


def displaced(seed=3):
    generator = np.random.default_rng(seed)
    atoms = Atoms("Si", cell=[3.0, 3.3, 3.7], pbc=True).repeat((2, 2, 2))
    atoms.positions += 0.15 * generator.standard_normal(atoms.positions.shape)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.01 * generator.standard_normal((3, 3))), scale_atoms=True)
    springs = generator.uniform(-1, 2, (3, 3, 3))
    calculator = BondCalculator(
        [3.0, 3.3, 3.7], springs, generator.uniform(1, 2, (3, 3)), generator.uniform(1, 2, (3, 3)), [0.5, 1.0, 2.0]
    )
    atoms.calc = calculator
    return atoms, calculator


def energy_of(atoms, calculator):
    copy = atoms.copy()
    copy.calc = calculator
    return copy.get_potential_energy()


def test_forces_are_the_slope_of_the_energy():
    atoms, calculator = displaced()
    forces = atoms.get_forces().copy()
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        values = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * 1e-4
            values.append(energy_of(moved, calculator))
        # central difference of a polynomial of sixth degree: error 1e-8 times its third derivative
        assert abs(-(values[0] - values[1]) / 2e-4 - forces[atom, axis]) < 1e-5


def test_stress_is_the_slope_by_strain():
    atoms, calculator = displaced()
    stress = atoms.get_stress(voigt=False).copy()
    for i, j in ((0, 0), (1, 1), (0, 2)):
        values = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * 5e-5
            strain[j, i] += sign * 5e-5
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            values.append(energy_of(moved, calculator))
        assert abs((values[0] - values[1]) / 2e-4 / atoms.get_volume() - stress[i, j]) < 1e-6


def test_frequency_of_a_chain():
    # a single first-neighbour spring: ω = 2 √(k/m) sin(πq)
    springs = np.zeros((3, 3, 3))
    springs[0, 0, 1] = 2.0
    assert np.isclose(bond_frequency(springs, [0.5, 0, 0], 1, 10.0), 2 * np.sqrt(0.2) * 15.633302, rtol=1e-5)
    assert bond_frequency(-springs, [0.25, 0, 0], 1, 10.0) < 0
