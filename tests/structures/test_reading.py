from __future__ import annotations

import subprocess
import sys

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


SALT = """data_{name}
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
{first}1 {first} 0 0 0
Cl1 Cl 0.5 0.5 0.5
"""
POSCAR = "x\n1.0\n{a} 0 0\n0 {a} 0\n0 0 {a}\n{symbols}\n1 1\nDirect\n0 0 0\n{x} 0.5 0.5\n"
XYZ = (
    '2\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3{more} pbc="T T T"\nH {x} 0 0{mass}\nCl 2 2 2{mass}\n'
)


def salt(first: str = "Na", name: str = "x") -> str:
    return SALT.format(first=first, name=name)


def poscar(a: object = 5, symbols: str = "Na Cl", x: object = 0.5) -> str:
    return POSCAR.format(a=a, symbols=symbols, x=x)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("POSCAR", poscar(x="nan"), r"site 2 \(Cl\) is at \[nan"),
        ("POSCAR", poscar(x="inf"), r"site 2 \(Cl\)"),
        ("POSCAR", poscar(x="1e300"), "finite numbers within the cell"),
        ("POSCAR", poscar(a="nan"), "without volume|cannot be read|can be read"),
        ("POSCAR", poscar(a=1e6), "no crystal"),
        ("POSCAR", poscar(a=1e-3), "without volume"),
        ("POSCAR", poscar(symbols="D Cl"), "holds D, an isotope"),
        ("POSCAR", poscar(symbols="T Cl"), "holds T, an isotope"),
        ("POSCAR", poscar(symbols="Va Cl"), "Va"),
        ("POSCAR", poscar(symbols="Na Cl Br").replace("\n1 1\n", "\n1 1 0\n"), "none of one element"),
        ("POSCAR", poscar(symbols="").replace("\n\n", "\n"), "POSCAR of VASP 4"),
        ("POSCAR", poscar() * 2, "2 structures after each other"),
        ("a.cif", salt("D"), "holds D, an isotope"),
        ("a.cif", salt("Va"), "site of 'Va', which is no chemical element"),
        ("a.cif", salt("Wat"), "site of 'Wat'"),
        ("a.cif", salt() + salt("K", "y"), r"2 data blocks with atoms \(data_x, data_y\)"),
        ("a.cif", salt() + salt("K"), "2 data blocks with atoms"),
        ("a.xyz", XYZ.format(more="", x="nan", mass=""), r"site 1 \(H\)"),
        ("a.xyz", XYZ.format(more=":masses:R:1", x=0, mass=" 2.014"), "isotopes are not known"),
        ("a.xyz", XYZ.format(more="", x=0, mass="") * 3, "3 frames"),
    ],
)
def test_what_would_be_read_as_another_crystal_is_refused(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        read_structure(path)
    assert name in caught.value.message
    assert caught.value.advice


def test_one_of_several_structures_is_taken_by_its_number(tmp_path):
    path = tmp_path / "two.cif"
    path.write_text(salt() + salt("K", "y"))
    assert read_structure(f"{path}#1").formula == "Na1 Cl1"
    assert read_structure(f"{path}#2").formula == "K1 Cl1"
    with pytest.raises(InputError, match="no #3"):
        read_structure(f"{path}#3")
    frames = tmp_path / "XDATCAR"
    blocks = ["Direct configuration= 1\n0 0 0\n.5 .5 .5\n", "Direct configuration= 2\n0 0 0\n.5 .5 .4\n"]
    frames.write_text("x\n1.0\n5 0 0\n0 5 0\n0 0 5\nNa Cl\n1 1\n" + "".join(blocks))
    assert read_structure(f"{frames}#2").frac_coords[1, 2] == pytest.approx(0.4)
    # a file really called so
    (tmp_path / "odd#2.cif").write_text(salt())
    assert len(read_structure(tmp_path / "odd#2.cif")) == 2


def test_what_is_no_data_block_with_atoms_does_not_count(tmp_path):
    path = tmp_path / "paper.cif"
    path.write_text("data_paper\n_text\n;\ndata_old\n_atom_site_fract_x\n;\n" + salt("K"))
    assert read_structure(path).formula == "K1 Cl1"
    label = salt().replace("_atom_site_type_symbol\n", "").replace("Na1 Na", "OW1").replace("Cl1 Cl", "CA2")
    path.write_text(label)
    assert read_structure(path).formula == "Ca1 O1"


def test_a_compressed_crystal_is_read_and_a_bomb_is_not(tmp_path):
    import gzip

    path = tmp_path / "salt.cif.gz"
    path.write_bytes(gzip.compress(salt().encode()))
    assert read_structure(path).formula == "Na1 Cl1"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(80):
            stream.write(b" " * (1 << 20))
    with pytest.raises(InputError, match="unfolds to more than"):
        read_structure(path)


def test_velocities_after_the_positions_are_no_second_structure(tmp_path):
    path = tmp_path / "CONTCAR"
    path.write_text(poscar() + "\n0.1 0 0\n-0.1 0 0\n")
    assert len(read_structure(path)) == 2


def test_json_nested_without_end_is_refused_whatever_the_recursion_limit_is(tmp_path):
    file = tmp_path / "deep.json"
    file.write_text("[" * 100_000)
    script = (
        "import sys; sys.setrecursionlimit(1_000_000)\n"
        "from phonosmith.structures.reading import read_structure\n"
        f"read_structure({str(file)!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    # a crash of the interpreter would be a signal
    assert done.returncode == 1
    assert "nested more than" in done.stderr


def test_a_comment_that_names_the_elements_is_no_second_structure(tmp_path):
    from ase.build import bulk
    from ase.io import write

    file = tmp_path / "POSCAR"
    # ASE's first line is the line of the elements
    write(file, bulk("NaCl", "rocksalt", a=5.6), format="vasp")
    assert file.read_text().splitlines()[0].split() == file.read_text().splitlines()[5].split()
    assert read_structure(file).composition.reduced_formula == "NaCl"
    file.write_text(2 * file.read_text())
    with pytest.raises(InputError, match="2 structures after each other"):
        read_structure(file)
