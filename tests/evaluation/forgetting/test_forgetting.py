"""Forgetting: errors equal a direct loop over ASE calculators, sets lie outside training, and what cannot be judged."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import InputError, PotentialError
from phonosmith.evaluation.forgetting.errors import evaluate_forgetting
from phonosmith.evaluation.forgetting.sets import (
    FrameSet,
    default_sets,
    demonstration_structures,
    eos_set,
    far_set,
    other_set,
    strained_set,
)
from phonosmith.potentials.ase_potential import AsePotential
from phonosmith.potentials.base import Evaluation
from phonosmith.potentials.embedded import demo_structure, reference_bytes, teacher_bytes
from phonosmith.potentials.empirical.potential import load_empirical
from phonosmith.sampling.rattle import mean_length
from phonosmith.structures.labels import label_frame


def silicon():
    return AseAtomsAdaptor.get_structure(demo_structure("Si"))


def copper(**changes):
    """Return a foundation and a fine-tuned one (Lennard-Jones) and a reference (EMT) for copper and gold."""

    def lj(sigma, epsilon):
        return AsePotential(lambda: LennardJones(sigma=sigma, epsilon=epsilon, rc=6.0, smooth=True), ["Cu", "Au"])

    return {
        "foundation": lj(2.3, 0.40),
        "tuned": lj(2.28, 0.45),
        "reference": AsePotential(EMT, ["Cu", "Au", "Al"]),
        **changes,
    }


def crystals(seed=0, count=3, symbol="Cu", edge=3.6):
    frames = []
    for i in range(count):
        atoms = bulk(symbol, "fcc", edge * (1 + 0.02 * i), cubic=True)
        atoms.rattle(0.1, seed=seed + i)
        frames.append(atoms)
    return frames


def direct(one, truth, frames):
    """Return force, energy and stress errors by a plain loop over ASE calculators."""
    forces, energies, stresses = [], [], []
    for atoms in frames:
        found = []
        for potential in (one, truth):
            copy = atoms.copy()
            copy.calc = potential.calculator()
            found.append((copy.get_forces(), copy.get_potential_energy() / len(copy), copy.get_stress()))
        forces.append(abs(found[0][0] - found[1][0]).ravel())
        energies.append(found[0][1] - found[1][1])
        stresses.append(abs(found[0][2] - found[1][2]))
    energies = np.array(energies)
    return [
        1000 * np.mean(np.concatenate(forces)),
        1000 * np.mean(abs(energies - energies.mean())),
        1000 * np.mean(stresses),
    ]


def test_errors_equal_a_direct_loop_over_ase_calculators():
    use = copper()
    frames = crystals()
    document = evaluate_forgetting(
        use["tuned"], use["foundation"], [FrameSet("far", "far", frames)], use["reference"], potential_sha256="a" * 64
    )
    (found,) = document.sets
    assert (found.truth, found.n_structures, found.kind) == ("reference", 3, "far")
    ours = [found.tuned_force_mae, found.tuned_energy_mae, found.tuned_stress_mae]
    theirs = [found.foundation_force_mae, found.foundation_energy_mae, found.foundation_stress_mae]
    # the same calculators: rounding alone may differ
    assert ours == pytest.approx(direct(use["tuned"], use["reference"], frames), rel=1e-9)
    assert theirs == pytest.approx(direct(use["foundation"], use["reference"], frames), rel=1e-9)
    assert document.potential_sha256 == "a" * 64
    assert document.skipped == []


def test_without_a_reference_it_is_drift_from_the_foundation():
    use = copper()
    frames = crystals()
    sets = [FrameSet("far", "far", frames)]
    (found,) = evaluate_forgetting(use["tuned"], use["foundation"], sets).sets
    assert found.truth == "foundation"
    assert (found.foundation_force_mae, found.foundation_energy_mae, found.foundation_stress_mae) == (None, None, None)
    ours = [found.tuned_force_mae, found.tuned_energy_mae, found.tuned_stress_mae]
    assert ours == pytest.approx(direct(use["tuned"], use["foundation"], frames), rel=1e-9)
    (same,) = evaluate_forgetting(use["foundation"], use["foundation"], sets).sets
    assert (same.tuned_force_mae, same.tuned_energy_mae, same.tuned_stress_mae) == (0, 0, 0)


class _Shifted(AsePotential):
    """EMT with other energies of its atoms."""

    def evaluate(self, frames, *, stress=True, progress=False):
        found = super().evaluate(frames, stress=stress, progress=progress)
        shift = {29: 3.1, 79: -0.7}
        return [
            Evaluation(e.energy + sum(shift[z] for z in atoms.numbers), e.forces, e.stress)
            for e, atoms in zip(found, frames, strict=True)
        ]


def test_zeros_of_energy_do_not_count():
    use = copper()
    frames = [*crystals(count=2), *crystals(symbol="Au", edge=4.1, seed=9)]
    mixed = bulk("Cu", "fcc", 3.8, cubic=True)
    mixed.numbers[0] = 79
    (found,) = evaluate_forgetting(
        _Shifted(EMT, ["Cu", "Au"]),
        use["foundation"],
        [FrameSet("mixed", "replay", [*frames, mixed])],
        use["reference"],
    ).sets
    assert found.tuned_energy_mae == pytest.approx(0, abs=1e-9)
    assert found.tuned_force_mae == pytest.approx(0, abs=1e-9)
    assert found.foundation_energy_mae > 1


def test_a_shift_that_could_hide_every_error_gives_no_energy_error():
    use = copper()
    alone = [FrameSet("one", "other", crystals(count=1))]
    two = [FrameSet("two", "other", [*crystals(count=1), *crystals(count=1, symbol="Au", edge=4.1)])]
    for sets in (alone, two):
        (found,) = evaluate_forgetting(use["tuned"], use["foundation"], sets, use["reference"]).sets
        assert found.tuned_energy_mae is None
        assert found.tuned_force_mae > 0


def test_labels_are_the_truth_where_every_frame_has_them():
    use = copper()
    frames = crystals()
    labelled = []
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = EMT()
        labelled.append(label_frame(atoms, energy=copy.get_potential_energy(), forces=copy.get_forces()))
    (found,) = evaluate_forgetting(use["tuned"], use["foundation"], [FrameSet("x", "other", labelled)]).sets
    expected = direct(use["tuned"], use["reference"], frames)
    assert (found.truth, found.tuned_stress_mae) == ("reference", None)
    assert [found.tuned_force_mae, found.tuned_energy_mae] == pytest.approx(expected[:2], rel=1e-9)
    partly = FrameSet("x", "other", [*labelled[:2], frames[2]])
    (found,) = evaluate_forgetting(use["tuned"], use["foundation"], [partly]).sets
    assert found.truth == "foundation"


def test_what_cannot_be_judged_is_skipped_with_a_reason():
    def broken(potential):
        evaluate = potential.evaluate
        potential.evaluate = lambda frames, **options: [
            Evaluation(float("nan"), e.forces, e.stress) for e in evaluate(frames, **options)
        ]
        return potential

    gold = [FrameSet("gold", "other", crystals(symbol="Au", edge=4.1))]
    use = copper()
    pruned = AsePotential(EMT, ["Cu"])
    for tuned, foundation, words in (
        (pruned, use["foundation"], "gold: the fine-tuned potential knows only Cu, not Au"),
        (use["tuned"], pruned, "gold: the foundation knows only Cu, not Au"),
        (
            broken(copper()["tuned"]),
            use["foundation"],
            "gold: the fine-tuned potential gives numbers that are not finite",
        ),
    ):
        document = evaluate_forgetting(tuned, foundation, gold, use["reference"])
        assert (document.sets, document.skipped) == ([], [words])
    # a reference that lacks an element is no reason to skip
    (found,) = evaluate_forgetting(use["tuned"], use["foundation"], gold, pruned).sets
    assert found.truth == "foundation"
    assert evaluate_forgetting(use["tuned"], use["foundation"], [FrameSet("no", "other", [])]).skipped == [
        "no: it is empty"
    ]


def test_a_reference_that_refuses_is_a_reason():
    use = copper()

    def refuse(*_, **__):
        raise PotentialError("Cu with Au is not published.")

    use["reference"].evaluate = refuse
    document = evaluate_forgetting(
        use["tuned"], use["foundation"], [FrameSet("a", "far", crystals())], use["reference"]
    )
    assert document.skipped == ["a: the reference refused it (Cu with Au is not published.)"]


def test_sets_lie_outside_the_range_of_training():
    crystal = silicon()
    ideal = crystal.volume / 2
    far, strained, eos = far_set(crystal, 1, 2), strained_set(crystal, 1, 1), eos_set(crystal)
    assert [one.kind for one in (far, strained, eos)] == ["far", "strain", "eos"]
    assert (len(far.frames), len(strained.frames), len(eos.frames)) == (2, 1, 6)
    ratios = [atoms.get_volume() / len(atoms) / ideal for atoms in eos.frames]
    assert all(abs(ratio - 1) > 0.06 for ratio in ratios)
    assert {ratio > 1 for ratio in ratios} == {True, False}
    assert all(
        np.array_equal(a.positions, b.positions) for a, b in zip(far.frames, far_set(crystal, 1, 2).frames, strict=True)
    )
    assert not np.array_equal(far.frames[0].positions, far_set(crystal, 2, 1).frames[0].positions)
    with pytest.raises(InputError, match="no set"):
        far_set(crystal, count=0)


def test_rattling_is_three_times_that_of_training(monkeypatch):
    import phonosmith.evaluation.forgetting.sets as module

    seen = []
    ladder = module.volume_ladder
    monkeypatch.setattr(module, "volume_ladder", lambda *a, **k: seen.append(ladder(*a, **k)) or seen[-1])
    far_set(silicon())
    strained_set(silicon())
    assert [round(mean_length(start.rattled.displacements), 1) for start in seen[0]] == [0.3] * 4
    assert [round(mean_length(start.rattled.displacements), 1) for start in seen[1]] == [0.1] * 4
    factors = np.array([start.distortion.length_factors for start in seen[1]])
    assert 0.04 < np.abs(factors - 1).max() <= 0.08


def test_default_sets():
    pool = crystals(count=30)
    sets = default_sets(silicon(), replay=pool, given=crystals(count=2), count=1)
    names = [one.name for one in sets]
    assert names == [
        "rattled 0.3 Å", "strain 8 %", "EOS outside ±6 %", "other material Ge", "other material C",
        "other material SiC", "replay pool", "given frames",
    ]  # fmt: skip
    assert [len(one.frames) for one in sets] == [1, 1, 6, 1, 1, 1, 20, 2]
    assert max(len(atoms) for one in sets for atoms in one.frames) <= 64
    assert [one.kind for one in default_sets(silicon())] == ["far", "strain", "eos", "other", "other", "other"]


def test_forces_that_symmetry_forbids_are_not_compared():
    reference, teacher = load_empirical(reference_bytes()), load_empirical(teacher_bytes())
    (found,) = evaluate_forgetting(teacher, teacher, [eos_set(silicon())], reference).sets
    assert found.tuned_force_mae is None
    assert found.tuned_energy_mae > 1
    assert found.tuned_stress_mae > 0.1


def test_other_materials_are_judged_by_the_reference():
    reference, teacher = load_empirical(reference_bytes()), load_empirical(teacher_bytes())
    other = other_set("Ge", demonstration_structures()["Ge"])
    (found,) = evaluate_forgetting(reference, teacher, [other], reference).sets
    # the reference itself forgets nothing
    assert (found.tuned_force_mae, found.tuned_energy_mae) == (0, 0)
    assert found.foundation_force_mae == pytest.approx(direct(teacher, reference, other.frames)[0], rel=1e-9)
