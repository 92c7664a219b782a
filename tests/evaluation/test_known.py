"""Our documents are read as atomate2's are: same names, same numbers on the same potential."""

import json
from functools import cache

import numpy as np
import pytest
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure

from phonosmith.core.identity import fix_identities
from phonosmith.evaluation.known import crystal_fields
from phonosmith.evaluation.mechanics.jobs import ElasticFlowMaker, FastElasticMaker
from phonosmith.evaluation.phonons.jobs import FastPhononMaker, PhononFlowMaker, atomate2_phonon_maker
from phonosmith.evaluation.relax import relax_atoms
from phonosmith.potentials.registry import load, resolve
from phonosmith.reference.engines import make_engine
from phonosmith.reference.protocol import ReferenceProtocol

REFERENCE = "embedded-reference"
MATRIX = np.diag([2, 2, 1]).tolist()
OURS = {"volume", "structure", "force_constants", "phonopy_settings", "thermal_displacement_data"}
"""Fields of atomate2's phonon documents that ours fill otherwise, or not at all (docs/queries.md)."""


@cache
def lonsdaleite():
    lattice = Lattice.hexagonal(3.84, 6.27)
    start = Structure.from_spacegroup("P6_3/mmc", lattice, ["Si"], [[1 / 3, 2 / 3, 0.0625]])
    return start.from_ase_atoms(relax_atoms(start.to_ase_atoms(msonable=False), load(REFERENCE)).atoms)


def both_stores():
    return JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})


def stored(member, folder, store=None):
    """Run and return the document as it lies in the store, and as it is read from there."""
    store = store or both_stores()
    folder.mkdir()
    flow = fix_identities(member if isinstance(member, Flow) else Flow([member], output=member.output))
    run_locally(flow, log=False, store=store, create_folders=True, root_dir=folder, ensure_success=True)
    criteria = {"uuid": flow.output.uuid}
    return (store.query_one(criteria, load=load)["output"] for load in (False, True))


@pytest.mark.parametrize(
    "crystal",
    [
        Structure(Lattice.hexagonal(3.2, 5.2), ["Mg", "Mg"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
        Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 100), ["Na", "Cl"], [[0, 0, 0], [0.4, 0.45, 0.6]]),
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ],
)
def test_what_emmet_says_of_a_crystal(crystal):
    from emmet.core.structure import StructureMetadata

    theirs = jsanitize(StructureMetadata.from_structure(crystal), strict=True, enum_values=True)
    # the volume is of the primitive cell in our phonon documents, where it has always been
    assert crystal_fields(crystal) == {
        name: value for name, value in theirs.items() if not name.startswith("@") and name != "volume"
    }


def test_bands_and_density_of_a_stored_document_are_pymatgens(tmp_path):
    """One job of a potential: what pymatgen's plotters read, in the data store, the rest small."""
    from pymatgen.phonon.bandstructure import PhononBandStructureSymmLine
    from pymatgen.phonon.dos import PhononDos
    from pymatgen.phonon.plotter import PhononBSPlotter

    maker = FastPhononMaker(relax=False, mesh=8)
    kept, read = stored(maker.make(lonsdaleite(), resolve(REFERENCE), MATRIX), tmp_path / "run")
    for part in ("phonon_bandstructure", "phonon_dos"):
        assert kept[part]["store"] == "data"
        assert "blob_uuid" in kept[part]
    assert len(json.dumps(kept)) < 20_000
    bands = PhononBandStructureSymmLine.from_dict(read["phonon_bandstructure"])
    assert bands.bands.max() == pytest.approx(read["omega_max_thz"], abs=1e-7)
    assert bands.bands.min() == pytest.approx(read["omega_min_thz"], abs=1e-7)
    ticks = PhononBSPlotter(bands).get_ticks()
    assert ticks["label"][0] == "Γ"
    density = PhononDos.from_dict(read["phonon_dos"])
    grid = np.array(density.frequencies)
    # every mode of the primitive cell of four atoms is counted once
    assert np.sum(density.densities) * (grid[1] - grid[0]) == pytest.approx(12, abs=1e-5)
    # pymatgen's own integral over that density, a sum over 8³ points here
    structure = bands.structure
    assert density.cv(300, structure=structure) == pytest.approx(read["heat_capacities"][30], rel=2e-3)
    assert read["internal_energies"][0] == read["free_energies"][0]
    assert read["free_energies"][30] * 4 == pytest.approx(1000 * read["thermal"]["free_energy"][0], rel=1e-12)


