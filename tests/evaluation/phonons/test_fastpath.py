"""Fast path: exact curvature as the judge, files that load again, and the same numbers as atomate2's flow."""

import json
import os

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from helpers.fixtures import vasp_standin  # noqa: F401
from phonosmith.core.errors import ConfigurationError, ConvergenceError, InputError, MismatchError, PotentialError
from phonosmith.core.units import THZ_PER_SQRT_EV_PER_A2_AMU
from phonosmith.evaluation.collection import replace_job
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.documents import LARGE
from phonosmith.evaluation.phonons.fastpath import (
    choose_phonon_supercell,
    displaced_cells,
    evaluate_phonons,
    harmonic_from_potential,
    parse_supercell,
)
from phonosmith.evaluation.phonons.jobs import (
    COLLECT_FUNCTION,
    FastPhononMaker,
    PhononFlowMaker,
    collect_model,
    run_phonons,
)
from phonosmith.evaluation.phonons.mesh import mesh_frequencies
from phonosmith.evaluation.phonons.stability import gamma_modes
from phonosmith.evaluation.phonons.summary import write_phonons
from phonosmith.harmonic.files import load_harmonic
from phonosmith.harmonic.model import new_phonon, to_phonopy_atoms, to_structure
from phonosmith.potentials.registry import load, resolve
from phonosmith.reference.engines import make_engine

CUBE = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


def silicon(edge=5.45):
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(edge), ["Si"], [[0, 0, 0]])


@pytest.fixture(scope="module")
def potential():
    return load("embedded-reference")


@pytest.fixture
def result(potential):
    return evaluate_phonons(
        silicon(), potential, supercell_matrix=CUBE, ref=resolve("embedded-reference"), mesh=8, temperatures=[100, 300]
    )


def test_optical_mode_equals_exact_curvature(result, potential):
    # Γ optical mode of silicon from the Hessian of the 2-atom cell: a different code path, no displacement error.
    # Displacements of 0.01 Å leave third and fourth order: 1e-4 relative
    primitive = to_structure(result.model.phonon.unitcell).get_primitive_structure().to_ase_atoms()
    hessian = potential.hessian_columns(primitive, range(6))
    squares = np.linalg.eigvalsh((hessian + hessian.T) / 2 / 28.0855)
    exact = THZ_PER_SQRT_EV_PER_A2_AMU * np.sqrt(squares[3:])
    acoustic, optical = gamma_modes(result.model)
    assert optical == pytest.approx(exact, rel=2e-4)
    assert acoustic == pytest.approx([0, 0, 0], abs=1e-3)


def test_document_says_what_was_done(result):
    document = result.document
    assert document.formula == "Si"
    assert document.space_group_number == 227
    assert document.n_atoms_supercell == 64
    assert document.n_displacements == 1
    assert document.displacement == 0.01
    assert document.fc_calculator == "symfc"
    assert document.asr_residual < 1e-8
    assert document.stability.stable
    assert document.potential.name == "embedded-reference"
    assert document.manifest.inputs["potential"] == document.potential.sha256
    assert document.manifest.wall_seconds > 0
    assert document.relaxation["converged"]
    assert document.thermal.temperatures == [100, 300]
    assert document.omega_min_thz < 0.01 < document.omega_mean_thz < document.omega_max_thz
    # bands and density of states are in the data store
    assert len(document.model_dump_json(exclude=set(LARGE))) < 10_000
    text = document.model_dump_json()
    assert type(document).model_validate_json(text).model_dump_json() == text


def test_relaxation_reaches_the_minimum_and_can_be_left_out(result, potential):
    moved = to_structure(result.model.phonon.unitcell)
    assert moved.lattice.angles == pytest.approx([90, 90, 90], abs=1e-6)
    stress = potential.evaluate([moved.to_ase_atoms()])[0].stress
    assert np.abs(stress).max() < 1e-5
    still = evaluate_phonons(silicon(), potential, supercell_matrix=CUBE, relax=False, mesh=4)
    assert still.document.relaxation is None
    assert to_structure(still.model.phonon.unitcell).lattice.a == 5.45


def test_files_load_again(result, tmp_path):
    files = write_phonons(result.model, result.document, tmp_path / "out")
    from_forces = load_harmonic(files["phonopy"])
    from_store = load_harmonic(files["document"])
    for again in (from_forces, from_store):
        assert compare_phonons(result.model, again, mesh=6).mae_thz < 1e-6
    assert compare_phonons(files["phonopy"], str(files["document"]), mesh=6).mae_thz < 1e-6
    assert json.loads(files["document"].read_text())["formula"] == "Si"


