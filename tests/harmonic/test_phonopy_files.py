"""phonopy's files against phonopy itself, and everything that must be refused."""

import gzip
import lzma
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.harmonic.displacements import attach_forces, displaced_frames, has_forces
from phonosmith.harmonic.files import load_harmonic, read_phonopy
from phonosmith.harmonic.model import atoms_of, full_force_constants
from phonosmith.reference.importers.beside import calculations_beside
from phonosmith.structures.labels import label_frame, labels_of

warnings.filterwarnings("ignore", category=DeprecationWarning)


@pytest.fixture(scope="module")
def copper(tmp_path_factory):
    """A small phonon calculation with a real potential (EMT), written by phonopy."""
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = bulk("Cu", cubic=True)
    phonon = phonopy.Phonopy(
        PhonopyAtoms(unit.get_chemical_symbols(), cell=unit.cell.array, scaled_positions=unit.get_scaled_positions()),
        np.diag([2, 2, 2]),
        primitive_matrix="F",
    )
    phonon.generate_displacements(distance=0.01)
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = atoms_of(cell)
        atoms.calc = EMT()
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants(show_drift=False)
    folder = tmp_path_factory.mktemp("copper")
    phonon.save(folder / "phonopy.yaml", settings={"force_sets": True, "displacements": True})
    return phonon, folder


def copy(folder, target, name="phonopy.yaml", ending="", change=lambda text: text):
    text = change((folder / "phonopy.yaml").read_text()).encode()
    data = {"": text, ".xz": lzma.compress(text), ".gz": gzip.compress(text)}[ending]
    (target / (name + ending)).write_bytes(data)
    return target / (name + ending)


@pytest.mark.parametrize("ending", ["", ".xz", ".gz"])
def test_force_constants_equal_phonopys_own(copper, tmp_path, ending):
    import phonopy

    phonon, folder = copper
    path = copy(folder, tmp_path, ending=ending)
    settings = {"is_nac": False, "symprec": 1e-4, "symmetrize_fc": False}
    for calculator in ("symfc", "traditional"):
        ours = load_harmonic(path, fc_calculator=calculator).phonon
        theirs = phonopy.load(folder / "phonopy.yaml", fc_calculator=calculator, **settings)
        assert np.abs(ours.force_constants - theirs.force_constants).max() < 1e-12
    assert np.abs(full_force_constants(ours) - phonon.force_constants).max() < 1e-10
    full = full_force_constants(load_harmonic(tmp_path).phonon)
    assert full.shape == (32, 32, 3, 3)
    # acoustic sum rule and Newton's third law hold by construction
    assert np.abs(full.sum(axis=1)).max() < 1e-10
    assert np.abs(full - full.transpose(1, 0, 3, 2)).max() < 1e-10


def test_force_sets_in_the_working_folder_are_not_taken(copper, tmp_path, monkeypatch):
    """phonopy.load would silently use FORCE_SETS of another calculation from the current folder."""
    from phonopy.file_IO import write_FORCE_SETS

    phonon, folder = copper
    other = tmp_path / "other"
    other.mkdir()
    write_FORCE_SETS(phonon.dataset, filename=str(other / "FORCE_SETS"))
    here = tmp_path / "here"
    here.mkdir()
    path = copy(folder, here, "phonopy_disp.yaml", change=strip_forces)
    monkeypatch.chdir(other)
    with pytest.raises(InputError, match="neither forces"):
        load_harmonic(path)


def strip_forces(text):
    lines, keep, out = text.splitlines(), True, []
    for line in lines:
        if line.strip().startswith("forces:"):
            keep = False
        elif line.startswith("- atom") or (line and not line.startswith((" ", "-"))):
            keep = True
        if keep:
            out.append(line)
    return "\n".join(out) + "\n"


@pytest.mark.parametrize(("yaml", "sets"), [("phonopy_disp.yaml", "FORCE_SETS"), ("x.phonopy.yaml", "x.FORCE_SETS.xz")])
def test_force_sets_beside_the_yaml(copper, tmp_path, yaml, sets):
    from phonopy.file_IO import get_FORCE_SETS_lines

    phonon, folder = copper
    path = copy(folder, tmp_path, yaml, change=strip_forces)
    text = "\n".join(get_FORCE_SETS_lines(phonon.dataset)).encode()
    (tmp_path / sets).write_bytes(lzma.compress(text) if sets.endswith("xz") else text)
    full = full_force_constants(load_harmonic(path, fc_calculator="traditional").phonon)
    # FORCE_SETS holds forces with 10 decimals; divided by a displacement of 0.01 Å that leaves 1e-8 eV/Å²
    assert np.abs(full - phonon.force_constants).max() < 2e-8


