"""Import of whatever lies at a path: recognition, identity, doubles, and the real sets."""

import gzip
import json
import lzma
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from phonosmith.core.errors import InputError
from phonosmith.reference.datasets.dataset import get_dataset
from phonosmith.reference.datasets.geometry import reduced_formula
from phonosmith.reference.importers.collect import import_paths, import_source, read_expectations
from phonosmith.structures.extxyz import format_frames, read_frames, write_frames
from phonosmith.structures.labels import label_frame, labels_of

VASPRUN = Path(__file__).with_name("test_import_vasprun.py")


@pytest.fixture(scope="module")
def vasp():
    """The vasprun.xml writer of the reader's own tests."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("vasprun_writer", VASPRUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tree_with_everything(tmp_path, vasp):
    root = tmp_path / "tree"
    for name in ("a", "b", "c"):
        (root / name).mkdir(parents=True)
    (root / "a" / "vasprun.xml").write_bytes(vasp.vasprun())
    (root / "a" / "OUTCAR").write_bytes(b"not even read as a second copy")
    (root / "b" / "vasprun.xml.gz").write_bytes(
        gzip.compress(vasp.vasprun(vasp.calculation(shift=0.01), incar={"GGA": "PS"}))
    )
    (root / "c" / "vasprun.xml.xz").write_bytes(lzma.compress(vasp.vasprun(vasp.calculation([-1.0, -2.0]))))
    (root / "c" / "INCAR").write_text("ENCUT = 300")
    with tarfile.open(root / "more.tar.xz", "w:xz") as tar:
        tar.add(root / "a" / "vasprun.xml", "d/vasprun.xml")
    frames, report = import_source(root)
    assert report.n_frames == len(frames) == 3
    assert report.kind == "vasprun"
    assert report.functional == "mixed"
    assert report.functionals == {"PBE": 2, "PBEsol": 1}
    reasons = {refusal.where: refusal.reason for refusal in report.refused}
    assert "SCF not converged" in reasons["c/vasprun.xml"]
    assert "is not an OUTCAR" in reasons["a/OUTCAR"]
    assert {str(f.info["source"]) for f in frames} == {"a/vasprun.xml", "b/vasprun.xml", "more.tar.xz/d/vasprun.xml"}


def test_single_files_are_recognised_by_content(tmp_path, vasp):
    (tmp_path / "run1").write_bytes(vasp.vasprun())
    assert import_source(tmp_path / "run1")[1].kind == "vasprun"
    made = [label_frame(bulk("Si"), energy=-1.0, forces=np.zeros((2, 3)))]
    (tmp_path / "frames.dat").write_text(format_frames(made))
    assert import_source(tmp_path / "frames.dat")[1].kind == "extxyz"
    (tmp_path / "noise").write_bytes(b"\x00\x01")
    _, report = import_source(tmp_path / "noise")
    assert report.n_frames == 0
    assert "none of vasprun.xml" in report.refused[0].reason
    with pytest.raises(InputError, match="does not exist"):
        import_source(tmp_path / "absent")


def test_bad_frames_of_an_xyz_do_not_cost_the_good_ones(tmp_path):
    atoms = bulk("Si")
    atoms.rattle(0.05, seed=1)
    forces = np.array([[0.1234], [-0.1234]]) * np.ones(3)
    made = [label_frame(atoms, energy=-1.0 - k, forces=forces * (k + 1)) for k in range(4)]
    text = format_frames(made)
    text = text.replace("energy=-2.0", "energy=nan").replace(repr(0.1234 * 4), "oops", 1)
    (tmp_path / "f.xyz").write_text(text)
    frames, report = import_source(tmp_path / "f.xyz")
    assert [labels_of(f).energy for f in frames] == [-1.0, -3.0]
    assert [r.where for r in report.refused] == ["f.xyz, frame 1", "f.xyz, frame 3"]
    assert "energy is nan" in report.refused[0].reason
    assert "field 'forces' of atom 0 is 'oops'" in report.refused[1].reason


def test_declared_functional_fills_gaps_and_refuses_contradictions(tmp_path, vasp):
    (tmp_path / "vasprun.xml").write_bytes(vasp.vasprun(incar={"GGA": "PS"}))
    write_frames(tmp_path / "x.xyz", [label_frame(bulk("Si"), energy=-1.0, forces=np.zeros((2, 3)))])
    frames, report = import_source(tmp_path, functional="PBE")
    assert [f.info["functional"] for f in frames] == ["PBE"]
    assert report.refused[0].reason == "its functional is PBEsol, not PBE"


def test_structure_lists_as_mlearn_writes_them(tmp_path):
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(5.0), ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]]).as_dict()
    good = {"energy": -10.0, "forces": [[0.0123, 0.0, 0.0], [-0.0123, 0.0, 0.0]], "virial_stress": [1, 2, 3, 4, 5, 6]}
    items = [
        {"structure": structure, "outputs": good, "group": "AIMD"},
        {"structure": structure, "outputs": {**good, "energy": float("nan")}},
        {"structure": structure, "outputs": {"energy": 1.0}},
    ]
    (tmp_path / "t.json").write_text(json.dumps(items))
    (frame,), report = import_source(tmp_path / "t.json")
    assert report.kind == "structures"
    # kbar under compression, xx yy zz xy yz zx -> eV/Å³ under tension, xx yy zz yz xz xy
    assert np.allclose(labels_of(frame).stress * -1602.176634, [1, 2, 3, 5, 6, 4], rtol=1e-9)
    assert frame.info["config_type"] == "AIMD"
    assert ["energy is nan", "it cannot be read: KeyError 'forces'"] == [r.reason for r in report.refused]


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 5000, '{"a": 1}'])
def test_json_without_labels(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    frames, report = import_source(tmp_path / "x.json")
    assert frames == []
    assert report.n_refused == 1


def test_expectations(tmp_path):
    (tmp_path / "e.csv").write_text("material,formula\nmp-1,SeSn\n")
    (tmp_path / "e.json").write_text('[{"id": "mp-2", "formula": "Ge2Sb2"}]')
    expected = read_expectations(["mp-3=Se4Pb4", str(tmp_path / "e.csv"), str(tmp_path / "e.json")])
    assert expected == {"mp-3": "PbSe", "mp-1": "SeSn", "mp-2": "GeSb"}
    with pytest.raises(InputError, match="not a chemical formula"):
        read_expectations(["mp-1=%%"])
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no columns 'id' and 'formula'"):
        read_expectations([str(tmp_path / "bad.csv")])


@pytest.mark.parametrize("name", ["mp-3", "runs"])
def test_stated_compositions_are_asked_of_folders_and_files(tmp_path, vasp, name):
    (tmp_path / "runs" / "mp-3").mkdir(parents=True)
    (tmp_path / "runs" / "mp-3" / "vasprun.xml").write_bytes(vasp.vasprun())
    assert len(import_source(tmp_path, expect={name: "Si", "mp-4": "Ge"})[0]) == 1
    frames, report = import_source(tmp_path, expect={name: "Ge"})
    assert frames == []
    assert [refusal.reason for refusal in report.refused] == [f"its composition Si is not the expected Ge of {name}"]


def phonopy_file(path, symbol, forces=True):
    """A phonopy.yaml of rock salt with one displacement, compressed."""
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = bulk(symbol, "rocksalt", a=5.6, cubic=True)
    phonon = phonopy.Phonopy(
        PhonopyAtoms(unit.get_chemical_symbols(), cell=unit.cell.array, scaled_positions=unit.get_scaled_positions()),
        np.eye(3, dtype=int),
        primitive_matrix="F",
    )
    phonon.generate_displacements(distance=0.01)
    rng = np.random.default_rng(len(symbol) + ord(symbol[0]))
    if forces:
        phonon.forces = [np.round(rng.normal(0, 0.01, (8, 3)), 8) for _ in phonon.supercells_with_displacements]
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("")
    phonon.save(plain, settings={"force_sets": True, "displacements": True})
    path.write_bytes(lzma.compress(plain.read_bytes()))
    plain.unlink()


def test_a_phonon_set_filed_under_the_wrong_material(tmp_path):
    """The situation of mp-2201: its reference file is another material's, byte for byte."""
    dft = tmp_path / "dft"
    phonopy_file(dft / "m-1.phonopy.yaml.xz", "MgO")
    (dft / "m-2.phonopy.yaml.xz").write_bytes((dft / "m-1.phonopy.yaml.xz").read_bytes())
    frames, report = import_source(dft)
    assert {f.info["source"] for f in frames} == {"m-1.phonopy.yaml", "m-2.phonopy.yaml"}
    (note,) = report.notes
    assert note.startswith("m-1.phonopy.yaml, m-2.phonopy.yaml have the same content")
    frames, report = import_source(dft, expect={"m-2": "PbSe"})
    assert {f.info["source"] for f in frames} == {"m-1.phonopy.yaml"}
    (refusal,) = report.refused
    assert refusal.where == "m-2.phonopy.yaml"
    assert refusal.reason == "its composition MgO is not the expected PbSe of m-2"
    assert [c["path"] for c in report.force_constants] == ["m-1.phonopy.yaml"]


