"""Wells of closed form found by following modes; symmetry, coarse grids, rotations of eigenvectors, bad input."""

import numpy as np
import pytest

from helpers.model_crystals import spring_crystal
from phonosmith.core.errors import InputError
from phonosmith.evaluation.modes.fit import interpolated_minimum, parabola_r2
from phonosmith.evaluation.modes.follow import (
    FollowOptions,
    displaced_cells,
    follow_with_potential,
    plan_modes,
    to_sample,
)
from phonosmith.evaluation.modes.grid import GridOptions, Sample, Survey, advance, run_survey
from phonosmith.evaluation.modes.phases import relax_displaced
from phonosmith.evaluation.modes.search import find_imaginary_modes
from phonosmith.evaluation.modes.supercell import mode_space
from phonosmith.harmonic.model import HarmonicModel

from .mode_cases import doubling, germanium, orthorhombic, rocksalt, tripling


def sampler(space, potential):
    def sample(amplitudes):
        found = potential.evaluate([space.frame(point) for point in amplitudes], stress=False)
        return [Sample(one.energy, tuple(space.gradient(one.forces))) for one in found]

    return sample


def energies_only(space, potential):
    def sample(amplitudes):
        return [Sample(one.energy) for one in potential.evaluate([space.frame(p) for p in amplitudes], stress=False)]

    return sample


def test_double_well_at_the_zone_boundary():
    # per atom E(u) = ½ K u² + ¼ B u⁴ with K = 4 k = -4 and B = 16 b = 32: u₀² = -K/B, depth K²/(4B)
    model, potential = orthorhombic(doubling())
    mass = float(model.phonon.primitive.masses[0])
    document = follow_with_potential(model, potential, relax=False, method="bonds")
    (mode,) = document.modes
    assert (mode.label, mode.n_atoms, mode.multiplicity, mode.grid_shape) == ("X", 2, 1, [21])
    assert sorted(mode.supercell_matrix) == [[0, 0, 1], [0, 1, 0], [2, 0, 0]]
    (minimum,) = mode.minima
    assert abs(minimum.amplitudes[0]) == pytest.approx(np.sqrt(4 / 32) * np.sqrt(2 * mass), rel=1e-4)
    assert minimum.energy_ev_per_atom == pytest.approx(-16 / (4 * 32), rel=1e-6)
    assert mode.single_minimum is False
    assert mode.fit_r2 < 0.99
    # Q and -Q are equal by a lattice translation: half the points and the one at zero
    assert (mode.n_energies, mode.n_energies_plain) == (11, 21)
    assert document.phases == []


@pytest.mark.parametrize("gradients", [True, False])
def test_minimum_between_grid_points_within_a_percent(gradients):
    model, potential = orthorhombic(doubling(), quartic=7.3)
    mode = find_imaginary_modes(model)[0]
    space = mode_space(model.phonon, mode.q, mode.eigenvectors)
    answer = sampler(space, potential) if gradients else energies_only(space, potential)
    found = run_survey(space, GridOptions(), answer)
    mass = float(model.phonon.primitive.masses[0])
    u0, depth = np.sqrt(4 / (16 * 7.3)), 16 / (4 * 16 * 7.3)
    # five energies, or three with slopes, determine the quartic itself
    assert abs(found.minima[0].amplitudes[0]) == pytest.approx(u0 * np.sqrt(2 * mass), rel=1e-4)
    assert found.minima[0].energy / 2 == pytest.approx(-depth, rel=1e-5)


def test_complex_wave_vector_gives_two_amplitudes_and_the_closed_form():
    # u_n = U cos(2πn/3 + φ): E/atom = αU² + βU⁴ + γU⁶ with the phase that makes ⟨sin⁶⟩ smallest, 9/32
    springs, b, d = tripling(), 2.0, 4.0
    model, potential = orthorhombic(springs, sextic=np.full((3, 3), d))
    document = follow_with_potential(model, potential, relax=False)
    mode = next(one for one in document.modes if one.n_atoms == 3)
    alpha = sum(springs[n - 1, 0, 2] * np.sin(np.pi * n / 3) ** 2 for n in (1, 2, 3))
    beta, gamma = b / 4 * 3 / 8 * 9, d / 6 * 9 / 32 * 27
    square = (-beta + np.sqrt(beta**2 - 3 * alpha * gamma)) / (3 * gamma)
    depth = alpha * square + beta * square**2 + gamma * square**3
    mass = float(model.phonon.primitive.masses[0])
    assert (mode.multiplicity, mode.grid_shape, mode.exact, mode.n_symmetry) == (2, [21, 21], True, 12)
    (minimum,) = mode.minima
    assert np.linalg.norm(minimum.amplitudes) == pytest.approx(np.sqrt(1.5 * mass * square), rel=0.01)
    assert minimum.energy_ev_per_atom == pytest.approx(depth, rel=0.01)


