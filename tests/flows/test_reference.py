import numpy as np
import pytest
from jobflow import run_locally
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.analysis.documents import MaterialReport
from phonosmith.core.artefacts import default_artefacts
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.jobs import PhononFlowMaker
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import load, resolve
from phonosmith.reference.audit.audit import audit
from phonosmith.reference.datasets.dataset import get_dataset
from phonosmith.reference.engines import make_engine

TWO = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


def silicon():
    return AseAtomsAdaptor.get_structure(demo_structure("Si"))


def phonons(engine, folder, structure=None, matrix=TWO, **options):
    folder.mkdir()
    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    maker = PhononFlowMaker(name="phonon si reference", engine=engine, mesh=4, **options)
    member = maker.make(structure or silicon(), matrix)
    run_locally(member, store=store, log=False, create_folders=True, root_dir=folder, raise_immediately=True)
    uuid = member.uuid if not hasattr(member, "jobs") else member.output.uuid
    found = store.get_output(uuid, load=True)
    document = PhononDoc.model_validate({key: value for key, value in found.items() if not key.startswith("@")})
    return harmonic_from_document(document, default_artefacts())


def frequencies_at(phonon):
    phonon.run_qpoints([[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0], [0.3, 0.2, 0.1]])
    return np.asarray(phonon.qpoints.frequencies)


@pytest.mark.slow
def test_vasp_flow_through_the_standin_gives_the_phonons_of_the_fast_path(tmp_path):
    # both sides: one potential, relaxed below 0.5 meV/Å (VASP) or 0.01 meV/Å, forces printed with eight decimals
    strained = silicon()
    strained.scale_lattice(strained.volume * 1.03)  # so that the relaxation in front has something to do
    fast = phonons(make_engine("forcefield", potential="embedded-reference"), tmp_path / "fast", strained)
    engine = make_engine("vasp", rehearsal=True, potential="embedded-reference")
    played = phonons(engine, tmp_path / "played", strained)
    assert played.phonon.unitcell.volume == pytest.approx(fast.phonon.unitcell.volume, rel=1e-4)
    assert abs(played.phonon.unitcell.volume / strained.volume - 1) > 0.01
    frequencies = [frequencies_at(model.phonon) for model in (fast, played)]
    assert float(frequencies[0].max()) > 10  # THz: silicon's optical modes
    np.testing.assert_allclose(frequencies[1], frequencies[0], atol=1e-3)
    assert compare_phonons(fast, played, 4).mae_thz < 1e-3


@pytest.mark.slow
def test_vasp_flow_with_charges_splits_lo_from_to(tmp_path):
    from phonosmith.core.errors import ConfigurationError
    from phonosmith.evaluation.phonons.bands import lo_to_splitting, standard_path

    sites = [[0, 0, 0], [0.25, 0.25, 0.25]]
    carbide = Structure.from_spacegroup("F-43m", Lattice.cubic(4.36), ["Si", "C"], sites).get_primitive_structure()
    engine = make_engine("vasp", rehearsal=True, potential="embedded-reference")
    model = phonons(engine, tmp_path / "charged", carbide, nac=True)
    params = model.phonon.nac_params
    # what the stand-in wrote: opposite nominal charges, a dielectric constant of 5
    assert np.allclose(params["born"].sum(axis=0), 0, atol=1e-6)
    assert np.allclose(params["dielectric"], 5 * np.eye(3))
    assert lo_to_splitting(model, standard_path(model)) > 0.5
    fast = phonons(make_engine("forcefield", potential="embedded-reference"), tmp_path / "fast", carbide)
    compared = compare_phonons(model, fast, 4)
    assert compared.mae_thz < 2e-3
    assert compared.candidate.lo_to_splitting_thz == pytest.approx(compared.reference.lo_to_splitting_thz, abs=5e-3)
    with pytest.raises(ConfigurationError, match="no Born charges"):
        PhononFlowMaker(engine=make_engine("forcefield", potential="embedded-reference"), nac=True).make(carbide, TWO)


@pytest.mark.slow
def test_a_material_is_rehearsed_from_crystal_to_verdicts(tmp_path):
    """The campaign about to be submitted, every VASP calculation played: labels and phonons stay marked."""
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    maker = FineTuneMaterialMaker(
        engine=make_engine("vasp", rehearsal=True, potential="embedded-reference"),
        strategies=("transfer",),
        sampling={"cell": "primitive", "max_steps": 20, "n_select": 1},
        training={"epochs": 2},
        min_length=6.0,
        mesh=6,
        evaluate=("phonons",),
    )
    flow = maker.make(silicon(), resolve("embedded"))
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=tmp_path, raise_immediately=True)
    answer = store.get_output(flow.jobs[-1].uuid, load=True)
    report = MaterialReport.model_validate({key: value for key, value in answer.items() if not key.startswith("@")})
    assert report.failed == []
    assert report.rehearsal
    # every calculation of the program is in the costs: relaxation, energy, and the two displaced cells of silicon
    calculated = {cost.name: cost for cost in report.costs if cost.name.split()[0] in ("relax", "static", "displace")}
    assert set(calculated) == {"relax si reference", "static si reference", "displace si reference"}
    assert calculated["displace si reference"].n_calculations == report.reference_result.phonons.n_displacements
    assert calculated["displace si reference"].n_atoms == report.reference_result.phonons.n_atoms_supercell
    assert all(cost.wall_seconds > 0 and cost.stage == "phonon" for cost in calculated.values())
    assert report.labels.train.n_frames >= 2
    frames = [*get_dataset(report.labels.train), *get_dataset(report.labels.valid)]
    assert all(frame.info["rehearsal"] for frame in frames)
    assert "rehearsal" in {finding.check for finding in audit(frames).findings}
    computed = load("embedded-reference").evaluate(frames)
    for frame, found in zip(frames, computed, strict=True):
        np.testing.assert_allclose(frame.get_forces(), found.forces, atol=1e-7)  # printed with eight decimals
