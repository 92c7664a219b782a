"""The stand-in behaves like VASP towards its surroundings and computes what its calculator computes."""

import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from phonosmith.reference.documents import Frame
from phonosmith.reference.engines import make_engine
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.reference.vasp import rehearsal
from phonosmith.reference.vasp.rehearsal import Rehearsal, invented_potcar, invented_valence
from phonosmith.reference.vasp.settings import INVENTED_MARK, STANDIN_MARK
from phonosmith.testing import standin_inputs, standin_writers
from phonosmith.testing.standin_calculators import PairMorse, make_calculator, tersoff_silicon

PROTOCOL = ReferenceProtocol(kspacing=0.6)


def compute(atoms, monkeypatch, tmp_path, calculation="static", **settings):
    monkeypatch.chdir(tmp_path)
    engine = make_engine("vasp", PROTOCOL, rehearsal=Rehearsal(**settings))
    record = engine.compute(Frame.from_atoms(atoms), calculation)
    assert record.accepted, record.explain()
    return record


def test_static_gives_the_numbers_of_the_calculator(monkeypatch, tmp_path):
    """Tolerances are the digits VASP prints: 1e-8 eV, 1e-8 eV/Å, 1e-8 kbar; positions 1e-10 in fractions."""
    atoms = bulk("NaCl", "rocksalt", a=5.5, cubic=True)
    atoms.rattle(0.1, seed=1)
    assert atoms.get_chemical_symbols()[:3] == ["Na", "Cl", "Na"]  # interleaved: grouped for VASP, given back in order
    record = compute(atoms, monkeypatch, tmp_path)
    atoms.calc = PairMorse()
    assert record.symbols == atoms.get_chemical_symbols()
    assert record.energy == pytest.approx(atoms.get_potential_energy(), abs=2e-8)
    np.testing.assert_allclose(record.forces, atoms.get_forces(), atol=1e-7)
    np.testing.assert_allclose(record.stress, atoms.get_stress(), atol=1e-9)
    np.testing.assert_array_equal(record.positions, atoms.positions)
    assert record.rehearsal
    assert STANDIN_MARK in record.engine_version
    assert all(INVENTED_MARK in title for title in record.potcar_titles)


@pytest.mark.slow
@pytest.mark.parametrize("calculation", ["relax", "elastic_relax"])
def test_relaxations_end_below_their_threshold(monkeypatch, tmp_path, calculation):
    atoms = bulk("Si", a=5.5)
    atoms.rattle(0.03, seed=2)
    record = compute(atoms, monkeypatch, tmp_path, calculation, calculator="tersoff-si")
    assert np.linalg.norm(record.forces, axis=1).max() < PROTOCOL.fmax(calculation)
    moved = not np.allclose(record.cell, atoms.cell.array, atol=1e-4)
    assert moved == (calculation == "relax")
    if moved:  # Tersoff's lattice constant, a property of the potential
        assert abs(np.linalg.det(record.cell)) ** (1 / 3) * 4 ** (1 / 3) == pytest.approx(5.432, abs=2e-3)


@pytest.mark.slow
def test_born_charges_are_parsed(monkeypatch, tmp_path):
    from jobflow import run_locally
    from pymatgen.io.ase import AseAtomsAdaptor

    monkeypatch.chdir(tmp_path)
    maker = make_engine("vasp", PROTOCOL, rehearsal=True).born()
    job = maker.make(AseAtomsAdaptor.get_structure(bulk("NaCl", "rocksalt", a=5.6)))
    document = run_locally(job, log=False, ensure_success=True)[job.uuid][1].output
    charges = np.array(document.calcs_reversed[0].output.outcar["born"])
    np.testing.assert_allclose(charges, [np.eye(3), -np.eye(3)])


def test_files_are_complete(monkeypatch, tmp_path):
    record = compute(bulk("Si"), monkeypatch, tmp_path, calculator="tersoff-si")
    for name in ("vasprun.xml", "OUTCAR", "OSZICAR", "CONTCAR", "XDATCAR", "vasp.out"):
        assert (tmp_path / name).stat().st_size > 0, name
    assert "not VASP" in (tmp_path / "OUTCAR").read_text()
    images = read(tmp_path / "XDATCAR", index=":", format="vasp-xdatcar")
    assert len(images) == record.ionic_steps == 1
    final = read(tmp_path / "vasprun.xml", format="vasp-xml")  # a reader of its own: ASE's
    assert final.get_potential_energy(force_consistent=True) == pytest.approx(record.energy, abs=1e-8)


def test_constants_of_both_sides_agree():
    assert str(standin_inputs.STANDIN_FILE) == rehearsal.STANDIN_FILE
    assert STANDIN_MARK in standin_writers.VERSION
    assert standin_writers.VERSION.split(".")[0].isdigit()


def test_morse_derivatives_are_consistent():
    """Central differences of 1e-4 Å: the error is of the order of 1e-7 eV/Å."""
    from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

    atoms = bulk("MgO", "rocksalt", a=4.3)
    atoms.rattle(0.1, seed=4)
    atoms.calc = PairMorse()
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6)


