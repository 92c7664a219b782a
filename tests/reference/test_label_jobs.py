"""LabelMaker: one job per frame, tolerant collection, reasons, repetition of what failed alone."""

import json

import numpy as np
import pytest
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import InputError, LabelError
from phonosmith.reference.datasets.dataset import get_dataset
from phonosmith.reference.documents import Frame
from phonosmith.reference.engines import make_engine
from phonosmith.reference.jobs import LabelMaker
from phonosmith.reference.labels import as_frames, collect, job_name, material_name, require_minimum, sampled_frames
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.reference.vasp.rehearsal import Rehearsal
from phonosmith.structures.extxyz import format_frames
from phonosmith.testing.standin_calculators import tersoff_silicon

PROTOCOL = ReferenceProtocol(kspacing=0.6)


def silicon(n, valid=1):
    frames = []
    for seed in range(n):
        atoms = bulk("Si", a=5.432)
        atoms.rattle(0.05, seed=seed)
        atoms.info["split"] = "valid" if seed >= n - valid else "train"
        frames.append(atoms)
    return frames


def vasp(**settings):
    return make_engine("vasp", PROTOCOL, rehearsal=Rehearsal(calculator="tersoff-si", **settings))


def tersoff_engine():
    return make_engine("forcefield", PROTOCOL, "phonosmith.testing.standin_calculators.tersoff_silicon")


@pytest.fixture
def store():
    opened = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    opened.connect()
    return opened


def run(flow, store, tmp_path):
    responses = run_locally(flow, log=False, store=store, create_folders=True, root_dir=tmp_path)
    last = responses.get(flow.jobs[-1].uuid, {}).get(1)
    return None if last is None else last.output


def through_json(thing):
    return json.loads(json.dumps(thing, cls=MontyEncoder), cls=MontyDecoder)


def assert_same_as_tersoff(atoms, frame):
    """Within the digits VASP prints."""
    direct = frame.copy()
    direct.calc = tersoff_silicon()
    np.testing.assert_array_equal(atoms.positions, frame.positions)
    assert atoms.get_potential_energy() == pytest.approx(direct.get_potential_energy(), abs=2e-8)
    np.testing.assert_allclose(atoms.get_forces(), direct.get_forces(), atol=1e-7)
    np.testing.assert_allclose(atoms.get_stress(), direct.get_stress(), atol=1e-9)


def test_one_bad_frame_is_named_and_repeated_alone(store, tmp_path):
    frames = silicon(4)
    maker = LabelMaker(engine=vasp(fault="nan@label si 01"), minimum={"train": 2})
    flow = through_json(maker).make(frames, "Si")
    assert [job.name for job in flow.jobs] == [*(f"label si {i:02d}" for i in range(4)), "label si collect"]
    report = run(flow, store, tmp_path)
    assert report.labelled == [0, 2, 3]
    assert report.counts == {"train": 2, "valid": 1}
    assert report.rehearsal
    (failure,) = report.failures
    assert (failure.index, failure.job, failure.split) == (1, "label si 01", "train")
    assert [reason.code for reason in failure.reasons] == ["forces_not_finite"]
    assert "label si 01: forces_not_finite" in report.explain()

    repaired = LabelMaker(engine=vasp(), minimum={"train": 3})
    again = repaired.retry(through_json(report))
    assert [job.name for job in again.jobs] == ["label si 01", "label si collect"]
    complete = run(again, store, tmp_path)
    assert complete.labelled == [0, 1, 2, 3]
    assert complete.failures == []
    labelled = [*get_dataset(complete.datasets["train"]), *get_dataset(complete.datasets["valid"])]
    for atoms, frame in zip(labelled, frames, strict=True):
        assert_same_as_tersoff(atoms, frame)
        assert atoms.info["rehearsal"]
    with pytest.raises(InputError, match="Every frame"):
        repaired.retry(complete)


@pytest.mark.slow
def test_twenty_frames_of_silicon_through_custodian(store, tmp_path):
    frames = silicon(20, valid=4)
    report = run(LabelMaker(engine=vasp(fault="brmix:1@label si 07"), fraction=1.0).make(frames, "Si"), store, tmp_path)
    assert report.n_labelled == 20
    assert report.counts == {"train": 16, "valid": 4}
    assert report.corrected == {"label si 07": ["brmix"]}
    train = get_dataset(report.datasets["train"])
    for atoms, frame in zip(train, frames[:16], strict=True):
        assert_same_as_tersoff(atoms, frame)
    assert len(list(tmp_path.glob("job_*/custodian.json*"))) == 20


