"""Results kept by content: found again to the bit, and only for what was really calculated."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.reference import gpaw
from phonosmith.reference.documents import Frame
from phonosmith.reference.engines import make_engine
from phonosmith.reference.kept import KeepingCalculator, kept_results, read_result
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.testing.standin_calculators import tersoff_silicon

PROTOCOL = ReferenceProtocol(kspacing=0.6)


def silicon(seed=0):
    atoms = bulk("Si", a=5.432)
    atoms.rattle(0.05, seed=seed)
    return atoms


def keeping(folder, **settings):
    return KeepingCalculator(tersoff_silicon, "tersoff 1", settings, folder)


def all_of(atoms, calculator):
    atoms.calc = calculator
    return [atoms.get_potential_energy(force_consistent=True), atoms.get_potential_energy(), atoms.get_forces(),
            atoms.get_stress()]  # fmt: skip


def test_a_result_is_found_again_to_the_bit(tmp_path):
    truth = silicon()
    truth.calc = tersoff_silicon()
    first, second = keeping(tmp_path, encut=250), keeping(tmp_path, encut=250)
    for calculator in (first, second):
        energy, sigma0, forces, stress = all_of(silicon(), calculator)
        assert energy == sigma0 == truth.get_potential_energy()
        np.testing.assert_array_equal(forces, truth.get_forces())
        np.testing.assert_array_equal(stress, truth.get_stress())
    assert (first.n_calculated, first.n_kept, second.n_calculated, second.n_kept) == (1, 0, 0, 1)
    # what it cost is what it took to calculate, not to find
    assert first.wall_seconds == second.wall_seconds > 0
    (kept,) = kept_results(tmp_path)
    assert kept.calculated.settings == {"encut": 250}
    assert kept.numbers.wall_seconds == first.wall_seconds


def test_other_settings_programs_and_geometries_are_calculated(tmp_path):
    all_of(silicon(), keeping(tmp_path, encut=250))
    moved = silicon()
    moved.positions[0, 0] += 1e-8
    calculators = [
        keeping(tmp_path, encut=300),
        KeepingCalculator(tersoff_silicon, "tersoff 2", {"encut": 250}, tmp_path),
    ]
    for atoms, calculator in (
        (silicon(), calculators[0]),
        (silicon(), calculators[1]),
        (moved, keeping(tmp_path, encut=250)),
    ):
        all_of(atoms, calculator)
        assert calculator.n_calculated == 1
    assert len(list(kept_results(tmp_path))) == 4


def test_coordinates_that_were_written_and_read_are_the_same(tmp_path):
    all_of(silicon(), keeping(tmp_path))
    again = keeping(tmp_path)
    all_of(AseAtomsAdaptor.get_atoms(AseAtomsAdaptor.get_structure(silicon()), msonable=False), again)
    assert again.n_calculated == 0


@pytest.mark.parametrize("damage", ["number", "cut", "name"])
def test_a_damaged_file_counts_as_none_and_is_written_anew(tmp_path, damage):
    all_of(silicon(), keeping(tmp_path))
    (path,) = tmp_path.glob("*/*.json")
    whole = path.read_text()
    content = json.loads(whole)
    content["numbers"]["energy"] += 1e-6
    if damage == "name":
        # the result of another geometry under this name
        all_of(silicon(1), keeping(tmp_path))
        other = next(one for one in tmp_path.glob("*/*.json") if one != path)
        path.write_text(other.read_text())
    else:
        path.write_text(json.dumps(content) if damage == "number" else whole[:-40])
    with pytest.raises(InputError, match=path.name):
        read_result(path)
    again = keeping(tmp_path)
    all_of(silicon(), again)
    assert again.n_calculated == 1
    assert read_result(path).numbers.energy == json.loads(whole)["numbers"]["energy"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="PHONOSMITH_REFERENCE_CACHE"):
        all_of(silicon(), keeping(tmp_path / "file"))


def test_labels_and_displaced_cells_of_gpaw_are_kept_where_the_settings_say_so(tmp_path, monkeypatch):
    """A stand-in in GPAW's place: the engine, its Makers and the settings are real."""
    asked = []

    def stand_in(**parameters):
        asked.append(parameters)
        return tersoff_silicon()

    monkeypatch.setitem(sys.modules, "gpaw", SimpleNamespace(GPAW=stand_in))
    monkeypatch.setattr(gpaw, "version", lambda _: "26.7.0")
    monkeypatch.setenv("PHONOSMITH_REFERENCE_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    gpaw.get_settings.cache_clear()
    engine = make_engine("gpaw", PROTOCOL)
    first, second = engine.compute(Frame.from_atoms(silicon())), engine.compute(Frame.from_atoms(silicon()))
    assert first.accepted, first.explain()
    assert (first.kept, second.kept, len(asked)) == (False, True, 1)
    assert (first.forces, first.wall_seconds) == (second.forces, second.wall_seconds)
    # |b| of the primitive cell is 2.00 Å⁻¹
    assert asked[0]["kpts"] == {"size": (4, 4, 4), "gamma": True}
    # another calculation with the same settings, through atomate2's Maker
    maker = engine.displacement()
    document = type(maker).make.original(maker, AseAtomsAdaptor.get_structure(silicon()))
    assert len(asked) == 1
    assert document.output.elapsed_time == first.wall_seconds
    np.testing.assert_array_equal(document.output.forces, first.forces)
    (kept,) = kept_results(tmp_path / "kept")
    assert kept.calculated.program == "gpaw 26.7.0, gpaw-data 26.7.0"
    assert "txt" not in kept.calculated.settings
