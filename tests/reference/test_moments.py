"""Magnetic moments from the protocol through VASP's files to labels, and what the rule says when they change."""

import io
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp import Outcar
from pymatgen.io.vasp.sets import MPRelaxSet

from helpers import forged_outputs
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.hashing import digest_json
from phonosmith.reference.datasets.dataset import dataset_digest, get_dataset, put_dataset
from phonosmith.reference.documents import Frame
from phonosmith.reference.engines import make_engine
from phonosmith.reference.importers.collect import import_source
from phonosmith.reference.jobs import LabelMaker
from phonosmith.reference.outcome import Outcome
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.reference.vasp.makers import vasp_input_set
from phonosmith.reference.vasp.outcar import outcar_witness
from phonosmith.reference.vasp.rehearsal import Rehearsal
from phonosmith.structures.extxyz import read_frames, write_frames
from phonosmith.structures.labels import moments_of

SPIN = ReferenceProtocol(kspacing=0.8, nelm=40, spin_polarized=True)
ORDER = [4.0, 0.1, -4.0, 0.1, -4.0, 0.1, 4.0, 0.1]


def salt(moments=None):
    """Eight atoms, species alternating, so that VASP's order is not theirs."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    assert all(one != other for one, other in pairwise(atoms.get_chemical_symbols()))
    atoms.rattle(0.05, seed=3)
    if moments is not None:
        atoms.set_initial_magnetic_moments(moments)
    return atoms


def compute(atoms, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_engine("vasp", protocol, rehearsal=True).compute(Frame.from_atoms(atoms))


@pytest.mark.parametrize("magmoms", [{}, {"Fe": 2.5}])
def test_initial_moments_are_pymatgens_or_those_given(magmoms):
    """Against the input set of the Materials Project, which writes moments by the same rule."""
    iron = Structure(Lattice.cubic(4.3), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    protocol = ReferenceProtocol(spin_polarized=True, magmoms=magmoms)
    tags = vasp_input_set(protocol, "static").get_input_set(iron, potcar_spec=True).incar
    theirs = MPRelaxSet(iron, user_incar_settings={"MAGMOM": magmoms} if magmoms else {}).incar
    assert list(tags["MAGMOM"]) == list(theirs["MAGMOM"]) == [magmoms.get("Fe", 5.0), 0.6]
    assert (tags["ISPIN"], tags["LORBIT"]) == (2, 11)


def test_moments_of_each_atom_come_back_in_the_order_asked(tmp_path, monkeypatch):
    record = compute(salt(ORDER), SPIN, tmp_path, monkeypatch)
    assert record.accepted, record.explain()
    assert record.spin_polarized
    np.testing.assert_allclose(record.magmoms, ORDER)
    assert record.magmom == pytest.approx(0.4)
    frame = record.to_atoms()
    assert frame.info["spin"] is True
    write_frames(tmp_path / "labels.xyz", [frame])
    (back,) = read_frames(tmp_path / "labels.xyz")
    np.testing.assert_array_equal(moments_of(back).sites, ORDER)
    np.testing.assert_array_equal(ase_read(tmp_path / "labels.xyz").get_magnetic_moments(), ORDER)
    ref = put_dataset(
        [back, compute(salt(), SPIN.model_copy(update={"spin_polarized": False}), tmp_path, monkeypatch).to_atoms()]
    )
    assert (ref.n_spin_polarized, ref.n_moments) == (1, 1)
    assert get_dataset(ref, store=default_artefacts())[1].info["spin"] is False


def test_moments_are_no_part_of_what_a_frame_teaches(tmp_path, monkeypatch):
    labelled = compute(salt(ORDER), SPIN, tmp_path, monkeypatch).to_atoms()
    bare = labelled.copy()
    bare.calc = labelled.calc.__class__(bare, **{k: v for k, v in labelled.calc.results.items() if "magmom" not in k})
    assert dataset_digest([labelled]) == dataset_digest([bare])


def test_a_frame_without_moments_has_the_json_it_always_had():
    """What jobs are recognised by; a field more would compute every label of a finished campaign again."""
    plain = Frame.from_atoms(salt()).model_dump(mode="json")
    assert set(plain) == {"symbols", "positions", "cell", "pbc", "split", "info"}
    assert digest_json(Frame.model_validate(plain).model_dump(mode="json")) == digest_json(plain)
    given = Frame.from_atoms(salt(ORDER))
    assert Frame.model_validate_json(given.model_dump_json()).magmoms == ORDER
    np.testing.assert_array_equal(given.to_atoms().get_initial_magnetic_moments(), ORDER)
    site = AseAtomsAdaptor.get_structure(given.to_atoms())[2]
    assert site.properties["magmom"] == -4.0


def test_moments_for_a_calculation_without_spin_are_refused_before_any_job():
    engine = make_engine("vasp", ReferenceProtocol(), rehearsal=True)
    with pytest.raises(ConfigurationError, match=r"frame 1.*without spin"):
        LabelMaker(engine=engine).make([salt(), salt(ORDER)], "salt")
    assert LabelMaker(engine=make_engine("vasp", SPIN, rehearsal=True)).make([salt(ORDER)], "salt").jobs


def forged_table(text, moments):
    """Other moments of atoms in the table of an OUTCAR."""
    lines = text.split("\n")
    first = next(i for i, line in enumerate(lines) if "magnetization (x)" in line) + 4
    for row, moment in enumerate(moments, first):
        lines[row] = f"{lines[row][:5]}{0.0:8.3f}{0.0:8.3f}{moment:8.3f}{moment:8.3f}"
    return "\n".join(lines)


@pytest.fixture(scope="module")
def magnetic(tmp_path_factory):
    with redirect_stdout(io.StringIO()):
        return forged_outputs.make_base("magnetic", tmp_path_factory.mktemp("magnetic"))


def test_the_table_of_moments_is_read_as_pymatgen_reads_it(magnetic, tmp_path):
    moments = [4.987, -0.003, 5.1, 4.9, 0.5, -0.25, 0.125, 0.0]
    (tmp_path / "OUTCAR").write_text(forged_table(magnetic["OUTCAR"], moments))
    theirs = Outcar(str(tmp_path / "OUTCAR"))
    ours = outcar_witness((tmp_path / "OUTCAR").read_text())
    np.testing.assert_allclose(ours.site_moments, moments)
    np.testing.assert_allclose([atom["tot"] for atom in theirs.magnetization], moments)
    assert ours.moment == pytest.approx(theirs.total_mag)


@pytest.mark.parametrize(
    ("moments", "refused"),
    [
        ([4.8, 4.9, 5.1, 4.7, 0.1, -0.2, 0.1, 0.0], False),  # induced moments may vanish or turn
        ([-4.8, -4.9, -5.1, -4.7, -0.1, -0.2, -0.1, 0.0], False),  # the same state, seen from below
        ([4.8, 4.9, 5.1, -4.7, 0.1, 0.2, 0.1, 0.0], True),
        ([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.0], True),
    ],
)
def test_given_moments_may_shrink_but_not_turn_or_vanish(moments, refused, magnetic, tmp_path):
    files = magnetic | {"OUTCAR": forged_table(magnetic["OUTCAR"], moments)}
    assert forged_outputs.judge(files, "magnetic", tmp_path) == (["moments"] if refused else [])


def test_moments_of_pymatgens_table_may_vanish(magnetic, tmp_path, monkeypatch):
    """Sodium chloride calculated with spin starts from 0.6 μB on each atom and is no magnet."""
    base = forged_outputs.BASES["magnetic"]
    guessed = replace(base, protocol=base.protocol.model_copy(update={"magmoms": ()}))
    monkeypatch.setitem(forged_outputs.BASES, "magnetic", guessed)
    files = magnetic | {"OUTCAR": forged_table(magnetic["OUTCAR"], [0.0] * 8)}
    assert forged_outputs.judge(files, "magnetic", tmp_path) == []


def test_imports_take_moments_from_the_outcar_beside(magnetic, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    # the stand-in's own OUTCAR is refused as an import; a witness is read whoever wrote it
    for name in ("vasprun.xml", "OUTCAR"):
        text = magnetic[name]
        (run / name).write_text(f" vasp.6.4.2\n{text.replace('standin', '')}" if name == "OUTCAR" else text)
    (frame,), report = import_source(tmp_path, allow_rehearsal=True)
    assert report.n_refused == 0, report.refused
    np.testing.assert_allclose(moments_of(frame).sites, [5.0] * 4 + [0.5] * 4)
    assert moments_of(frame).total == pytest.approx(22.0)
    assert Outcome.of_atoms(frame).spin


def test_moments_are_kept_by_a_rehearsal_that_crashed_once(tmp_path, monkeypatch):
    """A repeated calculation starts from the same moments."""
    monkeypatch.chdir(tmp_path)
    engine = make_engine("vasp", SPIN, rehearsal=Rehearsal(fault="crash:1"))
    record = engine.compute(Frame.from_atoms(salt(ORDER)), attempts=2)
    assert record.accepted, record.explain()
    assert record.magmoms == ORDER
