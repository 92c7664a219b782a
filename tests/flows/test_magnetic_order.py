"""A magnetic order from the campaign file through every calculation, and the paths that refuse it."""

import numpy as np
import pytest
from ase.build import bulk
from jobflow import run_locally
from pymatgen.core import Lattice, Structure

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.phonons.jobs import PhononFlowMaker
from phonosmith.evaluation.phonons.mesh import sorted_frequencies
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.flows.campaign import read_campaign
from phonosmith.flows.routing import kind_of
from phonosmith.harmonic.model import pack_force_constants, unpack_force_constants
from phonosmith.potentials.registry import load
from phonosmith.reference.documents import Frame, ReferenceRecord
from phonosmith.reference.engines import make_engine
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.structures.magnetic import MagneticOrder

SPIN = ReferenceProtocol(kspacing=0.8, spin_polarized=True)
MOMENTS = [2.0, -2.0, 0.0, 0.0]
pytestmark = pytest.mark.filterwarnings("ignore")


def layers(a=4.36):
    """Silicon carbide with (111) layers of silicon up and down: twice the primitive cell of zincblende."""
    cell = np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]) * a
    sites = [[0, 0, 0], [0.5] * 3, [0.125] * 3, [0.625] * 3]
    return Structure(Lattice(cell), ["Si", "Si", "C", "C"], sites)


def order():
    return MagneticOrder.of(layers(), MOMENTS)


def test_phonons_keep_the_magnetic_cell_and_its_symmetry():
    """A potential without moments has the same modes in either cell: those at Γ and L come together at Γ."""
    potential, eight = load("embedded-reference"), (2 * np.eye(3, dtype=int)).tolist()
    plain, kept = (harmonic_from_potential(layers(), potential, eight, order=one) for one in (None, order()))
    assert [len(model.phonon.primitive) for model in (plain, kept)] == [2, 4]
    at_l = np.array([[0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    folded = sorted_frequencies(kept, np.zeros((1, 3)))[0]
    gamma = sorted_frequencies(plain, np.zeros((1, 3)))[0]
    border = [np.sort(np.concatenate([gamma, row])) for row in sorted_frequencies(plain, at_l)]
    assert min(np.abs(one - folded).max() for one in border) < 1e-3
    again = unpack_force_constants(pack_force_constants(kept))
    assert again.phonon.unitcell.magnetic_moments.tolist() == MOMENTS
    assert len(again.phonon.primitive) == 4


CAMPAIGN = """\
name: magnet
materials:
  - structure: layers.cif
    magmoms: [2.0, -2.0, 0.0, 0.0]
foundations: [embedded]
strategies: [transfer]
min_length: 6
sampling: {max_steps: 5}
cells: [small]
engine:
  name: vasp
  rehearsal: true
  protocol: {spin_polarized: true}
"""


@pytest.fixture
def campaign(tmp_path):
    layers().to(filename=str(tmp_path / "layers.cif"))

    def read(old="", new=""):
        path = tmp_path / "campaign.yaml"
        path.write_text(CAMPAIGN.replace(old, new) if old else CAMPAIGN)
        return read_campaign(path)

    return read


def test_every_calculation_of_a_material_knows_its_order(campaign):
    jobs = {member.name: member for member, _ in campaign().flow().iterflow()}
    assert jobs["phonon layers reference start"].function_args[2].order.moments == MOMENTS
    assert jobs["relax layers reference"].maker.order["moments"] == MOMENTS
    assert kind_of("relax layers reference", jobs["relax layers reference"].metadata) == "dft"
    # the sampling starts from the magnetic cell, and potentials have their phonons in it
    assert jobs["sample layers small"].function_kwargs["standardise"] is False
    assert jobs["phonon layers transfer"].function_kwargs["order"].moments == MOMENTS
    assert jobs["label layers start"].function_args[1].engine.order.moments == MOMENTS


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("spin_polarized: true", "spin_polarized: false", "without spin"),
        (", 0.0, 0.0]", "]", "2 moments are given for 4 atoms"),
        ("cells:", "evaluate: [elastic]\ncells:", "elastic knows the symmetry without moments only"),
        ("name: vasp\n  rehearsal: true", "name: forcefield\n  potential: embedded-reference", "knows no magnetic"),
    ],
)
def test_what_cannot_have_an_order_says_so_before_anything_runs(campaign, old, new, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        campaign(old, new)
    assert "materials[0].magmoms" in str(caught.value)


def test_moments_reach_the_files_in_the_order_vasp_gets_the_atoms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = make_engine("vasp", SPIN, rehearsal=True).with_order(order())
    atoms = layers().to_ase_atoms(msonable=False)[[2, 1, 3, 0]]
    atoms.rattle(0.05, seed=1)
    record = engine.compute(Frame.from_atoms(atoms))
    assert record.accepted, record.explain()
    # as VASP wrote them at the end: the stand-in keeps what it started from
    assert record.magmoms == [0.0, -2.0, 0.0, 2.0]


@pytest.mark.slow
def test_reference_phonons_of_an_order_through_the_standin(tmp_path):
    """Every displaced cell starts from the order; the frequencies are those of the fast path in the magnetic cell."""
    engine = make_engine("vasp", SPIN, rehearsal=True, potential="embedded-reference").with_order(order())
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    one = np.eye(3, dtype=int).tolist()
    flow = PhononFlowMaker(name="phonon sic reference", engine=engine, mesh=4).make(layers(), one)
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=tmp_path, raise_immediately=True)
    found = store.get_output(flow.output.uuid, load=True)
    document = PhononDoc.model_validate({key: value for key, value in found.items() if not key.startswith("@")})
    played = harmonic_from_document(document, default_artefacts())
    assert len(played.phonon.primitive) == 4
    displaced = [doc["output"] for doc in store.query({"name": {"$regex": "^displace"}}, load=True)]
    records = [ReferenceRecord.model_validate(one) for one in displaced]
    assert len(records) == document.n_displacements > 2
    assert all(record.magmoms == MOMENTS and record.spin_polarized for record in records)
    crystal = Structure.from_dict(document.structure)
    fast = harmonic_from_potential(crystal, load("embedded-reference"), one, order=order())
    assert compare_phonons(played, fast, 4).mae_thz < 1e-3


def test_a_calculator_without_a_word_on_moments_is_not_asked(tmp_path, monkeypatch):
    """Without spin nothing changes: a force field ignores moments that a structure happens to carry."""
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Si", a=5.43)
    atoms.set_initial_magnetic_moments([1.0, -1.0])
    record = make_engine("forcefield", SPIN, "embedded-reference").compute(Frame.from_atoms(atoms))
    assert record.accepted
    assert record.magmoms is None
    assert record.spin_polarized is False
