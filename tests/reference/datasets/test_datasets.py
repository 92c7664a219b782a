"""Datasets: exact text, identity, subsets, merging."""

import gzip

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read as ase_read
from ase.io import write as ase_write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from phonosmith.core.artefacts import ArtefactStore, DirectoryBackend
from phonosmith.core.errors import ArtefactError, InputError
from phonosmith.reference.datasets.dataset import (
    dataset_digest,
    frame_digest,
    get_dataset,
    put_dataset,
    subset,
)
from phonosmith.structures.extxyz import format_frames, parse_frames, read_frames, write_frames
from phonosmith.structures.labels import label_frame, labels_of

FLOATS = st.floats(-1e6, 1e6, allow_nan=False, width=64)


def frames(n=4, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        atoms = bulk("Si", cubic=True) if k % 2 else bulk("NaCl", "rocksalt", a=5.6)
        atoms.cell[:] = atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3)))
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        made.append(
            label_frame(
                atoms,
                energy=rng.normal(-40, 1),
                forces=rng.normal(0, 1, (len(atoms), 3)),
                stress=rng.normal(0, 0.01, 6),
                functional="PBE",
                settings="0123456789ab",
            )
        )
    return made


def same(a, b):
    assert np.array_equal(a.numbers, b.numbers)
    assert np.array_equal(a.positions, b.positions)
    assert np.array_equal(a.cell.array, b.cell.array)
    assert np.array_equal(a.pbc, b.pbc)
    for x, y in zip(labels_of(a).__dict__.values(), labels_of(b).__dict__.values(), strict=True):
        assert (x is None) == (y is None)
        assert x is None or np.array_equal(x, y)


def test_round_trip_is_exact_and_through_ase_too(tmp_path):
    made = frames(6)
    path = write_frames(tmp_path / "a.xyz", made)
    for mine, theirs, original in zip(read_frames(path), ase_read(path, ":"), made, strict=True):
        same(mine, original)
        same(theirs, original)
        assert mine.info == theirs.info == original.info
    assert format_frames(read_frames(path)) == path.read_text()


def test_ase_own_writer_would_not_do(tmp_path):
    """The reason for our own writer: ASE's rounds positions and forces to 1e-8."""
    made = frames(1)
    ase_write(tmp_path / "ase.xyz", made)
    assert not np.array_equal(ase_read(tmp_path / "ase.xyz").positions, made[0].positions)


@settings(max_examples=60, deadline=None)
@given(
    positions=arrays(float, (3, 3), elements=FLOATS),
    forces=arrays(float, (3, 3), elements=FLOATS),
    stress=arrays(float, 6, elements=FLOATS),
    energy=FLOATS,
    text=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs",)), max_size=20),
    number=FLOATS,
    vector=arrays(float, st.integers(1, 5), elements=FLOATS),
)
def test_any_numbers_and_text_survive(positions, forces, stress, energy, text, number, vector):
    atoms = Atoms("SiGeO", positions=positions, cell=np.diag([4.0, 5.0, 6.1]), pbc=True)
    made = label_frame(
        atoms, energy=energy, forces=forces, stress=stress, note=text, number=number, vector=vector, flag=True, count=7
    )
    back = parse_frames(format_frames([made]), "text")[0]
    same(back, made)
    assert back.info["note"] == text
    assert isinstance(back.info["note"], str)
    assert back.info["number"] == number
    assert np.array_equal(back.info["vector"], vector)
    assert back.info["flag"] is True
    assert back.info["count"] == 7
    assert frame_digest(back) == frame_digest(made)


@pytest.mark.parametrize(
    "text",
    [
        "123",
        "1e5",
        "T",
        "nan",
        "",
        "a b",
        'quo"te',
        "back\\slash",
        "{x}",
        "_JSON 1",
        "1 2",
        ":\x85",
        "\u2028",
        "a\u2029b",
    ],
)
def test_text_that_looks_like_something_else_stays_text(text):
    made = label_frame(bulk("Si"), energy=-1.0, forces=np.zeros((2, 3)), note=text)
    assert parse_frames(format_frames([made]), "text")[0].info["note"] == text