def test_unconverged_relaxation_stops(potential):
    with pytest.raises(ConvergenceError, match="stopped after"):
        evaluate_phonons(silicon(6.2), potential, supercell_matrix=CUBE, steps=1)


def test_uncovered_element_stops_before_work(potential):
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(PotentialError, match="does not know"):
        evaluate_phonons(salt, potential, supercell_matrix=CUBE)


@pytest.mark.parametrize("text", ["", "2 2", "0 2 2", "2 2 two", "1 0 0 0 1 0 0 0 -1"])
def test_supercells_that_are_none(text):
    with pytest.raises(InputError, match="no supercell"):
        parse_supercell(text)


def test_supercell_choice():
    assert parse_supercell("2 2 3") == [[2, 0, 0], [0, 2, 0], [0, 0, 3]]
    assert parse_supercell("0 1 1 1 0 1 1 1 0") == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    primitive = silicon().get_primitive_structure()
    matrix = np.array(choose_phonon_supercell(primitive, 10.0))
    edges = np.linalg.norm(matrix.T @ primitive.lattice.matrix, axis=1)
    assert edges.min() >= 10.0
    with pytest.raises(InputError, match="not positive"):
        choose_phonon_supercell(primitive, -1)
    with pytest.raises(InputError, match="Both"):
        evaluate_phonons(silicon(), None, supercell_matrix=CUBE, min_length=10)


def test_collected_forces_give_the_same_model_in_any_order(potential):
    # a strained cell has several displacements
    strained = silicon()
    strained.apply_strain([0.01, 0.0, -0.01])
    direct = harmonic_from_potential(strained, potential, CUBE)
    phonon = new_phonon(to_phonopy_atoms(strained), CUBE)
    forces = [found.forces for found in potential.evaluate(displaced_cells(phonon), stress=False)]
    order = list(range(len(forces)))[::-1]
    assert len(order) > 1
    data = {"forces": [forces[i].tolist() for i in order], "displacement_number": order}
    collected = collect_model(strained, CUBE, data)
    assert compare_phonons(direct, collected, mesh=4).mae_thz < 1e-9
    with pytest.raises(MismatchError, match="forces of 1 displaced cells"):
        collect_model(strained, CUBE, {"forces": forces[:1], "displacement_number": [0]})
    data["forces"][0][3][1] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        collect_model(strained, CUBE, data)


def run(work, tmp_path):
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        found = run_locally(work, store=store, create_folders=True, ensure_success=True, log=False)
    finally:
        os.chdir(here)
    return found


def forcefield_phonon_maker(ref, *, steps=500):
    """atomate2's force-field PhononMaker for one of our potentials, tight and symmetry-preserving."""
    from atomate2.forcefields.flows.phonons import PhononMaker
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker

    calculator = {
        "force_field_name": {"@module": "phonosmith.potentials.calculator", "@callable": "PotentialCalculator"},
        "calculator_kwargs": {"potential": ref.model_dump()},
    }
    return PhononMaker(
        bulk_relax_maker=ForceFieldRelaxMaker(
            **calculator, fix_symmetry=True, symprec=1e-3, steps=steps, relax_kwargs={"fmax": 1e-5}
        ),
        static_energy_maker=ForceFieldStaticMaker(**calculator),
        phonon_displacement_maker=ForceFieldStaticMaker(**calculator),
        symprec=1e-4,
        create_thermal_displacements=False,
        store_force_constants=False,
    )


def test_fast_path_is_one_job(tmp_path):
    ref = resolve("embedded-reference")
    first = FastPhononMaker(name="phonon si a", mesh=4).make(silicon(), ref, supercell_matrix=CUBE)
    assert first.name == "phonon si a"
    second = run_phonons(silicon(), ref.model_dump(mode="json"), supercell_matrix=CUBE, mesh=4)
    from jobflow import Flow

    found = run(Flow([first, second]), tmp_path)
    documents = [found[member.uuid][1].output for member in (first, second)]
    assert compare_phonons(*documents, mesh=4).mae_thz < 1e-9


