"""What committees of seeds do to verdicts, in tables, on the page and in the status alike."""

import pytest
from jobflow import Job

from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.analysis.committees import ANY, CommitteeReport, SeedCommittee, groups_of, with_expected
from phonosmith.analysis.queries import read_results
from phonosmith.analysis.status import read_status
from phonosmith.analysis.tables import campaign_tables
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.phonons.committee import Committee, Interval, another_training
from phonosmith.report.page.potential_tables import potentials_table
from phonosmith.report.page.reading import read_reports


@pytest.fixture(scope="module")
def reports():
    return synthetic_reports(2, sizes=(10,))


@pytest.fixture
def store(tmp_path, reports):
    opened = open_embedded_jobstore(tmp_path / "store.sqlite")
    store_reports(opened, reports)
    return opened


def put_committee(store, report, entry, interval):
    committee = Committee.model_construct(members=["s0", "s1"], mae_thz=interval)
    members = [
        SeedCommittee.model_construct(
            strategy=strategy,
            n_train=10,
            seeds=[0, 1],
            potentials=[entry.potential.sha256],
            committee=one,
            force_std=[],
        )
        # the committee of all strategies judges nobody
        for strategy, one in (
            (entry.strategy, committee),
            (ANY, Committee.model_construct(mae_thz=Interval(low=0, high=9))),
        )
    ]
    document = CommitteeReport.model_construct(
        material=report.material, campaign=report.campaign, committees=members, manifest=report.manifest
    )
    job = Job(CommitteeReport.model_copy, function_args=(document,), output_schema=CommitteeReport)
    job.name = f"committee {report.material.lower()}"
    job.run(store=store)


def test_an_interval_beyond_the_limit_takes_the_verdict_back_everywhere(store, reports):
    before = read_reports(store).reports
    report, entry = next((r, e) for r in before for e in r.strategies if e.verdict.fit)
    limit = entry.verdict.thresholds["phonon_mae_thz"]
    n_fit = read_status(store).materials[report.material.lower()].n_fit
    assert "committees" not in [table.key for table in campaign_tables(store).tables]
    for high, fit in ((limit, True), (limit + 0.01, False)):
        put_committee(store, report, entry, Interval(low=0.01, high=high))
        (judged,) = [
            one
            for other in read_reports(store).reports
            for one in other.strategies
            if (other.material, one.potential.sha256) == (report.material, entry.potential.sha256)
        ]
        assert judged.verdict.fit is fit
        assert [one.code for one in judged.verdict.details] == [] if fit else ["mae_uncertain"]
        rows = read_results(store).potentials
        (row,) = rows[
            (rows["material"] == report.material) & (rows["potential_sha256"] == entry.potential.sha256)
        ].to_dict("records")
        assert (row["phonon_mae_low_thz"], row["phonon_mae_high_thz"], row["fit"]) == (0.01, high, fit)
        assert read_status(store).materials[report.material.lower()].n_fit == n_fit - (not fit)
    (table,) = [table for table in campaign_tables(store).tables if table.key == "committees"]
    assert table.data["phonon_mae_high_thz"].tolist() == [high]
    page = potentials_table(
        with_expected(report, {(report.material, entry.potential.sha256): Interval(low=0, high=high)})
    )
    assert any("committee leaves open" in column for column in page.columns)


def test_members_are_trainings_of_one_kind_that_learned_something(reports):
    first = reports[0]
    second = first.model_copy(update={"seed": 1})
    groups = groups_of([first, second])
    assert groups.keys() == {(one.strategy, one.n_train) for one in first.strategies} | {(ANY, None)}
    assert all(sorted({seed for seed, _ in members}) == [0, 1] for members in groups.values())
    handed_back = [one.model_copy(update={"improved": False}) for one in second.strategies]
    assert groups_of([first, second.model_copy(update={"strategies": handed_back})]).keys() <= {(ANY, None)}


def test_two_seeds_say_little_and_more_say_more():
    few, many = (another_training([0.05, 0.06] * count, 0.12) for count in (1, 4))
    assert many.high < few.high
