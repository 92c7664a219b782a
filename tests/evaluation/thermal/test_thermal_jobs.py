"""Expansion and conductivity with one job per calculation, against the fast path of the same potential."""

import numpy as np
import pytest
from jobflow import Flow, run_locally
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import ConfigurationError, InputError, MismatchError
from phonosmith.core.identity import fix_identities
from phonosmith.engines.local.runner import LocalRunner, default_slots
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.mechanics.jobs import EosFlowMaker, eos_volumes
from phonosmith.evaluation.phonons import jobs as phonon_jobs
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.phonons.jobs import PhononFlowMaker
from phonosmith.evaluation.thermal.jobs import (
    KappaFlowMaker,
    QhaFlowMaker,
    ThirdOrder,
    collect_kappa,
    collect_qha,
)
from phonosmith.evaluation.thermal.kappa import (
    KappaDoc,
    conductivity_error,
    displaced_frames,
    evaluate_kappa,
    relaxation_time_conductivity,
    set_forces,
    third_order_cells,
    with_charges,
)
from phonosmith.evaluation.thermal.qha import FACTORS, QhaDoc, evaluate_qha
from phonosmith.flows.routing import kind_of
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import load
from phonosmith.reference.engines import make_engine
from phonosmith.reference.protocol import ReferenceProtocol

TWO = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
PROTOCOL = ReferenceProtocol(kspacing=0.6)
pytestmark = pytest.mark.filterwarnings("ignore")


def silicon():
    return AseAtomsAdaptor.get_structure(demo_structure("Si"))


@pytest.fixture
def engine(monkeypatch):
    # a program: nothing may take the short cut of potentials
    monkeypatch.setattr(phonon_jobs, "engine_potential", lambda _: None)
    return make_engine("forcefield", PROTOCOL, "embedded-reference")


def flows(engine, **kappa):
    phonons = PhononFlowMaker(name="phonon si reference", engine=engine, mesh=4).make(silicon(), TWO)
    qha = QhaFlowMaker(name="qha si reference", engine=engine, mesh=8).make(phonons.output, TWO)
    conductivity = KappaFlowMaker(name="kappa si reference", engine=engine, mesh=5, **kappa).make(phonons.output, TWO)
    return phonons, qha, conductivity


def test_calculations_are_named_and_go_to_the_worker_of_the_program(engine):
    _, qha, kappa = flows(engine)
    names = {member.name: member.metadata for member, _ in qha.iterflow()}
    assert {"relax si reference qha 0.96", "phonon si reference qha 1.06", "qha si reference"} <= set(names)
    # the relaxed cell has its phonons already
    assert "phonon si reference qha 1" not in names
    assert kind_of("relax si reference qha 0.96", names["relax si reference qha 0.96"]) == "dft"
    assert kind_of("qha si reference", names["qha si reference"]) == "inference"
    assert [member.name for member, _ in kappa.iterflow()] == ["kappa si reference start"]
    with pytest.raises(ConfigurationError, match="no engine"):
        KappaFlowMaker().make(None, TWO)
    with pytest.raises(InputError, match="neighbour on each side"):
        QhaFlowMaker(engine=engine, factors=(1.0, 1.02)).make(kappa.output, TWO)


