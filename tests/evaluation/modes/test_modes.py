"""Imaginary modes found where closed forms have them; supercells, patterns and symmetry of their amplitudes."""

import numpy as np
import pytest

from helpers.bond_crystal import bond_frequency
from helpers.model_crystals import spring_crystal, spring_frequencies
from phonosmith.core.errors import InputError
from phonosmith.evaluation.modes.search import (
    commensurate,
    find_imaginary_modes,
    high_symmetry_points,
    near_commensurate,
    subspaces,
)
from phonosmith.evaluation.modes.supercell import ModeSpace, mode_space, smallest_supercell
from phonosmith.harmonic.files import load_harmonic
from phonosmith.harmonic.model import HarmonicModel

from .mode_cases import doubling, orthorhombic, rocksalt, tripling


def spring_model(n=4, **options):
    phonon, constants = spring_crystal(n=n, **options)
    phonon.force_constants = constants
    return HarmonicModel(phonon, "symfc", "cubic")


def test_rational_points():
    assert commensurate([1 / 3, 1 / 3, 0])[1] == 3
    assert commensurate([0.5, 0.25, 0.75])[1] == 4
    near, order = commensurate([0.3713, 0, 0], 12, 0.01)
    assert (near.tolist(), order) == ([0.375, 0, 0], 8)
    # the smallest denominator wins over the closest point
    assert commensurate([0.3367, 0, 0], 12, 0.01)[1] == 3
    assert commensurate([0.04, 0.04, 0], 12, 0.01) is None


# wave vectors of tables 6 to 11 of arXiv:2604.01017 off the high-symmetry points, with atoms in the primitive cell
PUBLISHED = [
    ([0.15, 0, 0], 8), ([0, 0, 0.35], 20), ([0, 0.025, 0], 20), ([0, 0, 0.05], 20), ([0.375, 0, 0], 20),
    ([0, 0.05, 0], 20), ([0, 0.075, 0], 20), ([0, 0, 0.025], 4), ([0, 0.04, 0], 4), ([0, 0.025, 0], 4),
    ([0, 0.005, 0], 4), ([0.25, 0.25, 0.5], 4), ([0.625, 0.25, 0.625], 2), ([0.5, 0.4, 0], 28),
]  # fmt: skip


