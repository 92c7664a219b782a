"""One fit of force constants: with noise on the forces every entrance gives the same numbers, phonopy's own."""

from types import SimpleNamespace

import numpy as np
import phonopy
import pytest
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from pymatgen.io.ase import AseAtomsAdaptor
from symfc import Symfc

from phonosmith.core.errors import InputError
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.phonons.jobs import collect_model
from phonosmith.harmonic.curvature import curvature_target, hessian_matrix
from phonosmith.harmonic.displacements import attach_forces, displaced_frames
from phonosmith.harmonic.files import load_harmonic, load_pair, read_phonopy
from phonosmith.harmonic.fit import make_force_constants
from phonosmith.harmonic.model import atoms_of, full_force_constants, new_phonon, to_phonopy_atoms

NOISE = 1e-3
"""eV/Å."""


class Noisy:
    """A pair potential at its bond length, with reproducible noise on every force."""

    def __init__(self, bond):
        self.bond = bond

    def evaluate(self, cells, **_):
        rng = np.random.default_rng(5)
        for atoms in cells:
            atoms.calc = MorsePotential(epsilon=2.0, r0=self.bond, rho0=4.0)
        clean = [atoms.get_forces() for atoms in cells]
        return [SimpleNamespace(forces=forces + rng.normal(0, NOISE, forces.shape)) for forces in clean]


@pytest.fixture(scope="module", params=["Si", "SiC"])
def case(request, tmp_path_factory):
    """A crystal, its noisy forces and the phonopy.yaml with them."""
    kind, edge = {"Si": ("diamond", 5.43), "SiC": ("zincblende", 4.36)}[request.param]
    cell = bulk(request.param, kind, a=edge, cubic=True)
    potential = Noisy(np.sqrt(3) / 4 * edge)
    structure = AseAtomsAdaptor.get_structure(cell)
    phonon = new_phonon(to_phonopy_atoms(structure), [2, 2, 2])
    phonon.generate_displacements(distance=0.01)
    cells = [atoms_of(cell) for cell in phonon.supercells_with_displacements]
    forces = [evaluated.forces for evaluated in potential.evaluate(cells)]
    phonon.forces = np.array(forces)
    file = tmp_path_factory.mktemp(request.param) / "phonopy.yaml"
    phonon.save(file)
    return SimpleNamespace(structure=structure, potential=potential, forces=forces, file=file, phonon=phonon)


def entrances(case):
    """Return the force constants in full by every way they can come about."""
    planned = case.phonon.copy()
    planned.generate_displacements(distance=0.01)
    attach_forces(planned, displaced_frames(read_phonopy(case.file))[::-1])
    make_force_constants(planned)
    matrix, data = np.diag([2, 2, 2]).tolist(), {"forces": case.forces, "displacement_number": range(len(case.forces))}
    models = {
        "file": load_harmonic(case.file),
        "pair": load_pair(case.file, case.file, "symfc")[1],
        "fast path": harmonic_from_potential(case.structure, case.potential, matrix),
        "atomate2": collect_model(case.structure, matrix, data),
    }
    return {
        **{name: full_force_constants(model.phonon) for name, model in models.items()},
        "displaced cells": full_force_constants(planned),
    }


def test_every_entrance_gives_one_answer(case):
    constants = entrances(case)
    first = constants["file"]
    assert np.abs(first).max() > 1
    for name, other in constants.items():
        assert np.abs(other - first).max() < 1e-12, name
    targets = [curvature_target(read_phonopy(case.file)), curvature_target(load_harmonic(case.file).phonon)]
    for target in targets:
        assert np.abs(target.hessian - hessian_matrix(first)).max() < 1e-12


def test_the_answer_is_phonopys_own_call_of_symfc(case):
    first = full_force_constants(load_harmonic(case.file).phonon)
    settings = {"fc_calculator": "symfc", "symmetrize_fc": False, "is_nac": False, "symprec": 1e-4}
    theirs = phonopy.load(case.file, is_compact_fc=False, **settings)
    assert np.abs(theirs.force_constants - first).max() < 1e-12
    dataset = theirs.dataset["first_atoms"]
    moved = np.zeros((len(dataset), len(theirs.supercell), 3))
    for index, entry in enumerate(dataset):
        moved[index, entry["number"]] = entry["displacement"]
    solver = Symfc(theirs.supercell, displacements=moved, forces=np.array(case.forces)).run(2, is_compact_fc=False)
    assert np.abs(solver.force_constants[2] - first).max() < 1e-12
    # noise breaks the sum rule of the direct solution; the fit obeys it, and the two differ visibly
    direct = load_harmonic(case.file, fc_calculator="traditional")
    assert direct.asr_residual > 1e-3
    assert load_harmonic(case.file).asr_residual < 1e-10
    assert np.abs(full_force_constants(direct.phonon) - first).max() > 1e-2


def test_forces_win_over_force_constants_stored_beside_them(case, tmp_path):
    phonon = read_phonopy(case.file)
    make_force_constants(phonon, "traditional")
    phonon.save(tmp_path / "both.yaml", settings={"force_sets": True, "force_constants": True})
    assert read_phonopy(tmp_path / "both.yaml").force_constants is not None
    model, first = load_harmonic(tmp_path / "both.yaml"), load_harmonic(case.file)
    assert model.fc_calculator == "symfc"
    assert np.abs(full_force_constants(model.phonon) - full_force_constants(first.phonon)).max() < 1e-12


def test_displacements_without_forces_are_refused(case):
    planned = case.phonon.copy()
    with pytest.raises(InputError, match="the cells has displacements without forces"):
        make_force_constants(planned, where="the cells")
