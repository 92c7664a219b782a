"""Relaxation: known minima, symmetry kept, and refusal when it does not converge."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from phonosmith.core.errors import ConvergenceError, PotentialError
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.relax import relax_atoms
from phonosmith.potentials.ase_potential import AsePotential


def emt():
    return AsePotential(EMT, ["Al", "Cu", "Au"])


def test_copper_reaches_the_minimum_of_a_volume_scan():
    found = relax_atoms(bulk("Cu", "fcc", 3.70, cubic=True), emt())
    edges = np.linspace(3.575, 3.605, 7)
    energies = []
    for edge in edges:
        atoms = bulk("Cu", "fcc", edge, cubic=True)
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    # minimum of a quartic through energies 0.005 Å apart: good to 1e-5 Å
    fit = np.polynomial.Polynomial.fit(edges, energies, 4)
    stationary = [root.real for root in fit.deriv().roots() if abs(root.imag) < 1e-9]
    expected = min(stationary, key=lambda value: abs(value - 3.59))
    assert found.atoms.cell.lengths() == pytest.approx([expected] * 3, abs=1e-4)
    assert found.converged
    assert found.fmax <= 1e-5
    assert found.smax <= 1e-3
    assert found.atoms.calc is None
    assert not found.atoms.constraints
    assert found.summary()["converged"]


def test_symmetry_is_kept():
    from ase.spacegroup.symmetrize import check_symmetry

    atoms = bulk("Cu", "fcc", 3.65) * (2, 1, 1)
    atoms.set_atomic_numbers([29, 79])
    start = check_symmetry(atoms, symprec=1e-4)
    found = relax_atoms(atoms, emt())
    assert check_symmetry(found.atoms, symprec=1e-4)["number"] == start["number"]


def test_rounding_noise_of_the_input_is_healed():
    # coordinates as a CIF with three decimals would give them; phonons look for symmetry within 1e-4 Å afterwards
    from ase.spacegroup.symmetrize import check_symmetry

    atoms = bulk("Cu", "fcc", 3.65, cubic=True)
    atoms.positions += np.random.default_rng(0).uniform(-3e-4, 3e-4, (4, 3))
    assert check_symmetry(atoms, symprec=1e-5)["number"] == 1
    found = relax_atoms(atoms, emt())
    assert check_symmetry(found.atoms, symprec=1e-5)["number"] == 225


def test_residual_stress_is_what_a_fresh_calculation_gives():
    found = relax_atoms(bulk("Al", "fcc", 4.1), emt())
    atoms = found.atoms.copy()
    atoms.calc = EMT()
    assert np.abs(atoms.get_stress()).max() * GPA_PER_EV_PER_A3 == pytest.approx(found.smax, abs=1e-9)
    assert atoms.get_potential_energy() == pytest.approx(found.energy, abs=1e-10)


def test_no_convergence_is_an_error_or_a_result():
    atoms = bulk("Cu", "fcc", 3.9, cubic=True)
    atoms.rattle(0.2, seed=1)
    with pytest.raises(ConvergenceError, match=r"stopped after .* largest force of"):
        relax_atoms(atoms, emt(), steps=2)
    assert not relax_atoms(atoms, emt(), steps=2, must_converge=False).converged


def test_bad_input():
    with pytest.raises(PotentialError, match="does not know W"):
        relax_atoms(bulk("W"), emt())


def test_a_calculator_will_do():
    assert relax_atoms(bulk("Cu", "fcc", 3.6), EMT()).converged
