import numpy as np
import pytest
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.harmonic.oracle import dataset_from_phonons, in_supercell, varied_supercells
from phonosmith.potentials.registry import load
from phonosmith.reference.audit.audit import audit
from phonosmith.structures.labels import DERIVED


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
        data = dataset_from_phonons(
            silicon, min_length=10.0, n_train=2, n_valid=1, displacement=displacement, seed=1,
            shapes="one",
        )  # fmt: skip
        frames = data.train[1:]
        true = potential.evaluate([data.train[0], *frames])
        for frame, found in zip(frames, true[1:], strict=True):
            scale = np.abs(frame.get_forces()).max()
            errors.append(np.abs(frame.get_forces() - found.forces).max() / scale)
            assert frame.get_potential_energy() == pytest.approx(found.energy - true[0].energy, rel=0.03)
    assert max(errors) < 0.02
    assert np.mean(errors[2:]) < 0.7 * np.mean(errors[:2])


def test_frames_are_drawn_as_asked(silicon):
    data = dataset_from_phonons(silicon, min_length=10.0, n_train=3, n_valid=2, displacement=0.05, seed=7, shapes="one")
    assert (len(data.train), len(data.valid)) == (4, 2)
    assert not data.train[0].get_forces().any()
    assert not data.train[0].get_stress().any()
    lengths = [
        np.linalg.norm(frame.positions - data.train[0].positions, axis=1) for frame in data.train[1:] + data.valid
    ]
    # 5 x 64 vectors: the mean is known to about 0.42/sqrt(320) = 2.4 %
    assert np.mean(lengths) == pytest.approx(0.05, rel=0.08)
    again = dataset_from_phonons(
        silicon, min_length=10.0, n_train=3, n_valid=2, displacement=0.05, seed=7, shapes="one"
    )
    assert np.array_equal(again.valid[1].positions, data.valid[1].positions)


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"displacement": 0.0}, {"min_length": -1.0}, {"most_atoms": 0}])
def test_what_makes_no_training_set_is_refused(silicon, wrong):
    with pytest.raises(InputError):
        dataset_from_phonons(silicon, **wrong)


def test_supercells_of_different_shape_are_sublattices_of_the_crystal(silicon):
    rng = np.random.default_rng(5)
    cells = varied_supercells(silicon.phonon.primitive, 24, 12, rng)
    sizes = [round(np.linalg.det(cell)) for cell in cells]
    assert all(6 <= size <= 12 for size in sizes)
    assert len({str(np.sort(np.linalg.norm(cell, axis=0))) for cell in cells}) >= 8
    for cell in cells[:3]:
        small = in_supercell(silicon, cell)
        # a wave vector of the small cell that is also one of the calculation: Γ; frequencies equal to rounding
        ours = small.run_qpoints([[0, 0, 0]]).frequencies
        assert np.allclose(ours[0][3:], silicon.phonon.run_qpoints([[0, 0, 0]]).frequencies[0][3:], atol=1e-6)
        lengths = np.linalg.norm(small.supercell.cell, axis=1)
        assert lengths.min() >= 4.0
        # reduced: no lattice vector can be shortened by another
        gram = small.supercell.cell @ small.supercell.cell.T
        assert np.all(2 * np.abs(gram - np.diag(np.diag(gram))) <= np.diag(gram)[:, None] + 1e-6)


def test_many_small_cells_are_drawn_and_some_at_rest(silicon):
    data = dataset_from_phonons(silicon, n_train=16, n_valid=2, seed=3)
    rest, displaced = data.train[:3], data.train[3:]
    assert [len(frame) for frame in rest] == [len(data.phonon.supercell), 2, 4]
    assert all(not frame.get_forces().any() and not frame.get_stress().any() for frame in rest)
    assert len(displaced) == 16
    assert len(rest[0]) > 40 >= max(map(len, displaced + data.valid))
    # a smaller perfect cell is the largest of all
    few = dataset_from_phonons(silicon, min_length=5.0, n_train=2, n_valid=1)
    assert max(map(len, few.train[1:])) <= len(few.train[0]) == 8
    # four primitive cells may always be in one
    small = dataset_from_phonons(silicon, n_train=4, n_valid=1, most_atoms=1)
    assert max(map(len, small.train[1:])) == 8


def test_labels_of_force_constants_pass_the_audit_though_their_stress_is_zero(silicon):
    frames = dataset_from_phonons(silicon, n_train=8, n_valid=1).train
    assert audit(frames).verdict == "pass"
    for frame in frames:
        del frame.info[DERIVED]
    # nothing says that nobody calculated them
    assert audit(frames).verdict == "refuse"


def test_a_relaxed_crystal_stays_free_of_stress_where_that_is_said(silicon, potential):
    """The stress of such a frame falls with the square of the displacements; of any other frame with the first power.

    Against the potential the force constants are of, at its own relaxed cell.
    """

    def stresses(displacement):
        data = dataset_from_phonons(silicon, n_train=8, n_valid=2, seed=4, displacement=displacement)
        rest, *others = potential.evaluate(data.train)
        found = {True: [], False: []}
        for frame, one in zip(data.train[1:], others, strict=True):
            if frame.get_forces().any():
                found["stress" in frame.calc.results].append(np.abs(one.stress - rest.stress).max())
        assert len(found[True]) == len(found[False]) == 4
        return np.mean(found[True]), np.mean(found[False])

    (small, shifted), (large, more) = stresses(0.01), stresses(0.02)
    assert large / small == pytest.approx(4, rel=0.25)
    assert more / shifted < 3
    assert small < 0.3 * shifted
    loose = dataset_from_phonons(silicon, n_train=4, n_valid=1, relaxed_cell=False)
    assert not any("stress" in frame.calc.results for frame in loose.train + loose.valid)


def test_frames_of_different_shape_obey_newton_and_the_energy_of_the_oracle(silicon):
    data = dataset_from_phonons(silicon, min_length=8.0, n_train=4, n_valid=1, seed=2)
    assert len({frame.cell.array.tobytes() for frame in data.train}) == 5
    for frame in data.train[1:]:
        assert np.allclose(frame.get_forces().sum(axis=0), 0, atol=1e-6)
        assert frame.get_potential_energy() > 0
