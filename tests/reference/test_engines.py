"""The engine factory, its Makers, and one record from every engine."""

import importlib.util
import json

import numpy as np
import pytest
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import ConfigurationError, InputError, LabelError
from phonosmith.reference.documents import Frame
from phonosmith.reference.engines import ReferenceEngine, make_engine
from phonosmith.reference.forcefield import calculator_spec, require_covered
from phonosmith.reference.gpaw import gpaw_parameters
from phonosmith.reference.outcome import Asked
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.reference.vasp.rehearsal import Rehearsal
from phonosmith.testing.standin_calculators import tersoff_silicon

PROTOCOL = ReferenceProtocol(kspacing=0.6)
TERSOFF = "phonosmith.testing.standin_calculators.tersoff_silicon"
KINDS = ("static", "relax", "elastic_relax", "eos_relax", "displacement")


def rattled(seed=0, size=0.05):
    atoms = bulk("Si", a=5.432)
    atoms.rattle(size, seed=seed)
    return atoms


def round_trip(thing):
    return json.loads(json.dumps(thing, cls=MontyEncoder), cls=MontyDecoder)


def engines():
    return {
        "vasp": make_engine("vasp", PROTOCOL, rehearsal=Rehearsal(calculator="tersoff-si")),
        "forcefield": make_engine("forcefield", PROTOCOL, TERSOFF),
        "gpaw": make_engine("gpaw", PROTOCOL),
    }


@pytest.mark.parametrize("name", ["vasp", "forcefield", "gpaw"])
@pytest.mark.parametrize("kind", KINDS)
def test_makers_survive_json(name, kind):
    engine = round_trip(engines()[name])
    assert isinstance(engine, ReferenceEngine)
    maker = getattr(engine, kind)()
    again = round_trip(maker)
    assert type(again) is type(maker)
    assert again.protocol == maker.protocol
    assert again.calculation == kind
    job = round_trip(maker.make(AseAtomsAdaptor.get_structure(rattled())))
    assert job.maker.calculation == kind


def test_born_only_where_there_is_one():
    assert engines()["vasp"].born().calculation == "born"
    assert engines()["forcefield"].born() is None
    with pytest.raises(ConfigurationError, match="no Born charges"):
        engines()["gpaw"].maker("born", "x")


def test_same_record_from_vasp_and_forcefield(monkeypatch, tmp_path):
    """Same potential behind both: they agree to the digits VASP prints."""
    monkeypatch.chdir(tmp_path)
    frame = Frame.from_atoms(rattled(), "valid")
    through_vasp, direct = engines()["vasp"].compute(frame), engines()["forcefield"].compute(frame)
    assert through_vasp.accepted, through_vasp.explain()
    assert direct.accepted, direct.explain()
    assert through_vasp.energy == pytest.approx(direct.energy, abs=2e-8)
    assert direct.energy_sigma0 == direct.energy
    np.testing.assert_allclose(through_vasp.forces, direct.forces, atol=1e-7)
    np.testing.assert_allclose(through_vasp.stress, direct.stress, atol=1e-9)
    assert {through_vasp.split, direct.split} == {"valid"}
    assert through_vasp.rehearsal
    assert not direct.rehearsal
    assert set(through_vasp.model_dump()) == set(direct.model_dump())


