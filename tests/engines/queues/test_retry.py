"""``retry`` in real queues: what came late is in everything that was made without it, and nothing else runs again."""

import contextlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from phonosmith.analysis.status import read_status
from phonosmith.core.errors import InputError
from phonosmith.core.failures import read_failures
from phonosmith.core.identity import fix_identities
from phonosmith.engines.queues import fireworks, remote
from phonosmith.engines.queues.fireworks import retry_fireworks
from phonosmith.engines.queues.jobs import QueuedJob
from phonosmith.engines.queues.remote import retry_remote
from phonosmith.engines.queues.retrying import plan_retry
from phonosmith.engines.queues.watching import look
from phonosmith.flows.routing import route

MODULE = """
import os
from pathlib import Path
from jobflow import Flow, JobConfig, OnMissing, Response, job
from phonosmith.core.reuse import reused

def note(text):
    with open(os.environ["QUEUE_NOTES"], "a") as handle:
        handle.write(text + "\\n")

def named(member, name):
    member.name = name
    member.metadata["material"] = "si"
    return member

@job
def label(number):
    note(f"label {number}")
    if number == 1 and Path(os.environ["QUEUE_NOTES"] + ".broken").exists():
        raise ValueError("not this one")
    return number

@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def collect(values, fewest=0):
    note("collect")
    found = [value for value in values if value is not None]
    if len(found) < fewest:
        raise ValueError("too few")
    return found

@job
def start(fewest):
    note("start")
    labels = [named(label(number), f"label si 0{number}") for number in range(3)]
    last = named(collect([one.output for one in labels], fewest), "label si collect")
    return Response(replace=Flow([*labels, last], output=last.output))

@job
def audit(values):
    note("audit")
    return sum(values)

@job
def train(total, part=1):
    note(f"train part {part}")
    if part == 2:
        return total * 10
    # what was stopped once goes on in another job
    return Response(replace=named(train(total, 2), "train si part 2"))

@job
def other():
    note("phonon")
    return 7

@job(config=JobConfig(expose_store=True))
@reused("label")
def expensive(data, label):
    note("expensive")
    return data * 10

def work(label):
    first = named(audit([1, 2] if label == "few" else [1, 1, 1]), "audit ge " + label)
    return Flow([first, named(expensive(first.output, label), "train ge " + label)])

def flow(fewest):
    first = named(start(fewest), "label si start")
    second = named(audit(first.output), "audit si")
    third = named(train(second.output), "train si")
    aside = named(other(), "phonon si reference")
    last = named(collect([second.output, third.output, aside.output]), "report si")
    return Flow([first, second, third, aside, last]), last
"""


@pytest.fixture
def work(cluster, monkeypatch):
    """Return the module of jobs and a counter of what ran; label 1 fails until its mark is gone."""
    (cluster.folder / "queue_jobs.py").write_text(MODULE)
    notes = cluster.folder / "notes"
    notes.touch()
    monkeypatch.setenv("QUEUE_NOTES", str(notes))
    cluster.environment["QUEUE_NOTES"] = str(notes)
    mark = Path(f"{notes}.broken")
    mark.touch()
    sys.modules.pop("queue_jobs", None)
    import queue_jobs

    def ran():
        return Counter(notes.read_text().splitlines())

    yield queue_jobs, ran, mark
    sys.modules.pop("queue_jobs", None)


class FireWorks:
    def __init__(self, cluster, monkeypatch):
        from fireworks import LaunchPad

        monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(cluster.jobflow_yaml()))
        self.cluster, self.path = cluster, cluster.fireworks()
        self.launchpad = LaunchPad.from_file(str(self.path))
        self.launchpad.reset("", require_password=False)
        self.store = cluster.job_store()
        (cluster.folder / "launch").mkdir()
        monkeypatch.chdir(cluster.folder / "launch")

    def submit(self, flow, external=False):
        from jobflow.managers.fireworks import flow_to_workflow

        routed = route(flow, self.cluster.routing(), "fireworks")
        self.launchpad.add_wf(flow_to_workflow(routed, store=self.store, allow_external_references=external))

    def run(self):
        from fireworks import FWorker
        from fireworks.core.rocket_launcher import rapidfire

        worker = FWorker(name="all", category=["dft", "gpu", "inference"])
        rapidfire(self.launchpad, fworker=worker, nlaunches=0, sleep_time=0, strm_lvl="CRITICAL")

    def states(self):
        return {one["name"]: one["state"] for one in self.launchpad.fireworks.find({}, {"name": 1, "state": 1})}

    def retry(self, **options):
        return retry_fireworks(launchpad=self.path, store=self.store, **options)