@pytest.mark.slow
def test_jobs_of_an_engine_give_the_numbers_of_the_fast_path(tmp_path, engine):
    """The local runner runs every calculation in processes of its own; the same potential does both sides."""
    pytest.importorskip("phono3py")
    phonons, qha, kappa = flows(engine)
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    runner = LocalRunner(store, tmp_path / "run", slots=default_slots(1), progress=False)
    flow = fix_identities(Flow([phonons, qha, kappa]))
    runner.ask(flow)
    summary = runner.run()
    assert summary.failed == []

    def output(number, document):
        found = store.get_output(flow.jobs[number].output.uuid, load=True)
        plain = found if isinstance(found, document) else {k: v for k, v in found.items() if not k.startswith("@")}
        return document.model_validate(plain)

    start, expanded, conducting = output(0, PhononDoc), output(1, QhaDoc), output(2, KappaDoc)
    potential, crystal = load("embedded-reference"), silicon().from_dict(start.structure)
    fast = evaluate_qha(crystal, potential, TWO, mesh=8)
    assert expanded.volumes == pytest.approx(fast.volumes, rel=1e-6)
    # energies: the same cells, atoms at symmetric positions; both routes print them in full
    assert expanded.energies == pytest.approx(fast.energies, abs=1e-6)
    for name in ("thermal_expansion_per_k", "bulk_modulus_gpa", "heat_capacity_p", "gruneisen"):
        assert getattr(expanded.room, name) == pytest.approx(getattr(fast.room, name), rel=1e-4), name
    assert expanded.gruneisen.mean == pytest.approx(fast.gruneisen.mean, rel=1e-4)
    assert expanded.method == conducting.method == engine.functional
    direct = evaluate_kappa(crystal, potential, TWO, mesh=5)
    assert conducting.result.kappa == pytest.approx(direct.result.kappa, rel=1e-4)
    assert conductivity_error(conducting.result, direct.result) < 1e-3
    names = [row.name for row in runner.state.rows("done")]
    assert sum(name.startswith("displace si reference qha") for name in names) == 5
    assert sum(name.startswith("displace si reference kappa") for name in names) > 10


@pytest.mark.slow
def test_random_displacements_conduct_like_pairs():
    """symfc's fit to cells with all atoms displaced; what fourth order leaves in it is a few per cent of kappa."""
    pytest.importorskip("phono3py")
    potential = load("embedded-reference")
    pairs, random = (evaluate_kappa(silicon(), potential, TWO, mesh=5, cells=cells) for cells in ("pairs", "random"))
    assert random.result.kappa == pytest.approx(pairs.result.kappa, rel=0.05)


def test_charges_of_phonons_serve_conductivity_and_expansion():
    """LO rises at every volume as it does in the phonons the charges come from; a potential alone splits nothing."""
    pytest.importorskip("phono3py")
    potential, crystal = load("embedded-reference"), AseAtomsAdaptor.get_structure(demo_structure("SiC"))
    charged = harmonic_from_potential(crystal, potential, TWO)
    born = [sign * 2.69 * np.eye(3) for sign in ((1, -1) if crystal[0].specie.symbol == "Si" else (-1, 1))]
    charged.phonon.nac_params = {"born": np.array(born), "dielectric": 6.52 * np.eye(3), "factor": 14.399652}
    third = third_order_cells(crystal.to_ase_atoms(msonable=False), TWO)
    with_charges(third, charged)
    assert np.allclose(third.nac_params["born"], born)
    options = {"mesh": 4, "temperatures": [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]}
    plain, split = (evaluate_qha(crystal, potential, TWO, charges=one, **options) for one in (None, charged))
    # static energies are the same, zero-point energies are not: the LO branch is one of six and up to 4.5 THz higher
    assert split.energies == pytest.approx(plain.energies, abs=1e-9)
    shift = split.qha.gibbs_energy[0] - plain.qha.gibbs_energy[0]
    assert 0 < shift < 0.5 * 4.1357e-3 * 4.5


@pytest.mark.slow
def test_pairs_that_were_lost_cost_themselves():
    """Without 3 of 57 pairs symfc's fit moves kappa by a per cent (fourth order); random cells cannot be spared."""
    pytest.importorskip("phono3py")
    potential, atoms = load("embedded-reference"), demo_structure("Si")

    def conductivity(lost, cells="pairs"):
        phonon = third_order_cells(atoms, TWO, cells=cells)
        results = potential.evaluate(displaced_frames(phonon), stress=False)
        forces = [None if number in lost else one.forces for number, one in enumerate(results, 1)]
        assert set_forces(phonon, forces) == lost
        return relaxation_time_conductivity(phonon, (5, 5, 5)).kappa

    assert conductivity([1, 3, 40]) == pytest.approx(conductivity([]), rel=0.02)
    with pytest.raises(MismatchError, match="do not determine"):
        conductivity(list(range(4, 58)))
    with pytest.raises(MismatchError, match="displaced cells 2 of 4 have no forces"):
        conductivity([2], "random")


