"""The gate: every reason, from records that differ from a good one in one thing."""

import numpy as np
import pytest

from phonosmith.reference.accept import check_incar, check_label, check_scf, check_structure
from phonosmith.reference.documents import Correction, Frame, ReferenceRecord
from phonosmith.reference.protocol import ReferenceProtocol, incar_tags
from phonosmith.reference.vasp.handlers import fresh_handlers

PROTOCOL = ReferenceProtocol(kspacing=0.5)
ASKED = Frame(
    symbols=["Na", "Cl"], positions=[(0, 0, 0), (2.8, 0.01, 0)], cell=[(0, 2.8, 2.8), (2.8, 0, 2.8), (2.8, 2.8, 0)]
)


def good(calculation="static", **changes):
    values = {
        "engine": "vasp", "engine_version": "6.4.2", "calculation": calculation, "protocol_digest": PROTOCOL.digest,
        "symbols": ASKED.symbols, "cell": ASKED.cell, "positions": ASKED.positions, "energy": -6.8,
        "energy_sigma0": -6.8, "forces": [(1e-5, 0, 0), (-1e-5, 0, 0)], "stress": (0.01, 0.01, 0.01, 0, 0, 0),
        "electronic_steps": 15, "last_de": 3e-9, "incar": incar_tags(PROTOCOL, calculation),
        "kpoints": (4, 4, 4) if calculation != "displacement" else (1, 1, 1),
        "potcar_titles": ["PAW_PBE Na_pv 19Sep2006", "PAW_PBE Cl 06Sep2000"],
    }  # fmt: skip
    return ReferenceRecord(**(values | changes))


def codes(record, **options):
    return {reason.code for reason in check_label(record, ASKED, PROTOCOL, **options)}


@pytest.mark.parametrize("calculation", ["static", "relax", "elastic_relax", "displacement", "born"])
def test_a_good_calculation_passes(calculation):
    assert check_label(good(calculation), ASKED, PROTOCOL) == []


def changed_incar(**tags):
    return {key: value for key, value in (incar_tags(PROTOCOL, "static") | tags).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"energy": None}, "energy_missing"),
        ({"energy": float("nan")}, "energy_not_finite"),
        ({"energy": float("inf")}, "energy_not_finite"),
        ({"energy": 0.5}, "energy_positive"),
        ({"forces": None}, "forces_missing"),
        ({"forces": [(float("nan"), 0, 0), (0, 0, 0)]}, "forces_not_finite"),
        ({"forces": [(0, 0, 0)]}, "forces_shape"),
        ({"stress": None}, "stress_missing"),
        ({"stress": (0, 0, 0, 0, float("inf"), 0)}, "stress_not_finite"),
        ({"symbols": ["Cl", "Na"]}, "species"),
        ({"cell": [(0, 2.85, 2.85), (2.8, 0, 2.8), (2.8, 2.8, 0)]}, "cell"),
        ({"cell": None}, "structure_missing"),
        ({"positions": [(0, 0, 0), (2.8, 0.02, 0)]}, "positions"),
        ({"electronic_steps": 200}, "scf"),
        ({"last_de": 5e-8}, "scf"),
        ({"last_de": float("nan")}, "scf"),
        ({"last_de": None}, "scf_unknown"),
        ({"kpoints": (3, 4, 4)}, "kpoints"),
        ({"kpoints": None}, "kpoints_unknown"),
        ({"potcar_titles": ["PAW_PBE Na 08Apr2002", "PAW_PBE Cl 06Sep2000"]}, "potcar"),
        ({"potcar_titles": ["PAW_PBE Cl 06Sep2000", "PAW_PBE Na_pv 19Sep2006"]}, "potcar"),
        ({"potcar_titles": ["PAW Na_pv 19Sep2006", "PAW Cl 06Sep2000"]}, "potcar"),
        ({"potcar_titles": []}, "potcar_unknown"),
        ({"protocol_digest": "0" * 64}, "protocol"),
        ({"incar": {}}, "incar_unknown"),
        ({"incar": changed_incar(ENCUT=400)}, "incar"),
        ({"incar": changed_incar(GGA="PS")}, "incar"),
        ({"incar": changed_incar(KSPACING=0.22)}, "incar"),
        ({"incar": changed_incar(ISMEAR=1)}, "incar"),
        ({"incar": changed_incar(EDIFF=1e-6)}, "incar"),
        ({"incar": changed_incar(EDIFF="********")}, "incar"),
        ({"incar": changed_incar(EDIFF=-1.0)}, "incar"),
        ({"incar": changed_incar(SIGMA=None)}, "incar"),
        ({"incar": changed_incar(LDAU=True)}, "incar"),
        ({"incar": changed_incar(POTIM=0.1)}, "incar"),
        ({"corrections": [Correction(handler="KspacingMetalHandler", errors=["x"], tags=["KSPACING"])]}, "correction"),
        ({"corrections": [Correction(handler="VaspErrorHandler", errors=["brmix"], files=["KPOINTS"])]}, "correction"),
        ({"corrections": [Correction(handler="WalltimeHandler", errors=["Walltime reached"])]}, "walltime"),
        ({"rehearsal": True}, "rehearsal"),
    ],
)
def test_one_thing_wrong_is_one_reason(changes, code):
    assert codes(good(**changes)) == {code}