def test_mace_reads_the_file_unchanged(tmp_path):
    """mace_run_train's own loader gets every number, weight and head."""
    data = pytest.importorskip("mace.data.utils")
    made = frames(4)
    made[1].info.update(config_type="strain", config_weight=2.5, head="pt")
    path = write_frames(tmp_path / "a.xyz", made)
    keys = data.KeySpecification(
        info_keys={"energy": "energy", "stress": "stress", "head": "head"}, arrays_keys={"forces": "forces"}
    )
    _, configs = data.load_from_xyz(str(path), keys)
    for config, original in zip(configs, made, strict=True):
        labels = labels_of(original)
        assert np.array_equal(config.positions, original.positions)
        assert config.properties["energy"] == labels.energy
        assert np.array_equal(config.properties["forces"], labels.forces)
        assert np.array_equal(config.properties["stress"], labels.stress)
    assert configs[1].weight == 2.5
    assert configs[1].config_type == "strain"
    assert configs[0].weight == 1.0


def test_equitrain_reads_the_file_unchanged(tmp_path):
    """Equitrain reads XYZ with ASE and asks the calculator for labels."""
    made = frames(2)
    path = write_frames(tmp_path / "a.xyz", made)
    atoms = ase_read(path, 1, format="extxyz")
    assert atoms.get_potential_energy() == labels_of(made[1]).energy
    assert np.array_equal(atoms.get_forces(), labels_of(made[1]).forces)
    assert np.array_equal(atoms.get_stress(voigt=True), labels_of(made[1]).stress)


def test_labels_under_mace_names_are_adopted(tmp_path):
    made = frames(1)[0]
    labels = labels_of(made)
    bare = made.copy()
    bare.calc = None
    volume = bare.get_volume()
    bare.info["REF_energy"] = labels.energy
    bare.arrays["REF_forces"] = labels.forces
    bare.info["REF_virials"] = -labels.stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]] * volume
    ase_write(tmp_path / "m.xyz", bare, format="extxyz")
    back = labels_of(read_frames(tmp_path / "m.xyz", require=("energy", "forces", "stress"))[0])
    assert back.energy == labels.energy
    assert np.allclose(back.forces, labels.forces, atol=1e-8)
    assert np.allclose(back.stress, labels.stress, rtol=1e-12)


def test_two_different_energies_are_refused(tmp_path):
    made = frames(1)[0]
    made.info["REF_energy"] = labels_of(made).energy + 0.1
    path = write_frames(tmp_path / "a.xyz", [made])
    with pytest.raises(InputError, match=r"a\.xyz: frame 0: .*two different labels 'energy' and 'REF_energy'"):
        read_frames(path)


def test_constraints_do_not_zero_labels(tmp_path):
    atoms = bulk("Si", cubic=True)
    atoms.set_constraint(FixAtoms([0, 1]))
    forces = np.ones((8, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    path = write_frames(tmp_path / "c.xyz", [atoms])
    assert np.array_equal(ase_read(path).get_forces(), forces)


@pytest.mark.parametrize("suffix", [".xyz.gz", ".xyz.xz", ".xyz.lzma"])
def test_compressed(tmp_path, suffix):
    made = frames(2)
    same(read_frames(write_frames(tmp_path / f"a{suffix}", made))[1], made[1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t[: len(t) // 2].rsplit("\n", 1)[0] + "\n", r"frame \d: it announces \d+ atoms but"),
        (lambda t: t.replace("Si ", "Si x", 1), "frame 1: field 'pos' of atom 0"),
        (lambda t: t.replace("energy=", "energy=abc", 1), "frame 0: field 'energy' is 'abc"),
        (lambda t: "hello\n" + t, "frame 0: line 1 should hold the number of atoms"),
        (lambda t: "", "holds no frame"),
        (lambda t: t.replace('stress="', 'stress="1 ', 1), "frame 0: .*stress"),
        (lambda t: t.replace("Si", "Qq", 1), "frame 1: "),
    ],
)
def test_broken_files_name_frame_and_field(tmp_path, damage, message):
    path = write_frames(tmp_path / "a.xyz", frames(2))
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"a\.xyz.*" + message):
        read_frames(path)


def test_nan_and_missing_labels_name_frame_and_field(tmp_path):
    made = frames(3)
    text = format_frames(made)
    first_force = repr(labels_of(made[2]).forces[1, 0].item())
    (tmp_path / "n.xyz").write_text(text.replace(first_force, "nan"))
    with pytest.raises(InputError, match=r"n\.xyz: frame 2 .*forces of atom 1 are not finite"):
        read_frames(tmp_path / "n.xyz")
    bare = [made[0], made[1].copy()]
    write_frames(tmp_path / "m.xyz", bare)
    assert labels_of(read_frames(tmp_path / "m.xyz")[1]).energy is None
    with pytest.raises(InputError, match=r"m\.xyz: frame 1 .*energy is missing; forces is missing"):
        read_frames(tmp_path / "m.xyz", require=("energy", "forces"))
    made[1].calc.results["energy"] = float("nan")
    with pytest.raises(InputError, match=r"frame 1 .*energy is nan"):
        write_frames(tmp_path / "never.xyz", made)
    assert not (tmp_path / "never.xyz").exists()


def test_absent_binary_and_truncated_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_frames(tmp_path / "none.xyz")
    (tmp_path / "b.xyz").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_frames(tmp_path / "b.xyz")
    (tmp_path / "t.xyz.gz").write_bytes(gzip.compress(b"2\nx\n")[:-6])
    with pytest.raises(InputError, match="cannot be read as text"):
        read_frames(tmp_path / "t.xyz.gz")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda a: a.info.update({"a b": 1}), "a b"),
        (lambda a: a.info.update(thing=object()), "thing"),
        (lambda a: a.info.update(Lattice=1), "Lattice"),
        (lambda a: a.info.update(energy=1.0), "energy"),
        (lambda a: a.set_array("names", np.array(["a b"] * len(a))), "names"),
        (lambda a: a.set_array("big", np.full(len(a), 2**40)), "big"),
    ],
)
def test_what_cannot_be_written_is_refused(change, field):
    made = frames(2)
    change(made[1])
    with pytest.raises(InputError, match=f"Frame 1 cannot be written: .*{field}"):
        format_frames(made)