def test_forces_of_a_potential_are_pointed_out(tmp_path):
    phonopy_file(tmp_path / "m-1.phonopy.yaml.xz", "MgO")
    assert import_source(tmp_path)[1].notes == []
    text = lzma.decompress((tmp_path / "m-1.phonopy.yaml.xz").read_bytes()).decode()
    head, _, tail = text.partition("forces:")
    noisy = head + "forces:" + re.sub(r"(\.\d{8})0+", r"\g<1>12345678", tail, count=3)
    (tmp_path / "m-1.phonopy.yaml.xz").write_bytes(lzma.compress(noisy.encode()))
    assert "more digits than VASP prints" in import_source(tmp_path)[1].notes[0]


def test_one_import_writes_one_dataset(tmp_path, vasp):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "vasprun.xml").write_bytes(vasp.vasprun(vasp.calculation(), vasp.calculation(shift=0.01)))
    document = import_paths([tmp_path / "in"], tmp_path / "out.xyz")
    assert document.n_frames == 2
    assert len(read_frames(tmp_path / "out.xyz", require=("energy", "forces", "stress"))) == 2
    assert [labels_of(f).energy for f in get_dataset(document.dataset)] == [vasp.SCF[-1]] * 2
    assert import_paths([tmp_path / "in"], None, steps="last").n_frames == 1