def test_a_store_without_a_data_store_keeps_documents_whole(tmp_path):
    maker = FastPhononMaker(relax=False, mesh=4)
    kept, read = stored(
        maker.make(lonsdaleite(), resolve(REFERENCE), MATRIX), tmp_path / "run", JobStore(MemoryStore())
    )
    assert kept == read
    assert len(kept["phonon_bandstructure"]["bands"]) == 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_phonons_equal_those_of_atomate2s_flow(tmp_path):
    """The same PhononMaker of force-field Makers with atomate2's last job and with ours, one potential.

    Bands agree to 2e-7 THz where the force constants are fitted as theirs are; their thermodynamics are integrals over
    a density of 201 points: 1.5 % at 100 K and above, where the heat capacity is not tiny.
    """
    from atomate2.common.schemas.phonons import PhononBSDOSDoc
    from pymatgen.phonon.bandstructure import PhononBandStructureSymmLine

    engine = make_engine("forcefield", ReferenceProtocol(), REFERENCE)
    _, theirs = stored(atomate2_phonon_maker(engine).make(lonsdaleite(), supercell_matrix=MATRIX), tmp_path / "theirs")
    maker = PhononFlowMaker(
        name="phonon ours", maker=atomate2_phonon_maker(engine), fc_calculator="traditional", source="forcefield"
    )
    kept, ours = stored(maker.make(lonsdaleite(), supercell_matrix=MATRIX), tmp_path / "ours")
    sides = [PhononBandStructureSymmLine.from_dict(one["phonon_bandstructure"]) for one in (theirs, ours)]
    assert [one["name"] for one in sides[0].branches] == [one["name"] for one in sides[1].branches]
    np.testing.assert_allclose(sides[1].bands, sides[0].bands, atol=1e-5)
    np.testing.assert_allclose(sides[1].distance, sides[0].distance, atol=1e-6)
    assert ours["temperatures"] == theirs["temperatures"]
    for name in ("free_energies", "entropies", "internal_energies", "heat_capacities"):
        np.testing.assert_allclose(ours[name][10:], theirs[name][10:], rtol=0.015)
    plain = PhononBSDOSDoc.model_fields.keys() - OURS - {"phonon_bandstructure", "phonon_dos", "uuids", "jobdirs"}
    plain -= {"free_energies", "entropies", "internal_energies", "heat_capacities"}
    for name in plain:
        wanted = pytest.approx(theirs[name], rel=1e-6) if isinstance(theirs[name], float) else theirs[name]
        assert ours[name] == wanted, name
    # who calculated: both flows have as many calculations, ours run in their own folders
    for part in ("uuids", "jobdirs"):
        said = {name: value for name, value in theirs[part].items() if not name.startswith("@")}
        assert set(ours[part]) == set(said)
        for name, value in said.items():
            assert (ours[part][name] is None) == (value is None), name
    assert len(ours["uuids"]["displacements_uuids"]) == ours["n_displacements"]
    # atomate2's own class reads ours, but for the force constants, which lie in the artefact store
    parsed = PhononBSDOSDoc.model_validate({name: value for name, value in ours.items() if name != "force_constants"})
    assert parsed.phonon_bandstructure.bands.shape == sides[1].bands.shape
    assert len(json.dumps(kept)) < 20_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_elasticity_equals_that_of_atomate2s_flow(tmp_path):
    """atomate2's ElasticMaker with our Makers, its last job and ours: the same stresses, the same fit."""
    from atomate2.common.schemas.elastic import ElasticDocument
    from atomate2.forcefields.flows.elastic import ElasticMaker

    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).get_primitive_structure()
    engine = make_engine("forcefield", ReferenceProtocol(elastic_fmax=1e-4), REFERENCE)
    settings = {"strain_magnitudes": [-0.01, -0.005, 0.005, 0.01]}
    flow = ElasticMaker(
        symprec=1e-3,
        bulk_relax_maker=engine.relax(),
        elastic_relax_maker=engine.elastic_relax(),
        generate_elastic_deformations_kwargs=settings,
    ).make(silicon)
    _, theirs = stored(flow, tmp_path / "theirs")
    _, ours = stored(ElasticFlowMaker(engine=engine).make(silicon), tmp_path / "ours")
    _, fast = stored(FastElasticMaker().make(silicon, resolve(REFERENCE)), tmp_path / "fast")
    for kind in ("raw", "ieee_format"):
        np.testing.assert_allclose(ours["elastic_tensor"][kind], theirs["elastic_tensor"][kind], atol=1e-3)
        # the fast path relaxes by itself: forces below 1e-4 eV/Å leave 0.03 GPa in C44
        np.testing.assert_allclose(fast["elastic_tensor"][kind], theirs["elastic_tensor"][kind], atol=0.1)
        # 1/TPa of GPa
        product = np.array(ours["compliance_tensor"][kind]) @ np.array(ours["elastic_tensor"][kind]) / 1000
        np.testing.assert_allclose(product, np.eye(6), atol=1e-9)
    said = {name: value for name, value in theirs["derived_properties"].items() if not name.startswith("@")}
    assert said.keys() <= ours["derived_properties"].keys()
    for name, value in said.items():
        assert ours["derived_properties"][name] == pytest.approx(value, rel=1e-5), name
    for name in ("strains", "cauchy_stresses", "pk_stresses", "deformations"):
        np.testing.assert_allclose(ours["fitting_data"][name], theirs["fitting_data"][name], atol=1e-3)
    assert len(set(ours["fitting_data"]["uuids"])) == ours["fit"]["n_deformations"]
    assert fast["fitting_data"]["uuids"] is None
    for name in ElasticDocument.model_fields.keys() - {
        "structure",
        "elastic_tensor",
        "derived_properties",
        "eq_stress",
    }:
        if name not in ("fitting_data", "fitting_method") and not isinstance(ours[name], float):
            assert ours[name] == theirs[name], name
    for document in (ours, fast):
        assert ElasticDocument.model_validate(document).derived_properties.k_vrh > 0
        assert len(json.dumps(document)) < 100_000
