import ase.units
import numpy as np
import phonopy.physical_units
import pytest

from phonosmith.core import units


def test_conversions_agree_with_ase():
    # ASE uses CODATA 2014: relative differences up to 1e-7
    assert units.GPA_PER_EV_PER_A3 == pytest.approx(1 / ase.units.GPa, rel=1e-7)
    assert units.KJ_PER_MOL_PER_EV == pytest.approx(ase.units.mol / ase.units.kJ, rel=1e-7)
    assert units.KG_PER_M3_PER_AMU_PER_A3 == pytest.approx(ase.units._amu * 1e30, rel=1e-7)


def test_frequency_unit_agrees_with_phonopy():
    # phonopy uses CODATA 2006: the difference is 1.3e-7
    physical = phonopy.physical_units.get_physical_units()
    assert pytest.approx(physical.DefaultToTHz, rel=2e-7) == units.THZ_PER_SQRT_EV_PER_A2_AMU


def test_vasp_stress_sign_and_size():
    # 10 kbar of compression as VASP prints it is a tension of -1 GPa
    assert 10 * units.EV_PER_A3_PER_VASP_KBAR * units.GPA_PER_EV_PER_A3 == pytest.approx(-1.0, rel=1e-12)


def test_one_oscillator():
    # nu = sqrt(k/m)/2pi for k = 4 eV/Å2, m = 2 amu
    nu = np.sqrt(4 * ase.units._e / 1e-20 / (2 * ase.units._amu)) / (2 * np.pi) * 1e-12
    assert nu == pytest.approx(np.sqrt(4 / 2) * units.THZ_PER_SQRT_EV_PER_A2_AMU, rel=1e-7)
