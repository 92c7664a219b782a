"""Force constants against a crystal whose dispersion is known in closed form, their storage, and bad input."""

import numpy as np
import pytest
from phonopy.structure.atoms import PhonopyAtoms

from helpers.model_crystals import harmonic_forces, spring_crystal, spring_frequencies
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ArtefactError, InputError
from phonosmith.harmonic.displacements import check_forces
from phonosmith.harmonic.files import load_harmonic
from phonosmith.harmonic.fit import make_force_constants
from phonosmith.harmonic.model import (
    HarmonicModel,
    acoustic_sum_residual,
    compact_force_constants,
    new_phonon,
    pack_force_constants,
    store_force_constants,
    unpack_force_constants,
)


def frequencies(phonon, qpoints):
    phonon.run_qpoints(qpoints)
    return np.sort(phonon.get_qpoints_dict()["frequencies"], axis=1)


@pytest.mark.parametrize("calculator", ["symfc", "traditional"])
def test_forces_give_the_closed_form_dispersion(calculator):
    # springs reach one neighbour and the supercell is four wide: interpolation is exact at any q, not only where it is
    # commensurate; 2e-6 relative is the difference between phonopy's and CODATA 2018 constants
    phonon, constants = spring_crystal()
    harmonic_forces(phonon, constants)
    assert make_force_constants(phonon, calculator) == calculator
    rng = np.random.default_rng(3)
    qpoints = np.vstack([rng.uniform(-0.5, 0.5, (20, 3)), [[0.5, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0]]])
    assert frequencies(phonon, qpoints) == pytest.approx(spring_frequencies(qpoints), rel=2e-6, abs=1e-5)
    assert acoustic_sum_residual(phonon) < 1e-10


def test_random_displacements_are_fitted_by_symfc():
    phonon, constants = spring_crystal(3)
    rng = np.random.default_rng(0)
    moved = rng.normal(0, 0.01, (3, len(phonon.supercell), 3))
    phonon.dataset = {"displacements": moved, "forces": -np.einsum("ijab,njb->nia", constants, moved)}
    assert make_force_constants(phonon, "traditional") == "symfc"
    assert compact_force_constants(phonon) == pytest.approx(constants[:1], abs=1e-8)


def test_symfc_imposes_the_sum_rule_that_noise_breaks():
    phonon, constants = spring_crystal(3)
    harmonic_forces(phonon, constants)
    rng = np.random.default_rng(1)
    phonon.forces = np.array(phonon.forces) + rng.normal(0, 1e-4, np.shape(phonon.forces))
    make_force_constants(phonon, "traditional")
    raw = acoustic_sum_residual(phonon)
    make_force_constants(phonon, "symfc")
    assert raw > 1e-3
    assert acoustic_sum_residual(phonon) < 1e-10


def model_of(phonon, constants, source="model"):
    phonon.force_constants = constants
    return HarmonicModel(phonon, "symfc", source)


def test_storage_is_compact_and_exact(tmp_path):
    phonon, constants = spring_crystal()
    model = model_of(phonon, constants)
    data = pack_force_constants(model)
    # full float64 force constants would take n² · 9 · 8 bytes
    assert len(data) < constants.nbytes / len(phonon.supercell) + 4096
    again = unpack_force_constants(data)
    assert np.array_equal(compact_force_constants(again.phonon), constants[phonon.primitive.p2s_map])
    qpoints = np.random.default_rng(2).uniform(-0.5, 0.5, (5, 3))
    assert frequencies(again.phonon, qpoints) == pytest.approx(frequencies(phonon, qpoints), abs=1e-9)
    assert (again.fc_calculator, again.source) == ("symfc", "model")
    ref = store_force_constants(model, default_artefacts())
    assert unpack_force_constants(default_artefacts().get_bytes(ref)).formula == "Al"


def test_foreign_bytes_are_no_force_constants():
    with pytest.raises(ArtefactError, match="cannot be read"):
        unpack_force_constants(b"not an archive")


def test_bad_forces_are_named():
    good = np.zeros((8, 3))
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="displaced cell 2 are not finite"):
        check_forces([good, bad], 8, "x.yaml")
    with pytest.raises(InputError, match="shape \\(7, 3\\), but the supercell has 8"):
        check_forces([np.zeros((7, 3))], 8, "x.yaml")
    with pytest.raises(InputError, match="no forces"):
        check_forces([], 8, "x.yaml")


def test_force_constants_with_nan_are_refused():
    phonon, constants = spring_crystal(2)
    constants[0, 0, 0, 0] = np.nan
    data = pack_force_constants(model_of(phonon, constants))
    with pytest.raises(InputError, match="not finite"):
        unpack_force_constants(data)


