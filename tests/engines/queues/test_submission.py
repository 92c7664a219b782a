"""Submissions to both queues: material by material, resumable, one at a time; what they find there."""

import threading
from collections import Counter

import pytest
from jobflow import Flow
from pymongo.collection import Collection

from phonosmith.core.errors import ConfigurationError
from phonosmith.engines.queues import turns
from phonosmith.engines.queues.fireworks import submit_fireworks


def uuids(opened):
    return Counter(job.uuid for job in opened.all_jobs())


def test_every_material_is_a_flow_of_its_own_and_shown_when_it_is_through(submitting, study):
    submit, opened = submitting
    seen = []
    done = submit(study(), show=lambda number, words: seen.append((number, words)))
    assert (done.n_new, len(done.ids)) == (6, 6)
    assert seen == [(1, "study m0"), (2, "study m1"), (3, "study m2")]
    assert len({job.submission for job in opened.all_jobs()}) == 3
    assert opened.database["phonosmith_turn"].find_one()["owner"] is None


def test_two_submissions_at_once_put_every_job_there_once(submitting, study):
    submit, opened = submitting
    answers = []
    both = [threading.Thread(target=lambda: answers.append(submit(study(4)))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted((done.n_new, done.n_queued) for done in answers) == [(0, 8), (8, 0)]
    assert set(uuids(opened).values()) == {1}
    assert len(uuids(opened)) == 8


def test_what_was_half_added_when_a_submission_was_killed_is_added_once(submitting, study, monkeypatch):
    """Both engines write a flow in two steps; here the process ends between them, without another word."""
    submit, opened = submitting
    monkeypatch.setattr(turns, "DEAD_AFTER_S", 0.5)
    name, method = "workflows", "insert_one"
    if opened.engine == "jobflow-remote":
        name, method = opened.controller.jobs.name, "insert_many"
    plain, before = getattr(Collection, method), iter(range(99))

    def dying(self, *args, **options):
        if self.name == name and next(before) == 1:
            raise SystemExit
        return plain(self, *args, **options)

    monkeypatch.setattr(Collection, method, dying)
    with pytest.raises(SystemExit):
        submit(study())
    monkeypatch.setattr(Collection, method, plain)
    left = opened.database["phonosmith_turn"]
    left.update_one({}, {"$set": {"owner": "somebody killed"}})
    assert len(left.find_one()["adding"]) == 2
    said = []
    done = submit(study(), show=lambda _, words: said.append(words))
    assert said[0].startswith("waiting for the submission of ")
    assert (done.n_new, done.n_queued) == (4, 2)
    assert set(uuids(opened).values()) == {1}
    assert len(uuids(opened)) == 6
    assert submit(study()).n_new == 0


def test_a_submission_that_lost_its_turn_adds_nothing_more(submitting, study):
    submit, opened = submitting

    def show(number, _):
        opened.database["phonosmith_turn"].update_one({}, {"$set": {"owner": "another"}})

    with pytest.raises(ConfigurationError, match="took over"):
        submit(study(), show=show)
    assert len(uuids(opened)) == 2


def test_jobs_made_by_jobs_that_failed_are_named(submitting):
    """They are in no flow that is made at submission."""
    import routed_jobs as jobs

    submit, opened = submitting

    def campaign():
        start = jobs.named(jobs.fan_out("si"), "label si start")
        return Flow([start], name="study si")

    submit(campaign())
    (start,) = opened.all_jobs()
    made = {"uuid": "made-by-it", "name": "label si 07", "state": "FAILED"}
    if opened.engine == "fireworks":
        known = opened.launchpad.fireworks.find_one({})
        known.pop("_id")
        task = known["spec"]["_tasks"][0]["job"]
        task.update(uuid=made["uuid"], hosts=["inner", start.submission])
        opened.launchpad.fireworks.insert_one(known | {"fw_id": 99, "name": made["name"], "state": "FIZZLED"})
    else:
        known = opened.controller.jobs.find_one({})
        known.pop("_id")
        known["job"].update(uuid=made["uuid"], name=made["name"], hosts=["inner", start.submission])
        opened.controller.jobs.insert_one(known | {"uuid": made["uuid"], "db_id": "99", "state": "FAILED"})
    done = submit(campaign())
    assert (done.n_new, done.n_queued, done.failed) == (0, 1, ["label si 07"])


def test_workers_that_run_offline_are_refused(cluster, study, monkeypatch):
    from fireworks import LaunchPad

    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(cluster.jobflow_yaml()))
    path = cluster.fireworks()
    launchpad = LaunchPad.from_file(str(path))
    launchpad.reset("", require_password=False)
    launchpad.offline_runs.insert_one({"completed": False, "deprecated": False})
    with pytest.raises(ConfigurationError, match="1 jobs of this launchpad were started offline"):
        submit_fireworks(study(), cluster.routing(), path)
    adapter = path.parent / "qadapter_dft.yaml"
    adapter.write_text(adapter.read_text().replace("singleshot", "singleshot --offline"))
    with pytest.raises(ConfigurationError, match="--offline cannot be used"):
        submit_fireworks(study(), cluster.routing(), path)
