"""The protocol and the inputs made from it, line by line."""

import json
import math
from itertools import groupby
from typing import get_args

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import ConfigurationError
from phonosmith.reference.engines import make_engine
from phonosmith.reference.protocol import Calculation, ReferenceProtocol, incar_tags, kpoint_mesh, load_protocol
from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS
from phonosmith.reference.vasp.rehearsal import potcar_library, write_invented_potcars

CALCULATIONS = get_args(Calculation)
CRYSTALS = {
    "insulator": bulk("NaCl", "rocksalt", a=5.64),
    "metal": bulk("Al", "fcc", a=4.05, cubic=True),
    "hexagonal": bulk("ZnO", "wurtzite", a=3.25, c=5.2),
}
# one table for every crystal: no setting may depend on the material
COMMON = {
    "ALGO": "Normal", "EDIFF": "1e-08", "ENCUT": "520.0", "GGA": "Pe", "ISMEAR": "0", "ISPIN": "1", "LASPH": "True",
    "LCHARG": "False", "LMAXMIX": "6", "LREAL": "False", "LWAVE": "False", "NELM": "200",
    "PREC": "Accurate", "SIGMA": "0.05",
}  # fmt: skip
MESH = {"KGAMMA": "True", "KSPACING": "0.1"}
EXPECTED = {
    "static": COMMON | MESH | {"IBRION": "-1", "ISIF": "2", "NSW": "0"},
    "relax": COMMON | MESH | {"IBRION": "2", "ISIF": "3", "NSW": "200", "EDIFFG": "-0.0005"},
    "elastic_relax": COMMON | MESH | {"IBRION": "2", "ISIF": "2", "NSW": "99", "EDIFFG": "-0.001"},
    "eos_relax": COMMON | MESH | {"IBRION": "2", "ISIF": "2", "NSW": "99", "EDIFFG": "-0.0005"},
    "displacement": COMMON | MESH | {"IBRION": "-1", "ISIF": "2", "NSW": "0"},
    "born": COMMON | MESH | {"IBRION": "8", "ISIF": "2", "NSW": "1", "LEPSILON": "True"},
}


def written_inputs(atoms, calculation, folder, protocol=None):
    from atomate2.vasp.files import write_vasp_input_set

    maker = make_engine("vasp", protocol).maker(calculation, calculation)
    with potcar_library(write_invented_potcars(folder / "psp", PBE_54_SYMBOLS)):
        write_vasp_input_set(AseAtomsAdaptor.get_structure(atoms), maker.input_set_generator, folder)
    lines = (folder / "INCAR").read_text().splitlines()
    return dict(map(str.strip, line.split("=", 1)) for line in lines if line.strip())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("calculation", CALCULATIONS)
@pytest.mark.parametrize("crystal", CRYSTALS)
def test_inputs_hold_the_protocol_and_nothing_else(crystal, calculation, tmp_path):
    atoms = CRYSTALS[crystal]
    assert written_inputs(atoms, calculation, tmp_path) == EXPECTED[calculation]
    assert not (tmp_path / "KPOINTS").exists()
    potcar = (tmp_path / "POTCAR").read_text()
    species = [symbol for symbol, _ in groupby(atoms.get_chemical_symbols())]  # one data set per block, as in POSCAR
    titles = [line.split("=")[1].split()[1] for line in potcar.splitlines() if "TITEL" in line]
    assert titles == [PBE_54_SYMBOLS[element] for element in species]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("repeat", "gamma"), [(1, False), (3, False), (4, True)])
def test_only_displaced_cells_of_the_published_size_are_sampled_at_gamma(repeat, gamma, tmp_path):
    """Silicon: the 8-atom cell that supervises curvature, a cell of 16.3 Å, and the published one of 21.7 Å."""
    atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(repeat)
    tags = written_inputs(atoms, "displacement", tmp_path)
    assert ("KSPACING" not in tags) is gamma
    assert (tmp_path / "KPOINTS").exists() is gamma
    if gamma:
        text = (tmp_path / "KPOINTS").read_text().splitlines()
        assert text[2].strip().lower().startswith("g")
        assert text[3].split() == ["1", "1", "1"]
    assert (kpoint_mesh(ReferenceProtocol(), "displacement", atoms.cell.array) == (1, 1, 1)) is gamma


def test_a_tilted_cell_counts_by_its_thickness():
    """Five primitive cells of silicon along each axis are 19.2 Å long but 15.7 Å thick."""
    cell = bulk("Si", "diamond", a=5.43).repeat(5).cell.array
    assert not ReferenceProtocol().gamma_only("displacement", cell)
    assert ReferenceProtocol(gamma_min_length=15.0).gamma_only("displacement", cell)
    assert not ReferenceProtocol(displacement_kpoints="kspacing").gamma_only("displacement", np.eye(3) * 30)