@pytest.mark.parametrize("kind", ["relax", "elastic_relax", "eos_relax"])
def test_forcefield_relaxations_reach_the_threshold_of_the_protocol(kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    strained = rattled()
    strained.set_cell(strained.cell.array * 1.01, scale_atoms=True)
    record = engines()["forcefield"].compute(Frame.from_atoms(strained), kind)
    assert record.accepted, record.explain()
    assert np.linalg.norm(record.forces, axis=1).max() < PROTOCOL.fmax(kind)
    edge = (4 * abs(np.linalg.det(record.cell))) ** (1 / 3)
    assert edge == pytest.approx(5.432 if kind == "relax" else 5.432 * 1.01, abs=1e-3)


def test_a_relaxation_that_runs_out_of_steps_fails(monkeypatch, tmp_path):
    """atomate2's own force-field job returns such a structure and lets its children run."""
    monkeypatch.chdir(tmp_path)
    engine = make_engine("forcefield", PROTOCOL, TERSOFF)
    maker = engine.relax()
    maker.steps = 2
    with pytest.raises(LabelError, match="not_relaxed"):
        type(maker).make.original(maker, AseAtomsAdaptor.get_structure(rattled(size=0.2)))


def test_batches_of_structures_go_through_the_gate(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    maker = engines()["forcefield"].displacement()
    structures = [AseAtomsAdaptor.get_structure(rattled(seed)) for seed in range(3)]
    documents = type(maker).make.original(maker, structures)
    for document, seed in zip(documents, range(3), strict=True):
        atoms = rattled(seed)
        atoms.calc = tersoff_silicon()
        np.testing.assert_allclose(document.output.forces, atoms.get_forces(), atol=1e-12)


def test_energies_are_force_consistent():
    """EMT returns both energies; a calculator whose two energies differ must label with the free energy."""
    from ase.calculators.calculator import Calculator, all_changes

    from phonosmith.reference.forcefield import evaluate_frame

    class Smeared(Calculator):
        implemented_properties = ("energy", "free_energy", "forces", "stress")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            self.results = {
                "energy": -1.0,
                "free_energy": -1.5,
                "forces": np.zeros((len(self.atoms), 3)),
                "stress": np.zeros(6),
            }

    atoms = rattled()
    asked = Asked(Frame.from_atoms(atoms), PROTOCOL, "static")
    record = evaluate_frame(Smeared(), atoms, asked, engine="forcefield")
    assert (record.energy, record.energy_sigma0) == (-1.5, -1.0)
    labelled = record.to_atoms()
    assert labelled.get_potential_energy() == -1.5
    assert labelled.info["energy_sigma0"] == -1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "qe"}, "no engine 'qe'"),
        ({"name": "forcefield"}, "needs a potential"),
        ({"name": "vasp", "potential": "embedded"}, "takes no potential"),
        ({"name": "gpaw", "potential": "embedded"}, "takes no potential"),
        ({"name": "gpaw", "rehearsal": True}, "plays VASP"),
        ({"name": "gpaw", "protocol": ReferenceProtocol(ismear=-5)}, "tetrahedra"),
        ({"name": "forcefield", "potential": "ase.calculators.emt.NoSuchThing"}, "NoSuchThing"),
    ],
)
def test_engines_that_lack_something_say_so(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        make_engine(**arguments)


def test_elements_are_checked_before_anything_runs():
    spec = calculator_spec("embedded-reference")
    assert spec.potential
    require_covered(spec, {"Si"})
    with pytest.raises(InputError, match="Pu"):
        require_covered(spec, {"Pu"})


def test_missing_potcars_and_vasp_are_named(monkeypatch, tmp_path):
    from atomate2 import SETTINGS
    from pymatgen.core import SETTINGS as PYMATGEN

    from phonosmith.reference.vasp.makers import require_vasp

    monkeypatch.setattr(SETTINGS, "VASP_CMD", "no_such_vasp --now")
    with pytest.raises(ConfigurationError, match="no_such_vasp"):
        require_vasp(PROTOCOL, {"Si"})
    monkeypatch.setattr(SETTINGS, "VASP_CMD", "sh -c vasp")
    monkeypatch.delitem(PYMATGEN, "PMG_VASP_PSP_DIR", raising=False)
    with pytest.raises(ConfigurationError, match="PMG_VASP_PSP_DIR"):
        require_vasp(PROTOCOL, {"Si"})
    monkeypatch.setitem(PYMATGEN, "PMG_VASP_PSP_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"no POTCAR for Na_pv, Si"):
        require_vasp(PROTOCOL, {"Si", "Na"})
    folder = tmp_path / "POT_GGA_PAW_PBE_54"
    folder.mkdir()
    (folder / "POTCAR.Si").write_text("x")
    require_vasp(PROTOCOL, {"Si"})


def test_gpaw_parameters_follow_the_protocol():
    chosen = gpaw_parameters(ReferenceProtocol(kspacing=0.25), "static")
    assert chosen["mode"] == {"name": "pw", "ecut": 520.0}
    assert chosen["xc"] == "PBE"
    assert chosen["kpts"] == {"density": 4.0, "gamma": True}
    assert chosen["occupations"] == {"name": "methfessel-paxton", "order": 0, "width": 0.05}
    large, small = np.eye(3) * 20.0, np.eye(3) * 5.43
    assert gpaw_parameters(ReferenceProtocol(), "displacement", large)["kpts"] == {"size": (1, 1, 1), "gamma": True}
    # the mesh VASP takes, 2π / 5.43 / 0.1 rounded up
    assert gpaw_parameters(ReferenceProtocol(), "displacement", small)["kpts"] == {"size": (12, 12, 12), "gamma": True}
    with pytest.raises(InputError, match="depend on the cell"):
        gpaw_parameters(ReferenceProtocol(), "displacement")
    assert gpaw_parameters(ReferenceProtocol(ismear=-1), "static")["occupations"]["name"] == "fermi-dirac"


def cubic_constants(flow, store, tmp_path):
    responses = run_locally(flow, log=False, store=store, create_folders=True, root_dir=tmp_path, ensure_success=True)
    return np.array(responses[flow.jobs[-1].uuid][1].output.elastic_tensor.ieee_format)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_elastic_constants_of_both_paths_agree(tmp_path):
    """atomate2's elastic flow with our Makers, VASP path and force-field path, one potential: within 0.1 GPa."""
    from atomate2.forcefields.flows.elastic import ElasticMaker as ForceFieldElasticMaker
    from atomate2.vasp.flows.elastic import ElasticMaker

    structure = AseAtomsAdaptor.get_structure(bulk("Si", a=5.432))
    found = {}
    for name, flow_class in (("vasp", ElasticMaker), ("forcefield", ForceFieldElasticMaker)):
        engine = engines()[name]
        flow = flow_class(bulk_relax_maker=engine.relax(), elastic_relax_maker=engine.elastic_relax()).make(structure)
        store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        (tmp_path / name).mkdir()
        found[name] = cubic_constants(flow, store, tmp_path / name)
    np.testing.assert_allclose(found["vasp"], found["forcefield"], atol=0.1)
    # literature values of this parametrisation (Tersoff 1988): 143, 75, 69 GPa
    np.testing.assert_allclose(found["vasp"][[0, 0, 3], [0, 1, 3]], [142.5, 75.4, 69.0], atol=1.0)


needs_gpaw = pytest.mark.skipif(
    importlib.util.find_spec("gpaw") is None, reason="GPAW is not installed (tools/install_gpaw.sh)"
)


@pytest.mark.slow
@needs_gpaw
def test_gpaw_forces_are_derivatives_of_its_energy(monkeypatch, tmp_path):
    """Central difference of 0.01 Å at a loose cutoff: agreement within 5 meV/Å (egg-box and SCF noise)."""
    monkeypatch.chdir(tmp_path)
    engine = make_engine("gpaw", ReferenceProtocol(encut=250, kspacing=0.6, ediff=1e-7))
    atoms = rattled(3)
    record = engine.compute(Frame.from_atoms(atoms))
    assert record.accepted, record.explain()
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 0] += sign * 0.01
        energies.append(engine.compute(Frame.from_atoms(moved)).energy)
    assert record.forces[0][0] == pytest.approx(-(energies[0] - energies[1]) / 0.02, abs=5e-3)
    assert record.energy <= record.energy_sigma0


@pytest.mark.slow
@needs_gpaw
def test_gpaw_iron_is_a_ferromagnet_and_a_given_order_is_kept_or_refused(monkeypatch, tmp_path):
    """Moment of bcc iron: 2.2 μB by experiment and PBE; a coarse mesh and cutoff leave a tenth or two."""
    from phonosmith.structures.magnetic import MagneticOrder

    monkeypatch.chdir(tmp_path)
    protocol = ReferenceProtocol(
        encut=300, kspacing=0.4, ediff=1e-5, sigma=0.1, spin_polarized=True, magmoms={"Fe": 2.5}
    )
    engine, crystal = make_engine("gpaw", protocol), bulk("Fe", "bcc", a=2.83, cubic=True)
    moved = crystal.copy()
    moved.positions[1] += [0.05, 0.02, 0.0]
    record = engine.compute(Frame.from_atoms(moved))
    assert record.accepted, record.explain()
    assert record.spin_polarized
    assert abs(record.magmom) / 2 == pytest.approx(2.2, abs=0.3)
    assert record.to_atoms().get_magnetic_moments() == pytest.approx(record.magmoms)
    order = MagneticOrder.of(AseAtomsAdaptor.get_structure(crystal), [2.0, -2.0])
    other = engine.with_order(order).compute(Frame.from_atoms(moved))
    kept = other.magmoms is not None and other.magmoms[0] * other.magmoms[1] < 0
    assert other.accepted == kept
    if not kept:
        assert {reason.code for reason in other.reasons} == {"moments"}
