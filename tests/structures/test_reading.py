from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure

from phonosmith.core.errors import InputError
from phonosmith.structures.reading import (
    clean_structure,
    duplicate_groups,
    read_structure,
    structure_warnings,
    vacuum_gaps,
)

DISORDERED = """data_x
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 0.5
K1 K 0 0 0 0.5
Cl1 Cl 0.5 0.5 0.5 1
"""


def silicon() -> Structure:
    return Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])


@pytest.mark.parametrize("name", ["si.cif", "POSCAR", "si.json", "si.xyz"])
def test_reads_what_pymatgen_or_ase_read(tmp_path, name):
    path = tmp_path / name
    if name.endswith("xyz"):
        silicon().to_ase_atoms().write(path, format="extxyz")
    else:
        silicon().to(filename=str(path))
    read = read_structure(path)
    assert len(read) == 8
    assert read.volume == pytest.approx(5.43**3, rel=1e-6)


def test_oxidation_states_are_dropped(tmp_path):
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert {str(site.specie) for site in clean_structure(salt)} == {"Na", "Cl"}


def test_disordered_site_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "mixed.cif"
    path.write_text(DISORDERED)
    with pytest.raises(InputError, match="partially occupied or mixed") as caught:
        read_structure(path)
    assert "mixed.cif" in caught.value.message
    assert "OrderDisordered" in caught.value.advice


def test_overlapping_atoms_are_refused(tmp_path):
    path = tmp_path / "overlap.vasp"
    Structure(Lattice.cubic(5), ["Si", "Si"], [[0, 0, 0], [0.02, 0, 0]]).to(filename=str(path), fmt="poscar")
    with pytest.raises(InputError, match=r"overlapping atoms.*0\.10 Å"):
        read_structure(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.cif", ""),
        ("none.cif", "data_nothing\n"),
        ("words.txt", "this is not a structure"),
        (
            "cell_only.cif",
            (
                "data_x\n_cell_length_a 5\n_cell_length_b 5\n_cell_length_c 5\n"
                "_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\n"
            ),
        ),
        ("POSCAR", "x\n1.0\n4 0 0\n0 4 0\n0 0 4\nXq\n1\nDirect\n0 0 0\n"),
    ],
)
def test_unreadable_files_name_themselves(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=name):
        read_structure(path)


def test_unknown_element_in_a_cif(tmp_path):
    path = tmp_path / "strange.cif"
    path.write_text(
        DISORDERED.replace("Na1 Na", "Xq1 Xq").replace("K1 K 0 0 0 0.5\n", "").replace("0 0 0 0.5", "0 0 0 1")
    )
    with pytest.raises(InputError, match=r"strange\.cif"):
        read_structure(path)


def test_missing_file_and_molecule(tmp_path):
    with pytest.raises(InputError, match="not a file"):
        read_structure(tmp_path / "absent.cif")
    path = tmp_path / "h2.xyz"
    path.write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    with pytest.raises(InputError, match="periodic"):
        read_structure(path)


def test_slab_gets_a_recorded_warning():
    slab = Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
    assert vacuum_gaps(slab)["c"] == pytest.approx(20.0)
    assert any("vacuum of 20.0 Å along c" in note for note in structure_warnings(slab))


def test_layered_bulk_is_no_slab():
    graphite = Structure(
        Lattice.hexagonal(2.46, 6.71),
        ["C"] * 4,
        [[0, 0, 0.25], [0, 0, 0.75], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]],
    )
    assert not any("vacuum" in note for note in structure_warnings(graphite))


def test_vacuum_split_across_the_cell_boundary_is_seen():
    slab = Structure(Lattice.tetragonal(4, 20), ["Cu", "Cu"], [[0, 0, 0.02], [0.5, 0.5, 0.98]])
    assert vacuum_gaps(slab)["c"] == pytest.approx(0.96 * 20)


def test_standard_cells_are_silent_and_others_are_not():
    primitive = silicon().get_primitive_structure()
    assert any("not primitive: 8 atoms (the conventional cell)" in note for note in structure_warnings(silicon()))
    from phonosmith.structures.standard import standard_primitive

    assert structure_warnings(standard_primitive(primitive)) == []
    skewed = primitive.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]], in_place=False)
    assert any("not standardised" in note for note in structure_warnings(skewed))


def test_distorted_structure_is_called_unrelaxed():
    crystal = silicon()
    crystal.perturb(0.01)
    assert any("not relaxed" in note for note in structure_warnings(crystal))


def test_duplicates_are_grouped():
    other = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert duplicate_groups([silicon(), other, silicon().get_primitive_structure()]) == [[0, 2]]
