"""Thermodynamics against closed forms of a single oscillator, thermodynamic identities and phonopy."""

import numpy as np
import pytest

from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.thermodynamics import (
    GAS_CONSTANT,
    mode_entropy,
    mode_free_energy,
    mode_heat_capacity,
    thermal_properties,
)


def test_single_oscillator_by_hand():
    # hν = kT at ν = 6.2509852 THz for 300 K: C = k e/(e-1)², S/k = 1/(e-1) - ln(1-1/e), F = kT(1/2 + ln(1-1/e))
    frequency = np.array([1.380649e-23 * 300 / 6.62607015e-34 / 1e12])
    e = np.e
    assert mode_heat_capacity(frequency, 300)[0] == pytest.approx(GAS_CONSTANT * e / (e - 1) ** 2, rel=1e-12)
    assert mode_entropy(frequency, 300)[0] == pytest.approx(GAS_CONSTANT * (1 / (e - 1) - np.log(1 - 1 / e)), rel=1e-12)
    assert mode_free_energy(frequency, 300)[0] == pytest.approx(
        GAS_CONSTANT * 300 * (0.5 + np.log(1 - 1 / e)), rel=1e-12
    )


def test_limits():
    soft, stiff = np.array([1e-6]), np.array([5000.0])
    assert mode_heat_capacity(soft, 300)[0] == pytest.approx(GAS_CONSTANT, rel=1e-9)
    assert mode_heat_capacity(stiff, 300)[0] == pytest.approx(0, abs=1e-100)
    assert np.isfinite(mode_entropy(stiff, 1.0)).all()
    assert mode_heat_capacity(soft, 0)[0] == mode_entropy(soft, 0)[0] == 0
    assert mode_free_energy(np.array([10.0]), 0)[0] == pytest.approx(0.5 * 3.990312712e-13 * 1e16, rel=1e-9)


def test_identities_between_c_s_and_f():
    # central differences of 0.01 K leave 1e-7 of a smooth function
    frequency = np.linspace(0.3, 15, 40)
    step = 0.01
    entropy = -(mode_free_energy(frequency, 300 + step) - mode_free_energy(frequency, 300 - step)) / (2 * step)
    assert entropy == pytest.approx(mode_entropy(frequency, 300), rel=1e-6)
    capacity = 300 * (mode_entropy(frequency, 300 + step) - mode_entropy(frequency, 300 - step)) / (2 * step)
    assert capacity == pytest.approx(mode_heat_capacity(frequency, 300), rel=1e-6)


def test_imaginary_modes_are_left_out_and_counted():
    frequencies = np.array([[-1.0, 2.0, 3.0], [0.0, 2.0, 3.0]])
    found = thermal_properties(frequencies, [1, 3], [300])
    real = thermal_properties(np.array([[2.0, 3.0]]), [1], [300])
    assert found.imaginary_share == pytest.approx(1 / 3)
    assert found.heat_capacity == pytest.approx(real.heat_capacity)
    assert found.entropy == pytest.approx(real.entropy)
    assert found.free_energy == pytest.approx(real.free_energy)


def test_weights_count():
    frequencies = np.array([[1.0], [10.0]])
    found = thermal_properties(frequencies, [3, 1], [100, 300])
    expected = [
        0.75 * mode_entropy(np.array([1.0]), t)[0] + 0.25 * mode_entropy(np.array([10.0]), t)[0] for t in (100, 300)
    ]
    assert found.entropy == pytest.approx(expected)


def test_negative_temperature_is_refused():
    with pytest.raises(InputError, match="not negative"):
        thermal_properties(np.ones((1, 3)), [1], [-5])


def test_sums_equal_phonopys(shared):
    # phonopy's physical constants differ from CODATA 2018 by 1e-6
    from phonosmith.evaluation.phonons.mesh import mesh_frequencies
    from phonosmith.harmonic.files import load_harmonic

    model = load_harmonic(shared / "data/phonopy/NaCl/phonopy_disp.yaml")
    sampled = mesh_frequencies(model, 12)
    ours = thermal_properties(sampled.frequencies, sampled.weights, [100.0, 300.0])
    model.phonon.run_mesh([12] * 3)
    model.phonon.run_thermal_properties(temperatures=[100.0, 300.0])
    theirs = model.phonon.get_thermal_properties_dict()
    assert ours.heat_capacity == pytest.approx(theirs["heat_capacity"], rel=5e-6)
    assert ours.entropy == pytest.approx(theirs["entropy"], rel=5e-6)
    assert ours.free_energy == pytest.approx(theirs["free_energy"], rel=2e-5)