@pytest.mark.parametrize(
    "changes",
    [
        {"incar": changed_incar(ALGO="All", ISYM=0, IMIX=1)},
        {"incar": changed_incar(EDIFF=1e-9)},
        {"incar": changed_incar(NCORE=4, KPAR=2)},
        {"incar": changed_incar(GGA="pe ")},
        {"last_de": 1.0000008e-8},
        {"positions": [(0, 2.8, 2.8), (2.8, 0.01, 0)]},
        {"positions": [(0, 0, 1e-7), (2.8, 0.01, 0)]},
        {"corrections": [Correction(handler="VaspErrorHandler", errors=["brmix"], tags=["IMIX"], files=["CHGCAR"])]},
    ],
)
def test_what_keeps_the_potential_energy_surface_passes(changes):
    assert codes(good(**changes)) == set()


def test_relaxations_must_be_relaxed_and_may_move():
    moved = {"positions": [(0, 0, 0), (2.8, 0, 0)]}
    assert codes(good("relax", forces=[(6e-4, 0, 0), (0, 0, 0)], **moved)) == {"not_relaxed"}
    assert codes(good("relax", forces=[(4e-4, 0, 0), (0, 0, 0)], **moved)) == set()
    assert codes(good("elastic_relax", forces=[(6e-4, 0, 0), (0, 0, 0)], **moved)) == set()
    wider = [(0, 2.9, 2.9), (2.9, 0, 2.9), (2.9, 2.9, 0)]
    assert codes(good("relax", cell=wider, **moved)) == set()
    assert codes(good("elastic_relax", cell=wider, **moved)) == {"cell"}
    assert "incar" not in codes(good("relax", incar=incar_tags(PROTOCOL, "relax") | {"POTIM": 0.2, "IBRION": 1}))


def test_wall_time_is_one_reason_however_often_it_was_noticed():
    stops = [Correction(handler="WalltimeHandler", errors=["Walltime reached"])] * 5
    assert len(check_label(good(corrections=stops), ASKED, PROTOCOL)) == 1


def test_rehearsals_pass_only_where_they_are_meant_to():
    record = good(rehearsal=True)
    assert codes(record, allow_rehearsal=True) == set()
    assert codes(record) == {"rehearsal"}


def test_potcar_that_ran_is_the_one_in_the_folder():
    other = ["PAW_PBE Na_pv 05Jan2001", "PAW_PBE Cl 06Sep2000"]
    assert codes(good(), written_potcars=other) == {"potcar"}
    assert codes(good(), written_potcars=good().potcar_titles) == set()


def test_reasons_have_numbers():
    text = " ".join(reason.message for reason in check_label(good(last_de=2e-5, cell=ASKED.cell), ASKED, PROTOCOL))
    assert "2e-05" in text
    assert "1e-08" in text


def test_moves_are_judged_modulo_lattice_vectors():
    cell = np.array(ASKED.cell)
    shifts = np.array([cell[0], -cell[1] - cell[2]])
    shifted = (np.array(ASKED.positions) + shifts).tolist()
    assert check_structure(ASKED, ASKED.symbols, ASKED.cell, shifted, "static") == []


def test_handlers_are_new_for_every_job():
    first, second = fresh_handlers(), fresh_handlers()
    assert not {id(handler) for handler in first} & {id(handler) for handler in second}
    names = {type(handler).__name__ for handler in first}
    forbidden = {
        "KspacingMetalHandler",
        "LargeSigmaHandler",
        "IncorrectSmearingHandler",
        "PotimErrorHandler",
        "PositiveEnergyErrorHandler",
        "MeshSymmetryErrorHandler",
    }
    assert not names & forbidden
    caught = set(first[0].errors_subset_to_catch)
    assert not caught & {"tet", "dentet", "ksymm", "algo_tet", "triple_product", "zpotrf"}
    assert {"brmix", "zbrent", "edddav"} <= caught


def test_real_vasp_output_passes_the_scf_check(shared):
    """Converged runs of VASP 4.6 with EDIFF 1e-8: the printed |dE| may be one unit of the last digit above."""
    from pymatgen.io.vasp import Vasprun

    run = Vasprun(shared / "data/phonopy/Si/vasprun.xml", parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    energies = [step["e_fr_energy"] for step in run.ionic_steps[-1]["electronic_steps"]]
    protocol = ReferenceProtocol(ediff=run.parameters["EDIFF"], nelm=run.parameters["NELM"])
    complete = good(electronic_steps=len(energies), last_de=abs(energies[-1] - energies[-2]))
    assert check_scf(complete, protocol) == []
    cut = good(electronic_steps=len(energies) - 5, last_de=abs(energies[-6] - energies[-7]))
    assert [reason.code for reason in check_scf(cut, protocol)] == ["scf"]


def test_tags_as_real_vasp_repeats_them_compare_equal(shared):
    """VASP 4.6 output: what a matching protocol asks is recognised; only tags that were not in that INCAR are named."""
    from pymatgen.io.vasp import Vasprun

    run = Vasprun(shared / "data/phonopy/Si/vasprun.xml", parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    (reason,) = check_incar(dict(run.incar), ReferenceProtocol(encut=300), "displacement")
    assert "ran as" not in reason.message
    assert "ADDGRID = True was not asked" in reason.message
    (reason,) = check_incar(dict(run.incar), ReferenceProtocol(encut=520, sigma=0.1), "displacement")
    assert "ENCUT was 520.0, ran as 300.0" in reason.message
    assert "SIGMA was 0.1, ran as 0.05" in reason.message