def test_only_phonon_flows_are_collected():
    from jobflow import Flow

    with pytest.raises(ConfigurationError, match="0 jobs named"):
        replace_job(Flow([run_phonons(silicon(), {})], name="other"), COLLECT_FUNCTION, run_phonons)
    with pytest.raises(ConfigurationError, match="no engine and no maker"):
        PhononFlowMaker().make(silicon())


@pytest.mark.slow
def test_atomate2_flow_gives_the_same_phonons(tmp_path):
    # two relaxers stop at slightly different cells: 1e-4 THz is what that may cost
    ref = resolve("embedded-reference")
    fast = FastPhononMaker(mesh=8).make(silicon(), ref, supercell_matrix=CUBE)
    flow = PhononFlowMaker(name="phonon si b", maker=forcefield_phonon_maker(ref), potential=ref, mesh=8).make(
        silicon(), supercell_matrix=CUBE
    )
    assert flow.jobs[-1].name == "phonon si b"
    found = run(flow, tmp_path)
    document = found[flow.output.uuid][1].output
    (own := tmp_path / "fast").mkdir()
    quick = run(fast, own)[fast.uuid][1].output
    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.evaluation.phonons.summary import harmonic_from_document

    sides = [mesh_frequencies(harmonic_from_document(doc, default_artefacts()), 8) for doc in (document, quick)]
    assert np.abs(sides[0].frequencies - sides[1].frequencies).max() < 1e-4
    assert document.thermal.heat_capacity == pytest.approx(quick.thermal.heat_capacity, rel=1e-5)
    assert document.energy == pytest.approx(quick.energy, abs=1e-6)
    assert set(document.model_dump()) == set(quick.model_dump())


@pytest.mark.slow
def test_unconverged_relaxation_stops_the_atomate2_flow(tmp_path):
    ref = resolve("embedded-reference")
    flow = PhononFlowMaker(maker=forcefield_phonon_maker(ref, steps=1), potential=ref).make(
        silicon(5.8), supercell_matrix=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    )
    with pytest.raises(RuntimeError, match="did not finish"):
        run(flow, tmp_path)


@pytest.mark.slow
def test_vasp_flow_through_the_stand_in_gives_the_same_phonons(tmp_path, vasp_standin):  # noqa: F811
    # the stand-in computes EMT and prints eight decimals, so forces of 0.01 Å displacements are good to 1e-6 relative
    from ase.calculators.emt import EMT
    from atomate2.vasp.flows.phonons import PhononMaker
    from atomate2.vasp.jobs.phonons import PhononDisplacementMaker

    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.evaluation.phonons.summary import harmonic_from_document
    from phonosmith.potentials.ase_potential import AsePotential

    aluminium = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.995), ["Al"], [[0, 0, 0]])
    maker = PhononMaker(
        bulk_relax_maker=None,
        static_energy_maker=None,
        born_maker=None,
        phonon_displacement_maker=PhononDisplacementMaker(run_vasp_kwargs=vasp_standin(calculator="emt")),
        create_thermal_displacements=False,
        symprec=1e-4,
    )
    flow = PhononFlowMaker(name="phonon al", maker=maker, source="vasp", mesh=6).make(aluminium, supercell_matrix=CUBE)
    document = run(flow, tmp_path)[flow.output.uuid][1].output
    fast = evaluate_phonons(aluminium, AsePotential(EMT, ["Al"]), supercell_matrix=CUBE, relax=False, mesh=6)
    sides = [
        mesh_frequencies(model, 6).frequencies
        for model in (harmonic_from_document(document, default_artefacts()), fast.model)
    ]
    assert np.abs(sides[0] - sides[1]).max() < 1e-4
    assert document.potential is None
    assert document.source == "vasp"


def test_an_engine_chooses_the_route_and_the_supercell():
    engine = make_engine("forcefield", potential="embedded-reference")
    fast = PhononFlowMaker(name="phonon si reference", engine=engine, min_length=7.0).make(silicon())
    assert fast.name == "phonon si reference"
    assert fast.function.__name__ == "run_phonons"
    assert fast.function_kwargs["supercell_matrix"] == choose_phonon_supercell(silicon(), 7.0)
    flow = PhononFlowMaker(name="phonon si reference", engine=make_engine("vasp")).make(silicon(), CUBE)
    assert flow.jobs[-1].function.__name__ == "collect_phonons"
    assert flow.jobs[-1].name == flow.name == "phonon si reference"
    assert {"relax si reference", "static si reference"} <= {member.name for member in flow.jobs}
