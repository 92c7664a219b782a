import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import InputError
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.mechanics.fastpath import evaluate_elastic, evaluate_eos
from phonosmith.potentials.ase_potential import AsePotential

A, DEPTH, RHO = 4.0, 0.3, 6.0
R0 = A / np.sqrt(2)


def morse(cutoffs=(1.15, 1.25)):
    return AsePotential(
        lambda: MorsePotential(epsilon=DEPTH, r0=R0, rho0=RHO, rcut1=cutoffs[0], rcut2=cutoffs[1]), ["Ar"]
    )


def structure(a=A):
    return AseAtomsAdaptor.get_structure(bulk("Ar", "fcc", a=a))


def test_nearest_neighbour_morse_crystal_against_closed_forms():
    # fcc, nearest-neighbour central forces, zero pressure: C11 = 2k/a, C12 = C44 = k/a, K = 4k/3a, k = 2 D (rho/r0)^2
    k = 2 * DEPTH * (RHO / R0) ** 2
    found = evaluate_elastic(structure(), morse())
    c = np.array(found.fit.tensor)
    unit = k / A * GPA_PER_EV_PER_A3
    # finite differences over 1 % strains of an anharmonic crystal: fourth order, 0.2 %
    assert c[0, 0] == pytest.approx(2 * unit, rel=2e-3)
    assert c[0, 1] == pytest.approx(unit, rel=2e-3)
    assert c[3, 3] == pytest.approx(unit, rel=2e-3)
    assert found.fit.reliable
    assert found.n_unconverged == 0
    assert found.slack is not None
    eos = evaluate_eos(structure(), morse())
    assert eos.fit.bulk_modulus == pytest.approx(4 / 3 * unit, rel=5e-3)
    assert eos.fit.volume == pytest.approx(A**3 / 4, rel=1e-5)
    assert eos.fit.energy == pytest.approx(-6 * DEPTH, abs=1e-6)
    assert eos.fit.bulk_modulus == pytest.approx(found.fit.moduli.bulk_vrh, rel=0.01)


@pytest.mark.parametrize("name", ["Si", "SiC"])
def test_both_routes_give_one_bulk_modulus(name):
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import load

    reference = load("embedded-reference")
    crystal = AseAtomsAdaptor.get_structure(demo_structure(name))
    elastic, eos = evaluate_elastic(crystal, reference), evaluate_eos(crystal, reference)
    assert all(eos.converged)
    assert eos.fit.bulk_modulus == pytest.approx(elastic.fit.moduli.bulk_vrh, rel=0.01)


def test_both_routes_give_one_bulk_modulus_of_rock_salt():
    from phonosmith.evaluation.relax import relax_atoms
    from phonosmith.testing.standin_calculators import PairMorse

    potential = AsePotential(PairMorse, ["Na", "Cl"])
    relaxed = relax_atoms(bulk("NaCl", "rocksalt", a=5.6), potential)
    crystal = AseAtomsAdaptor.get_structure(relaxed.atoms)
    elastic, eos = evaluate_elastic(crystal, potential), evaluate_eos(crystal, potential)
    assert elastic.fit.reliable
    assert all(eos.converged)
    assert eos.fit.volume == pytest.approx(crystal.volume, rel=1e-3)
    assert eos.fit.bulk_modulus == pytest.approx(elastic.fit.moduli.bulk_vrh, rel=0.01)


def test_atoms_relax_under_strain():
    # diamond has an internal degree of freedom under shear: clamped atoms give a larger C44
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import load

    crystal = AseAtomsAdaptor.get_structure(demo_structure("Si"))
    reference = load("embedded-reference")
    relaxed = evaluate_elastic(crystal, reference)
    clamped = evaluate_elastic(crystal, reference, max_steps=0)
    assert clamped.fit.tensor[3][3] > 1.2 * relaxed.fit.tensor[3][3]
    assert clamped.n_unconverged > 0
    assert any("did not relax" in warning for warning in clamped.fit.warnings)


def test_documents_name_their_input_and_survive_json():
    eos = evaluate_eos(structure(), morse(), method="morse")
    assert eos.manifest.inputs["structure"] == eos.structure_sha256
    assert type(eos).model_validate_json(eos.model_dump_json()) == eos


def test_a_crystal_that_cannot_relax_is_said():
    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import load

    rattled = demo_structure("Si").repeat(2)
    rattled.rattle(0.2, seed=1)
    with pytest.raises(InputError, match="volumes relaxed below"):
        evaluate_eos(AseAtomsAdaptor.get_structure(rattled), load("embedded-reference"), max_steps=2)
