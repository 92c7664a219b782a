import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import InputError
from phonosmith.core.units import AVOGADRO
from phonosmith.evaluation.thermal.qha import evaluate_qha
from phonosmith.potentials.ase_potential import AsePotential

A, RHO = 4.0, 6.0
R0 = A / np.sqrt(2)
CELL = np.diag([3, 3, 3]).tolist()


def morse():
    return AsePotential(lambda: MorsePotential(epsilon=0.3, r0=R0, rho0=RHO, rcut1=1.2, rcut2=1.3), ["Ar"])


def structure():
    return AseAtomsAdaptor.get_structure(bulk("Ar", "fcc", a=A))


def test_a_morse_crystal_expands_as_its_mode_gruneisen_parameters_say():
    found = evaluate_qha(structure(), morse(), CELL, mesh=8, temperatures=[float(t) for t in range(0, 620, 20)])
    assert found.left_out == []
    index = found.qha.temperatures.index(300.0)
    # thermodynamics and modes are two routes to one parameter; volumes and fits differ: 5 %
    assert found.qha.gruneisen[index] == pytest.approx(found.gruneisen.mean, rel=0.05)
    # nearest-neighbour bonds: gamma weighted by omega^2 is (3 rho0 - 2)/6, plain averages differ by a few per cent
    assert found.gruneisen.mean == pytest.approx((3 * RHO - 2) / 6, rel=0.05)
    # Gruneisen's law with the classical heat capacity of three modes, hot enough for it (2 % quantum correction left)
    index = found.qha.temperatures.index(560.0)
    heat = 3 * 8.314462618 / AVOGADRO
    volume, bulk_modulus = found.qha.volumes[index] * 1e-30, found.qha.bulk_modulus[index] * 1e9
    expected = found.gruneisen.mean * heat / (volume * bulk_modulus)
    assert found.qha.thermal_expansion[index] == pytest.approx(expected, rel=0.06)
    # zero-point motion pushes the crystal open
    assert A**3 / 4 < found.qha.volumes[0] < 1.01 * A**3 / 4


def test_volumes_that_cannot_be_used_are_named():
    stretched = evaluate_qha(structure(), morse(), CELL, mesh=4, factors=(0.96, 0.98, 1.0, 1.02, 1.04, 1.5))
    assert stretched.left_out == ["volume factor 1.5: imaginary modes"]
    assert len(stretched.volumes) == 5


def test_bad_input():
    with pytest.raises(InputError, match="neighbour on each side"):
        evaluate_qha(structure(), morse(), CELL, factors=(1.0, 1.02, 1.04))
    unstable = AseAtomsAdaptor.get_structure(bulk("Ar", "fcc", a=1.15 * A))
    with pytest.raises(InputError, match="cannot be used"):
        evaluate_qha(unstable, morse(), CELL, mesh=4)