@pytest.mark.slow
def test_a_stand_in_for_vasp_gives_the_numbers_of_the_fast_path(tmp_path):
    """INCAR to vasprun.xml at every volume and displaced cell; the files print forces and energies to 1e-8."""
    pytest.importorskip("phono3py")
    engine = make_engine("vasp", PROTOCOL, rehearsal=True, potential="embedded-reference")
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    one = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
    phonons = PhononFlowMaker(name="phonon si reference", engine=engine, mesh=4).make(silicon(), one)
    qha = QhaFlowMaker(name="qha si reference", engine=engine, factors=FACTORS[:-1], mesh=8)
    expansion = qha.make(phonons.output, one)
    kappa = KappaFlowMaker(name="kappa si reference", engine=engine, mesh=5, cells="random").make(phonons.output, one)
    flow = Flow([phonons, expansion, kappa])
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=tmp_path, raise_immediately=True)

    def output(member, document):
        found = store.get_output(member.output.uuid, load=True)
        plain = found if isinstance(found, document) else {k: v for k, v in found.items() if not k.startswith("@")}
        return document.model_validate(plain)

    start, expanded, conducting = (
        output(*pair) for pair in ((phonons, PhononDoc), (expansion, QhaDoc), (kappa, KappaDoc))
    )
    assert expanded.left_out == []
    potential, crystal = load("embedded-reference"), silicon().from_dict(start.structure)
    fast = evaluate_qha(crystal, potential, one, factors=FACTORS[:-1], mesh=8)
    for name in ("thermal_expansion_per_k", "bulk_modulus_gpa", "heat_capacity_p", "gruneisen"):
        assert getattr(expanded.room, name) == pytest.approx(getattr(fast.room, name), rel=0.01), name
    direct = evaluate_kappa(crystal, potential, one, mesh=5, cells="random")
    assert conducting.result.kappa == pytest.approx(direct.result.kappa, rel=1e-3)


def test_volumes_of_an_equation_of_state_serve_the_expansion_too(engine):
    eos = EosFlowMaker(name="eos si", engine=engine).make(silicon())
    phonons = PhononFlowMaker(name="phonon si", engine=engine, mesh=4).make(silicon(), TWO)
    maker = QhaFlowMaker(name="qha si", engine=engine)
    alone = maker.make(phonons.output, TWO)
    shared = maker.make(phonons.output, TWO, known=eos_volumes(eos))
    relaxed = [{one.name for one, _ in flow.iterflow() if one.name.startswith("relax ")} for flow in (alone, shared)]
    assert len(relaxed[0]) == 6
    # five of six volumes are the equation of state's; 1.06 is beyond it
    assert relaxed[1] == {"relax si qha 1.06"}
    made = {one.uuid for one, _ in eos.iterflow()}
    used = {name.uuid for name in shared.jobs[-1].input_references}
    assert len(used & made) >= 5


def test_what_failed_is_named(engine):
    task = ThirdOrder(
        engine=engine, name="kappa si", supercell_matrix=TWO, mesh=5, temperature=300.0, cells="pairs", attempts=1
    )
    with pytest.raises(MismatchError, match=r"kappa si: displaced cells 1, 2.* of 57 have no forces"):
        collect_kappa.original(silicon(), task, [None] * 57)
    with pytest.raises(MismatchError, match="no phonons of the relaxed cell"):
        collect_qha.original(None, [0.98, 1.0, 1.02], [{}, {}, {}], [None] * 3)
