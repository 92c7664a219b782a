"""Moments by where atoms sit: the crystal's own order in every cell that is made of it."""

import numpy as np
import pytest
from ase.build import make_supercell
from hypothesis import given, settings
from hypothesis import strategies as some
from pymatgen.core import Lattice, Structure

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.structures.magnetic import MagneticOrder, given_moments

# nickel oxide with alternating (111) layers: twice the primitive cell of rock salt
A = 4.18
CELL = np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]) * A
OXIDE = Structure(Lattice(CELL), ["Ni", "Ni", "O", "O"], [[0, 0, 0], [0.5] * 3, [0.25] * 3, [0.75] * 3])
TURN = np.array([[0.966, 0.259, 0], [-0.259, 0.966, 0], [0, 0, 1]])
"""By fifteen degrees about z."""
MOMENTS = [2.0, -2.0, 0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(seed=some.integers(0, 2**32 - 1), factor=some.floats(0.95, 1.05))
def test_strained_displaced_and_shuffled_supercells_have_the_order_of_the_crystal(seed, factor):
    """Against ASE, which repeats moments with the atoms it repeats."""
    rng = np.random.default_rng(seed)
    atoms = OXIDE.to_ase_atoms(msonable=False)
    atoms.set_initial_magnetic_moments(MOMENTS)
    matrix = np.eye(3, dtype=int) + rng.integers(0, 2, size=(3, 3))
    if round(np.linalg.det(matrix)) == 0:
        matrix = 2 * np.eye(3, dtype=int)
    cell = make_supercell(atoms, matrix)
    cell.set_cell(
        cell.cell.array @ (factor ** (1 / 3) * (np.eye(3) + rng.uniform(-0.02, 0.02, (3, 3)))), scale_atoms=True
    )
    cell.positions += rng.normal(scale=0.08, size=cell.positions.shape)
    cell = cell[rng.permutation(len(cell))]
    cell.wrap()
    found = MagneticOrder.of(OXIDE, MOMENTS).moments_in(cell.get_chemical_symbols(), cell.cell.array, cell.positions)
    assert found == cell.get_initial_magnetic_moments().tolist()


def test_cells_that_cannot_have_the_order_are_refused():
    order = MagneticOrder.of(OXIDE, MOMENTS)
    primitive = Structure.from_spacegroup("Fm-3m", Lattice.cubic(A), ["Ni", "O"], [[0, 0, 0], [0.5] * 3])
    for cell, words in (
        (primitive.get_primitive_structure(), "no multiple of the magnetic cell"),
        (Structure(OXIDE.lattice, ["Ni", "Ni", "O", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.75] * 3]), "sites"),
        (Structure(Lattice(CELL @ TURN), OXIDE.species, OXIDE.frac_coords), "turned"),
    ):
        with pytest.raises(MismatchError, match=words):
            order.moments_in([site.specie.symbol for site in cell], cell.lattice.matrix, cell.cart_coords)


@pytest.mark.parametrize(
    ("moments", "words"),
    [([2.0, -2.0], "2 moments are given for 4 atoms"), ([0.0] * 4, "All moments are zero"), ([2.0, 80.0, 0, 0], "80")],
)
def test_moments_that_cannot_be(moments, words):
    with pytest.raises(InputError, match=words):
        MagneticOrder.of(OXIDE, moments)


def test_sites_carry_the_order():
    assert given_moments(OXIDE) is None
    assert given_moments(OXIDE.copy(site_properties={"magmom": [0.0] * 4})) is None
    assert given_moments(OXIDE.copy(site_properties={"magmom": MOMENTS})).moments == MOMENTS
