import json

import numpy as np
import pytest
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from phonosmith.core.errors import ConfigurationError, ConvergenceError, InputError, MismatchError, PotentialError
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.mechanics.elastic import elastic_deformations
from phonosmith.evaluation.mechanics.eos import birch_murnaghan_energy
from phonosmith.evaluation.mechanics.fastpath import require_reliable
from phonosmith.evaluation.mechanics.jobs import (
    ElasticFlowMaker,
    EosFlowMaker,
    FastElasticMaker,
    FastEosMaker,
    collect_elastic,
    collect_eos,
    run_elastic,
    run_eos,
)
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.reference.vasp.rehearsal import Rehearsal

SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.47), ["Si"], [[0, 0, 0]]).get_primitive_structure()
PROTOCOL = ReferenceProtocol(kspacing=0.6)
pytestmark = pytest.mark.filterwarnings("ignore")


def run(work, folder, *, success=True):
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    folder.mkdir(exist_ok=True)
    found = run_locally(
        work,
        log=False,
        store=store,
        create_folders=True,
        root_dir=folder,
        ensure_success=success,
        raise_immediately=False,
    )
    last = work.output.uuid
    return found[last][1].output if last in found else None


@pytest.fixture
def engine():
    return make_engine("forcefield", PROTOCOL, "embedded-reference")


@pytest.fixture
def reference():
    return resolve("embedded-reference")


def test_fast_elastic_equals_the_flow(tmp_path, engine, reference):
    """Forces of strained cells below 1e-4 eV/Å on both sides; what they leave in C44 is 0.03 GPa."""
    fast = run(FastElasticMaker().make(SILICON, reference), tmp_path / "fast")
    flow = run(ElasticFlowMaker(engine=engine).make(SILICON), tmp_path / "flow")
    np.testing.assert_allclose(fast.fit.tensor, flow.fit.tensor, atol=0.1)
    assert fast.fit.moduli.bulk_vrh == pytest.approx(flow.fit.moduli.bulk_vrh, abs=0.1)
    assert fast.fit.moduli.shear_vrh == pytest.approx(flow.fit.moduli.shear_vrh, abs=0.1)
    assert fast.fit.n_deformations == flow.fit.n_deformations
    assert fast.slack.kappa == pytest.approx(flow.slack.kappa, rel=5e-3)
    assert fast.manifest.inputs["potential"] == flow.manifest.inputs["potential"] == reference.sha256
    assert fast.method == flow.method


def fractions(document):
    """Volumes over the one in the middle, that of the relaxed cell."""
    return np.array(document.volumes) / document.volumes[5]


def test_fast_eos_equals_the_flow(tmp_path, engine, reference):
    """Both sides scale their own relaxed cell to -5 % ... +5 % of volume in steps of 1 % and stop at the same force.

    The relaxations before differ by 1e-4 of the volume (0.5 meV/Å as ASE counts stress against 1e-3 GPa).
    """
    fast = run(FastEosMaker().make(SILICON, reference), tmp_path / "fast")
    flow = run(EosFlowMaker(engine=engine).make(SILICON), tmp_path / "flow")
    wanted = np.arange(0.95, 1.051, 0.01)
    np.testing.assert_allclose(fractions(fast), wanted, atol=1e-9)
    np.testing.assert_allclose(fractions(flow), wanted, atol=1e-9)
    assert fast.volumes == pytest.approx(flow.volumes, rel=2e-4)
    assert fast.fit.volume == pytest.approx(flow.fit.volume, rel=2e-4)
    assert fast.fit.bulk_modulus == pytest.approx(flow.fit.bulk_modulus, rel=2e-3)
    assert fast.fit.energy == pytest.approx(flow.fit.energy, abs=1e-5)
    assert FastEosMaker().fmax == engine.protocol.fmax("eos_relax") == 5e-4
    assert max(flow.max_forces + fast.max_forces) < PROTOCOL.relax_fmax


