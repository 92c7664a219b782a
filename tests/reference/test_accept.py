"""The gate: every reason, from records that differ from a good one in one thing."""

from dataclasses import replace

import numpy as np
import pytest

from phonosmith.reference.accept import accept
from phonosmith.reference.checks.asked import check_incar, compare_structure
from phonosmith.reference.checks.vasp_run import check_cycle
from phonosmith.reference.documents import Correction, Frame
from phonosmith.reference.outcome import Asked, Outcome
from phonosmith.reference.protocol import ReferenceProtocol, incar_tags
from phonosmith.reference.vasp.handlers import fresh_handlers
from phonosmith.reference.vasp.run import IonicStep, VaspRun
from phonosmith.reference.vasp.settings import VaspSettings
from phonosmith.structures.labels import Labels

PROTOCOL = ReferenceProtocol(kspacing=0.5)
ASKED = Frame(
    symbols=["Na", "Cl"], positions=[(0, 0, 0), (2.8, 0.01, 0)], cell=[(0, 2.8, 2.8), (2.8, 0, 2.8), (2.8, 2.8, 0)]
)
SCF = (-1.0, -6.0, -6.79, -6.8 + 3e-9, -6.8)
STRESS = 1e-3 * np.array([1.0, 1, 1, 0, 0, 0])


def array(rows):
    return None if rows is None else np.array(rows, dtype=float)


def good(calculation="static", **changes):
    """A sound outcome, with some of what it holds replaced."""
    known = {
        "symbols": ASKED.symbols, "cell": ASKED.cell, "positions": ASKED.positions, "energy": -6.8,
        "energy_sigma0": -6.8, "forces": [(1e-5, 0, 0), (-1e-5, 0, 0)], "stress": (1e-4, 1e-4, 1e-4, 0, 0, 0),
        "scf": SCF, "incar": incar_tags(PROTOCOL, calculation, array(ASKED.cell)), "corrections": (),
        "damage": None, "used": {},
        "kpoints": (4, 4, 4), "rehearsal": False,
        "potcars": ["PAW_PBE Na_pv 19Sep2006", "PAW_PBE Cl 06Sep2000"],
    } | changes  # fmt: skip
    settings = VaspSettings(
        "6.4.2", {"EDIFF": 1e-8, "NELM": 200} | known["used"], known["potcars"], known["kpoints"], shifted=False
    )
    step = IonicStep(energy=known["energy"], energy_sigma0=known["energy_sigma0"], scf=list(known["scf"]))
    run = VaspRun(settings, known["symbols"], [step], known["incar"], known["damage"], known["corrections"])
    labels = Labels(known["energy"], array(known["forces"]), array(known["stress"]))
    return Outcome(
        known["symbols"], array(known["cell"]), array(known["positions"]), labels, known["energy_sigma0"],
        scf=known["scf"], run=run, step=step, program="vasp", rehearsal=known["rehearsal"],
    )  # fmt: skip


def reasons(outcome, calculation="static", potcars=(), **options):
    return accept(outcome, Asked(ASKED, PROTOCOL, calculation, potcars), **options)


def codes(*arguments, **options):
    return {reason.code for reason in reasons(*arguments, **options)}


@pytest.mark.parametrize("calculation", ["static", "relax", "elastic_relax", "eos_relax", "displacement", "born"])
def test_a_good_calculation_passes(calculation):
    assert reasons(good(calculation), calculation) == []


