"""Input that cannot work is refused before anything is computed, with a way out."""

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from phonosmith.core.errors import ConfigurationError, InputError, MismatchError, PotentialError
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.training.energies import given_energies, least_squares_shift
from phonosmith.training.finetune import fine_tune
from phonosmith.training.spec import make_spec


def spoiled(atoms, **results):
    copy = atoms.copy()
    kept = {key: value for key, value in {**atoms.calc.results, **results}.items() if value is not None}
    copy.calc = SinglePointCalculator(copy, **kept)
    return copy


def attempt(module, train, valid, strategy="delta", extra=None, **settings):
    return fine_tune(
        MacePotential(module), train, valid, make_spec(strategy, epochs=1, **settings), seed=0, **(extra or {})
    )


def test_sets_that_cannot_be_used(tiny_model, tiny_frames):
    module, good = tiny_model(), tiny_frames(3)
    with pytest.raises(InputError, match="train set is empty"):
        attempt(module, [], good)
    with pytest.raises(InputError, match="only 1 structure"):
        attempt(module, good[:1], good)
    with pytest.raises(InputError, match="valid set is empty"):
        attempt(module, good, [])
    holes = np.array(good[1].get_forces())
    holes[2, 1] = np.nan
    with pytest.raises(InputError, match=r"train\[1\] \(Cu4\): forces of atom 2"):
        attempt(module, [good[0], spoiled(good[1], forces=holes)], good)
    with pytest.raises(InputError, match=r"valid\[0\].*energy"):
        attempt(module, good, [spoiled(good[0], energy=float("inf"))])
    with pytest.raises(InputError, match="forces is missing"):
        attempt(module, [good[0], spoiled(good[1], forces=None)], good)
    unlabelled = good[0].copy()
    with pytest.raises(InputError, match="energy is missing"):
        attempt(module, [good[1], unlabelled], good)


def test_what_magnetic_labels_mean_is_noted(tiny_model, tiny_frames):
    plain, valid = tiny_frames(3), tiny_frames(1)
    magnetic = [spoiled(atoms, magmom=1.0 * len(atoms), magmoms=np.ones(len(atoms))) for atoms in plain]
    notes = attempt(tiny_model(), magnetic, valid).document.notes
    assert "3 of 3 labels are magnetic (Cu 1.00 μB, 1.00 μB per atom in total)" in " ".join(notes)
    assert "magnetic" not in " ".join(attempt(tiny_model(), plain, valid).document.notes)


def test_element_unknown_to_the_foundation(tiny_model, tiny_frames):
    with pytest.raises(PotentialError, match="does not know Al"):
        attempt(tiny_model(numbers=(29,)), tiny_frames(3, symbols="CuAl"), tiny_frames(1))
    other = MacePotential(tiny_model())
    other.model.__class__ = type("MACE", (type(other.model),), {})
    for foundation in (other, torch.nn.Linear(2, 2)):
        with pytest.raises(PotentialError, match="cannot be fine-tuned"):
            fine_tune(foundation, tiny_frames(2), tiny_frames(1), make_spec("delta"), seed=0)


def test_strategies_an_architecture_lacks_are_refused_by_name(tiny_model, tiny_frames, monkeypatch):
    """Before anything is computed, and saying which setting it is."""
    potential, frames = MacePotential(tiny_model(numbers=(29,))), tiny_frames(2)
    monkeypatch.setattr(potential.backend, "abilities", frozenset())
    monkeypatch.setattr(potential.backend, "cast", None)
    for strategy, settings, text in (
        ("lora", {}, "strategy lora"),
        ("multihead", {}, "strategy multihead"),
        ("delta", {"dtype": "float64"}, "dtype=float64"),
    ):
        spec = make_spec(strategy, **settings)
        with pytest.raises(ConfigurationError, match=f"{text}.* is not possible with a mace model"):
            fine_tune(potential, frames, frames, spec, replay=frames if spec.uses_replay else None, seed=0)


def test_gpu_asked_for_but_absent(tiny_model, tiny_frames, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="sees no GPU"):
        attempt(tiny_model(), tiny_frames(2), tiny_frames(1), device="cuda")


def test_data_and_strategy_must_agree(tiny_model, tiny_frames, copper_phonon):
    module, good = tiny_model(numbers=(29,)), tiny_frames(3)
    with pytest.raises(InputError, match="replays structures, but none"):
        attempt(module, good, good, "multihead")
    with pytest.raises(InputError, match="does not use it"):
        attempt(module, good, good, "delta", {"replay": good})
    with pytest.raises(InputError, match="force constants, but none"):
        attempt(module, good, good, "pft")
    with pytest.raises(InputError, match="does not use them"):
        attempt(module, good, good, "delta", {"curvature": copper_phonon})
    with pytest.raises(InputError, match="replay pool is empty"):
        attempt(module, good, good, "multihead", {"replay": []})
    aluminium = tiny_frames(3, symbols="Al")
    with pytest.raises(MismatchError, match="is of Cu"):
        attempt(tiny_model(), aluminium, aluminium, "delta+pft", {"curvature": copper_phonon})
    with pytest.raises(ConfigurationError, match="leaves nothing to train"):
        attempt(module, good, good, "transfer", trainable="freeze", freeze_blocks=6)


def test_atomic_energies_by_least_squares():
    counts = np.array([[0.0, 4.0]] * 3 + [[2.0, 2.0]] * 3)
    truth = np.array([-1.5, 0.25])
    assert np.allclose(least_squares_shift(counts, counts @ truth), truth, atol=1e-12)
    # one compound cannot tell its elements apart: the smallest shift that removes the offset
    assert np.allclose(least_squares_shift(counts[3:], np.full(3, 8.0)), [2.0, 2.0], atol=1e-12)
    with pytest.raises(ConfigurationError, match="lacks Al"):
        given_energies({"Cu": 1.0}, [13, 29])