def test_identity_follows_content_not_spelling(tmp_path):
    made = frames(3)
    reference = dataset_digest(made)
    again = read_frames(write_frames(tmp_path / "a.xyz", made))
    assert dataset_digest(again) == reference
    again[0].info["note"] = "free text does not count"
    assert dataset_digest(again) == reference
    assert dataset_digest(again[::-1]) != reference
    changes = [
        lambda a: a.positions.__setitem__((0, 0), np.nextafter(a.positions[0, 0], 9)),
        lambda a: a.calc.results.update(energy=np.nextafter(a.calc.results["energy"], 9)),
        lambda a: a.calc.results["forces"].__setitem__((1, 2), 0.5),
        lambda a: a.calc.results.pop("stress"),
        lambda a: a.info.update(config_weight=2.0),
        lambda a: a.info.update(functional="PBEsol"),
    ]
    for change in changes:
        other = read_frames(tmp_path / "a.xyz")
        change(other[1])
        assert dataset_digest(other) != reference


def test_store_round_trip_subsets_and_lineage(tmp_path):
    store = ArtefactStore(DirectoryBackend(tmp_path / "store"))
    made = frames(5)
    ref = put_dataset(made, name="si", store=store)
    assert (ref.n_frames, ref.elements, ref.functionals) == (5, ["Na", "Si", "Cl"], ["PBE"])
    assert (ref.n_energies, ref.n_stresses) == (5, 5)
    for mine, original in zip(get_dataset(ref, store=store), made, strict=True):
        same(mine, original)
    small = subset(ref, 2, store=store)
    assert small.parents == [ref.sha256]
    same(get_dataset(small, store=store)[1], made[1])
    with pytest.raises(ArtefactError, match="does not hold the frames"):
        get_dataset(ref.model_copy(update={"sha256": small.sha256}), store=store)
    store.backend.path(ref.artefact.sha256).write_bytes(b"1\n\nSi 0 0 0\n")
    with pytest.raises(ArtefactError, match="altered"):
        get_dataset(ref, store=store)


def test_default_store_is_used():
    ref = put_dataset(frames(2))
    assert len(get_dataset(ref)) == 2


def test_subsets_are_nested():
    made = frames(6)
    ref = put_dataset(made)
    chosen = {size: get_dataset(subset(ref, size)) for size in (4, 2, 6)}
    assert {size: len(members) for size, members in chosen.items()} == {4: 4, 2: 2, 6: 6}
    for members in chosen.values():
        for mine, original in zip(members, made, strict=False):
            same(mine, original)
    for size in (0, 7):
        with pytest.raises(InputError, match=f"subset of {size} frames"):
            subset(ref, size)


def test_a_symbol_that_is_no_element_is_named(tmp_path):
    path = tmp_path / "x.xyz"
    path.write_text('1\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 pbc="T T T"\nQq 0 0 0\n')
    with pytest.raises(InputError, match="frame 0: atom 0 is called 'Qq', which is no element"):
        read_frames(path)