def test_modes_are_followed_with_the_published_cheaper_settings():
    """arXiv:2604.01017, section 4.6: 1e-7 eV and 400 eV; everything else stays."""
    protocol = ReferenceProtocol().for_modes()
    assert (protocol.encut, protocol.ediff) == (400.0, 1e-7)
    assert protocol.model_copy(update={"encut": 520.0, "ediff": 1e-8}) == ReferenceProtocol()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_previous_folder_does_not_change_the_inputs(tmp_path):
    """atomate2's smearing depends on whether a previous calculation is known; ours must not."""
    generator = make_engine("vasp").static().input_set_generator
    structure = AseAtomsAdaptor.get_structure(CRYSTALS["metal"])
    with potcar_library(write_invented_potcars(tmp_path / "psp", PBE_54_SYMBOLS)):
        fresh = generator.get_input_set(structure).incar
        generator.prev_incar, generator.bandgap = {"ISMEAR": -5, "SIGMA": 0.2, "ENCUT": 300}, 0.0
        assert generator.get_input_set(structure).incar == fresh


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_spin_and_extra_tags_reach_the_incar(tmp_path):
    protocol = ReferenceProtocol(spin_polarized=True, magmoms={"Al": 1.5}, extra_incar={"ADDGRID": True})
    tags = written_inputs(CRYSTALS["metal"], "static", tmp_path, protocol)
    assert tags["ISPIN"] == "2"
    assert tags["MAGMOM"] == "4*1.5"
    assert tags["ADDGRID"] == "True"


@pytest.mark.parametrize(
    ("length", "spacing", "n"),
    [(3.84, 0.1, 17), (5.43, 0.1, 12), (7.7, 0.1, 9), (20, 0.1, 4), (20, 0.628, 1), (5.43, 0.22, 6)],
)
def test_mesh_is_vasps(length, spacing, n):
    protocol = ReferenceProtocol(kspacing=spacing)
    assert kpoint_mesh(protocol, "static", np.eye(3) * length) == (n, n, n)
    assert kpoint_mesh(protocol, "displacement", np.eye(3) * length) == ((n, n, n) if length < 18 else (1, 1, 1))


def test_mesh_of_a_hexagonal_cell_uses_reciprocal_lengths():
    atoms = CRYSTALS["hexagonal"]
    lengths = AseAtomsAdaptor.get_structure(atoms).lattice.reciprocal_lattice.abc
    wanted = tuple(math.ceil(length / 0.1) for length in lengths)
    assert kpoint_mesh(ReferenceProtocol(), "static", atoms.cell.array) == wanted
    assert wanted[0] > math.ceil(2 * math.pi / 3.25 / 0.1)  # the b vectors are longer than 2π/a


def test_protocol_is_frozen_hashable_and_round_trips():
    first = ReferenceProtocol(potcar_overrides={"Si": "Si_GW", "O": "O_h"})
    again = ReferenceProtocol.model_validate(json.loads(first.model_dump_json()))
    assert first == again
    assert hash(first) == hash(again)
    assert {first: 1}[again] == 1
    assert first.potcar_map(["O", "Si", "Na"]) == {"Na": "Na_pv", "O": "O_h", "Si": "Si_GW"}
    with pytest.raises(ValueError):
        first.encut = 400


def test_every_field_is_part_of_the_identity():
    base = ReferenceProtocol()
    changed = {
        "encut": 500, "ediff": 1e-7, "kspacing": 0.2, "functional": "PBEsol", "ismear": 1, "sigma": 0.1,
        "relax_fmax": 1e-3, "potcar_overrides": {"Si": "Si_GW"}, "extra_incar": {"ADDGRID": True},
        "displacement_kpoints": "kspacing", "gamma_min_length": 15.0,
    }  # fmt: skip
    digests = {ReferenceProtocol(**{key: value}).digest for key, value in changed.items()}
    assert len(digests | {base.digest}) == len(changed) + 1


def test_conventions_are_written_down():
    text = ReferenceProtocol.model_json_schema()["properties"]["kspacing"]["description"]
    assert "2π" in text
    assert "KSPACING" in text
    assert all("description" in field for field in ReferenceProtocol.model_json_schema()["properties"].values())


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"encut": -1}, "encut"),
        ({"enuct": 520}, "enuct"),
        ({"extra_incar": {"ENCUT": 400}}, "ENCUT"),
        ({"magmoms": {"Fe": 5}}, "magmoms"),
    ],
)
def test_wrong_protocols_name_the_field(data, named):
    with pytest.raises(ConfigurationError, match=named):
        load_protocol(data)


def test_unknown_element_has_no_potcar():
    with pytest.raises(ConfigurationError, match="Og"):
        ReferenceProtocol().potcar_map(["Og"])


def test_tags_are_sorted_and_complete():
    for calculation in CALCULATIONS:
        tags = incar_tags(ReferenceProtocol(), calculation, np.eye(3) * 5.0)
        assert list(tags) == sorted(tags)
        assert set(tags) == set(EXPECTED[calculation])