def test_calculators_by_name():
    assert isinstance(make_calculator("ase.calculators.lj.LennardJones", {"sigma": 2.0}).parameters["sigma"], float)
    assert type(make_calculator("emt", {})).__name__ == "EMT"
    with pytest.raises(SystemExit, match="knows no calculator"):
        make_calculator("nothing", {})
    atoms = bulk("Si", a=5.432)
    atoms.calc = tersoff_silicon()
    assert atoms.get_potential_energy() / 2 == pytest.approx(-4.63, abs=0.01)  # cohesive energy, Tersoff 1988


@pytest.mark.parametrize(("symbol", "valence"), [("Si", 4), ("O", 6), ("Na_pv", 7), ("Al", 3), ("Cl", 7), ("Cu", 11)])
def test_invented_potcars_are_plausible_and_marked(symbol, valence):
    assert invented_valence(symbol) == valence
    text = invented_potcar(symbol)
    assert f"PAW_PBE {symbol} {INVENTED_MARK}" in text
    assert "End of Dataset" in text


def run_standin(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", rehearsal.STANDIN_MODULE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_explains_itself_and_its_needs(tmp_path):
    help_text = run_standin(tmp_path, "--help").stdout
    assert "PHONOSMITH_STANDIN_FAULT" in help_text
    assert "walltime" in help_text
    nothing = run_standin(tmp_path)
    assert nothing.returncode == 2
    assert "INCAR, POSCAR, POTCAR" in nothing.stdout


def by_hand(folder, **files):
    write(folder / "POSCAR", bulk("Si"), format="vasp")
    content = {"INCAR": "ENCUT = 300\n", "POTCAR": invented_potcar("Si")} | files
    for name, text in content.items():
        (folder / name).write_text(text)
    return run_standin(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"standin.json": "{broken"}, "standin.json is not valid JSON"),
        ({"standin.json": "[]"}, "must hold one JSON object"),
        ({"standin.json": '{"fualt": "nan"}'}, "has no settings fualt"),
        ({"standin.json": '{"gap": "wide"}'}, "gap is 'wide', not a number"),
        ({"standin.json": '{"calculator": "no.such.thing"}'}, "'no.such.thing' cannot be imported"),
        ({"POSCAR": "garbage\n"}, "POSCAR cannot be read"),
        ({"INCAR": "ENCUT = many\n"}, "INCAR cannot be read"),
    ],
)
def test_mistakes_of_the_one_who_sets_it_up_are_said_in_one_line(tmp_path, files, message):
    done = by_hand(tmp_path, **files)
    assert done.returncode in (1, 2)
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_of_the_environment_that_is_no_number(monkeypatch, tmp_path):
    monkeypatch.setenv("PHONOSMITH_STANDIN_GAP", "abc")
    done = by_hand(tmp_path)
    assert done.returncode == 2
    assert "PHONOSMITH_STANDIN_GAP is not valid JSON" in done.stdout


def test_potcar_of_another_element_is_refused(tmp_path):
    write(tmp_path / "POSCAR", bulk("Si"), format="vasp")
    (tmp_path / "INCAR").write_text("ENCUT = 300\nNSW = 0\n")
    (tmp_path / "POTCAR").write_text(invented_potcar("Ge"))
    done = run_standin(tmp_path)
    assert done.returncode == 2
    assert "POTCAR lists ['Ge']" in done.stdout


def test_fixture_serves_any_atomate2_maker(vasp_standin, monkeypatch, tmp_path):
    """What users get for their own tests: atomate2's StaticMaker with its own defaults."""
    from atomate2.vasp.jobs.core import StaticMaker
    from jobflow import run_locally
    from pymatgen.io.ase import AseAtomsAdaptor

    monkeypatch.chdir(tmp_path)
    maker = StaticMaker(run_vasp_kwargs=vasp_standin(calculator="emt"))
    maker.input_set_generator.user_kpoints_settings = {"reciprocal_density": 1}
    maker.input_set_generator.user_incar_settings = {"IBRION": -1}
    atoms = bulk("Cu", cubic=True)
    job = maker.make(AseAtomsAdaptor.get_structure(atoms))
    document = run_locally(job, log=False, ensure_success=True)[job.uuid][1].output
    atoms.calc = make_calculator("emt", {})
    assert document.output.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


def test_production_refuses_the_standin(vasp_standin, monkeypatch, tmp_path):
    """The stand-in installed as VASP, with a library of invented POTCARs: everything fits, nothing is a label."""
    from pymatgen.io.ase import AseAtomsAdaptor

    monkeypatch.chdir(tmp_path)
    maker = make_engine("vasp", PROTOCOL).static()
    maker.run_vasp_kwargs = vasp_standin(calculator="tersoff-si")
    atoms = bulk("Si")
    _, record = maker.calculate(AseAtomsAdaptor.get_structure(atoms), Frame.from_atoms(atoms))
    assert [reason.code for reason in record.reasons] == ["rehearsal"]
    assert record.energy < 0
