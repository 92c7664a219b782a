"""Force constants as training targets: layout, irreducible columns, what is refused."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.symmetry import Symmetry

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.harmonic.curvature import check_target, curvature_target, hessian_matrix, irreducible_columns
from phonosmith.harmonic.displacements import attach_forces
from phonosmith.harmonic.model import atoms_of


@pytest.fixture(scope="module")
def copper_phonon():
    """fcc copper with EMT force constants in a 2x2x2 cubic supercell (32 atoms)."""
    cell = bulk("Cu", cubic=True)
    unit = PhonopyAtoms(numbers=cell.numbers, cell=cell.cell.array, positions=cell.positions)
    phonon = Phonopy(unit, supercell_matrix=np.eye(3, dtype=int) * 2, primitive_matrix="F")
    phonon.generate_displacements(distance=0.01)
    displaced = [atoms_of(cell) for cell in phonon.supercells_with_displacements]
    for atoms in displaced:
        atoms.calc = EMT()
    phonon.forces = np.array([atoms.get_forces() for atoms in displaced])
    phonon.produce_force_constants()
    return phonon


def test_irreducible_columns_by_symmetry(copper_phonon):
    # cubic site symmetry: one direction of one atom gives all 96 columns
    target = curvature_target(copper_phonon)
    assert target.columns == (0,)
    assert target.weights == (1.0,)
    # hexagonal: x and z differ, y follows from x
    cell = bulk("Zn")
    zinc = PhonopyAtoms(numbers=cell.numbers, cell=cell.cell.array, scaled_positions=cell.get_scaled_positions())
    columns, weights = irreducible_columns(Symmetry(zinc), zinc.cell)
    assert columns == (0, 2)
    assert weights == (1.0, 1.0)
    # no symmetry: every column
    rough = bulk("Cu", cubic=True)
    rough.rattle(0.1, seed=0)
    plain = PhonopyAtoms(numbers=rough.numbers, cell=rough.cell.array, positions=rough.positions)
    assert irreducible_columns(Symmetry(plain), plain.cell)[0] == tuple(range(12))


def test_layout_matches_the_forces_of_a_displacement(copper_phonon):
    """Column c of the target is minus the force response to moving coordinate c."""
    target = curvature_target(copper_phonon)
    moved = target.atoms.copy()
    moved.positions[0, 0] += 0.01
    moved.calc = EMT()
    response = -moved.get_forces().ravel() / 0.01
    # one-sided difference against phonopy's symmetrised fit: anharmonic remainder of order step
    assert np.abs(response - target.hessian[:, 0]).max() < 0.03 * np.abs(target.hessian[:, 0]).max()
    constants = copper_phonon.force_constants
    matrix = hessian_matrix(constants)
    assert matrix[3 * 1 + 2, 3 * 5 + 0] == constants[1, 5, 2, 0]


def test_target_from_random_displacements(copper_phonon):
    target = curvature_target(copper_phonon)
    displaced = [target.atoms.copy() for _ in range(4)]
    for seed, atoms in enumerate(displaced):
        atoms.rattle(0.01, seed=seed)
        atoms.calc = EMT()
    phonon = Phonopy(copper_phonon.supercell, np.eye(3, dtype=int), primitive_matrix=np.eye(3))
    attach_forces(phonon, displaced)
    fitted = curvature_target(phonon)
    # anharmonicity at 0.01 Å amplitudes
    assert np.abs(fitted.hessian - target.hessian).max() < 0.03 * np.abs(target.hessian).max()
    wrong = copper_phonon.copy()
    wrong.dataset = None
    with pytest.raises(MismatchError, match="the cells differ"):
        attach_forces(wrong, [bulk("Cu", cubic=True, a=3.7) * 2, *displaced])
    with pytest.raises(InputError, match="no displaced cells"):
        attach_forces(phonon, [])


def test_refuses_force_constants_of_another_cell(copper_phonon):
    target = curvature_target(copper_phonon, "phonopy.yaml")
    check_target(target, [bulk("Cu", cubic=True)] * 2)
    with pytest.raises(MismatchError, match=r"phonopy\.yaml is of Cu, the training set of Al"):
        check_target(target, [bulk("Al", cubic=True)])
    with pytest.raises(MismatchError, match="per atom"):
        check_target(target, [bulk("Cu", cubic=True, a=3.61 * 1.2)])


def test_nothing_to_fit_is_refused(copper_phonon):
    bare = copper_phonon.copy()
    with pytest.raises(InputError, match=r"x\.yaml has displacements without forces"):
        curvature_target(bare, "x.yaml")
    broken = copper_phonon.copy()
    broken.force_constants = np.full((32, 32, 3, 3), np.nan)
    with pytest.raises(InputError, match="not finite"):
        curvature_target(broken)
