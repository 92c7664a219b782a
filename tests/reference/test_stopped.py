"""Calculations that are stopped in time and go on in the job that follows: atomate2, custodian, stand-in and gate."""

import time

import pytest
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core import attempts
from phonosmith.core.attempts import read_slurm_time, seconds_left
from phonosmith.reference.documents import Frame, ReferenceRecord
from phonosmith.reference.engines import make_engine
from phonosmith.reference.jobs import label_frame
from phonosmith.reference.vasp import makers
from phonosmith.reference.vasp.rehearsal import Rehearsal
from phonosmith.settings import get_settings


def rattled():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.05, seed=3)
    return atoms


def engine(wall_time=None, step_seconds=0.1, **rehearsal):
    played = Rehearsal(step_seconds=step_seconds, scf_steps=8, **rehearsal)
    return make_engine("vasp", {"kspacing": 0.6, "nelm": 40}, rehearsal=played, wall_time=wall_time)


@pytest.fixture
def left(monkeypatch):
    """Return what says how much time is left, s, to each part of a calculation in turn; 0 stops it at once."""

    def says(*seconds):
        one_by_one = iter(seconds)
        monkeypatch.setattr(makers, "seconds_left", lambda: next(one_by_one))

    return says


def parts_of(job, folder, monkeypatch, ensure_success=True):
    """Run a job and what follows it; return name and output of each part."""
    monkeypatch.chdir(folder)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(job, store=store, ensure_success=ensure_success, log=False, create_folders=True)
    found = store.query({"uuid": job.uuid}, load=True)
    return {one["index"]: (one["name"], one["output"]) for one in found}


@pytest.mark.slow
def test_a_label_goes_on_from_its_waves_and_is_the_one_of_a_single_run(tmp_path, monkeypatch, left):
    frame = Frame.from_atoms(rattled())
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = engine().compute(frame)
    job = label_frame(frame, engine(), "label nacl 00")
    job.name = "label nacl 00"
    left(0.0, 0.0, 3600.0)
    parts = parts_of(job, tmp_path, monkeypatch)
    assert [name for name, _ in parts.values()] == ["label nacl 00", "label nacl 00 part 2", "label nacl 00 part 3"]
    assert (parts[1][1], parts[2][1]) == (None, None)
    label = ReferenceRecord.model_validate(parts[3][1])
    assert (whole.accepted, label.accepted) == (True, True)
    assert (label.parts, label.attempts, label.ionic_steps, label.stopped) == (3, 1, 3, None)
    # the last electronic steps of one cycle, whichever job does them
    assert label.energy == whole.energy
    assert label.forces == whole.forces
    assert label.electronic_steps < whole.electronic_steps == 8
    stops = [path.read_text() for path in tmp_path.glob("job_*/STOPCAR")]
    assert stops == ["LABORT = .TRUE."] * 2
    # nobody keeps gigabytes of waves beside labels
    assert not list(tmp_path.rglob("WAVECAR*"))


@pytest.mark.slow
def test_a_relaxation_in_a_flow_of_atomate2_goes_on_from_where_it_got_to(tmp_path, monkeypatch, left):
    structure = AseAtomsAdaptor.get_structure(rattled())
    (tmp_path / "whole").mkdir()
    relaxing = engine(step_seconds=0.005).relax("relax nacl").make
    (whole,) = parts_of(relaxing(structure), tmp_path / "whole", monkeypatch).values()
    left(0.0, 3600.0)
    parts = parts_of(relaxing(structure), tmp_path, monkeypatch)
    assert [name for name, _ in parts.values()] == ["relax nacl", "relax nacl part 2"]
    (stopped,) = tmp_path.glob("job_*/STOPCAR*")
    assert stopped.read_text() == "LSTOP = .TRUE."
    (went_on,) = (path for path in tmp_path.glob("job_*") if path != stopped.parent)
    here, there = (
        Structure.from_file(next(place.glob(f"{name}*")))
        for place, name in ((went_on, "POSCAR"), (stopped.parent, "CONTCAR"))
    )
    assert here.matches(there, ltol=1e-6, stol=1e-6, angle_tol=1e-4, primitive_cell=False, scale=False)
    ends = [one["output"]["energy_per_atom"] for one in (whole[1], parts[2][1])]
    # both are below 0.5 meV/Å: what is left of the energy is its square over a force constant of some eV/Å²
    assert ends[1] == pytest.approx(ends[0], abs=1e-6)


@pytest.mark.slow
def test_what_is_wrong_is_refused_at_the_first_stop(tmp_path, monkeypatch, left):
    monkeypatch.chdir(tmp_path)
    left(0.0)
    record = engine(fault="wrongincar").compute(Frame.from_atoms(rattled()), attempts=3)
    assert record.stopped is None
    assert {"incar", "walltime"} <= {reason.code for reason in record.reasons}


@pytest.mark.slow
def test_nothing_goes_on_for_ever(tmp_path, monkeypatch, left):
    monkeypatch.setattr(makers, "MOST_PARTS", 1)
    monkeypatch.chdir(tmp_path)
    left(0.0)
    record = engine().compute(Frame.from_atoms(rattled()), attempts=3)
    assert record.stopped is None
    assert "1 jobs were not enough" in record.explain()
    assert record.attempts == 1


@pytest.fixture
def allocation(monkeypatch):
    """Return what sets the end of a SLURM job, s from now."""

    def ends_in(seconds):
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(round(time.time() + seconds)))
        attempts._allocation_end.cache_clear()

    yield ends_in
    attempts._allocation_end.cache_clear()


def test_the_end_of_a_slurm_job_counts_where_the_worker_says_so(allocation, monkeypatch):
    allocation(600)
    assert seconds_left() is None
    monkeypatch.setenv("PHONOSMITH_STOP_IN_TIME", "true")
    get_settings.cache_clear()
    assert seconds_left() == pytest.approx(600, abs=5)
    maker = engine(wall_time=60).static()
    assert maker._seconds() == pytest.approx(60, abs=2)
    allocation(30)
    assert maker._seconds() == pytest.approx(30, abs=2)
    monkeypatch.delenv("SLURM_JOB_ID")
    attempts._allocation_end.cache_clear()
    assert seconds_left() is None


def test_times_as_slurm_prints_them():
    assert [read_slurm_time(one) for one in ("4:59", "1:00:01", "2-01:00:00")] == [299, 3601, 176400]
    assert [read_slurm_time(one) for one in ("UNLIMITED", "INVALID", "NOT_SET", "")] == [None] * 4
