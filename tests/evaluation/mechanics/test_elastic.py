import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.analysis.elasticity import ElasticTensor
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import InputError
from phonosmith.core.units import GPA_PER_EV_PER_A3
from phonosmith.evaluation.mechanics.elastic import average_moduli, elastic_deformations, fit_elastic

SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).get_primitive_structure()
HEXAGONAL = Structure(Lattice.hexagonal(3.2, 5.2), ["Mg", "Mg"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
TRICLINIC = Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 100), ["Na", "Cl"], [[0, 0, 0], [0.4, 0.45, 0.6]])


def linear_stress(tensor, deformation):
    """Cauchy stress of a crystal whose second Piola-Kirchhoff stress is linear in Green-Lagrange strain."""
    f = np.asarray(deformation)
    strain = 0.5 * (f.T @ f - np.eye(3))
    second = np.einsum("ijkl,kl", tensor, strain)
    return f @ second @ f.T / np.linalg.det(f)


def cubic(c11, c12, c44):
    c = np.full((6, 6), 0.0)
    c[:3, :3] = c12
    c[range(3), range(3)] = c11
    c[range(3, 6), range(3, 6)] = c44
    return c


@pytest.mark.parametrize("crystal", [SILICON, HEXAGONAL, TRICLINIC])
def test_the_same_strained_cells_as_atomate2(crystal):
    from atomate2.common.jobs.elastic import generate_elastic_deformations

    theirs = generate_elastic_deformations.original(
        crystal, strain_magnitudes=[-0.01, -0.005, 0.005, 0.01], symprec=1e-3, sym_reduce=True
    )
    np.testing.assert_allclose(elastic_deformations(crystal), np.array(theirs), atol=1e-12)


@pytest.mark.parametrize("symmetry", [True, False])
def test_a_linear_crystal_is_recovered_exactly(symmetry):
    # the crystal's own axes: conventional, so that the IEEE orientation is the given one
    crystal = SILICON.copy()
    tensor = ElasticTensor.from_voigt(cubic(166.0, 64.0, 80.0))
    deformations = elastic_deformations(crystal, symmetry=symmetry)
    fit, _ = fit_elastic(crystal, deformations, [linear_stress(tensor, d) for d in deformations])
    if symmetry:
        assert len(deformations) < 24
    else:
        assert len(deformations) == 24
    assert np.allclose(fit.tensor, cubic(166.0, 64.0, 80.0), atol=1e-6)
    assert fit.moduli.bulk_vrh == pytest.approx((166 + 128) / 3, abs=1e-6)
    assert fit.born_stable
    assert fit.reliable
    # symmetry copies rotate stresses with the strain, not with the full deformation gradient: second order in 1 %
    assert fit.residual < 1e-3


def test_a_triclinic_tensor_keeps_its_invariants():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    c = root @ root.T * 5 + 40 * np.eye(6)
    tensor = ElasticTensor.from_voigt(c)
    deformations = elastic_deformations(TRICLINIC)
    fit, _ = fit_elastic(TRICLINIC, deformations, [linear_stress(tensor, d) for d in deformations])
    assert fit.moduli.bulk_vrh == pytest.approx(tensor.k_vrh, rel=1e-6)
    assert fit.moduli.shear_vrh == pytest.approx(tensor.g_vrh, rel=1e-6)


def test_averages_are_hills():
    # Hill, Proc. Phys. Soc. A 65, 349 (1952), from stiffness C and compliance S
    rng = np.random.default_rng(1)
    for _ in range(5):
        root = rng.standard_normal((6, 6))
        c = root @ root.T * 10 + 50 * np.eye(6)
        s, ours = np.linalg.inv(c), average_moduli(c)
        (trace, off, shear), (strace, soff, sshear) = (
            (np.trace(m[:3, :3]), m[0, 1] + m[0, 2] + m[1, 2], np.trace(m[3:, 3:])) for m in (c, s)
        )
        assert ours.bulk_voigt == pytest.approx((trace + 2 * off) / 9, rel=1e-9)
        assert ours.bulk_reuss == pytest.approx(1 / (strace + 2 * soff), rel=1e-9)
        assert ours.shear_voigt == pytest.approx((trace - off + 3 * shear) / 15, rel=1e-9)
        assert ours.shear_reuss == pytest.approx(15 / (4 * strace - 4 * soff + 3 * sshear), rel=1e-9)
        assert ours.bulk_vrh == pytest.approx((ours.bulk_voigt + ours.bulk_reuss) / 2, rel=1e-9)
        assert ours.shear_vrh == pytest.approx((ours.shear_voigt + ours.shear_reuss) / 2, rel=1e-9)


def test_the_same_tensor_as_atomate2_on_the_same_stresses():
    from atomate2.common.schemas.elastic import ElasticDocument
    from pymatgen.analysis.elasticity import Deformation, Stress

    atoms = bulk("Cu", a=3.59)
    structure = AseAtomsAdaptor.get_structure(atoms)
    deformations = elastic_deformations(structure)

    def stress(cell_map):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ cell_map.T, scale_atoms=True)
        moved.calc = EMT()
        return moved.get_stress(voigt=False) * GPA_PER_EV_PER_A3

    stresses = [stress(d) for d in deformations]
    fit, _ = fit_elastic(structure, deformations, stresses, stress(np.eye(3)))
    n = len(stresses)
    theirs = ElasticDocument.from_stresses(
        structure,
        [Stress(-10 * s) for s in stresses],
        [Deformation(d) for d in deformations],
        [str(i) for i in range(n)],
        [str(i) for i in range(n)],
        equilibrium_stress=(-10 * stress(np.eye(3))).tolist(),
        order=2,
    )
    assert np.allclose(fit.tensor, theirs.elastic_tensor.ieee_format, atol=0.05)
    assert fit.moduli.bulk_vrh == pytest.approx(theirs.derived_properties.k_vrh, abs=0.01)
    assert fit.moduli.shear_vrh == pytest.approx(theirs.derived_properties.g_vrh, abs=0.01)
    assert fit.v_transverse == pytest.approx(theirs.derived_properties.trans_v, rel=1e-4)
    assert fit.reliable


def test_noise_makes_the_tensor_unreliable():
    tensor = ElasticTensor.from_voigt(cubic(30.0, 25.0, 5.0))
    deformations = elastic_deformations(HEXAGONAL)
    rng = np.random.default_rng(2)
    noisy = []
    for d in deformations:
        noise = rng.normal(0, 0.05, (3, 3))
        noisy.append(linear_stress(tensor, d) + 0.5 * (noise + noise.T))
    fit, _ = fit_elastic(HEXAGONAL, deformations, noisy)
    assert not fit.reliable
    assert "cannot be trusted" in fit.warnings[0]


def test_an_unstable_crystal_is_a_result_not_a_crash():
    tensor = ElasticTensor.from_voigt(cubic(50.0, 60.0, 20.0))
    deformations = elastic_deformations(SILICON)
    fit, _ = fit_elastic(SILICON, deformations, [linear_stress(tensor, d) for d in deformations])
    assert not fit.born_stable
    assert fit.v_transverse is None
    assert any("unstable" in warning for warning in fit.warnings)


def test_bad_input():
    deformations = elastic_deformations(SILICON)
    stresses = [np.zeros((3, 3))] * len(deformations)
    with pytest.raises(InputError, match="deformations but"):
        fit_elastic(SILICON, deformations, stresses[:-1])
    stresses[0] = np.full((3, 3), np.nan)
    with pytest.raises(InputError, match="not finite"):
        fit_elastic(SILICON, deformations, stresses)