def test_triply_degenerate_mode_at_gamma():
    # relative displacement s: E/pair = ½A s² + 6(¼b Σ s_c⁴ + ½g Σ s_c² s_c'²), lowest along [111] for g < b
    first, third, b, g = -0.2, 0.05, 2.0, 0.5
    model, potential = rocksalt(first=first, third=third, quartic=b, cross=g)
    options = FollowOptions(threshold_thz=3.5, grid=GridOptions(coarse=True))
    document = follow_with_potential(model, potential, relax=False, options=options)
    mode = next(one for one in document.modes if not one.skipped)
    assert (mode.label, mode.multiplicity, mode.n_atoms) == ("GAMMA", 3, 2)
    quadratic, quartic = 1.5 * 6 * (first + third), 4.5 * b + 9 * g
    t2 = -quadratic / (2 * quartic)
    masses = model.phonon.primitive.masses
    reduced = np.prod(masses) / np.sum(masses)
    (minimum,) = mode.minima
    assert np.abs(minimum.amplitudes) == pytest.approx([np.sqrt(reduced * t2)] * 3, rel=0.01)
    assert 2 * minimum.energy_ev_per_atom == pytest.approx(-(quadratic**2) / (4 * quartic), rel=0.01)
    # 48 operations of m-3m leave 35 of 9³ points, coarse grids fewer still
    assert mode.n_energies < 30
    assert mode.n_energies_plain == 729


def test_symmetry_and_coarse_grids_find_the_same_with_fewer_energies():
    model, potential = orthorhombic(tripling(), sextic=np.full((3, 3), 4.0))
    mode = min(find_imaginary_modes(model), key=lambda one: one.frequency_thz)
    space = mode_space(model.phonon, mode.q, mode.eigenvectors)
    choices = {"plain": {"symmetry": False}, "symmetry": {}, "coarse": {"coarse": True}}
    found = {
        name: run_survey(space, GridOptions(points=(11, 11, 5, 5), **choice), sampler(space, potential))
        for name, choice in choices.items()
    }
    assert found["plain"].n_energies >= 121 > found["symmetry"].n_energies > found["coarse"].n_energies
    for one in found.values():
        assert len(one.minima) == 1
        assert one.minima[0].energy == pytest.approx(found["plain"].minima[0].energy, rel=1e-3)
    # what symmetry fills in is what the plain grid calculates
    assert np.nanmax(np.abs(found["plain"].energies - found["symmetry"].energies)) < 1e-9


def test_played_again_from_answers_is_the_same_survey():
    model, potential = orthorhombic(doubling())
    mode = find_imaginary_modes(model)[0]
    space = mode_space(model.phonon, mode.q, mode.eigenvectors)
    options, history = GridOptions(coarse=True), []
    while not isinstance(state := advance(space, options, history), Survey):
        history.append(sampler(space, potential)(state))
    straight = run_survey(space, options, sampler(space, potential))
    assert len(history) > 2
    assert state.n_energies == straight.n_energies == sum(len(one) for one in history)
    assert np.array_equal(state.energies, straight.energies, equal_nan=True)
    assert state.minima[0].energy == straight.minima[0].energy


def test_harmonic_well_is_a_single_minimum():
    # an instability of the force constants that the energy does not have: interpolation artefacts look like this
    soft, _ = orthorhombic(doubling())
    _, stable = orthorhombic(np.abs(doubling()), quartic=1e-6)
    (mode,) = follow_with_potential(soft, stable, relax=True).modes
    assert mode.single_minimum is True
    assert mode.minima == []
    assert mode.pathways == []
    assert mode.fit_r2 > 0.9999