def test_a_refused_record_stays_in_the_store_and_a_rerun_replaces_it(store, tmp_path):
    frames = silicon(2, valid=0)
    flow = LabelMaker(engine=make_engine("forcefield", PROTOCOL, "ase.calculators.emt.EMT"), fraction=0.5).make(
        frames, "Si"
    )
    report = run(flow, store, tmp_path)
    assert report is None  # EMT knows no silicon: nothing could be labelled, the collection fails too
    left = store.query_one({"name": "label si 00"}, load=True)
    assert left["metadata"]["refused"]
    assert "NotImplementedError" in json.dumps(left["output"]["reasons"])
    # a worker's rerun: the same job, repaired, with the same identity
    job = flow.jobs[0]
    job.function_args = (job.function_args[0], tersoff_engine(), *job.function_args[2:])
    job.run(store)
    again = store.query_one({"uuid": job.uuid}, load=True)
    assert again["output"]["reasons"] == []
    assert "refused" not in again["metadata"]


def test_collection_fails_below_the_minimum_and_says_why(tmp_path):
    frames = as_frames(silicon(3))
    engine = tersoff_engine()
    records = [engine.compute(frames[0]), None, engine.compute(frames[2])]
    report = collect(records, frames, "Si", engine)
    assert report.counts == {"train": 1, "valid": 1}
    require_minimum(report, {}, 0.5, {"train": 2, "valid": 1})
    with pytest.raises(LabelError, match=r"(?s)train: 1 of 2, at least 2 needed.*label si 01: no_result") as raised:
        require_minimum(report, {"train": 2}, 0.5, {"train": 2, "valid": 1})
    assert "others are kept" in raised.value.advice
    with pytest.raises(LabelError, match="test: none was asked"):
        require_minimum(report, {"test": 1}, 0.0, {"train": 2, "valid": 1})


def test_records_of_another_protocol_or_a_rehearsal_are_not_collected(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    frames = as_frames(silicon(1, valid=0))
    record = vasp().compute(frames[0])
    assert record.accepted
    production = make_engine("vasp", PROTOCOL)
    assert [r.code for r in collect([record], frames, "Si", production).failures[0].reasons] == ["rehearsal"]
    other = make_engine("vasp", ReferenceProtocol(kspacing=0.7), rehearsal=True)
    assert [r.code for r in collect([record], frames, "Si", other).failures[0].reasons] == ["protocol"]


def test_frames_come_from_a_sampling_document(tmp_path):
    frames = silicon(3)
    keeper = default_artefacts()
    sample = {
        split: keeper.put_bytes(
            format_frames([f for f in frames if f.info["split"] == split]).encode(), "frames", ".extxyz"
        )
        for split in ("train", "valid")
    }
    found = sampled_frames(json.loads(json.dumps({key: ref.model_dump() for key, ref in sample.items()})))
    assert [frame.split for frame in found] == ["train", "train", "valid"]
    np.testing.assert_array_equal(found[2].positions, frames[2].positions)
    with pytest.raises(InputError, match="no frames"):
        sampled_frames({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda atoms: atoms.set_pbc([True, True, False]), "Frame 1 is not a periodic"),
        (lambda atoms: atoms.set_cell([0, 0, 0]), "Frame 1 is not a periodic"),
        (lambda atoms: atoms.positions.__setitem__((0, 0), np.nan), "Frame 1 holds NaN"),
        (lambda atoms: atoms.__delitem__([0, 1]), "Frame 1 holds no atoms"),
    ],
)
def test_frames_nobody_can_compute_are_refused_at_once(change, message):
    frames = silicon(2)
    change(frames[1])
    with pytest.raises(InputError, match=message):
        as_frames(frames)


def test_names():
    assert job_name("SiO2", 7, 20) == "label sio2 07"
    assert job_name("Si", 7, 101) == "label si 007"
    assert material_name([Frame.from_atoms(bulk("NaCl", "rocksalt", a=5.6, cubic=True))]) == "clna"
    with pytest.raises(InputError, match="no frame"):
        as_frames([])
