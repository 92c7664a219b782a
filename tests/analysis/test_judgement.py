"""Verdicts by the limits that hold now: from whole reports and from projections alike."""

import pytest

from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.analysis.judgement import rejudged
from phonosmith.analysis.queries import read_results
from phonosmith.evaluation.verdict import unfit
from phonosmith.report.page.reading import read_reports
from phonosmith.settings import get_settings


def entries(report):
    return [report.foundation, *report.strategies]


def with_limits(monkeypatch, **limits):
    for name, value in limits.items():
        monkeypatch.setenv(f"PHONOSMITH_{name.upper()}", str(value))
    get_settings.cache_clear()


@pytest.fixture(params=["comparison", "production"])
def made(request):
    return synthetic_reports(4, sizes=(5, 10), mode=request.param)


def test_by_the_same_limits_every_verdict_is_the_one_that_was_given(made):
    for report in made:
        assert [one.verdict for one in entries(rejudged(report))] == [one.verdict for one in entries(report)]


@pytest.mark.parametrize(
    "limits",
    [
        {"verdict_phonon_mae_thz": 0.02},
        {"verdict_phonon_mae_thz": 9.0, "verdict_omega_max_percent": 90.0, "verdict_thermal_percent": 90.0},
        {"production_force_mae": 0.1},
        {"production_change_thz": 5.0, "production_force_mae": 900.0},
    ],
)
def test_other_limits_reach_the_page_and_the_tables_alike(job_store, made, monkeypatch, limits):
    store_reports(job_store, made)
    with_limits(monkeypatch, **limits)
    stored = read_reports(job_store).reports
    for report in stored:
        # no phonons of the reference: judged by the other rule, with its own limits
        rule = "verdict" if report.mode == "comparison" else "production"
        shown = entries(report)[-1].verdict.thresholds
        names = {"verdict_phonon_mae_thz": "phonon_mae_thz", "production_force_mae": "force_mae_mev_per_angstrom"}
        for name, value in limits.items():
            if name.startswith(rule) and name in names:
                assert shown[names[name]] == value
    rows = read_results(job_store).potentials
    found = {(row["material"], row["potential_sha256"]): row["fit"] for row in rows.to_dict("records")}
    expected = {(r.material, one.potential.sha256): one.verdict.fit for r in stored for one in entries(r)}
    assert found == expected


def test_limits_decide_and_those_of_the_campaign_go_first(job_store, monkeypatch):
    made = synthetic_reports(3, ("delta",))
    sound = [one for report in made for one in report.strategies if one.phonons.candidate.stable_practical]
    store_reports(job_store, made)
    wide = {"verdict_phonon_mae_thz": 9.0, "verdict_omega_max_percent": 90.0, "verdict_thermal_percent": 90.0}
    with_limits(monkeypatch, **wide)
    before = read_results(job_store).potentials["fit"].sum()
    assert before >= len(sound) > 0
    with_limits(monkeypatch, verdict_phonon_mae_thz=1e-6)
    assert read_results(job_store).potentials["fit"].sum() == 0
    # a campaign that says what is good enough for it is not overruled by the installation it is read on
    own = [report.model_copy(update={"limits": {"phonon_mae_thz": 9.0}}) for report in made]
    store_reports(job_store, own)
    assert read_results(job_store).potentials["fit"].sum() == before
    (first, *_) = read_reports(job_store).reports
    assert first.foundation.verdict.thresholds["phonon_mae_thz"] == 9.0


def test_what_no_limit_decided_stays(monkeypatch):
    (report,) = synthetic_reports(1, ("delta",))
    lost = report.strategies[0].model_copy(
        update={"verdict": unfit("mismatch", "cannot be compared: other cell"), "phonons": None}
    )
    with_limits(monkeypatch, verdict_phonon_mae_thz=9.0)
    (kept,) = rejudged(report.model_copy(update={"strategies": [lost]})).strategies
    assert kept.verdict == lost.verdict
