"""Symmetry kept and runaways given up: against ASE's own constraint, and with potentials that misbehave."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixSymmetry

from phonosmith.evaluation.guarded import GuardedPotential, Symmetry, smallest_cell
from phonosmith.potentials.ase_potential import AsePotential
from phonosmith.potentials.base import Evaluation


def wurtzite():
    return bulk("ZnO", "wurtzite", 3.25, 5.2) * (2, 1, 1)


def test_projection_is_that_of_ases_constraint():
    atoms = wurtzite()
    symmetry = Symmetry.of(atoms)
    # the doubled cell leaves 4 of the 12 rotations of P6_3mc, each with two translations
    assert len(symmetry.rotations) == 8
    rng = np.random.default_rng(0)
    forces, stress = rng.normal(size=(len(atoms), 3)), rng.normal(size=(3, 3))
    stress = stress + stress.T
    ours = symmetry.project(atoms.cell.array, forces, stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])
    constraint = FixSymmetry(atoms, symprec=1e-4)
    expected_forces, expected_stress = forces.copy(), stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]].copy()
    constraint.adjust_forces(atoms, expected_forces)
    constraint.adjust_stress(atoms, expected_stress)
    assert ours[0] == pytest.approx(expected_forces, abs=1e-12)
    assert ours[1] == pytest.approx(expected_stress, abs=1e-12)
    assert np.abs(ours[0]).max() > 0.01


def number(atoms):
    import spglib

    return spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), 1e-6).number


def test_smallest_cell_has_the_whole_symmetry_without_noise():
    noisy = wurtzite()
    noisy.positions += np.random.default_rng(1).uniform(-2e-4, 2e-4, (len(noisy), 3))
    clean = smallest_cell(noisy)
    assert number(noisy) == 1
    assert (number(clean), len(clean)) == (186, 4)
    assert clean.get_volume() == pytest.approx(noisy.get_volume() / 2, rel=1e-9)
    assert len(Symmetry.of(clean).rotations) == 12


def test_smallest_cell_keeps_real_displacements():
    moved = wurtzite()
    moved.positions[0, 0] += 0.02
    kept = smallest_cell(moved)
    assert (number(kept), len(kept)) == (number(moved), 8)
    distances = [np.sort(atoms.get_all_distances(mic=True).ravel()) for atoms in (moved, kept)]
    assert distances[0] == pytest.approx(distances[1], abs=1e-6)


class _Scripted(AsePotential):
    """EMT whose results for one chosen volume are replaced."""

    def __init__(self, change):
        super().__init__(EMT, ["Cu"])
        self.change = change
        self.seen = []

    def evaluate(self, frames, *, stress=True, progress=False):
        self.seen.append([len(atoms) for atoms in frames])
        found = super().evaluate(frames, stress=stress, progress=progress)
        return [self.change(atoms, item) for atoms, item in zip(frames, found, strict=True)]


def _pair():
    """Return two crystals whose primitive cells have four and two atoms."""
    ordered = bulk("Cu", cubic=True)
    ordered.positions[0] += [0.05, 0, 0]
    doubled = bulk("Cu") * (1, 1, 2)
    doubled.positions[0] += [0.03, 0, 0.02]
    return [ordered, doubled]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, e: Evaluation(float("nan"), e.forces, e.stress), "no finite"),
        (lambda _, e: Evaluation(e.energy, e.forces * np.inf, e.stress), "no finite"),
    ],
)
def test_numbers_that_are_not_finite_end_one_relaxation_only(change, words):
    def spoil(atoms, item):
        return change(atoms, item) if len(atoms) == 2 else item

    potential = _Scripted(spoil)
    guard = GuardedPotential(potential, _pair())
    first, second = guard.evaluate(guard.frames)
    assert list(guard.notes) == [1]
    assert words in guard.notes[1]
    assert not second.forces.any()
    direct = AsePotential(EMT, ["Cu"]).evaluate(_pair())[0]
    assert first.energy == pytest.approx(direct.energy, abs=1e-12)
    # once given up it is not evaluated again
    guard.evaluate(guard.frames)
    assert potential.seen == [[4, 2], [4]]


def test_runaway_geometries_are_not_evaluated():
    potential = _Scripted(lambda _, item: item)
    guard = GuardedPotential(potential, [*_pair(), bulk("Cu")])
    frames = [atoms.copy() for atoms in guard.frames]
    frames[0].set_cell(frames[0].cell * 1.2, scale_atoms=True)
    frames[1].positions[1] = frames[1].positions[0] + [0.5, 0, 0]
    guard.evaluate(frames)
    assert "volume became 1.73 times" in guard.notes[0]
    assert "closer than 1.2" in guard.notes[1]
    assert potential.seen == [[1]]


def test_a_hole_in_the_energy_is_noticed():
    potential = _Scripted(lambda _, item: item)
    guard = GuardedPotential(potential, _pair())
    guard.evaluate(guard.frames)
    potential.change = lambda _, item: Evaluation(item.energy - 8.0, item.forces, item.stress)
    guard.evaluate(guard.frames)
    assert guard.notes[0].endswith("-2.00 eV/atom")
    assert guard.notes[1].endswith("-4.00 eV/atom")