class Remote:
    def __init__(self, cluster, remote):
        self.cluster, self.remote = cluster, remote
        self.controller = remote.open()
        self.store = self.controller.project.get_jobstore()
        self.store.connect()

    def submit(self, flow, external=False):
        from jobflow_remote import submit_flow

        routed = route(flow, self.cluster.routing(), "jobflow-remote")
        submit_flow(routed, worker="inference", project="phonosmith", allow_external_references=external)

    def run(self):
        self.remote.run(900)

    def states(self):
        return {one["job"]["name"]: one["state"] for one in self.controller.get_jobs({})}

    def retry(self, **options):
        return retry_remote(project="phonosmith", **options)


@pytest.fixture(params=["fireworks", "jobflow-remote"])
def queue(request, cluster, work, monkeypatch):
    if request.param == "fireworks":
        return FireWorks(cluster, monkeypatch)
    return Remote(cluster, request.getfixturevalue("remote"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_label_that_came_late_is_in_all_that_was_made_without_it(queue, work):
    jobs, ran, mark = work
    flow, last = jobs.flow(fewest=0)
    flow = fix_identities(flow)
    report = next(one for one, _ in flow.iterflow() if one.name == last.name).uuid
    queue.submit(flow)
    queue.run()
    states = queue.states()
    assert states.pop("label si 01") in ("FIZZLED", "FAILED")
    assert set(states.values()) == {"COMPLETED"}
    assert queue.store.get_output(report) == [2, 20, 7]
    before = ran()
    mark.unlink()
    done = queue.retry()
    assert done.failed == ["label si 01"]
    assert {"label si collect", "audit si", "train si", "report si"} <= set(done.again)
    assert done.removed == ["train si part 2"]
    queue.run()
    assert set(queue.states().values()) == {"COMPLETED"}
    assert queue.store.get_output(report) == [3, 30, 7]
    again = ran() - before
    assert again == Counter(["label 1", "collect", "audit", "train part 1", "train part 2", "collect"])
    with pytest.raises(InputError, match="No failed job"):
        queue.retry(names=["label si 01"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_a_later_submission_made_of_it_is_submitted_again(queue, work):
    """Neither engine knows that the later flow waits for the earlier one."""
    from jobflow import Flow

    jobs, ran, mark = work
    flow, _ = jobs.flow(fewest=0)
    queue.submit(flow)
    queue.run()
    by_name = {one.name: one for one, _ in flow.iterflow()}

    def later():
        more = jobs.named(jobs.train(by_name["audit si"].output, 2), "train si lora")
        last = jobs.named(jobs.collect([more.output, by_name["phonon si reference"].output]), "report si lora")
        return Flow([more, last]), last

    second, _ = later()
    queue.submit(second, external=True)
    queue.run()
    mark.unlink()
    done = queue.retry()
    assert set(done.resubmit) == {"train si lora", "report si lora"}
    assert {job.name for job, _ in second.iterflow()}.isdisjoint(queue.states())
    assert [queue.store.query_one({"uuid": job.uuid}) for job, _ in second.iterflow()] == [None, None]
    queue.run()
    third, last = later()
    queue.submit(third, external=True)
    queue.run()
    assert queue.store.get_output(last.uuid) == [30, 7]
    assert ran()["phonon"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_needs_a_failed_collection_waits_for_it_instead_of_looking_for_its_result(queue, work):
    jobs, ran, mark = work
    flow, last = jobs.flow(fewest=3)
    queue.submit(flow)
    queue.run()
    states = queue.states()
    assert {states["label si 01"], states["label si collect"]} <= {"FIZZLED", "FAILED"}
    assert {states["store_inputs"], states["audit si"], states["train si"]} == {"WAITING"}
    mark.unlink()
    with pytest.raises(InputError, match="material 'ge'"):
        queue.retry(materials=["ge"])
    done = queue.retry(materials=["si"])
    assert set(done.failed) == {"label si 01", "label si collect"}
    queue.run()
    assert set(queue.states().values()) == {"COMPLETED"}
    assert queue.store.get_output(last.uuid) == [3, 30, 7]
    assert ran()["label 0"] == ran()["phonon"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_documents_that_were_lost_are_found_and_made_again_and_equal_work_is_done_once(
    queue, work, cluster, monkeypatch
):
    from phonosmith.engines.queues.submission import select

    jobs, ran, _ = work
    artefacts = str(cluster.folder / "artefacts")
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", artefacts)
    cluster.environment["PHONOSMITH_ARTEFACTS"] = artefacts

    def made(label):
        flow = fix_identities(jobs.work(label))
        return flow, {one.name: one.uuid for one, _ in flow.iterflow()}

    def selected(flow):
        with opened(queue) as seen:
            return select(flow, queue.store, seen.jobs)

    flow, uuids = made("few")
    queue.submit(flow)
    queue.run()
    assert queue.store.get_output(uuids["train ge few"]) == 30
    # other labels with the same sum: another job, the same content
    more, others = made("many")
    queue.submit(more)
    queue.run()
    assert queue.store.get_output(others["train ge many"]) == 30
    assert ran() == Counter({"audit": 2, "expensive": 1})
    assert sorted(selected(made("few")[0]).finished) == ["audit ge few", "train ge few"]
    queue.store.remove_docs({"uuid": uuids["audit ge few"]})
    altered = queue.store.query_one({"uuid": uuids["train ge few"]})
    queue.store.docs_store.update([altered | {"output": 31}], key=["uuid", "index"])
    found = selected(made("few")[0])
    assert (sorted(found.lost), found.new, found.finished) == (["audit ge few", "train ge few"], [], [])
    assert sorted(queue.retry().failed) == ["audit ge few", "train ge few"]
    queue.run()
    assert queue.store.get_output(uuids["train ge few"]) == 30
    assert ran() == Counter({"audit": 3, "expensive": 1})
    assert sorted(selected(made("few")[0]).finished) == ["audit ge few", "train ge few"]


def queued(number, uuid, *, index=1, parents=(), state="done", hosts=("flow",), name=""):
    return QueuedJob(
        id=str(number), uuid=uuid, index=index, name=name or uuid, state=state,
        parents=tuple(map(str, parents)), hosts=hosts,
    )  # fmt: skip


def test_the_first_of_several_failures_starts_and_what_it_made_before_goes():
    jobs = [
        queued(1, "label", state="failed"),
        queued(2, "collect", parents=[1], state="failed"),
        queued(3, "follow", parents=[2]),
        queued(4, "point", parents=[2], hosts=("inner", "flow")),
        queued(5, "follow", index=2, parents=[4], hosts=("inner", "flow")),
        queued(6, "report", parents=[3, 5], state="waiting"),
        queued(7, "aside"),
    ]
    plan = plan_retry(jobs)
    assert [job.uuid for job in plan.first] == ["label"]
    assert [job.uuid for job in plan.failed] == ["label", "collect"]
    assert {(job.uuid, job.index) for job in plan.again} == {("follow", 1)}
    assert {(job.uuid, job.index) for job in plan.removed} == {("point", 1), ("follow", 2)}
    # the point's own result stays: only an output of the job that runs again would hide the new one
    assert set(plan.outdated) == {("follow", 1), ("follow", 2)}


CALCULATOR = """
import os
from pathlib import Path
from ase.calculators.emt import EMT

class Picky(EMT):
    '''Copper, but none of a cell as large as that of the second frame as long as a file says so.'''
    def calculate(self, atoms=None, *args, **kwargs):
        if atoms.cell[0, 0] > 3.7 and Path(os.environ["QUEUE_NOTES"] + ".broken").exists():
            raise RuntimeError("the program does not like this cell")
        super().calculate(atoms, *args, **kwargs)
"""


def opened(queue):
    """Return the queue as ``phonosmith status`` opens it."""
    if isinstance(queue, FireWorks):
        return contextlib.nullcontext(fireworks.open_fireworks(queue.path, queue.store))
    return remote.opened_remote("phonosmith")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_why_a_displacement_a_strained_cell_and_a_volume_failed_reaches_the_store(queue, work, cluster, monkeypatch):
    from jobflow import Flow
    from pymatgen.core import Lattice, Structure

    from phonosmith.core.metadata import describe
    from phonosmith.reference.engines import make_engine

    jobs, _, mark = work
    (cluster.folder / "picky_program.py").write_text(CALCULATOR)
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(cluster.folder / "artefacts"))
    engine = make_engine("forcefield", potential="picky_program.Picky")
    large = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.8), ["Cu"], [[0, 0, 0]])
    members = [
        engine.displacement("displace cu reference 1/3").make(large),
        engine.elastic_relax("elastic relax 1/24").make(large),
        engine.eos_relax("eos relax 9").make(large),
    ]
    for member in members:
        describe(member, stage=member.name.rpartition(" ")[0], material="cu")
    last = jobs.collect([member.output.output.energy for member in members])
    last.name = "report cu"
    flow = Flow([*members, last])
    queue.submit(flow)
    queue.run()
    assert queue.store.get_output(last.uuid) == []
    with opened(queue) as seen:
        assert look(seen).counts["failed"] == 3
    kept = read_failures(queue.store)
    assert {one.job for one in kept.values()} == {member.name for member in members}
    assert set(kept) == {(member.uuid, 1) for member in members}
    assert all("does not like this cell" in one.error for one in kept.values())
    # whoever looks for the results finds none
    assert list(queue.store.query({"uuid": {"$in": [member.uuid for member in members]}})) == []
    assert set(read_status(queue.store).materials["cu"].failed) == {member.name for member in members}
    mark.unlink()
    assert len(queue.retry().failed) == 3
    assert read_failures(queue.store) == {}
    queue.run()
    assert len(queue.store.get_output(last.uuid)) == 3
    with opened(queue) as seen:
        assert look(seen).counts == {"done": 4}
    assert (read_failures(queue.store), read_status(queue.store).materials["cu"].failed) == ({}, {})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_reasons_of_a_refusal_reach_the_store_and_the_label_is_repeated(queue, work, cluster, monkeypatch):
    from ase.build import bulk

    from phonosmith.reference.documents import LabelReport
    from phonosmith.reference.engines import make_engine
    from phonosmith.reference.jobs import LabelMaker

    _, _, mark = work
    (cluster.folder / "picky_program.py").write_text(CALCULATOR)
    artefacts = str(cluster.folder / "artefacts")
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", artefacts)
    cluster.environment["PHONOSMITH_ARTEFACTS"] = artefacts
    frames = [bulk("Cu", cubic=True, a=edge) for edge in (3.6, 3.8, 3.65)]
    engine = make_engine("forcefield", potential="picky_program.Picky")
    flow = LabelMaker(engine=engine, fraction=0.5).make(frames, "cu")
    last = flow.jobs[-1].uuid
    queue.submit(flow)
    queue.run()
    report = LabelReport.model_validate(queue.store.get_output(last, load=True))
    assert report.labelled == [0, 2]
    (lost,) = report.failures
    assert [reason.code for reason in lost.reasons] == ["run_failed"]
    assert "does not like this cell" in lost.reasons[0].message
    refused = queue.store.query_one({"name": "label cu 01"})
    assert refused["metadata"]["refused"] is True
    assert refused["output"]["reasons"]
    mark.unlink()
    assert queue.retry().failed == ["label cu 01"]
    queue.run()
    report = LabelReport.model_validate(queue.store.get_output(last, load=True))
    assert (report.labelled, report.failures) == ([0, 1, 2], [])
    assert not (queue.store.query_one({"name": "label cu 01"})["metadata"] or {}).get("refused")