@pytest.mark.parametrize("matrix", [[[1.5, 0, 0], [0, 1, 0], [0, 0, 1]], [2, 2], [[1, 0, 0], [1, 0, 0], [0, 0, 1]]])
def test_a_supercell_that_is_no_multiple_is_refused(matrix):
    unit = PhonopyAtoms(symbols=["Al"], cell=np.eye(3), scaled_positions=[[0, 0, 0]])
    with pytest.raises(InputError, match="supercell"):
        new_phonon(unit, matrix)


def test_file_without_forces_says_what_is_missing(tmp_path):
    phonon, _ = spring_crystal(2)
    phonon.generate_displacements()
    file = tmp_path / "phonopy.yaml"
    phonon.save(file, settings={"force_sets": False, "displacements": True})
    with pytest.raises(InputError, match=r"phonopy\.yaml has neither forces nor force constants"):
        load_harmonic(file)


def test_file_of_force_constants_is_taken_as_it_is(tmp_path):
    phonon, constants = spring_crystal(3)
    phonon.force_constants = constants
    file = tmp_path / "phonopy.yaml"
    phonon.save(file, settings={"force_constants": True, "displacements": False})
    model = load_harmonic(file)
    assert model.fc_calculator == "given"
    assert compact_force_constants(model.phonon) == pytest.approx(constants[:1], abs=1e-12)


def test_silicon_example_of_phonopy(shared):
    # phonopy on the same forces by its own short path: load and its default calculator
    import phonopy

    folder = shared / "data/phonopy/NaCl"
    model = load_harmonic(folder / "phonopy_disp.yaml", fc_calculator="traditional")
    theirs = phonopy.load(
        folder / "phonopy_disp.yaml",
        force_sets_filename=folder / "FORCE_SETS",
        is_nac=False,
        symprec=1e-4,
        symmetrize_fc=False,
        fc_calculator="traditional",
    )
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (6, 3))
    assert frequencies(model.phonon, points) == pytest.approx(frequencies(theirs, points), abs=1e-8)


def test_silicon_of_phonopys_example(shared, tmp_path):
    # forces of the 64-atom cell come from vasprun.xml; phonopy's own short path gives the frequency to agree with
    import phonopy
    from ase.io import read

    from phonosmith.evaluation.phonons.comparison import compare_phonons
    from phonosmith.evaluation.phonons.mesh import mesh_frequencies

    folder = shared / "data/phonopy/Si"
    theirs = phonopy.load(folder / "phonopy_disp.yaml", produce_fc=False)
    theirs.forces = [read(folder / "vasprun.xml").get_forces(apply_constraint=False)]
    theirs.save(tmp_path / "phonopy.yaml")
    ours = load_harmonic(tmp_path / "phonopy.yaml", fc_calculator="traditional")
    theirs.produce_force_constants(fc_calculator="traditional")
    theirs.run_mesh([20] * 3)
    highest = theirs.get_mesh_dict()["frequencies"].max()
    assert mesh_frequencies(ours, 20).frequencies.max() == pytest.approx(highest, rel=1e-9)
    # PBE silicon: 15.1 THz at Γ
    theirs.run_qpoints([[0, 0, 0]])
    found = compare_phonons(ours, load_harmonic(tmp_path / "phonopy.yaml"), mesh=8)
    assert found.reference.omega_max_thz == pytest.approx(theirs.get_qpoints_dict()["frequencies"].max(), rel=1e-6)
    assert found.reference.omega_max_thz == pytest.approx(15.1, abs=0.2)
    assert found.mae_thz < 2e-3  # symfc against direct: only the sum rule differs


def test_dipole_term_splits_optical_modes(shared, tmp_path):
    # next to Γ the longitudinal mode of NaCl lies far above the transverse ones; phonopy's own reading is the judge
    import phonopy

    folder = shared / "data/phonopy/NaCl"
    model = load_harmonic(folder / "phonopy_disp.yaml", fc_calculator="traditional", nac=True)
    theirs = phonopy.load(
        folder / "phonopy_disp.yaml",
        force_sets_filename=folder / "FORCE_SETS",
        born_filename=folder / "BORN",
        symprec=1e-4,
        symmetrize_fc=False,
        fc_calculator="traditional",
    )
    near = [[1e-3, 0, 1e-3]]
    split = frequencies(model.phonon, near)
    assert split == pytest.approx(frequencies(theirs, near), abs=1e-6)
    assert split[0, 5] - split[0, 4] > 2
    again = unpack_force_constants(pack_force_constants(model), nac=True)
    assert frequencies(again.phonon, near) == pytest.approx(split, abs=1e-6)
    plain = unpack_force_constants(pack_force_constants(model))
    assert np.ptp(frequencies(plain.phonon, near)[0, 3:]) < 0.1