@pytest.mark.slow
def test_vasp_and_potential_go_through_one_fit(tmp_path):
    """The stand-in plays VASP with Tersoff's silicon; elastic constants within 0.1 GPa, EOS within 0.2 %."""
    tersoff = "phonosmith.testing.standin_calculators.tersoff_silicon"
    vasp = make_engine("vasp", PROTOCOL, rehearsal=Rehearsal(calculator="tersoff-si"))
    direct = make_engine("forcefield", PROTOCOL, tersoff)
    elastic, eos = [], []
    for name, engine in (("vasp", vasp), ("direct", direct)):
        elastic.append(run(ElasticFlowMaker(engine=engine).make(SILICON), tmp_path / f"elastic {name}"))
        eos.append(run(EosFlowMaker(engine=engine).make(SILICON), tmp_path / f"eos {name}"))
    np.testing.assert_allclose(elastic[0].fit.tensor, elastic[1].fit.tensor, atol=0.1)
    assert elastic[0].method == "PBE"
    assert "potential" not in elastic[0].manifest.inputs
    np.testing.assert_allclose(fractions(eos[0]), fractions(eos[1]), atol=1e-6)  # CONTCAR is printed
    assert eos[0].fit.bulk_modulus == pytest.approx(eos[1].fit.bulk_modulus, rel=2e-3)
    assert eos[0].fit.volume == pytest.approx(eos[1].fit.volume, rel=2e-4)
    assert eos[0].fit.energy == pytest.approx(eos[1].fit.energy, abs=1e-5)
    assert eos[0].fit.bulk_modulus == pytest.approx(elastic[0].fit.moduli.bulk_vrh, rel=0.01)


@pytest.mark.parametrize("maker", [FastElasticMaker(), FastEosMaker(), ElasticFlowMaker(), EosFlowMaker()])
def test_makers_survive_json(maker, engine):
    if hasattr(maker, "engine"):
        maker.engine = engine
    again = json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder)
    assert type(again) is type(maker)
    assert again == maker


@pytest.mark.parametrize("maker", [ElasticFlowMaker, EosFlowMaker])
def test_a_flow_without_engine(maker):
    with pytest.raises(ConfigurationError, match="has no engine"):
        maker().make(SILICON)


def test_strained_cells_that_do_not_relax_are_refused(reference):
    with pytest.raises(ConvergenceError, match="strained cells did not relax"):
        run_elastic.original(SILICON, reference, max_steps=1)
    rattled = SILICON.copy()
    rattled.make_supercell(2)
    rattled.perturb(0.2)
    with pytest.raises(InputError, match="volumes relaxed below"):
        run_eos.original(rattled, reference, relax=False, max_steps=1)


def test_an_element_the_potential_does_not_know(reference):
    gold = Structure(Lattice.cubic(4.08), ["Au"], [[0, 0, 0]])
    with pytest.raises(PotentialError, match="Au"):
        run_elastic.original(gold, reference)


def stresses(noise_gpa=0.0, seed=0):
    """Stresses of strained copper in kbar with VASP's sign, by EMT."""
    from ase.calculators.emt import EMT
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = bulk("Cu", a=3.5902)
    structure = AseAtomsAdaptor.get_structure(atoms)
    rng, data = np.random.default_rng(seed), []
    for gradient in elastic_deformations(structure):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ gradient.T, scale_atoms=True)
        moved.calc = EMT()
        noise = rng.normal(0, noise_gpa, (3, 3))
        tension = moved.get_stress(voigt=False) * GPA_PER_EV_PER_A3 + 0.5 * (noise + noise.T)
        data.append({"deformation": gradient, "stress": (-10 * tension).tolist()})
    return structure, data


def test_collection_knows_units_and_sign():
    # EMT copper (ASE's own parameters): C11 173, C12 116, C44 91 GPa
    structure, data = stresses()
    found = collect_elastic.original(structure, data)
    assert found.fit.reliable
    np.testing.assert_allclose(np.array(found.fit.tensor)[[0, 0, 3], [0, 1, 3]], [173, 116, 91], atol=2)


