from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phonosmith.core.errors import InputError
from phonosmith.sampling.selection import (
    near_duplicates,
    select_by_energy,
    training_order,
    validation_index,
)

FACTORS = (0.95, 0.975, 1.0, 1.025, 1.05)


def test_dense_trajectory_hits_every_rung():
    energies = np.linspace(5.0, 1.0, 4001)
    found = select_by_energy(energies, 4)
    assert found.fractions == pytest.approx([0.0, 0.3, 0.6, 0.9], abs=1e-3)
    assert found.targets == pytest.approx([5.0, 3.8, 2.6, 1.4])
    assert found.steps[0] == 0
    assert found.reasons == ()


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=11), st.integers(1, 4))
def test_choice_is_the_best_of_all_increasing_ones(energies, n_select):
    found = select_by_energy(energies, n_select)
    assert list(found.steps) == sorted(set(found.steps))
    assert found.steps[0] == 0
    lowest = int(np.argmin(energies))
    drop = energies[0] - energies[lowest]
    if drop <= 1e-6 or len(found.steps) < n_select:
        assert len(found.steps) == (1 if drop <= 1e-6 else lowest + 1)
        return
    rungs = energies[0] - drop * np.linspace(0, 0.9, n_select) if n_select > 1 else [energies[0]]

    def cost(steps):
        return sum((energies[step] - rung) ** 2 for step, rung in zip(steps, rungs, strict=True))

    options = [(0, *rest) for rest in combinations(range(1, lowest + 1), n_select - 1)]
    assert cost(found.steps) <= min(cost(option) for option in options) * (1 + 1e-9) + 1e-12


def test_never_the_same_frame_twice_when_the_energy_falls_at_once():
    found = select_by_energy([10.0, 0.3, 0.2, 0.1, 0.0], 4)
    assert len(set(found.steps)) == 4
    assert found.fractions == pytest.approx((0, 0.97, 0.98, 0.99))
    assert found.steps[0] == 0


def test_energy_that_rises_first():
    found = select_by_energy([1.0, 1.4, 0.9, 0.5, 0.7, 0.2, 0.0, 0.05], 4)
    assert list(found.steps) == sorted(found.steps)
    assert found.steps[0] == 0
    assert max(found.steps) <= 6


def test_short_and_flat_trajectories_give_fewer_with_a_reason():
    short = select_by_energy([1.0, 0.0], 4)
    assert short.steps == (0, 1)
    assert "2 instead of 4" in short.reasons[0]
    for energies in ([1.0], [1.0, 1.0], [0.0, 1.0]):
        flat = select_by_energy(energies, 4)
        assert flat.steps == (0,)
        assert "starts converged" in flat.reasons[0]


def test_unphysical_steps_are_stepped_over():
    energies = [100.0, 50.0, 10.0, 8.0, 6.0, 4.0, 2.0, 0.0]
    found = select_by_energy(energies, 4, usable=[False, False, *[True] * 6])
    assert found.steps[0] == 2
    assert found.targets[0] == 10.0
    assert "2 unphysical steps left out (0, 1)" in found.reasons[0]
    none = select_by_energy(energies, 4, usable=[False] * 8)
    assert none.steps == ()
    assert "no physical step" in none.reasons[-1]


def test_near_duplicates():
    first = np.zeros((2, 3))
    moved = first + np.array([[0, 0, 0], [0, 0, 0.01]])
    nearly = moved + 1e-5
    assert near_duplicates([first, moved, nearly], 1e-3) == [2]
    assert near_duplicates([first, moved, nearly], 0.1) == [1, 2]


def test_order_is_outermost_first_layer_by_layer():
    order = training_order(FACTORS, [4] * 5)
    assert order[:4] == [(0, 0), (4, 0), (1, 0), (3, 0)]
    assert order[4:8] == [(0, 1), (4, 1), (1, 1), (3, 1)]
    assert len(order) == 16
    assert {index for index, _ in order} == {0, 1, 3, 4}
    for n in (4, 8, 12, 16):
        assert {layer for _, layer in order[:n]} == set(range(n // 4))


def test_order_with_missing_frames():
    order = training_order(FACTORS, [4, 1, 4, 0, 2])
    assert order == [(0, 0), (4, 0), (1, 0), (0, 1), (4, 1), (0, 2), (0, 3)]


def test_validation_is_the_unscaled_volume():
    assert validation_index(FACTORS) == 2
    with pytest.raises(InputError, match="no validation"):
        validation_index((0.95, 1.05))
    with pytest.raises(InputError):
        select_by_energy([1.0, 0.0], 0)
