import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.hashing import digest_array, digest_atoms, digest_bytes, digest_file, digest_json, digest_structure


def test_bytes_and_files_follow_the_standard(tmp_path):
    # FIPS 180-2 test vector
    assert digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_file(tmp_path / "abc") == digest_bytes(b"abc")


def test_array_hash_ignores_layout_and_width_but_not_values_or_shape():
    values = np.arange(12, dtype=float).reshape(3, 4)
    reference = digest_array(values)
    assert digest_array(np.asfortranarray(values)) == reference
    assert digest_array(values.astype(">f8")) == reference
    assert digest_array(values.astype(np.float32)) == reference
    assert digest_array(values[::-1][::-1]) == reference
    assert digest_array(values.reshape(4, 3)) != reference
    assert digest_array(values.astype(int)) != reference
    changed = values.copy()
    changed[0, 0] = np.nextafter(0, 1)
    assert digest_array(changed) != reference
    assert digest_array(np.array([0.0])) == digest_array(np.array([-0.0]))


def test_json_hash_ignores_key_order_and_number_classes():
    assert digest_json({"a": 1, "b": [1.5, None]}) == digest_json({"b": (np.float64(1.5), None), "a": np.int64(1)})
    assert digest_json({"a": 1}) != digest_json({"a": 1.0})
    assert digest_json({"a": True}) != digest_json({"a": 1})
    assert digest_json([1, 2]) != digest_json([2, 1])
    assert digest_json({1.0, 2.0}) == digest_json({2.0, 1.0})
    assert digest_json(float("nan")) == digest_json(np.nan)


@pytest.mark.parametrize("value", [object(), {1: "a"}, 1j])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(TypeError):
        digest_json(value)


def test_a_path_is_refused_because_it_has_no_identity(tmp_path):
    with pytest.raises(TypeError, match="hash the content"):
        digest_json({"model": tmp_path})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=10,
    )
)
@settings(max_examples=60, deadline=None)
def test_equal_json_gives_equal_hashes(value):
    import copy

    assert digest_json(value) == digest_json(copy.deepcopy(value))


def test_hashes_are_the_same_in_another_process():
    expression = (
        "digest_json({'x': 0.1, 'y': {'b', 'a'}}) + digest_atoms(bulk('Si')) + digest_array(np.linspace(0, 1, 7))"
    )
    code = (
        "import numpy as np; from phonosmith.core.hashing import *; from ase.build import bulk; print("
        + expression
        + ")"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {eval(expression)}


def test_known_digests_never_change():
    # frozen values: documents in users' stores refer to them
    assert digest_json({"a": [1, 0.1, None, "Å"]}) == "2a482010d5f46f85b9f4a8a01eb8ab7e65d751d4d184c0111d2b12e9571dcad2"
    assert digest_array(np.array([[0.1, -2.0]])) == "bde55249ed8207375a33aff96d44233ecd224923c7e0a889eb814bd490bb2252"


def test_structure_hash_is_that_of_its_atoms():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    structure = AseAtomsAdaptor.get_structure(atoms)
    assert digest_structure(structure) == digest_structure(structure.copy())
    assert digest_structure(atoms) == digest_atoms(atoms)
    moved = atoms.copy()
    moved.positions[0, 0] += 1e-12
    assert digest_atoms(moved) != digest_atoms(atoms)
    assert digest_atoms(atoms[::-1]) != digest_atoms(atoms)