def test_rehearsals_are_refused_unless_asked_for(tmp_path, vasp):
    (tmp_path / "vasprun.xml").write_bytes(vasp.vasprun(titles=("PAW_PBE Si INVENTED",)))
    frames, report = import_source(tmp_path)
    assert frames == []
    assert "rehearsal" in report.refused[0].reason
    (frame,), _ = import_source(tmp_path, allow_rehearsal=True)
    assert frame.info["rehearsal"] is True


def damaged(data, draw):
    """Flip, cut, repeat and insert bytes."""
    text = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randrange(len(text)), draw.randrange(5)
        if kind == 0:
            text[place : place + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del text[place : place + draw.randint(1, 40)]
        elif kind == 2 and draw.random() < 0.3:
            del text[place:]
        elif kind == 3:
            other = draw.randrange(len(text))
            text[place:place] = text[other : other + draw.randint(1, 60)]
        else:
            text[place:place] = draw.choice([b"nan", b"-", b"1e999", b"<v>", b"null", b"{", b"\n", b" 0 ", b"****"])
        text = text or bytearray(b"x")
    return bytes(text)


@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.xz", "frames.xyz", "list.json"])
def test_damaged_files_never_end_in_anything_but_a_refusal(tmp_path, vasp, name):
    """What is read from a damaged file is finite and whole, or refused; nothing else is ever raised."""
    made = [label_frame(bulk("Si"), energy=-1.5, forces=np.full((2, 3), 0.25), stress=np.full(6, 0.125), note="x")] * 2
    site = {"species": [{"element": "Si", "occu": 1}], "abc": [0.0, 0.0, 0.0]}
    structure = {"lattice": {"matrix": (4 * np.eye(3)).tolist()}, "sites": [site]}
    outputs = {"energy": -1.0, "forces": [[0.0, 0.0, 0.0]], "virial_stress": [1, 2, 3, 4, 5, 6]}
    sound = {
        "vasprun.xml": vasp.vasprun(),
        "vasprun.xml.xz": lzma.compress(vasp.vasprun()),
        "frames.xyz": format_frames(made).encode(),
        "list.json": json.dumps([{"structure": structure, "outputs": outputs}]).encode(),
    }[name]
    draw = random.Random(name)
    outcomes = set()
    for _ in range(80):
        (tmp_path / name).write_bytes(damaged(sound, draw))
        frames, report = import_source(tmp_path / name)
        outcomes.add(bool(frames))
        for frame in frames:
            labels = labels_of(frame)
            assert np.all(np.isfinite(labels.forces))
            assert labels.energy is None or np.isfinite(labels.energy)
            assert labels.forces.shape == (len(frame), 3)
        assert frames or report.refused or report.notes
    assert False in outcomes


def test_the_stand_in_through_the_importer(tmp_path, monkeypatch):
    """A run of the VASP stand-in: its vasprun.xml agrees with the calculator and does not pass for DFT."""
    import subprocess
    import sys

    from ase.calculators.emt import EMT
    from ase.io import write

    from phonosmith.reference.vasp.rehearsal import write_invented_potcars

    atoms = bulk("Cu", cubic=True)
    atoms.positions[0] += [0.05, 0.02, -0.03]
    library = write_invented_potcars(tmp_path / "potcars", {"Cu": "Cu"})
    run = tmp_path / "run"
    run.mkdir()
    write(run / "POSCAR", atoms, format="vasp")
    (run / "POTCAR").write_bytes(next(Path(library).rglob("POTCAR.Cu")).read_bytes())
    (run / "KPOINTS").write_text("k\n0\nGamma\n2 2 2\n0 0 0\n")
    (run / "INCAR").write_text("ENCUT = 300\nEDIFF = 1E-8\nIBRION = -1\nNSW = 0\nISMEAR = 0\nSIGMA = 0.05\nISIF = 3\n")
    monkeypatch.setenv("PHONOSMITH_STANDIN_CALCULATOR", "emt")
    subprocess.run([sys.executable, "-m", "phonosmith.testing.vasp_standin"], cwd=run, check=True, capture_output=True)
    frames, report = import_source(run)
    assert frames == []
    assert any("rehearsal" in refusal.reason for refusal in report.refused)
    (frame,), report = import_source(run, allow_rehearsal=True)
    assert report.kind == "vasprun"
    copy = frame.copy()
    copy.calc = EMT()
    assert labels_of(frame).energy == pytest.approx(copy.get_potential_energy(), abs=1e-7)
    assert np.allclose(labels_of(frame).forces, copy.get_forces(), atol=1e-7)
    assert np.allclose(labels_of(frame).stress, copy.get_stress(), atol=1e-7)
    (run / "vasprun.xml").unlink()
    frames, report = import_source(run, allow_rehearsal=True)
    assert frames == []
    assert [refusal.where for refusal in report.refused] == ["OUTCAR"]


COUNTS = [
    ("phono3py", "vasprun", 111, 0, "PBE"),
    ("phonopy/Si", "vasprun", 1, 0, "PBE"),
    ("phonopy/NaCl", "phonopy", 2, 0, None),
    ("phonopy/NaCl-rd", "vasprun", 10, 0, "PBE"),
    ("phonopy/MgB2", "vasprun", 2, 0, "PBE"),
    ("phonopy/TiO2-anatase", "vasprun", 4, 0, "PBE"),
    ("mlearn", "structures", 492, 0, None),
    ("matcalc", "none", 0, 2, None),
    ("matbench", "none", 0, 1, None),
    ("prototypes.json", "none", 0, 1, None),
]


@pytest.mark.parametrize(("name", "kind", "frames", "refused", "functional"), COUNTS)
def test_every_real_set_with_its_counts(shared, name, kind, frames, refused, functional):
    found, report = import_source(shared / "data" / name)
    assert (report.kind, report.n_frames, report.n_refused, report.functional) == (kind, frames, refused, functional)
    assert len(found) == frames


@pytest.mark.slow
def test_the_published_phonon_sets(shared):
    """32 files of 31 usable materials; mp-2201 is another material's file and must not pass."""
    folder = shared / "data" / "vasp_pbe_phonons"
    frames, report = import_source(folder / "dft", functional="PBE", expect={"mp-2201": "PbSe"})
    assert (report.kind, report.n_frames, report.functional) == ("phonopy", 391, "PBE")
    assert len(report.force_constants) == 31
    (refusal,) = report.refused
    assert refusal.where == "mp-2201.phonopy.yaml"
    assert refusal.reason == "its composition GeSb is not the expected PbSe of mp-2201"
    assert "GeSb" in {reduced_formula(f) for f in frames if "mp-9935" in f.info["source"]}
    (note,) = report.notes
    assert note.startswith("mp-2201.phonopy.yaml, mp-9935.phonopy.yaml have the same content")
    _, candidates = import_source(folder / "mace_mp_0b3")
    assert len(candidates.notes) == len(candidates.force_constants) == 32
