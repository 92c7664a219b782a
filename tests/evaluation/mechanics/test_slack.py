import math

import pytest
from pymatgen.analysis.elasticity import ElasticTensor
from pymatgen.core import Lattice, Structure

from phonosmith.core.errors import InputError
from phonosmith.evaluation.mechanics.slack import (
    debye_temperature,
    gruneisen_parameter,
    julian_factor,
    poisson_ratio,
    slack_conductivity,
    sound_velocities,
)


def test_julian_factor_is_the_published_number():
    # Slack's A for gamma = 2: 3.04e-6 W/(m K) with M in amu, delta in Angstrom (Slack 1979)
    assert julian_factor(2.0) == pytest.approx(3.04e-6, rel=2e-3)
    # Julian's coefficient 2.43e-6 (Morelli and Slack 2006), three digits given
    assert julian_factor(1.0) * (1 - 0.514 + 0.228) == pytest.approx(2.43e-6, rel=2e-3)


def test_poisson_ratio_and_gruneisen_of_a_cauchy_solid():
    # isotropic Cauchy solid: K = 5/3 G, nu = 1/4, gamma = 3/2 * 1.25 / 1.25 = 1.5
    v_t, v_l = sound_velocities(50.0, 30.0, 3000.0)
    assert (v_l / v_t) ** 2 == pytest.approx(3.0)
    assert poisson_ratio(v_t, v_l) == pytest.approx(0.25)
    assert gruneisen_parameter(0.25) == pytest.approx(1.5)


# experimental Voigt-Reuss-Hill moduli (K, G in GPa), lattice constant (Angstrom), masses (amu)
HAND = [
    ("Si", 97.9, 66.6, 5.431, [28.086, 28.086]),
    ("NaCl", 24.9, 14.8, 5.640, [22.990, 35.453]),
    ("MgO", 162.0, 130.0, 4.212, [24.305, 15.999]),
]


@pytest.mark.parametrize(("name", "bulk", "shear", "a", "masses"), HAND)
def test_three_materials_by_hand(name, bulk, shear, a, masses):
    # every step in SI with plain numbers, independent of the module's units
    volume = a**3 / 4 * 1e-30
    rho = sum(masses) * 1.66053906660e-27 / volume
    v_t = math.sqrt(shear * 1e9 / rho)
    v_l = math.sqrt((bulk * 1e9 + 4 / 3 * shear * 1e9) / rho)
    v_m = (1 / 3 * (2 / v_t**3 + 1 / v_l**3)) ** (-1 / 3)
    theta = 1.054571817e-34 / 1.380649e-23 * (6 * math.pi**2 * 2 / volume) ** (1 / 3) * v_m
    nu = (3 * bulk - 2 * shear) / (6 * bulk + 2 * shear)  # the same ratio straight from the moduli
    gamma = 1.5 * (1 + nu) / (2 - 3 * nu)
    a_gamma = 2.4282e-6 / (1 - 0.514 / gamma + 0.228 / gamma**2)
    kappa = a_gamma * sum(masses) / 2 * (volume / 2) ** (1 / 3) * 1e10 * theta**3 / (gamma**2 * 300 * 2 ** (2 / 3))
    found = slack_conductivity(bulk, shear, a**3 / 4, masses)
    assert found.debye_temperature == pytest.approx(theta, rel=1e-6)
    assert found.gruneisen == pytest.approx(gamma, rel=1e-9)
    assert found.kappa == pytest.approx(kappa, rel=2e-3)  # Julian's coefficient has three to four digits


@pytest.mark.parametrize(("name", "measured"), [("Si", 645.0), ("NaCl", 321.0), ("MgO", 946.0)])
def test_debye_temperatures_are_the_measured_ones(name, measured):
    # Kittel's table and Gschneidner (MgO): low-temperature values; room-temperature moduli are softer: 5 %
    _, bulk, shear, a, masses = next(row for row in HAND if row[0] == name)
    assert slack_conductivity(bulk, shear, a**3 / 4, masses).debye_temperature == pytest.approx(measured, rel=0.05)


def test_velocities_and_debye_temperature_agree_with_pymatgen():
    structure = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.431), ["Si"], [[0, 0, 0]])
    c11, c12, c44 = 165.7, 63.9, 79.6
    voigt = [[c11 if i == j else c12 for j in range(3)] + [0] * 3 for i in range(3)]
    voigt += [[0] * 3 + [c44 if i == j else 0 for j in range(3)] for i in range(3)]
    tensor = ElasticTensor.from_voigt(voigt)
    volume = structure.volume / 4
    found = slack_conductivity(tensor.k_vrh, tensor.g_vrh, volume, [28.0855, 28.0855])
    assert found.v_transverse == pytest.approx(tensor.trans_v(structure), rel=1e-4)
    assert found.v_longitudinal == pytest.approx(tensor.long_v(structure), rel=1e-4)
    assert found.debye_temperature == pytest.approx(tensor.debye_temperature(structure), rel=1e-3)


def test_debye_temperature_scales_with_velocity_and_cell():
    theta, mean = debye_temperature(3000.0, 5000.0, 10.0)
    assert debye_temperature(6000.0, 10000.0, 10.0)[0] == pytest.approx(2 * theta)
    assert debye_temperature(3000.0, 5000.0, 80.0)[0] == pytest.approx(theta / 2)
    assert 3000 < mean < 5000


@pytest.mark.parametrize("arguments", [(-1, 1, 1, [1.0]), (1, 0, 1, [1.0]), (1, 1, 1, []), (1, 1, 0, [1.0])])
def test_impossible_input_is_refused(arguments):
    with pytest.raises(InputError):
        slack_conductivity(*arguments)
