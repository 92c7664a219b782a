"""Neighbour lists that are kept give the edges of new ones, and are sought again only when something came near."""

import numpy as np
import pytest
from ase.build import bulk

from phonosmith.potentials.graphs import GraphMaker, make_graph

NUMBERS, CUTOFF = (6, 14), 4.5


@pytest.fixture
def maker():
    return GraphMaker(NUMBERS, CUTOFF)


def crystal(seed=0):
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.numbers[::3] = 6
    atoms.rattle(0.05, seed=seed)
    return atoms


def edges_of(graph):
    return {(*ends, *shift) for ends, shift in zip(graph.edges.T.tolist(), graph.shifts.tolist(), strict=True)}


def same(found, atoms):
    expected = make_graph(atoms, NUMBERS, CUTOFF)
    assert edges_of(found) == edges_of(expected)
    assert found.n_edges == expected.n_edges, "no edge twice"
    for name in ("species", "positions", "cell"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_walk_with_a_moving_cell_has_the_edges_of_new_lists(maker):
    """Small steps: most need no search, all have every pair within the cutoff and none beyond."""
    atoms, rng = crystal(), np.random.default_rng(0)
    for _ in range(60):
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.004, (3, 3))), scale_atoms=True)
        same(maker(atoms), atoms)
    assert 2 <= maker.built <= 30


def test_large_moves_and_strains_are_sought_anew(maker):
    for k in range(6):
        atoms = crystal(k)
        atoms.rattle(0.3, seed=k)
        atoms.set_cell(atoms.cell.array * (1 - 0.05 * k), scale_atoms=True)
        same(maker(atoms), atoms)
    assert maker.built >= 5


def test_cells_that_differ_by_one_displacement_share_a_list(maker):
    perfect = crystal()
    for k in range(12):
        atoms = perfect.copy()
        atoms.positions[k % len(atoms), k % 3] += 0.01
        same(maker(atoms), atoms)
    assert maker.built == 1


def test_several_walkers_keep_a_list_each(maker):
    walkers = [crystal(seed) for seed in range(5)]
    for seed, atoms in enumerate(walkers):
        atoms.rattle(0.2, seed=seed)
    for _ in range(4):
        for atoms in walkers:
            atoms.positions += 0.01
            same(maker(atoms), atoms)
    assert maker.built == 5


def test_an_atom_that_crosses_the_cell_and_other_species(maker):
    atoms = crystal()
    maker(atoms)
    atoms.wrap()
    atoms.positions[3] += atoms.cell.array[0]
    same(maker(atoms), atoms)
    atoms.numbers[3] = 6 if atoms.numbers[3] == 14 else 14
    same(maker(atoms), atoms)


def test_what_does_not_repeat_is_made_as_ever(maker):
    atoms = crystal()
    atoms.pbc = (True, True, False)
    same(maker(atoms), atoms)
    assert maker.built == 0
