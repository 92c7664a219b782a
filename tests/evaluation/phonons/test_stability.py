"""Stability at commensurate points, translations at Γ, and the confusion matrix of the published study."""

import math

import numpy as np
import pytest
import yaml
from phonopy.structure.atoms import PhonopyAtoms

from helpers.model_crystals import spring_crystal, spring_frequencies
from phonosmith.core.errors import InputError
from phonosmith.core.units import THZ_PER_SQRT_EV_PER_A2_AMU
from phonosmith.evaluation.phonons.stability import (
    StabilityConfusion,
    commensurate_qpoints,
    confusion,
    gamma_modes,
    judge_stability,
)
from phonosmith.harmonic.files import load_harmonic
from phonosmith.harmonic.matching import primitive_supercell_matrix
from phonosmith.harmonic.model import HarmonicModel, new_phonon


def cubic_model(**options):
    phonon, constants = spring_crystal(**options)
    phonon.force_constants = constants
    return HarmonicModel(phonon, "symfc", "cubic")


def test_commensurate_points_repeat_with_the_supercell(shared):
    model = load_harmonic(shared / "data/vasp_pbe_phonons/dft/mp-14017.phonopy.yaml.xz", fc_calculator="traditional")
    points, matrix = commensurate_qpoints(model), primitive_supercell_matrix(model)
    assert len(points) == round(abs(np.linalg.det(matrix))) == 32
    assert points[0] == pytest.approx([0, 0, 0])
    phases = points @ matrix.T
    assert np.abs(phases - np.rint(phases)).max() < 1e-9
    distinct = {tuple(np.rint(1e6 * (point % 1)) % 1e6) for point in points}
    assert len(distinct) == len(points)


def test_stable_model_has_its_lowest_mode_where_the_closed_form_has_it():
    verdict = judge_stability(cubic_model(n=4))
    expected = spring_frequencies([[0.25, 0, 0]])[0, 0]
    assert verdict.stable
    assert verdict.stable_practical
    assert verdict.n_qpoints == 64
    assert verdict.omega_min_thz == pytest.approx(expected, rel=2e-6)
    assert verdict.acoustic_gamma_thz == pytest.approx([0, 0, 0], abs=1e-5)


def test_unstable_model_is_counted_mode_by_mode():
    # a negative transverse spring makes transverse modes imaginary: count the closed form at the same points
    verdict = judge_stability(cubic_model(n=2, transverse=-0.2))
    grid = np.array([[i, j, k] for i in (0, 0.5) for j in (0, 0.5) for k in (0, 0.5)])
    assert verdict.n_imaginary == int((spring_frequencies(grid, transverse=-0.2) < -1e-4).sum()) > 0
    assert not verdict.stable


def test_thresholds_are_told_apart():
    # a transverse spring of -1e-7 eV/Å² gives imaginary modes between the strict and the practical threshold
    verdict = judge_stability(cubic_model(n=2, transverse=-1e-6))
    assert verdict.n_imaginary > 0
    assert not verdict.stable
    assert verdict.stable_practical
    with pytest.raises(InputError, match="not be negative"):
        judge_stability(cubic_model(n=2), strict_thz=-1)


def test_translations_at_gamma_do_not_count():
    # a uniform pull breaks the sum rule: rigid translations become imaginary, nothing else does
    phonon, constants = spring_crystal(n=2)
    for i in range(len(constants)):
        constants[i, i] -= 0.05 * np.eye(3)
    phonon.force_constants = constants
    verdict = judge_stability(HarmonicModel(phonon, "traditional", "pulled"))
    assert max(verdict.acoustic_gamma_thz) < -0.5
    assert verdict.stable


def test_optical_modes_at_gamma_count():
    # two atoms that repel their own displacement: ω² = -k/μ three times, translations at rest
    unit = PhonopyAtoms(symbols=["Na", "Cl"], cell=np.eye(3) * 4, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]])
    phonon = new_phonon(unit, [1, 1, 1], np.eye(3))
    spring = 0.7 * np.eye(3)
    phonon.force_constants = np.array([[-spring, spring], [spring, -spring]])
    model = HarmonicModel(phonon, "symfc", "pair")
    acoustic, optical = gamma_modes(model)
    reduced = np.prod(unit.masses) / np.sum(unit.masses)
    assert acoustic == pytest.approx([0, 0, 0], abs=1e-6)
    assert optical == pytest.approx([-THZ_PER_SQRT_EV_PER_A2_AMU * np.sqrt(0.7 / reduced)] * 3, rel=2e-6)
    assert judge_stability(model).n_imaginary == 3


def test_translations_mixed_into_optical_modes_do_not_count(shared):
    # direct force constants of AgTe3 obey the sum rule over one index only: translations couple to optical modes and
    # the plain dynamical matrix at Γ has the published -0.356 THz, which no motion of the atoms against each other has
    file = shared / "data/vasp_pbe_phonons/mace_mp_0b3/mp-28246.phonopy.yaml.xz"
    model = load_harmonic(file, fc_calculator="traditional")
    model.phonon.run_qpoints([[0, 0, 0]])
    plain = model.phonon.get_qpoints_dict()["frequencies"][0]
    assert plain.min() == pytest.approx(-0.3558307761067532, rel=1e-4)
    assert gamma_modes(model)[1].min() > 1
    assert judge_stability(model).stable
    assert model.asr_residual > 1e-2


def test_published_confusion_matrices(shared):
    table = yaml.safe_load((shared / "reference/grandel2026_tables.yaml").read_text())["table3_stability"]
    assert len(table) == 5
    for name, row in table.items():
        published = {key: row.pop(key) for key in ("precision", "recall")}
        counts = StabilityConfusion(**row)
        assert round(100 * counts.precision) == published["precision"], name
        assert round(100 * counts.recall) == published["recall"], name
        assert counts.true_stable + counts.stable_called_unstable == 44
        assert counts.true_unstable + counts.unstable_called_stable == 9


def test_every_cell_of_the_matrix():
    reference = [True, True, True, False, False, False, False]
    predicted = [True, True, False, True, False, False, False]
    found = confusion(reference, predicted)
    assert found == StabilityConfusion(
        true_stable=2, stable_called_unstable=1, unstable_called_stable=1, true_unstable=3
    )
    assert found.precision == 0.75
    assert found.recall == 0.75


def test_undefined_ratios_are_nan():
    nothing = confusion([True], [True])
    assert math.isnan(nothing.precision)
    assert math.isnan(nothing.recall)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        confusion([True, False], [True])
    with pytest.raises(InputError, match="negative"):
        StabilityConfusion(1, -1, 0, 0)
