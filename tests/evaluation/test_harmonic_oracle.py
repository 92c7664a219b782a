import numpy as np
import pytest
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import InputError
from phonosmith.evaluation.fastpath import harmonic_from_potential
from phonosmith.evaluation.harmonic_oracle import dataset_from_phonons, in_supercell
from phonosmith.potentials.registry import load


@pytest.fixture(scope="module")
def potential():
    return load("embedded-reference")


@pytest.fixture(scope="module")
def silicon(potential):
    structure = AseAtomsAdaptor.get_structure(bulk("Si", "diamond", a=5.4325, cubic=True))
    return harmonic_from_potential(structure, potential, np.diag([2, 2, 2]).tolist(), source="embedded-reference")


def test_frequencies_survive_the_way_into_a_smaller_supercell(silicon):
    # the conventional cell's wave vectors are all commensurate with its double: no interpolation, so equal to rounding
    small = in_supercell(silicon, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    assert len(small.supercell) == 8
    for q in ([0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]):
        assert np.allclose(small.run_qpoints([q]).frequencies, silicon.phonon.run_qpoints([q]).frequencies, atol=1e-6)


def test_the_same_supercell_gives_the_same_force_constants(silicon):
    same = in_supercell(silicon, (2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])).tolist())
    rng = np.random.default_rng(3)
    for q in rng.uniform(-0.5, 0.5, (3, 3)):
        assert np.allclose(same.run_qpoints([q]).frequencies, silicon.phonon.run_qpoints([q]).frequencies, atol=1e-6)


def test_labels_approach_the_potential_the_force_constants_came_from(silicon, potential):
    # the rest is anharmonic: of second order in the displacement, relative to the force of first order
    errors = []
    for displacement in (0.004, 0.002):
        data = dataset_from_phonons(silicon, min_length=10.0, n_train=2, n_valid=1, displacement=displacement, seed=1)
        frames = data.train[1:]
        true = potential.evaluate([data.train[0], *frames])
        for frame, found in zip(frames, true[1:], strict=True):
            scale = np.abs(frame.get_forces()).max()
            errors.append(np.abs(frame.get_forces() - found.forces).max() / scale)
            assert frame.get_potential_energy() == pytest.approx(found.energy - true[0].energy, rel=0.03)
    assert max(errors) < 0.02
    assert np.mean(errors[2:]) < 0.7 * np.mean(errors[:2])


def test_frames_are_drawn_as_asked(silicon):
    data = dataset_from_phonons(silicon, min_length=10.0, n_train=3, n_valid=2, displacement=0.05, seed=7)
    assert (len(data.train), len(data.valid)) == (4, 2)
    assert not data.train[0].get_forces().any()
    assert not data.train[0].get_stress().any()
    lengths = [
        np.linalg.norm(frame.positions - data.train[0].positions, axis=1) for frame in data.train[1:] + data.valid
    ]
    # 5 x 64 vectors: the mean is known to about 0.42/sqrt(320) = 2.4 %
    assert np.mean(lengths) == pytest.approx(0.05, rel=0.08)
    again = dataset_from_phonons(silicon, min_length=10.0, n_train=3, n_valid=2, displacement=0.05, seed=7)
    assert np.array_equal(again.valid[1].positions, data.valid[1].positions)


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"displacement": 0.0}, {"min_length": -1.0}])
def test_what_makes_no_training_set_is_refused(silicon, wrong):
    with pytest.raises(InputError):
        dataset_from_phonons(silicon, **wrong)