def changed_incar(**tags):
    return {key: value for key, value in (incar_tags(PROTOCOL, "static") | tags).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"energy": None}, "energy_missing"),
        ({"energy": float("nan")}, "energy_not_finite"),
        ({"energy": float("inf")}, "energy_not_finite"),
        ({"energy": 0.5, "energy_sigma0": 0.5, "scf": (1.0, 0.6, 0.51, 0.5, 0.5)}, "energy_positive"),
        ({"forces": None}, "forces_missing"),
        ({"forces": [(float("nan"), 0, 0), (0, 0, 0)]}, "forces_not_finite"),
        ({"forces": [(0, 0, 0)]}, "forces_shape"),
        ({"stress": None}, "stress_missing"),
        ({"stress": (0, 0, 0, 0, float("inf"), 0)}, "stress_not_finite"),
        ({"symbols": ["Cl", "Na"]}, "species"),
        ({"cell": [(0, 2.85, 2.85), (2.8, 0, 2.8), (2.8, 2.8, 0)]}, "cell"),
        ({"cell": None}, "structure_missing"),
        ({"positions": [(0, 0, 0), (2.8, 0.02, 0)]}, "positions"),
        ({"cell": [(0, 2.8, 2.8), (0, 2.8, 2.8), (2.8, 2.8, 0)]}, "volume"),
        ({"cell": [(0, np.nan, 2.8), (2.8, 0, 2.8), (2.8, 2.8, 0)]}, "structure_not_finite"),
        ({"stress": (0, 0, 0)}, "stress_shape"),
        ({"energy_sigma0": float("nan")}, "energy_not_finite"),
        ({"scf": (-6.0, -6.8) * 100}, "scf"),
        ({"scf": (-6.0, -6.80000005, -6.8)}, "scf"),
        ({"scf": (-6.8, float("nan"))}, "scf"),
        ({"scf": (-6.8,)}, "scf_unknown"),
        ({"scf": ()}, "scf_unknown"),
        ({"damage": "the run did not finish"}, "unfinished"),
        ({"used": {"ALGO": "None"}}, "not_self_consistent"),
        ({"used": {"ICHARG": 11}}, "not_self_consistent"),
        ({"used": {"LEPSILON": True}}, "not_self_consistent"),
        ({"kpoints": (3, 4, 4)}, "kpoints"),
        ({"kpoints": None}, "kpoints_unknown"),
        ({"potcars": ["PAW_PBE Na 08Apr2002", "PAW_PBE Cl 06Sep2000"]}, "potcar"),
        ({"potcars": ["PAW_PBE Cl 06Sep2000", "PAW_PBE Na_pv 19Sep2006"]}, "potcar"),
        ({"potcars": ["PAW Na_pv 19Sep2006", "PAW Cl 06Sep2000"]}, "potcar"),
        ({"potcars": []}, "potcar_unknown"),
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
        {"scf": (-6.0, -6.79, -6.8 + 1.0000008e-8, -6.8)},
        {"scf": (-6.0, *(-6.8,) * 199)},
        {"positions": [(0, 2.8, 2.8), (2.8, 0.01, 0)]},
        {"positions": [(0, 0, 1e-7), (2.8, 0.01, 0)]},
        {"corrections": [Correction(handler="VaspErrorHandler", errors=["brmix"], tags=["IMIX"], files=["CHGCAR"])]},
    ],
)
def test_what_keeps_the_potential_energy_surface_passes(changes):
    assert codes(good(**changes)) == set()


def test_relaxations_must_be_relaxed_and_may_move():
    moved = {"positions": [(0, 0, 0), (2.8, 0, 0)]}

    def judged(calculation, **changes):
        return codes(good(calculation, **moved, **changes), calculation)

    assert judged("relax", forces=[(6e-4, 0, 0), (-6e-4, 0, 0)]) == {"not_relaxed"}
    assert judged("relax", forces=[(4e-4, 0, 0), (-4e-4, 0, 0)]) == set()
    assert judged("elastic_relax", forces=[(6e-4, 0, 0), (-6e-4, 0, 0)]) == set()
    wider = [(0, 2.9, 2.9), (2.9, 0, 2.9), (2.9, 2.9, 0)]
    assert judged("relax", cell=wider) == set()
    assert judged("elastic_relax", cell=wider) == {"cell"}
    assert judged("eos_relax", forces=[(6e-4, 0, 0), (-6e-4, 0, 0)]) == {"not_relaxed"}
    assert judged("eos_relax", cell=wider) == {"cell"}
    assert "incar" not in judged("relax", incar=incar_tags(PROTOCOL, "relax") | {"POTIM": 0.2, "IBRION": 1})


def test_displaced_atoms_in_a_small_cell_at_gamma_are_no_label():
    """The eight atoms of a 5.43 Å cell at Γ alone would give useless force constants; a 20 Å cell would not."""
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    fractions = np.concatenate([corners, np.array(corners) + 0.25])

    def judged(edge, kpoints, incar):
        cell, positions = np.eye(3) * edge, fractions * edge
        frame = Frame(symbols=["Si"] * 8, positions=positions.tolist(), cell=cell.tolist())
        settings = VaspSettings("6.4.2", {"EDIFF": 1e-8, "NELM": 200}, ["PAW_PBE Si 05Jan2001"], kpoints, shifted=False)
        run = VaspRun(settings, ["Si"] * 8, [None], incar, None, ())
        outcome = Outcome(["Si"] * 8, cell, positions, Labels(-43.4, np.zeros((8, 3)), STRESS), scf=SCF, run=run)
        return {reason.code for reason in accept(outcome, Asked(frame, PROTOCOL, "displacement"))}

    gamma, meshed = (incar_tags(PROTOCOL, "displacement", np.eye(3) * edge) for edge in (20.0, 5.43))
    assert judged(5.43, (1, 1, 1), gamma) == {"kpoints", "incar"}
    assert judged(5.43, (3, 3, 3), meshed) == set()
    assert judged(20.0, (1, 1, 1), gamma) == set()


