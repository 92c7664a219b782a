import numpy as np
import pytest
from ase.eos import EquationOfState
from pymatgen.analysis.eos import BirchMurnaghan

from phonosmith.core.errors import ConvergenceError, InputError
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.mechanics.eos import VOLUME_FACTORS, birch_murnaghan_energy, fit_birch_murnaghan

V0, E0, B0, B1 = 40.9, -10.85, 98.0, 4.2
VOLUMES = V0 * np.array(VOLUME_FACTORS)
EXACT = birch_murnaghan_energy(VOLUMES, E0, V0, B0, B1)


def test_the_protocol_has_eleven_volumes():
    assert len(VOLUME_FACTORS) == 11
    assert (VOLUME_FACTORS[0], VOLUME_FACTORS[5], VOLUME_FACTORS[-1]) == (0.95, 1.0, 1.05)


def test_the_closed_form_has_the_derivatives_it_is_named_after():
    h = 1e-3
    v = V0 + h * np.arange(-3, 4)
    e = birch_murnaghan_energy(v, E0, V0, B0, B1)
    first = (e[4] - e[2]) / (2 * h)
    second = (e[4] - 2 * e[3] + e[2]) / h**2
    assert first == pytest.approx(0, abs=1e-6)
    assert V0 * second * GPA_PER_EV_PER_A3 == pytest.approx(B0, rel=1e-4)

    # B' = dB/dp along the curve
    def pressure(x):
        up, down = birch_murnaghan_energy([x + h, x - h], E0, V0, B0, B1)
        return -(up - down) / (2 * h)

    def bulk(x):
        return -x * (pressure(x + 0.01) - pressure(x - 0.01)) / 0.02

    slope = (bulk(V0 - 0.05) - bulk(V0 + 0.05)) / (pressure(V0 - 0.05) - pressure(V0 + 0.05))
    assert slope == pytest.approx(B1, rel=1e-3)


def test_exact_data_are_recovered():
    fit = fit_birch_murnaghan(VOLUMES, EXACT, n_atoms=2)
    assert fit.volume == pytest.approx(V0, rel=1e-9)
    assert fit.bulk_modulus == pytest.approx(B0, rel=1e-6)
    assert fit.bulk_modulus_derivative == pytest.approx(B1, rel=1e-5)
    assert fit.energy == pytest.approx(E0, abs=1e-10)
    assert fit.excluded == []


def test_the_fit_agrees_with_ase_and_pymatgen_on_noisy_data():
    noisy = EXACT + 1e-5 * np.random.default_rng(0).standard_normal(11)
    fit = fit_birch_murnaghan(VOLUMES, noisy, n_atoms=2)
    v, e, b = EquationOfState(VOLUMES, noisy, eos="birchmurnaghan").fit()
    other = BirchMurnaghan(VOLUMES, noisy)
    other.fit()
    assert fit.volume == pytest.approx(v, rel=1e-6)
    assert fit.energy == pytest.approx(e, abs=1e-8)
    assert fit.bulk_modulus == pytest.approx(b * GPA_PER_EV_PER_A3, rel=1e-4)
    assert fit.bulk_modulus == pytest.approx(float(other.b0_GPa), rel=1e-4)
    assert fit.bulk_modulus_derivative == pytest.approx(other.b1, rel=1e-3)


@pytest.mark.parametrize("bad", [[3], [0], [2, 8], [0, 5, 6]])
def test_outliers_are_excluded_and_named(bad):
    energies = EXACT + 1e-6 * np.random.default_rng(1).standard_normal(11)
    energies[bad] += 0.05
    fit = fit_birch_murnaghan(VOLUMES, energies, n_atoms=2)
    assert sorted(fit.excluded) == bad
    assert all(f"point {index}" in " ".join(fit.reasons) for index in bad)
    assert fit.bulk_modulus == pytest.approx(B0, rel=1e-3)


def test_ordinary_noise_excludes_nothing():
    for seed in range(100):
        noisy = EXACT + 1e-4 * np.random.default_rng(seed).standard_normal(11)
        assert fit_birch_murnaghan(VOLUMES, noisy, n_atoms=2).excluded == []


def test_a_minimum_outside_the_range_is_said():
    fit = fit_birch_murnaghan(VOLUMES * 1.08, birch_murnaghan_energy(VOLUMES * 1.08, E0, V0, B0, B1), n_atoms=2)
    assert "outside" in fit.warnings[0]


def test_bad_input():
    with pytest.raises(InputError, match="at least 7"):
        fit_birch_murnaghan(VOLUMES[:5], EXACT[:5])
    with pytest.raises(InputError, match="finite"):
        fit_birch_murnaghan(VOLUMES, np.where(np.arange(11) == 4, np.nan, EXACT))
    with pytest.raises(ConvergenceError, match="no minimum"):
        fit_birch_murnaghan(VOLUMES, -EXACT * 0 - VOLUMES)