@pytest.mark.parametrize(("q", "atoms"), PUBLISHED)
def test_published_wave_vectors_are_followed_where_they_are(q, atoms):
    """None is snapped elsewhere or thought incommensurate while its supercell has at most 1000 atoms."""
    near, order = near_commensurate(q, 1000 // atoms, 0.01)
    assert near.tolist() == q
    assert order * atoms <= 1000
    assert round(np.linalg.det(smallest_supercell(near, np.diag([4.0, 4.1, 11.0])))) == order


def test_three_printed_decimals_are_a_third_and_far_points_stay_near():
    assert near_commensurate([0.333, 0.333, 0], 125, 5e-4)[1] == 3
    # a refined minimum goes to the smallest supercell within a quarter of the tolerance
    near, order = near_commensurate([0.0483, 0, 0], 50, 0.01)
    assert (near.tolist(), order) == ([0.05, 0, 0], 20)


@pytest.mark.parametrize(
    ("q", "order"),
    [
        ([0, 0, 0], 1), ([0.5, 0, 0.5], 2), ([0.5, 0.25, 0.75], 4), ([1 / 3, 1 / 3, 0], 3), ([0.5, 1 / 3, 0], 6),
        ([0.125, 0.375, 0.5], 8),
    ],
)  # fmt: skip
def test_supercell_is_commensurate_and_cannot_be_smaller(q, order):
    cell = np.array([[0, 2.9, 3.1], [3.0, 0, 3.1], [3.0, 2.9, 0]])
    matrix = smallest_supercell(q, cell)
    # the phase q·T takes `order` values over lattice translations, so as many cells are needed
    assert round(np.linalg.det(matrix)) == order
    phases = matrix @ np.array(q)
    assert np.abs(phases - np.rint(phases)).max() < 1e-9


def test_supercell_vectors_are_short():
    cell = np.array([[4.0, 0, 0], [-2.0, 2 * np.sqrt(3), 0], [0, 0, 6.0]])
    lengths = np.linalg.norm(smallest_supercell([1 / 3, 1 / 3, 0], cell) @ cell, axis=1)
    assert sorted(lengths) == pytest.approx([6.0, 4 * np.sqrt(3), 4 * np.sqrt(3)])


def test_incommensurate_q_has_no_supercell():
    with pytest.raises(InputError, match="incommensurate"):
        smallest_supercell([np.sqrt(2) - 1, 0, 0], np.eye(3) * 4)


def test_modes_are_where_the_closed_form_has_them():
    springs = doubling()
    model, _ = orthorhombic(springs)
    mass = float(model.phonon.primitive.masses[0])
    # along x alone ω² is negative: away from q_y = q_z = 0 the stiff springs of y and z win
    corners = [np.array([i, j, k]) / 2 for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    expected = [q for q in corners if bond_frequency(springs, q, 2, mass) < -0.05]
    modes = find_imaginary_modes(model)
    assert [mode.q.tolist() for mode in modes] == [q.tolist() for q in expected] == [[0.5, 0, 0]]
    # displacements of 0.01 Å see the quartic term: 3e-5 of the frequency
    assert modes[0].frequency_thz == pytest.approx(bond_frequency(springs, [0.5, 0, 0], 2, mass), rel=1e-4)
    assert (modes[0].label, modes[0].exact, modes[0].bands, modes[0].skipped) == ("X", True, (0,), None)


def test_band_minimum_off_the_path_is_found_and_exactness_told():
    # minima along x and along y add up to one at (1/3, 1/3, 0), on no line of the standard path
    springs = tripling()
    springs[:, 1, 2] = -1.0, -0.5, 0.8
    for supercell, exact in (((6, 6, 4), True), ((8, 8, 4), False)):
        model, _ = orthorhombic(springs, supercell=supercell)
        mass = float(model.phonon.primitive.masses[0])
        found = [mode for mode in find_imaginary_modes(model) if mode.skipped is None]
        lowest = min(found, key=lambda mode: mode.frequency_thz)
        assert np.abs(np.abs(lowest.q) - [1 / 3, 1 / 3, 0]).max() < 1e-9
        assert lowest.frequency_thz == pytest.approx(bond_frequency(springs, [1 / 3, 1 / 3, 0], 2, mass), rel=1e-4)
        assert lowest.exact is exact
        # (1/3, 1/3, 0) and (1/3, -1/3, 0) are one star
        assert sum(np.abs(np.abs(mode.q) - [1 / 3, 1 / 3, 0]).max() < 1e-9 for mode in found) == 1


def test_degenerate_modes_come_together_and_stars_once():
    model = spring_model(n=4, transverse=-0.2, longitudinal=3.0)
    corners = dict(high_symmetry_points(model))
    assert len(corners) == 4
    modes = {mode.label: mode for mode in find_imaginary_modes(model) if mode.label}
    # cubic X, M, R: every transverse branch of the closed form, and each point once
    for label, q in corners.items():
        negative = [f for f in spring_frequencies([q], transverse=-0.2)[0] if f < -0.05]
        if negative:
            bands = [len(mode.bands) for mode in find_imaginary_modes(model) if mode.label == label]
            assert sum(bands) == len(negative)
            assert modes[label].frequency_thz == pytest.approx(negative[0], rel=1e-4)


def test_translations_are_no_modes_and_noise_is_not_followed():
    phonon, constants = spring_crystal(n=2)
    for i in range(len(constants)):
        constants[i, i] -= 0.05 * np.eye(3)
    phonon.force_constants = constants
    assert find_imaginary_modes(HarmonicModel(phonon, "traditional", "pulled")) == []
    weak = find_imaginary_modes(spring_model(n=2, transverse=-1e-6), threshold_thz=None)
    assert weak
    assert all("noise threshold" in mode.skipped and mode.exact for mode in weak)
    # as published, whatever is below -1e-4 THz is followed
    assert all(mode.skipped is None for mode in find_imaginary_modes(spring_model(n=2, transverse=-1e-6)) if mode.exact)
    assert find_imaginary_modes(spring_model(n=2, transverse=0.3)) == []


def test_incommensurate_minimum_is_listed_with_the_reason():
    model, _ = orthorhombic(tripling())
    modes = find_imaginary_modes(model, most_cells=2)
    reasons = [mode.skipped for mode in modes if mode.skipped]
    assert len(reasons) == 1
    assert "incommensurate" in reasons[0]
    assert np.abs(modes[-1].q)[0] == pytest.approx(1 / 3, abs=2e-3)


def test_modes_are_followed_where_one_asks():
    """The chain's dispersion is a closed form: at (0.35, 0, 0) it is imaginary, at (0.05, 0, 0) it is not."""
    springs = doubling()
    model, _ = orthorhombic(springs)
    mass = float(model.phonon.primitive.masses[0])
    wanted = [0.35, 0, 0]
    frequency = bond_frequency(springs, np.array(wanted), 2, mass)
    assert frequency < -0.1
    modes = find_imaginary_modes(model, qpoints=[wanted, [0.05, 0, 0]])
    asked = next(mode for mode in modes if mode.q.tolist() == wanted)
    assert (asked.skipped, asked.bands, asked.exact) == (None, (0,), False)
    assert asked.frequency_thz == pytest.approx(frequency, rel=1e-3)
    assert len(mode_space(model.phonon, asked.q, asked.eigenvectors).atoms) == 20
    stable = next(mode for mode in modes if mode.q.tolist() == [0.05, 0, 0])
    assert "asked for, but the lowest mode there has" in stable.skipped


def test_frequencies_group():
    assert subspaces(np.array([-3.0, -2.999, -2.0, -1.9985, -1.997])) == [[0, 1], [2, 3, 4]]


def test_curvature_along_an_amplitude_is_the_frequency():
    # U = ½ (2πν)² Q² per supercell, from the potential's energy and nothing of the phonons
    model, potential = orthorhombic(tripling())
    mode = min(find_imaginary_modes(model), key=lambda one: one.frequency_thz)
    space = mode_space(model.phonon, mode.q, mode.eigenvectors)
    assert (space.dimension, len(space.atoms)) == (2, 3)
    step = 1e-2
    for axis in np.eye(2):
        frames = [space.frame(amplitude * step * axis) for amplitude in (-1, 0, 1)]
        left, middle, right = (one.energy for one in potential.evaluate(frames))
        square = (left + right - 2 * middle) / step**2
        # 15.633 THz is √(eV/Å²/amu); the quartic term adds 1e-4 of the curvature at this step
        assert np.sign(square) * np.sqrt(abs(square)) * 15.633302 == pytest.approx(mode.frequency_thz, rel=1e-3)


def test_slopes_by_amplitude_follow_from_forces():
    model, potential = orthorhombic(tripling())
    mode = min(find_imaginary_modes(model), key=lambda one: one.frequency_thz)
    space = mode_space(model.phonon, mode.q, mode.eigenvectors)
    here = np.array([0.7, -0.4])
    slope = space.gradient(potential.evaluate([space.frame(here)])[0].forces)
    for axis in range(2):
        step = 1e-4 * np.eye(2)[axis]
        right, left = (one.energy for one in potential.evaluate([space.frame(here + step), space.frame(here - step)]))
        assert (right - left) / 2e-4 == pytest.approx(slope[axis], abs=1e-6)


def test_amplitude_space_survives_json():
    model, _ = orthorhombic(tripling())
    mode = min(find_imaginary_modes(model), key=lambda one: one.frequency_thz)
    space = mode_space(model.phonon, mode.q, mode.eigenvectors)
    again = ModeSpace.from_dict(space.as_dict())
    assert np.array_equal(again.patterns, space.patterns)
    assert np.array_equal(again.frame([0.3, 0.1]).positions, space.frame([0.3, 0.1]).positions)


@pytest.mark.parametrize("case", ["rocksalt", "tripling"])
def test_operations_leave_the_energy_alone_and_axes_do_not_depend_on_eigenvectors(case):
    model, potential = rocksalt() if case == "rocksalt" else orthorhombic(tripling())
    generator = np.random.default_rng(7)
    mode = min(find_imaginary_modes(model), key=lambda one: one.frequency_thz)
    size = len(mode.bands)
    spaces = [mode_space(model.phonon, mode.q, mode.eigenvectors)]
    for _ in range(2):
        mixed = generator.standard_normal((size, size)) + 1j * generator.standard_normal((size, size))
        spaces.append(mode_space(model.phonon, mode.q, np.linalg.qr(mixed)[0] @ mode.eigenvectors))
    order = {"rocksalt": 48, "tripling": 12}[case]
    point = generator.standard_normal(spaces[0].dimension)
    energies = []
    for space in spaces:
        assert len(space.operations) == order
        images = space.operations @ point
        found = [one.energy for one in potential.evaluate([space.frame(image) for image in images], stress=False)]
        assert np.ptp(found) < 1e-8
        energies.append(found[0])
    # the same amplitudes are the same crystal whatever eigenvectors came in (up to an operation)
    assert np.ptp(energies) < 1e-8


@pytest.mark.slow
def test_published_modes_of_real_crystals(shared):
    folder = shared / "data/vasp_pbe_phonons/dft"
    gete = find_imaginary_modes(load_harmonic(folder / "mp-2612.phonopy.yaml.xz"))
    assert [(mode.label, len(mode.bands)) for mode in gete] == [("GAMMA", 3), ("X", 2), ("X", 1), ("W", 2)]
    k3sb = load_harmonic(folder / "mp-14017.phonopy.yaml.xz")
    (mode,) = find_imaginary_modes(k3sb)
    assert mode.label == "K"
    # 24 atoms in the primitive cell of the phase the paper finds
    assert len(mode_space(k3sb.phonon, mode.q, mode.eigenvectors).atoms) == 24