def test_wall_time_is_one_reason_however_often_it_was_noticed():
    stops = [Correction(handler="WalltimeHandler", errors=["Walltime reached"])] * 5
    assert len(reasons(good(corrections=stops))) == 1


def test_rehearsals_pass_only_where_they_are_meant_to():
    played = good(rehearsal=True)
    assert codes(played, allow_rehearsal=True) == set()
    assert codes(played) == {"rehearsal"}


def test_potcar_that_ran_is_the_one_in_the_folder():
    other = ["PAW_PBE Na_pv 05Jan2001", "PAW_PBE Cl 06Sep2000"]
    assert codes(good(), potcars=other) == {"potcar"}
    assert codes(good(), potcars=good().run.settings.potcars) == set()


def test_reasons_have_numbers():
    (reason,) = reasons(good(scf=(-6.0, -6.80002, -6.8)))
    assert "2.0e-05" in reason.message
    assert "1e-08" in reason.message


def test_without_knowing_what_was_asked_only_the_output_is_judged():
    """An import: another cutoff and a missing stress are no fault, a broken SCF is one."""
    assert accept(good(incar=changed_incar(ENCUT=400), kpoints=None, stress=None)) == []
    assert [reason.code for reason in accept(good(scf=(-6.0, -6.8)))] == ["scf"]
    assert [reason.code for reason in accept(good(energy=None))] == ["energy_missing"]
    frame = replace(good(energy=None, stress=None), run=None, step=None)  # a frame of a dataset may hold forces alone
    assert accept(frame) == []
    assert [reason.code for reason in accept(replace(good(forces=None), run=None, step=None))] == ["forces_missing"]


def test_logicals_are_read_as_fortran_prints_them():
    printed = {
        key: f" {'T' if value else 'F'} " if isinstance(value, bool) else str(value)
        for key, value in incar_tags(PROTOCOL, "static").items()
    }
    assert codes(good(incar=printed)) == set()
    assert codes(good(incar=printed | {"LASPH": " F "})) == {"incar"}


def test_a_spacing_that_fits_exactly_gives_the_mesh_of_the_printed_cell():
    """One rounding for what is asked, what is planned and what is judged: a ratio within 1e-6 of 4 is 4."""
    from phonosmith.reference.protocol import kpoint_mesh
    from phonosmith.structures.cost import kpoint_mesh as planned

    edge = 2 * np.pi / (4 * PROTOCOL.kspacing)
    for printed in (edge, edge * (1 + 1e-7), edge * (1 - 1e-7)):
        cell = np.eye(3) * printed
        assert planned(cell, PROTOCOL.kspacing) == kpoint_mesh(PROTOCOL, "static", cell) == (4, 4, 4)
    assert planned(np.eye(3) * edge * (1 - 1e-5), PROTOCOL.kspacing) == (5, 5, 5)


def test_moves_are_judged_modulo_lattice_vectors():
    cell = np.array(ASKED.cell)
    shifts = np.array([cell[0], -cell[1] - cell[2]])
    shifted = (np.array(ASKED.positions) + shifts).tolist()
    assert compare_structure(ASKED, ASKED.symbols, ASKED.cell, shifted, "static", "the output") == []


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
    from phonosmith.reference.vasp.vasprun import parse_vasprun

    outcome = Outcome.of_step(parse_vasprun((shared / "data/phonopy/Si/vasprun.xml").read_bytes(), "Si"))
    assert accept(outcome) == []
    cut = replace(outcome, scf=outcome.scf[:-5])
    assert [reason.code for reason in check_cycle(cut, None)] == ["scf"]


def test_tags_as_real_vasp_repeats_them_compare_equal(shared):
    """VASP 4.6 output: what a matching protocol asks is recognised; only tags that were not in that INCAR are named."""
    from phonosmith.reference.vasp.vasprun import parse_vasprun

    outcome = Outcome.of_step(parse_vasprun((shared / "data/phonopy/Si/vasprun.xml").read_bytes(), "Si"))
    (reason,) = check_incar(outcome, Asked(ASKED, ReferenceProtocol(encut=300), "displacement"))
    assert "ran as" not in reason.message
    assert "ADDGRID = T was not asked" in reason.message
    (reason,) = check_incar(outcome, Asked(ASKED, ReferenceProtocol(encut=520, sigma=0.1), "displacement"))
    assert "ENCUT was 520.0, ran as 300" in reason.message
    assert "SIGMA was 0.1, ran as 0.05" in reason.message
