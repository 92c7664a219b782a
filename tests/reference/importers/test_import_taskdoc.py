"""atomate2 documents give the same frames as the vasprun.xml they were made from."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.fixtures import vasp_standin
from phonosmith.reference.importers.collect import import_source
from phonosmith.reference.importers.frames import frames_of
from phonosmith.reference.importers.taskdoc import frames_of_task, read_jobstore, task_documents
from phonosmith.reference.vasp.vasprun import parse_vasprun
from phonosmith.structures.labels import labels_of

__all__ = ["vasp_standin"]

_spec = importlib.util.spec_from_file_location(
    "vasprun_writer_for_tasks", Path(__file__).with_name("test_import_vasprun.py")
)
vasp = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vasp)


def structure(run, step):
    lattice = {"matrix": step.cell.tolist()}
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": list(map(float, abc))}
        for symbol, abc in zip(run.symbols, step.positions, strict=True)
    ]
    return {"lattice": lattice, "sites": sites}


def task(data, **changes):
    """A TaskDoc as emmet lays it out, from a vasprun.xml."""
    run = parse_vasprun(data, "v")
    steps = [
        {
            "structure": structure(run, step),
            "forces": step.forces.tolist(),
            "stress": step.stress.tolist(),
            "e_fr_energy": step.energy,
            "e_0_energy": 99.0,
            "electronic_steps": [{"e_fr_energy": e, "e_0_energy": e - 0.001} for e in step.scf],
        }
        for step in run.steps
    ]
    calculation = {
        "vasp_version": "6.4.2",
        "has_vasp_completed": "successful",
        "input": {
            "incar": run.incar,
            # emmet keeps the last of repeated tags: NELM = 1 of the response section
            "parameters": {**run.settings.tags, "NELM": 1},
            "kpoints": {"generation_style": "Gamma", "kpoints": [[2, 2, 2]], "usershift": [0, 0, 0]},
            "potcar_spec": [{"titel": "PAW_PBE Si 05Jan2001"}],
        },
        "output": {"ionic_steps": steps},
    }
    return {"task_label": "static", "state": "successful", "calcs_reversed": [calculation], **changes}


def test_equal_to_the_vasprun():
    data = vasp.vasprun(vasp.calculation(), vasp.calculation(shift=0.01))
    (first, second), _ = frames_of(parse_vasprun(data, "v"), "v")
    frames, refused = frames_of_task(task(data), "t")
    assert refused == []
    for mine, other in zip(frames, (first, second), strict=True):
        a, b = labels_of(mine), labels_of(other)
        assert a.energy == b.energy
        assert np.array_equal(a.forces, b.forces)
        assert np.array_equal(a.stress, b.stress)
        assert np.array_equal(mine.positions, other.positions)
        for key in ("functional", "settings", "potcar", "kmesh", "energy_sigma0", "encut"):
            assert mine.info[key] == other.info[key]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (task(vasp.vasprun(), state="failed"), "state is failed"),
        (task(vasp.vasprun(vasp.calculation([-1.0, -2.0]))), "SCF not converged"),
        ({"calcs_reversed": [{"input": {}}]}, "cannot be read: KeyError 'output'"),
        ({"forcefield_name": "MACE"}, "made by the force field MACE"),
        ({"protocol_digest": "x", "symbols": ["Si"]}, "validation error"),
    ],
)
def test_refusals(document, reason):
    frames, refused = frames_of_task(document, "t")
    assert frames == []
    assert reason in refused[0].reason


def test_json_files_and_jobstores(tmp_path):
    from jobflow import JobStore
    from maggma.stores import MemoryStore

    stored = {"uuid": "u1", "index": 1, "name": "label si 1", "output": task(vasp.vasprun())}
    (tmp_path / "docs.json").write_text(json.dumps([stored, {"uuid": "u2", "output": {"value": 3}}]))
    (frame,), report = import_source(tmp_path / "docs.json")
    assert report.kind == "taskdoc"
    assert frame.info["source"] == "docs.json: label si 1 u1"
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    store.update([stored, {"uuid": "u2", "index": 1, "output": {"value": 3}}], key=["uuid", "index"])
    frames, refused = read_jobstore(store)
    assert (len(frames), refused) == (1, [])
    assert labels_of(frames[0]).energy == vasp.SCF[-1]
    assert read_jobstore(store, {"name": "other"}) == ([], [])
    assert list(task_documents({"a": 1})) == []


def test_what_atomate2_really_writes(tmp_path, monkeypatch, vasp_standin):
    """atomate2, custodian and emmet on a stand-in run: the TaskDoc gives the frame of the vasprun.xml beside it."""
    from ase.build import bulk
    from atomate2.vasp.jobs.core import StaticMaker
    from atomate2.vasp.sets.core import StaticSetGenerator
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore
    from pymatgen.io.ase import AseAtomsAdaptor

    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0] += [0.05, 0.0, 0.02]
    tags = {"GGA": "PE", "ENCUT": 520, "EDIFF": 1e-8, "KSPACING": 0.5, "ISMEAR": 0, "SIGMA": 0.05, "ISPIN": 1}
    generator = StaticSetGenerator(
        user_incar_settings={**tags, "IBRION": -1, "MAGMOM": None, "LDAU": False, "NELM": 200},
        auto_ismear=False,
        auto_ispin=False,
        user_potcar_functional="PBE_54",
    )
    maker = StaticMaker(name="label cu", input_set_generator=generator, run_vasp_kwargs=vasp_standin(calculator="emt"))
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(maker.make(AseAtomsAdaptor.get_structure(atoms)), store=store, create_folders=True, ensure_success=True)
    (frame,), refused = read_jobstore(store)
    assert refused == []
    (other,), report = import_source(tmp_path, allow_rehearsal=True)
    assert report.kind == "vasprun"
    mine, theirs = labels_of(frame), labels_of(other)
    assert mine.energy == theirs.energy
    assert np.allclose(mine.forces, theirs.forces, atol=1e-12)
    assert np.allclose(mine.stress, theirs.stress, atol=1e-12)
    assert np.allclose(frame.positions, other.positions, atol=1e-12)
    for key in ("functional", "settings", "encut", "ediff", "potcar", "energy_sigma0", "kmesh", "rehearsal"):
        assert frame.info.get(key) == other.info.get(key), key
    assert frame.info["functional"] == "PBE"