def test_range_is_widened_and_narrowed_to_the_minima():
    # u₀ = 1/(2√b): 0.71 Å and 0.035 Å, with a first guess of 0.4 Å
    for quartic in (0.5, 200.0):
        model, potential = orthorhombic(doubling(), quartic=quartic)
        (mode,) = follow_with_potential(model, potential, relax=False).modes
        mass = float(model.phonon.primitive.masses[0])
        (minimum,) = mode.minima
        place = abs(minimum.amplitudes[0])
        assert place == pytest.approx(0.5 / np.sqrt(quartic) * np.sqrt(2 * mass), rel=0.01)
        assert 0.25 * mode.amplitudes[-1] < place < 0.95 * mode.amplitudes[-1]


@pytest.mark.slow
def test_random_eigenvectors_of_degenerate_modes_lead_to_the_same_phases():
    # simple cubic germanium: two modes at M and three at R; phases by an empirical potential
    model, potential = germanium("sc", 2.8)
    generator = np.random.default_rng(11)
    modes = [mode for mode in find_imaginary_modes(model) if mode.label in ("M", "R")]
    assert sorted(len(mode.bands) for mode in modes) == [2, 3]
    from phonosmith.evaluation.modes.documents import GridMinimum
    from phonosmith.evaluation.modes.follow import initial_phase

    for mode in modes:
        seen = []
        for turn in range(3):
            size = len(mode.bands)
            mixed = generator.standard_normal((size, size)) + 1j * generator.standard_normal((size, size))
            rotation = np.eye(size) if turn == 0 else np.linalg.qr(mixed)[0]
            space = mode_space(model.phonon, mode.q, rotation @ mode.eigenvectors)
            found = run_survey(space, GridOptions(coarse=True), sampler(space, potential))
            starts = [
                GridMinimum(amplitudes=one.amplitudes.tolist(), energy_ev_per_atom=one.energy / len(space.atoms))
                for one in found.minima
            ]
            frames = [space.frame(one.amplitudes) for one in found.minima]
            ends = [pathway.final for pathway in relax_displaced(frames, starts, potential, initial_phase(model))]
            seen.append(
                sorted(
                    (end.space_group, end.n_atoms_primitive, round(end.energy_difference_ev_per_atom, 5))
                    for end in ends
                )
            )
            assert found.n_energies < 60
        assert seen[0] == seen[1] == seen[2]
        assert seen[0]


def test_stable_crystal_gives_a_clean_empty_document():
    phonon, constants = spring_crystal(n=2, transverse=0.3)
    phonon.force_constants = constants
    document = follow_with_potential(HarmonicModel(phonon, "symfc", "cubic"), None, method="none")
    assert document.modes == []
    assert document.phases == []
    assert document.n_energies == 0
    assert document.initial.space_group == "Pm-3m"


def test_what_is_not_followed_says_why():
    model, potential = orthorhombic(tripling())
    small = follow_with_potential(model, potential, options=FollowOptions(max_atoms=2), relax=False)
    assert {mode.n_atoms: mode.skipped for mode in small.modes}[2] is None
    assert any("no supercell of at most 2 primitive cells" in (mode.skipped or "") for mode in small.modes)
    smaller = [mode for mode, _ in plan_modes(model, FollowOptions(max_atoms=1))]
    assert any("has 2 atoms, more than the 1 allowed" in (mode.skipped or "") for mode in smaller)
    flat = FollowOptions(grid=GridOptions(points=(21,)))
    planned = [mode for mode, _ in plan_modes(model, flat)]
    assert any("grids are for up to 1 dimensions" in (mode.skipped or "") for mode in planned)


def test_bad_options_are_refused():
    for options in ({"points": (20,)}, {"points": ()}, {"displacement": 3.0}, {"smallest": 0.001}):
        with pytest.raises(InputError):
            GridOptions(**options)
    with pytest.raises(InputError):
        FollowOptions(max_atoms=0)


class Runaway:
    """A potential whose forces point uphill as soon as it is asked for stress too: relaxations fly apart."""

    def __init__(self, potential):
        self._potential, self.elements, self.architecture = potential, potential.elements, "runaway"

    def evaluate(self, frames, *, stress=True, progress=False):
        from phonosmith.potentials.base import Evaluation

        found = self._potential.evaluate(frames, stress=stress, progress=progress)
        if not stress:
            return found
        return [Evaluation(one.energy, -5 * one.forces - 0.5, -5 * one.stress - 1.0) for one in found]


