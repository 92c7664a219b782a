import numpy as np
import pytest

from phonosmith.core.errors import InputError
from phonosmith.flows.replay import MAX_FORCE, elemental_pool, label_pool, simple_elements
from phonosmith.potentials.registry import load


def test_the_material_comes_first_and_the_rest_is_drawn():
    known = ["H", "C", "O", "Al", "Si", "Fe", "Ni", "Cu", "Ge", "Ag", "W", "Au", "U"]
    pool = elemental_pool(known, ["Si", "O"], 24, seed=3)
    symbols = [atoms.get_chemical_symbols()[0] for atoms in pool]
    assert len(pool) == 24
    assert symbols[0] == "Si"
    assert "O" not in symbols  # oxygen is no simple crystal
    assert len(set(symbols)) == 8
    assert [a.positions.tolist() for a in elemental_pool(known, ["Si", "O"], 24, seed=3)] == [
        a.positions.tolist() for a in pool
    ]
    assert simple_elements(["He", "Si", "Cl"]) == ["Si"]


def test_labels_are_the_potentials_own():
    potential = load("embedded")
    pool = elemental_pool(potential.elements, ["Si"], 4, seed=0)
    labelled = label_pool(potential, pool, "embedded")
    for atoms in labelled:
        expected = potential.calculator()
        forces = expected.get_property("forces", atoms.copy())
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-9)  # eV/Å, same code batched and alone
        assert abs(forces).max() < MAX_FORCE
        assert atoms.get_stress().shape == (6,)


def test_a_foundation_without_a_simple_element_needs_a_dataset():
    with pytest.raises(InputError, match="replay dataset"):
        elemental_pool(["O", "Cl"], ["O"], 4, seed=0)
