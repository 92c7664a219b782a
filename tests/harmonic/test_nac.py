import numpy as np
import pytest
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from scipy.spatial.transform import Rotation

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.evaluation.phonons.bands import band_structure, lo_to_splitting, standard_path
from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
from phonosmith.harmonic.files import add_charges, load_harmonic, load_pair, phonopy_yaml
from phonosmith.harmonic.model import HarmonicModel, pack_force_constants, unpack_force_constants

POLAR = ("NaCl", "TiO2-anatase")


@pytest.fixture(params=POLAR)
def polar(request, shared):
    return shared / "data" / "phonopy" / request.param / "phonopy_disp.yaml"


def test_bands_with_charges_are_phonopys(polar):
    model = load_harmonic(polar, nac=True, fc_calculator="traditional")
    path = standard_path(model)
    model.phonon.run_band_structure(list(path.segments))
    theirs = model.phonon.band_structure.frequencies
    for segment, ours in zip(theirs, band_structure(model, path).frequencies, strict=True):
        # same dynamical matrices: rounding only
        assert np.abs(np.sort(segment, axis=1) - ours).max() < 1e-9


def test_lo_to_of_rock_salt(shared):
    model = load_harmonic(shared / "data" / "phonopy" / "NaCl" / "phonopy_disp.yaml", nac=True)
    # closed form of a diatomic cubic crystal: ω_LO² - ω_TO² = Z*² e²/(ε0 ε∞ V μ)
    params, cell = model.phonon.nac_params, model.phonon.primitive
    reduced = np.prod(cell.masses) / cell.masses.sum()
    charge = float(np.abs(params["born"]).max())
    rise = 4 * np.pi * params["factor"] * charge**2 / (params["dielectric"][0, 0] * cell.volume * reduced)
    squared = rise * 15.633302**2  # phonopy's unit of frequency, THz
    model.phonon.run_qpoints([[0, 0, 0]])
    transverse = float(model.phonon.qpoints.frequencies[0, -1])
    # charges of the two ions differ by 3e-4 e in the file: 0.01 THz covers it
    assert lo_to_splitting(model, standard_path(model)) == pytest.approx(
        np.sqrt(transverse**2 + squared) - transverse, abs=0.01
    )


def other_setting(model, rotation, basis):
    """Return the same calculation turned in space and with other primitive vectors."""
    turn = Rotation.from_rotvec(rotation).as_matrix()
    old = model.phonon
    cell = PhonopyAtoms(
        symbols=old.unitcell.symbols, cell=old.unitcell.cell @ turn.T, scaled_positions=old.unitcell.scaled_positions
    )
    phonon = Phonopy(cell, old.supercell_matrix, primitive_matrix=old.primitive_matrix @ np.array(basis), symprec=1e-4)
    moved = [
        {"number": one["number"], "displacement": turn @ one["displacement"], "forces": one["forces"] @ turn.T}
        for one in old.dataset["first_atoms"]
    ]
    phonon.dataset = {"natom": len(phonon.supercell), "first_atoms": moved}
    phonon.produce_force_constants()
    return HarmonicModel(phonon, "traditional", "turned")


def test_the_candidate_gets_the_charges_of_the_reference_in_any_setting(polar):
    reference = load_harmonic(polar, nac=True, fc_calculator="traditional")
    plain = load_harmonic(polar, fc_calculator="traditional")
    turned = other_setting(plain, [0.3, -0.7, 0.2], [[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    for candidate in (plain, turned):
        compared = compare_phonons_in_full(reference, candidate, 4)
        # the same numbers in another frame: rounding of the stored cells
        assert compared.result.mae_thz < 1e-6
        assert compared.result.candidate.lo_to_splitting_thz == pytest.approx(
            compared.result.reference.lo_to_splitting_thz, abs=1e-6
        )
        assert "Born charges" in compared.result.notes[-1]
        assert candidate.phonon.nac_params is None, "the candidate itself is left alone"
    without = compare_phonons_in_full(plain, reference, 4)
    assert without.result.reference.lo_to_splitting_thz is None
    assert without.result.candidate.lo_to_splitting_thz is None


def test_charges_come_from_born_or_from_a_phonopy_file_in_another_setting(shared, tmp_path):
    folder = shared / "data" / "phonopy" / "TiO2-anatase"
    reference = load_harmonic(folder / "phonopy_disp.yaml", nac=True, fc_calculator="traditional")
    plain = load_harmonic(folder / "phonopy_disp.yaml", fc_calculator="traditional")
    add_charges(plain.phonon, folder / "BORN")
    assert np.allclose(plain.phonon.nac_params["born"], reference.phonon.nac_params["born"])
    written = tmp_path / "phonopy.yaml"
    written.write_text(phonopy_yaml(reference.phonon))
    turned = other_setting(plain, [0.0, 1.2, 0.4], [[1, 0, 0], [0, 1, 1], [0, 0, 1]])
    add_charges(turned.phonon, written)
    splittings = [lo_to_splitting(model, standard_path(model)) for model in (reference, turned)]
    assert splittings[1] == pytest.approx(splittings[0], abs=1e-3)
    again = unpack_force_constants(pack_force_constants(turned), nac=True)
    assert np.allclose(again.phonon.nac_params["born"], turned.phonon.nac_params["born"])


def test_charges_that_cannot_be_are_refused(shared, tmp_path):
    folder = shared / "data" / "phonopy"
    salt = load_harmonic(folder / "NaCl" / "phonopy_disp.yaml")
    born = tmp_path / "BORN"
    lines = (folder / "NaCl" / "BORN").read_text().splitlines()
    born.write_text("\n".join([*lines[:2], lines[2], lines[2]]))
    with pytest.raises(InputError, match=r"sum to 2\.17 e"):
        add_charges(salt.phonon, born)
    born.write_text("\n".join([lines[0], "0.5 0 0 0 0.5 0 0 0 0.5", *lines[2:]]))
    with pytest.raises(InputError, match="below 1"):
        add_charges(salt.phonon, born)
    born.write_text("\n".join(lines[:2]))
    with pytest.raises(MismatchError, match="BORN does not fit the primitive cell"):
        add_charges(salt.phonon, born)
    with pytest.raises(MismatchError, match="another crystal"):
        charged = load_harmonic(folder / "TiO2-anatase" / "phonopy_disp.yaml", nac=True)
        (tmp_path / "phonopy.yaml").write_text(phonopy_yaml(charged.phonon))
        add_charges(salt.phonon, tmp_path / "phonopy.yaml")
    bare = folder / "Si" / "phonopy_disp.yaml"
    with pytest.raises(InputError, match="no Born charges"):
        load_pair(bare, bare, nac=True)