def test_foreign_force_sets_are_refused(copper, tmp_path):
    from phonopy.file_IO import get_FORCE_SETS_lines

    phonon, folder = copper
    path = copy(folder, tmp_path, "phonopy_disp.yaml", change=strip_forces)
    dataset = {"natom": 32, "first_atoms": [dict(phonon.dataset["first_atoms"][0])]}
    dataset["first_atoms"][0]["displacement"] = [0.0, 0.02, 0.0]
    (tmp_path / "FORCE_SETS").write_text("\n".join(get_FORCE_SETS_lines(dataset)))
    with pytest.raises(MismatchError, match="different displacements"):
        read_phonopy(path)
    dataset = {
        "natom": 8,
        "first_atoms": [{"number": 0, "displacement": [0.01, 0, 0], "forces": np.zeros((8, 3))}],
    }
    (tmp_path / "FORCE_SETS").write_text("\n".join(get_FORCE_SETS_lines(dataset)))
    with pytest.raises(MismatchError, match="does not fit a supercell of 32 atoms"):
        read_phonopy(path)


def test_yaml_that_would_run_code_is_not_run(copper, tmp_path):
    _, folder = copper
    marker = tmp_path / "owned"
    evil = f"evil: !!python/object/apply:os.mkdir ['{marker}']\n"
    path = copy(folder, tmp_path, change=lambda text: evil + text)
    with pytest.raises(InputError, match="not valid YAML"):
        read_phonopy(path)
    assert not marker.exists()


SMALL = "force_constants:\n  shape: [1, 1]\n  elements: [[[1,0,0],[0,1,0],[0,0,1]]]\n\n"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda t: "a: [1, 2", InputError, "not valid YAML"),
        (lambda t: "- 1\n- 2\n", InputError, "holds no cell"),
        (lambda t: "other: 1\n", InputError, "holds no cell"),
        (lambda t: t.replace("unit_cell:\n  lattice:", "unit_cell:\n  lettuce:", 1), InputError, "holds no unit cell"),
        (lambda t: t.replace("symbol: Cu", "symbol: Xy"), InputError, "cannot be understood"),
        (strip_forces, InputError, "neither forces nor force constants"),
        (lambda t: t.replace("space_group:", SMALL + "space_group:", 1), MismatchError, "force constants of shape"),
    ],
)  # fmt: skip
def test_unusable_files_say_why(copper, tmp_path, change, kind, message):
    _, folder = copper
    with pytest.raises(kind, match=message):
        load_harmonic(copy(folder, tmp_path, change=change))


def test_missing_and_directories(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_phonopy(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="holds none of"):
        read_phonopy(tmp_path)
    os.mkfifo(tmp_path / "phonopy.yaml")
    with pytest.raises(InputError, match="not a regular file"):
        read_phonopy(tmp_path / "phonopy.yaml")


def test_nan_forces_are_refused(copper, tmp_path):
    phonon, folder = copper
    value = phonon.dataset["first_atoms"][0]["forces"][0][0]
    with pytest.raises(InputError, match="not finite"):
        read_phonopy(copy(folder, tmp_path, change=lambda t: t.replace(f"{value:.16f}", ".nan", 1)))


def test_displaced_frames_carry_what_is_known(copper):
    _, folder = copper
    frames = displaced_frames(read_phonopy(folder))
    atoms = frames[0].copy()
    atoms.calc = EMT()
    assert np.abs(labels_of(frames[0]).forces - atoms.get_forces()).max() < 1e-9
    assert labels_of(frames[0]).energy is None
    assert frames[0].info["config_energy_weight"] == 0.0


def test_forces_are_matched_by_geometry(copper, tmp_path):
    phonon, folder = copper
    bare = read_phonopy(copy(folder, tmp_path, "phonopy_disp.yaml", change=strip_forces))
    assert not has_forces(bare)
    right = displaced_frames(phonon)[0]
    decoy = atoms_of(phonon.supercell)
    decoy.positions[5] += [0.0, 0.01, 0.0]
    decoy = label_frame(decoy, energy=0.0, forces=np.ones((32, 3)))
    attach_forces(bare, [decoy, right])
    bare.produce_force_constants(show_drift=False)
    assert np.abs(bare.force_constants - phonon.force_constants).max() < 1e-9
    bare = read_phonopy(tmp_path)
    with pytest.raises(MismatchError, match="Displacement 1 of 1 was not calculated"):
        attach_forces(bare, [decoy])
    with pytest.raises(MismatchError, match="frame 0 against"):
        attach_forces(bare, [label_frame(bulk("Ag", cubic=True) * 2, energy=0.0, forces=np.ones((32, 3)))])


@pytest.mark.parametrize("name", ["Si", "NaCl", "MgB2", "TiO2-anatase", "NaCl-rd"])
def test_published_examples(shared, name):
    phonon = load_harmonic(shared / "data" / "phonopy" / name, calculations=calculations_beside).phonon
    assert phonon.force_constants.shape[1] == len(phonon.supercell)
    assert np.abs(full_force_constants(phonon).sum(axis=1)).max() < 1e-6


def test_born_charges_only_when_asked(shared):
    folder = shared / "data" / "phonopy" / "NaCl"
    assert read_phonopy(folder).nac_params is None
    phonon = read_phonopy(folder, nac=True)
    # charges of Na and Cl in phonopy's example are +-1.086
    assert np.allclose([np.trace(b) / 3 for b in phonon.nac_params["born"]], [1.086, -1.086], atol=5e-3)
    with pytest.raises(InputError, match="no Born charges"):
        read_phonopy(Path(shared) / "data" / "phonopy" / "Si", nac=True)
