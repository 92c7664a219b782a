import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from phonosmith.core.errors import InputError
from phonosmith.core.units import AVOGADRO, BOLTZMANN, KJ_PER_MOL_PER_EV, PLANCK
from phonosmith.evaluation.mechanics.eos import birch_murnaghan_energy
from phonosmith.evaluation.thermal.qha import mean_gruneisen, quasi_harmonic

V0, GAMMA, NU0 = 40.0, 2.0, 5.0  # an Einstein crystal of six oscillators with nu = nu0 (V0/V)^gamma
VOLUMES = V0 * np.linspace(0.96, 1.06, 9)
TEMPERATURES = np.arange(0, 620, 20.0)


def einstein(volumes, temperatures):
    nu = NU0 * (V0 / volumes) ** GAMMA * 1e12
    x = PLANCK * nu[None, :] / (BOLTZMANN * np.maximum(temperatures, 1e-9)[:, None])
    with np.errstate(over="ignore"):
        occupation = 1 / np.expm1(np.minimum(x, 700))
    energy = 6 * PLANCK * nu[None, :] * (0.5 + occupation) * AVOGADRO / 1000
    free = (
        6 * (0.5 * PLANCK * nu[None, :] + BOLTZMANN * temperatures[:, None] * np.log1p(-np.exp(-x))) * AVOGADRO / 1000
    )
    entropy = np.where(temperatures[:, None] > 0, 1000 * (energy - free) / np.maximum(temperatures, 1e-9)[:, None], 0)
    half = np.minimum(x / 2, 300)
    heat = 6 * BOLTZMANN * AVOGADRO * (half / np.sinh(half)) ** 2
    return free, heat, entropy


def result(volumes=VOLUMES):
    free, heat, entropy = einstein(volumes, TEMPERATURES)
    energies = birch_murnaghan_energy(volumes, -10.0, V0, 100.0, 4.0)
    return quasi_harmonic(volumes, energies, TEMPERATURES, free, heat, entropy)


def test_the_thermodynamic_gruneisen_parameter_of_an_einstein_crystal_is_the_one_put_in():
    found = result()
    chosen = [i for i, t in enumerate(found.temperatures) if 200 <= t <= 500]
    # limited by phonopy's numerical temperature derivatives and its quartic fits in volume: 2 %
    assert np.allclose(np.array(found.gruneisen)[chosen], GAMMA, rtol=0.02)


def test_thermal_expansion_follows_gruneisens_law():
    found = result()
    i = found.temperatures.index(300.0)
    volume, bulk_modulus = found.volumes[i], found.bulk_modulus[i]
    nu = NU0 * (V0 / volume) ** GAMMA
    half = PLANCK * nu * 1e12 / (2 * BOLTZMANN * 300.0)
    heat = 6 * BOLTZMANN * (half / np.sinh(half)) ** 2
    # alpha = gamma C_V / (V B)
    assert found.thermal_expansion[i] == pytest.approx(GAMMA * heat / (volume * 1e-30 * bulk_modulus * 1e9), rel=0.01)


def test_zero_temperature_volume_minimises_energy_plus_zero_point():
    from scipy.optimize import minimize_scalar

    def total(v):
        zero_point = 6 * 0.5 * PLANCK * NU0 * 1e12 * (V0 / v) ** GAMMA * AVOGADRO / 1000 / KJ_PER_MOL_PER_EV
        return float(birch_murnaghan_energy(v, -10.0, V0, 100.0, 4.0)) + zero_point

    expected = minimize_scalar(total, bounds=(39, 42), method="bounded", options={"xatol": 1e-8}).x
    assert result().volumes[0] == pytest.approx(expected, rel=1e-5)


def test_extrapolation_is_said():
    assert "extrapolated" in result(V0 * np.linspace(0.93, 1.0, 9)).warnings[0]


def morse_phonon(a):
    """Argon-like fcc crystal of nearest-neighbour Morse bonds."""
    atoms = bulk("Ar", "fcc", a=a)
    cell = PhonopyAtoms(symbols=["Ar"], cell=atoms.cell.array, scaled_positions=[[0, 0, 0]])
    phonon = Phonopy(cell, np.diag([3, 3, 3]), log_level=0)
    phonon.generate_displacements(distance=0.005)
    forces = []
    for moved in phonon.supercells_with_displacements:
        from ase import Atoms

        frame = Atoms(moved.symbols, cell=moved.cell, positions=moved.positions, pbc=True)
        frame.calc = MorsePotential(epsilon=1.0, r0=4.0 / np.sqrt(2), rho0=6.0, rcut1=1.15, rcut2=1.25)
        forces.append(frame.get_forces())
    phonon.forces = np.array(forces)
    phonon.produce_force_constants()
    return phonon


def test_mode_gruneisen_of_a_morse_crystal():
    middle, larger, smaller = (morse_phonon(4.0 * s ** (1 / 3)) for s in (1.0, 1.01, 0.99))
    found = mean_gruneisen(middle, larger, smaller, mesh=(8, 8, 8), temperature=1e6, cutoff_thz=0.3)
    # independent: derivative of the logarithm of each frequency on the same mesh, classical weights
    frequencies = []
    for phonon in (smaller, middle, larger):
        phonon.run_mesh([8, 8, 8], is_gamma_center=True)
        frequencies.append(np.sort(phonon.mesh.frequencies, axis=1))
    weights = np.repeat(middle.mesh.weights[:, None], 3, axis=1) * (frequencies[1] > 0.3)
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = -(np.log(frequencies[2]) - np.log(frequencies[0])) / np.log(1.01 / 0.99)
    expected = np.nansum(np.where(weights > 0, gamma, 0) * weights) / weights.sum()
    assert found.mean == pytest.approx(expected, rel=2e-3)
    # closed form for nearest-neighbour bonds at zero pressure: the trace of the dynamical matrix is that of the bond,
    # phi'' + 2 phi'/r, so gamma weighted by omega^2 is (3 rho0 - 2)/6; plain averages differ by a few per cent
    squares = np.where(weights > 0, frequencies[1] ** 2, 0) * weights
    assert np.nansum(gamma * squares) / squares.sum() == pytest.approx((3 * 6.0 - 2) / 6, rel=2e-3)
    assert found.mean == pytest.approx((3 * 6.0 - 2) / 6, rel=0.05)


def test_bad_input():
    free, heat, entropy = einstein(VOLUMES, TEMPERATURES)
    energies = np.zeros(9)
    with pytest.raises(InputError, match="shape"):
        quasi_harmonic(VOLUMES, energies, TEMPERATURES, free[:, :-1], heat, entropy)
    free[3, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        quasi_harmonic(VOLUMES, energies, TEMPERATURES, free, heat, entropy)
    a, b = morse_phonon(4.0), morse_phonon(4.02)
    with pytest.raises(InputError, match="volumes in order"):
        mean_gruneisen(b, a, b)
