from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from phonosmith.core.errors import InputError, PotentialError
from phonosmith.potentials.ase_potential import AsePotential
from phonosmith.potentials.base import Evaluation
from phonosmith.sampling.fire import relax_batch
from phonosmith.sampling.ladder import volume_ladder


def copper() -> AsePotential:
    return AsePotential(EMT, ("Cu", "Au"))


def starts(n: int = 3):
    cell = bulk("Cu", cubic=True)
    cell.numbers[0] = 79
    return [start.atoms for start in volume_ladder(cell, 2, volume_factors=(0.95, 1.0, 1.05)[:n])]


def ase_relaxation(atoms, target, fmax, steps):
    optimizer = FIRE(target, logfile=None)
    energies = [atoms.get_potential_energy() for _ in optimizer.irun(fmax=fmax, steps=steps)]
    return energies, optimizer.converged()


def test_every_step_is_ases():
    frames = starts()
    found = relax_batch(frames, copper(), fmax=1e-4, max_steps=300)
    for frame, trajectory in zip(frames, found, strict=True):
        atoms = frame.copy()
        atoms.calc = EMT()
        energies, converged = ase_relaxation(atoms, atoms, 1e-4, 300)
        assert trajectory.converged
        assert converged
        assert len(trajectory.energies) == len(energies)
        assert np.abs(np.array(trajectory.energies) - energies).max() < 1e-9
        assert trajectory.frames[-1].positions == pytest.approx(atoms.positions, abs=1e-7)
        assert np.array_equal(trajectory.frames[0].positions, frame.positions)
        assert np.array_equal(trajectory.frames[-1].cell.array, frame.cell.array)


@pytest.mark.parametrize("mode", ["shape", "full"])
def test_moving_cells_are_ases(mode):
    frame = starts(1)[0]
    trajectory = relax_batch([frame], copper(), fmax=1e-3, max_steps=200, cell=mode)[0]
    atoms = frame.copy()
    atoms.calc = EMT()
    energies, _ = ase_relaxation(atoms, FrechetCellFilter(atoms, constant_volume=mode == "shape"), 1e-3, 200)
    assert trajectory.energies == pytest.approx(energies, abs=1e-6)
    volume = trajectory.frames[-1].get_volume() / frame.get_volume()
    assert (abs(volume - 1) < 1e-9) == (mode == "shape")


def test_step_cap_is_reported():
    trajectories = relax_batch(starts(), copper(), max_steps=4)
    assert [item.converged for item in trajectories] == [False] * 3
    assert [item.n_steps for item in trajectories] == [4] * 3
    assert all(len(item.energies) == len(item.fmax) == 5 for item in trajectories)
    assert relax_batch(starts(1), copper(), max_steps=0)[0].n_steps == 0


def test_converged_structures_leave_the_batch():
    sizes = []

    class Counting(AsePotential):
        def evaluate(self, frames, **options):
            sizes.append(len(frames))
            return super().evaluate(frames, **options)

    perfect = bulk("Cu", cubic=True)
    found = relax_batch([perfect, *starts()], Counting(EMT, ("Cu", "Au")), fmax=1e-3)
    assert found[0].n_steps == 0
    assert found[0].converged
    assert sizes[0] == 4
    assert sizes[1] == 3
    assert sizes == sorted(sizes, reverse=True)


def test_constraints_and_inputs_are_left_alone():
    from ase.constraints import FixAtoms

    frame = starts(1)[0]
    frame.set_constraint(FixAtoms([0]))
    before = frame.positions.copy()
    relax_batch([frame], copper(), max_steps=3)
    assert np.array_equal(frame.positions, before)
    assert len(frame.constraints) == 1


def test_progress_is_told():
    seen = []
    relax_batch(starts(), copper(), max_steps=2, on_step=lambda step, moving: seen.append((step, moving)))
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_broken_potential_is_named():
    class Broken(AsePotential):
        def evaluate(self, frames, **options):
            return [Evaluation(float("nan"), np.zeros((len(atoms), 3)), np.zeros(6)) for atoms in frames]

    with pytest.raises(PotentialError, match="no finite energy"):
        relax_batch(starts(1), Broken(EMT, ("Cu", "Au")))


def test_bad_criteria_are_refused():
    with pytest.raises(InputError):
        relax_batch(starts(1), copper(), fmax=0)
    with pytest.raises(InputError, match="not known"):
        relax_batch(starts(1), copper(), cell="loose")
    assert relax_batch([], copper()) == []


def test_batched_embedded_potential_follows_ase():
    from phonosmith.potentials import registry

    potential = registry.load("embedded-reference")
    frames = [start.atoms for start in volume_ladder(bulk("Si", cubic=True), 1, volume_factors=(0.97, 1.0, 1.03))]
    found = relax_batch(frames, potential, fmax=1e-3, max_steps=200)
    for frame, trajectory in zip(frames, found, strict=True):
        atoms = frame.copy()
        atoms.calc = potential.calculator()
        energies, converged = ase_relaxation(atoms, atoms, 1e-3, 200)
        assert trajectory.converged == converged
        assert abs(trajectory.energies[-1] - energies[-1]) < 1e-6
        assert len(trajectory.energies) == len(energies)
