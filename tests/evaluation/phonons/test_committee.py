"""Committees: deviations of a crystal whose frequencies are known, and intervals that hold as often as said."""

import numpy as np
import pytest

from helpers.model_crystals import spring_crystal, spring_frequencies
from phonosmith.core.errors import InputError, MismatchError
from phonosmith.evaluation.phonons import committee as c
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.harmonic.model import HarmonicModel

STIFF = (2.8, 3.0, 3.3)
"""Springs of three members, eV/Å²; the truth has 3.1."""


def crystal(longitudinal, **changes):
    phonon, constants = spring_crystal(3, longitudinal=longitudinal, transverse=0.25 * longitudinal, **changes)
    phonon.force_constants = constants
    return HarmonicModel(phonon, "given", "springs")


@pytest.fixture(scope="module")
def members():
    return {f"s{i}": crystal(stiff) for i, stiff in enumerate(STIFF)}


def test_standard_deviations_are_those_of_the_known_frequencies(members):
    found = c.committee_in_full(members, mesh=3)
    known = np.array([spring_frequencies(found.mesh.qpoints, longitudinal=k, transverse=0.25 * k) for k in STIFF])
    # phonopy's constants of nature differ by 1e-7; a nearly vanishing eigenvalue leaves 1e-6 THz at Γ
    assert found.frequencies == pytest.approx(known, rel=1e-6, abs=1e-5)
    assert found.std == pytest.approx(known.std(axis=0, ddof=1), abs=1e-5)
    result, share = found.result, found.mesh.weights / found.mesh.weights.sum()
    assert result.std_thz == pytest.approx((share @ known.std(axis=0, ddof=1)).mean(), abs=1e-5)
    assert np.mean(result.branch_std_thz) == pytest.approx(result.std_thz)
    assert result.largest_std_thz == pytest.approx(found.std.max())
    assert found.std[:, result.largest_branch - 1].max() == pytest.approx(result.largest_std_thz)
    pairs = [compare_phonons(members[a], members[b], 3).mae_thz for a, b in (("s0", "s1"), ("s0", "s2"), ("s1", "s2"))]
    assert result.disagreement_thz == pytest.approx(np.mean(pairs))
    assert result.basis == "disagreement"
    assert result.mae_thz.high == pytest.approx(c.MAE_FACTORS[1] * np.mean(pairs))


def test_with_a_reference_errors_are_those_of_the_comparison(members):
    truth = crystal(3.1)
    result = c.committee_in_full(members, truth, mesh=3).result
    compared = [compare_phonons(truth, model, 3) for model in members.values()]
    assert result.member_mae_thz == pytest.approx([one.mae_thz for one in compared])
    assert result.mae_thz.low < min(result.member_mae_thz) < max(result.member_mae_thz) < result.mae_thz.high
    tops = [one.candidate.omega_max_thz for one in compared]
    assert result.omega_max_thz.low < min(tops) < max(tops) < result.omega_max_thz.high


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("spread", [None, 0.12])
def test_an_interval_holds_one_more_value_as_often_as_it_says(count, spread):
    """Of values of one spread; of errors where spreads vary as one value of experience says (inverse chi-squared)."""
    rng = np.random.default_rng(0)
    spreads = np.full(4000, 0.4) if spread is None else spread / np.sqrt(rng.chisquare(1, 4000))
    drawn = rng.normal(-3.0, spreads[:, None], (4000, count + 1))
    # errors below the least one would be lifted
    drawn = drawn if spread is None else np.exp(drawn.clip(-13, 50))
    held = [c.another_training(row[:-1], spread) for row in drawn]
    share = np.mean([one.low <= row[-1] <= one.high for one, row in zip(held, drawn, strict=True)])
    # a share of 4000 draws has a standard error of 0.006
    assert share == pytest.approx(c.COVERAGE, abs=0.02)


def test_two_trainings_that_agree_do_not_promise_a_third():
    found = c.another_training([0.05, 0.05], 0.12)
    assert found.high / 0.05 == pytest.approx(0.05 / found.low)
    # Student's quantile of two degrees of freedom, 1.886, by the spread over the root of two and of 1 + 1/2
    assert np.log(found.high / 0.05) == pytest.approx(1.8856 * 0.12 / np.sqrt(2) * np.sqrt(1.5), rel=1e-4)


def test_what_is_no_committee(members):
    with pytest.raises(InputError, match="no committee"):
        c.committee_in_full({"alone": crystal(3.0)})
    with pytest.raises(MismatchError):
        c.committee_in_full(members | {"other": crystal(3.0, symbol="Cu")}, mesh=3)


def test_disagreement_of_forces_by_hand():
    near, far = np.array([[0, 0, 0], [1, 0, 0]]), np.array([[0, 0, 0], [0, 3, 4]])
    # two members, strengths 1 and 3: the standard deviation of each component is √2 times the position
    forces = [[strength * near, strength * far] for strength in (1.0, 3.0)]
    assert c.force_disagreement(forces) == pytest.approx([1.0, 5.0])
