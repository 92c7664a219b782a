import pytest

from phonosmith.evaluation.phonons.committee import Interval
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononSide
from phonosmith.evaluation.verdict import Thresholds, Verdict, judge, judge_production
from phonosmith.settings import Settings

SIDE = {
    "omega_min_thz": 0.0, "omega_max_thz": 15.0, "omega_mean_thz": 8.0, "heat_capacity": 40.0, "entropy": 38.0,
    "free_energy": 5.0, "volume": 40.0, "n_imaginary_commensurate": 0, "stable": True, "n_imaginary_practical": 0,
    "stable_practical": True, "imaginary_share": 0.0, "asr_residual": 0.0, "space_group": "Fd-3m",
    "space_group_number": 227,
}  # fmt: skip


def comparison(mae=0.05, omega_max=-1.0, same=True, **candidate):
    return PhononComparison.model_construct(
        mae_thz=mae,
        omega_max_error_percent=omega_max,
        same_space_group=same,
        reference=PhononSide(**SIDE),
        candidate=PhononSide(**(SIDE | candidate)),
    )


def test_a_good_potential_is_fit_and_the_limits_are_recorded():
    verdict = judge(comparison(), Thresholds.of(Settings()))
    assert verdict.fit
    assert verdict.reasons == []
    assert verdict.thresholds["phonon_mae_thz"] == Settings().verdict_phonon_mae_thz


@pytest.mark.parametrize(
    ("changed", "code", "word", "value", "threshold"),
    [
        (comparison(mae=0.2), "phonon_mae", "phonon MAE", 0.2, Settings().verdict_phonon_mae_thz),
        (comparison(omega_max=4.0), "omega_max", "highest frequency", 4.0, Settings().verdict_omega_max_percent),
        (comparison(omega_max=-4.0), "omega_max", "highest frequency", -4.0, Settings().verdict_omega_max_percent),
        (comparison(heat_capacity=41.0), "heat_capacity", "heat capacity", 2.5, Settings().verdict_thermal_percent),
        (comparison(entropy=36.0), "entropy", "entropy", -100 * 2 / 38, Settings().verdict_thermal_percent),
        (comparison(stable_practical=False), "stability", "unstable crystal", None, None),
        (comparison(same=False, space_group="P1"), "space_group", "relaxes to P1", None, None),
    ],
)
def test_each_reason_alone_is_enough_and_has_a_code_with_its_numbers(changed, code, word, value, threshold):
    verdict = judge(changed, Thresholds.of(Settings()))
    assert not verdict.fit
    (reason,) = verdict.details
    assert verdict.reasons == [reason.message]
    assert word in reason.message
    assert (reason.code, reason.threshold) == (code, threshold)
    assert reason.value == (None if value is None else pytest.approx(value, rel=1e-12))


def test_verdicts_from_before_there_were_codes_are_read():
    old = Verdict.model_validate({"fit": False, "reasons": ["phonon MAE 0.2"], "thresholds": {}, "@class": "Verdict"})
    assert (old.reasons, old.details) == (["phonon MAE 0.2"], [])


def test_worse_than_the_foundation_or_untrained_is_never_fit():
    assert (
        "worse than the foundation"
        in judge(comparison(mae=0.08), Thresholds.of(Settings()), comparison(mae=0.07)).reasons[0]
    )
    assert not judge(comparison(), Thresholds.of(Settings()), improved=False).fit
    # sums in another order are no difference
    assert judge(comparison(mae=0.07 + 4e-13), Thresholds.of(Settings()), comparison(mae=0.07)).fit


def test_thresholds_come_from_the_settings():
    assert judge(comparison(mae=0.2), Thresholds.of(Settings(verdict_phonon_mae_thz=0.3))).fit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"valid_force_mae": 20.1}, "validation force MAE 20.1"),
        ({"valid_force_mae": None}, "no validation errors"),
        ({"phonon_change_thz": 0.051}, "still move"),
        ({"phonon_change_thz": None}, "convergence is unknown"),
        ({"check_percent": 5.1}, "displaced cells"),
        ({"check_percent": float("nan")}, "displaced cells"),
        ({"improved": False}, "did not lower"),
        ({"stable": False}, "imaginary"),
    ],
)
def test_without_reference_phonons_each_reason_speaks_alone(change, words):
    good = {"valid_force_mae": 19.9, "phonon_change_thz": 0.049, "check_percent": 4.9, "improved": True, "stable": True}
    verdict = judge_production(Thresholds.of(Settings()), **(good | change))
    assert verdict.fit == (words is None)
    assert [words in reason for reason in verdict.reasons] == ([] if words is None else [True])
    assert [reason.message for reason in verdict.details] == verdict.reasons


def test_fit_needs_the_upper_end_of_what_a_committee_leaves_open():
    limits = Thresholds.of(Settings())
    inside, beyond = (Interval(low=0.04, high=high) for high in (limits.phonon_mae_thz, limits.phonon_mae_thz + 1e-3))
    assert judge(comparison(), limits, expected=inside).fit
    (reason,) = judge(comparison(), limits, expected=beyond).details
    assert (reason.code, reason.value, reason.threshold) == ("mae_uncertain", beyond.high, limits.phonon_mae_thz)
    assert "committee" in reason.message
    # an error that exceeds the limit itself says enough
    assert [one.code for one in judge(comparison(mae=0.2), limits, expected=beyond).details] == ["phonon_mae"]
    good = {"valid_force_mae": 5.0, "phonon_change_thz": 0.01, "check_percent": 1.0}
    assert judge_production(limits, expected=inside, **good).fit
    verdict = judge_production(limits, expected=beyond, **good)
    assert [one.code for one in verdict.details] == ["mae_uncertain"]
    assert verdict.thresholds["phonon_mae_thz"] == limits.phonon_mae_thz