def test_a_metal_with_noise_in_its_stresses_is_refused():
    # 1 meV noise per cell of 11.6 Å³ over a 1 % strain is a stress of the order 1 GPa
    structure, data = stresses(noise_gpa=1.0)
    with pytest.raises(ConvergenceError, match="cannot be trusted"):
        collect_elastic.original(structure, data)


def test_a_missing_stress_is_named():
    structure, data = stresses()
    data[1]["stress"] = None
    with pytest.raises(MismatchError, match=r"deformations \[2\] of"):
        collect_elastic.original(structure, data)


def test_a_cell_under_load_is_refused():
    structure, data = stresses()
    with pytest.raises(ConvergenceError, match=r"left a stress of 0\.200 GPa"):
        collect_elastic.original(structure, data, equilibrium_stress=(2 * np.eye(3)).tolist())


def test_a_reliable_document_passes():
    found = collect_elastic.original(*stresses())
    assert require_reliable(found) is found


def eos_points(failed=()):
    points = []
    for number, factor in enumerate(np.linspace(0.95, 1.05, 11)):
        structure = SILICON.copy()
        structure.scale_lattice(SILICON.volume * factor)
        energy = float(birch_murnaghan_energy(structure.volume, -10.0, SILICON.volume, 90.0, 4.2))
        lost = number in failed
        points.append(
            {
                "structure": None if lost else structure,
                "energy": None if lost else energy,
                "forces": None if lost else np.zeros((2, 3)).tolist(),
            }
        )
    return points


def test_volumes_that_failed_are_left_out_and_counted():
    found = collect_eos.original(SILICON, eos_points(failed=(0, 4))[::-1])
    assert found.volumes == sorted(found.volumes)
    assert len(found.volumes) == 9
    assert found.fit.bulk_modulus == pytest.approx(90.0, rel=1e-6)
    assert [one.what for one in found.missing] == ["volume 7 of 11", "volume 11 of 11"]
    assert collect_eos.original(SILICON, eos_points()).missing == []
    with pytest.raises(InputError, match="Only 5 of 11 volumes"):
        collect_eos.original(SILICON, eos_points(failed=range(6)))


@pytest.mark.parametrize(
    ("field", "message"), [("relax_steps", "is left, not below 1 kbar"), ("elastic_steps", "have no stress")]
)
def test_a_relaxation_that_fails_stops_the_flow(tmp_path, caplog, field, message):
    """atomate2 alone would fit whatever is there; its convergence flag sees forces, zero here by symmetry."""
    engine = make_engine("forcefield", ReferenceProtocol(kspacing=0.6, **{field: 1}), "embedded-reference")
    stretched = SILICON.copy()
    stretched.scale_lattice(1.2 * SILICON.volume)
    with caplog.at_level("INFO", logger="jobflow.managers.local"):
        assert run(ElasticFlowMaker(engine=engine).make(stretched), tmp_path, success=False) is None
    assert message in caplog.text


@pytest.mark.parametrize("name", ["vasp", "forcefield", "gpaw"])
def test_every_engine_has_both_flows(name):
    potential = "embedded-reference" if name == "forcefield" else None
    engine = make_engine(name, PROTOCOL, potential)
    elastic, eos = ElasticFlowMaker(engine=engine).make(SILICON), EosFlowMaker(engine=engine).make(SILICON)
    assert [member.function.__name__ for member in elastic.jobs][-1] == "collect_elastic"
    assert "fit_elastic_tensor" not in [member.function.__name__ for member in elastic.jobs]
    # relaxation, scaling, 11 volumes, collection; VASP has a static of each cell on top
    assert len(eos.jobs) == (25 if name == "vasp" else 14)
    again = json.loads(json.dumps(eos, cls=MontyEncoder), cls=MontyDecoder)
    assert again.jobs[-1].name == "eos"
