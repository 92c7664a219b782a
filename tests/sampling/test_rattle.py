from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from phonosmith.core.errors import InputError
from phonosmith.core.hashing import digest_array, digest_atoms
from phonosmith.sampling.ladder import shortest_distance, volume_ladder
from phonosmith.sampling.rattle import draw_seed, mean_length, rattle
from phonosmith.sampling.strain import distort_cell, with_cell


def test_mean_displacement_is_what_was_asked():
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    found = rattle(atoms, 5, mean_displacement=0.1, min_distance=2.0)
    assert np.linalg.norm(found.displacements, axis=1).mean() == pytest.approx(0.1, rel=0.02)
    assert found.mean == mean_length(found.displacements)
    assert np.abs(found.displacements.mean(axis=0)).max() < 1e-14
    assert found.warnings == ()


def test_displacements_are_hiphives():
    # the calibrated amplitude, put into hiphive itself, gives the same displacements
    from hiphive.structure_generation.rattle import mc_rattle

    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    found = rattle(atoms, 11, mean_displacement=0.08, min_distance=2.2, n_iter=7)
    direct = mc_rattle(atoms, found.sigma, 2.2, n_iter=7, seed=11)
    assert found.displacements == pytest.approx(direct - direct.mean(axis=0), abs=1e-15)


def test_distances_stay_above_the_limit():
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.positions += rattle(atoms, 3, mean_displacement=0.25, min_distance=2.1).displacements
    # hiphive's acceptance is an error function of width 0.1 Å around the limit
    assert shortest_distance(atoms) > 2.1 - 0.15


def test_seeds_are_separate_and_repeatable():
    atoms = bulk("Si", cubic=True)
    one, again, other = (rattle(atoms, seed, min_distance=2.0).displacements for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)
    assert draw_seed(7, "rattle", 0) != draw_seed(7, "strain", 0) != draw_seed(7, "strain", 1)
    assert 0 <= draw_seed(2**70, "x") < 2**31


def test_one_atom_cannot_be_rattled():
    found = rattle(bulk("Cu"), 1, min_distance=2.0)
    assert not found.displacements.any()
    assert "one atom" in found.warnings[0]


def test_a_jammed_cell_is_reported():
    # with an impossible distance hiphive finds no step: the limit gives way and says so
    atoms = bulk("Cu", cubic=True)
    found = rattle(atoms, 1, mean_displacement=0.05, min_distance=2.9)
    assert found.min_distance < 2.9
    assert any("lowered" in note for note in found.warnings)


@pytest.mark.parametrize("bad", [{"mean_displacement": -0.1}, {"min_distance": 0.0}, {"n_iter": 0}])
def test_bad_amplitudes_are_refused(bad):
    with pytest.raises(InputError):
        rattle(bulk("Si"), 1, **{"min_distance": 2.0, **bad})


@given(
    seed=st.integers(0, 2**31 - 1),
    parameters=st.tuples(*[st.floats(3, 20)] * 3, *[st.floats(65, 115)] * 3),
)
@settings(max_examples=50, deadline=None)
def test_lattice_distortion_is_within_bounds_and_unrotated(seed, parameters):
    from ase.geometry import cell_to_cellpar, cellpar_to_cell

    cell = np.array(cellpar_to_cell(parameters))
    found = distort_cell(cell, seed, 0.02)
    ratio = cell_to_cellpar(found.cell) / cell_to_cellpar(cell)
    assert np.abs(ratio - 1).max() <= 0.02 + 1e-9
    assert ratio == pytest.approx([*found.length_factors, *found.angle_factors], abs=1e-9)
    stretch = np.linalg.solve(cell, found.cell)
    assert stretch == pytest.approx(stretch.T, abs=1e-10)
    assert np.linalg.det(found.cell) / np.linalg.det(cell) == pytest.approx(found.volume_factor)


def test_left_handed_cells_stay_left_handed():
    cell = np.array([[0.0, 4.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 6.0]])
    found = distort_cell(cell, 4, 0.02)
    assert np.linalg.det(found.cell) < 0
    assert np.linalg.norm(found.cell - cell) < 0.4


def test_impossible_angles_are_refused():
    from ase.geometry import cellpar_to_cell

    flat = np.array(cellpar_to_cell([5, 5, 5, 119.0, 119.0, 119.0]))
    with pytest.raises(InputError, match="No cell has angles"):
        for seed in range(20):
            distort_cell(flat, seed, 0.1)


def test_volumes_are_exact_and_fractions_kept():
    supercell = bulk("Si", cubic=True) * (2, 2, 2)
    starts = volume_ladder(supercell, 7, volume_of="supercell")
    for start, factor in zip(starts, (0.95, 0.975, 1.0, 1.025, 1.05), strict=True):
        assert start.atoms.get_volume() / supercell.get_volume() == pytest.approx(factor, rel=1e-9)
        # undo the strain: what remains is the rattle in the perfect supercell
        back = start.atoms.get_scaled_positions(wrap=False) @ supercell.cell.array
        assert back - supercell.positions == pytest.approx(start.rattled.displacements, abs=2e-8)
        assert start.scale**3 * start.distortion.volume_factor == pytest.approx(factor, rel=1e-12)


def test_statistics_over_many_draws():
    # factors uniform in 1 ± 0.02: mean 1, standard deviation 0.02/sqrt(3)
    factors = np.array([distort_cell(np.eye(3) * 5, seed).length_factors for seed in range(400)]).ravel()
    assert factors.mean() == pytest.approx(1.0, abs=4 * 0.02 / np.sqrt(3 * factors.size))
    assert factors.std() == pytest.approx(0.02 / np.sqrt(3), rel=0.05)
    assert factors.min() >= 0.98
    assert factors.max() <= 1.02


def test_same_seed_same_bytes_on_any_platform():
    # recorded once; a change here means that documents written before can no longer be regenerated
    starts = volume_ladder(bulk("Si", a=5.43, cubic=True), 7, volume_of="supercell")
    assert [digest_atoms(start.atoms)[:16] for start in starts] == GOLDEN
    assert draw_seed(7, "rattle", 0) == 2073780826
    assert digest_array(np.array([start.rattle_seed for start in starts]))[:16] == GOLDEN_SEEDS


def test_with_cell_refuses_nonsense():
    with pytest.raises(InputError, match="not positive"):
        with_cell(bulk("Si"), np.eye(3), 0.0)
    with pytest.raises(InputError, match="not all between"):
        volume_ladder(bulk("Si"), 1, volume_factors=(0.1, 1.0))


GOLDEN = ["b04a4d88052ea7e8", "abdb85829977fd21", "1b97e885e1c8ffcb", "d328668cbed1efa1", "2ea9df711b42121d"]
GOLDEN_SEEDS = "dcb6e119403ec599"