def test_relaxation_that_diverges_is_recorded():
    model, potential = orthorhombic(doubling())
    document = follow_with_potential(model, Runaway(potential))
    assert document.method == "runaway"
    (mode,) = document.modes
    (pathway,) = mode.pathways
    assert pathway.converged is False
    assert pathway.note
    assert document.phases == []


def test_points_without_energy_are_walls():
    model, potential = orthorhombic(doubling())
    space = plan_modes(model, FollowOptions())[0][1]
    outermost = 1.5 * np.sqrt(4 / 32) * np.sqrt(2 * float(model.phonon.primitive.masses[0]))

    def sample(amplitudes):
        plain = sampler(space, potential)(amplitudes)
        return [
            Sample(None) if abs(point[0]) > outermost else one for point, one in zip(amplitudes, plain, strict=True)
        ]

    found = run_survey(space, GridOptions(displacement=0.8), sample)
    assert np.isnan(found.energies[0])
    assert found.minima[0].energy / 2 == pytest.approx(-0.125, rel=1e-3)
    with pytest.raises(InputError, match="undisplaced"):
        run_survey(space, GridOptions(), lambda amplitudes: [Sample(None)] * len(amplitudes))


def test_overlapping_atoms_and_broken_results_are_not_used():
    model, _ = rocksalt()
    space = plan_modes(model, FollowOptions())[0][1]
    masses = model.phonon.primitive.masses
    # ions 3 Å apart move towards each other by 0.2 and by 2 Å
    weight = np.sqrt(np.prod(masses) / np.sum(masses))
    cells = displaced_cells(space, weight * np.array([[0.0, 0, 0], [0.2, 0, 0], [2.0, 0, 0]]))
    assert list(cells) == [0, 1]
    assert to_sample(space, np.nan, np.zeros((2, 3))) == to_sample(space, None, None) == Sample(None)
    assert to_sample(space, 1.0, np.full((2, 3), np.nan)) == Sample(1.0, None)


def test_fit_tells_parabolas_from_wells():
    axis = np.linspace(-1, 1, 9)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    assert parabola_r2(axis, 2 * x**2 + x * y + 3 * y**2) == pytest.approx(1.0)
    assert parabola_r2(axis, x**4 - x**2) < 0.6
    assert parabola_r2(axis, np.full(9, np.nan)) is None


def test_interpolation_stays_at_the_grid_point_where_it_cannot_know():
    point = np.array([1.0])
    lone = [(point, -1.0, None)]
    assert interpolated_minimum(point, -1.0, lone, 0.1)[0] == pytest.approx(point)
    # the parabola through these has its minimum at 1.025
    three = [(np.array([value]), (value - 1.025) ** 2, None) for value in (0.9, 1.0, 1.1)]
    place, energy = interpolated_minimum(point, 0.025**2, three, 0.1)
    assert place == pytest.approx([1.025])
    assert energy == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dimension", [1, 2, 3, 4])
@pytest.mark.parametrize("radius", [0.1, 0.3, 0.9])
def test_coarse_grids_find_the_well_of_any_size_in_any_dimension(dimension, radius):
    from ase import Atoms

    from phonosmith.evaluation.modes.supercell import ModeSpace

    # E = Σ (Q_k⁴ - 2 r² Q_k²): wells at Q_k = ±r, depth d r⁴, known apart from any crystal
    patterns = np.eye(6)[:dimension].reshape(dimension, 2, 3)
    signs = np.array(np.meshgrid(*[[1, -1]] * dimension)).reshape(dimension, -1).T
    atoms = Atoms("Si2", positions=[[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True)
    space = ModeSpace(atoms, np.eye(3, dtype=int), patterns, np.ones(2), np.array([np.diag(row) for row in signs]))

    def sample(amplitudes):
        return [
            Sample(float((q**4 - 2 * radius**2 * q**2).sum()), tuple(4 * q**3 - 4 * radius**2 * q)) for q in amplitudes
        ]

    found = run_survey(space, GridOptions(coarse=True), sample)
    assert len(found.minima) == 1
    # a polynomial of fourth degree is what the box determines
    assert np.abs(found.minima[0].amplitudes) == pytest.approx([radius] * dimension, rel=1e-3)
    assert found.minima[0].energy == pytest.approx(-dimension * radius**4, rel=1e-3)
    assert found.n_energies < found.n_plain
