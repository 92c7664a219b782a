"""The Nequix adapter against nequix itself, and the protocol both network architectures have to keep."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from helpers.tiny_nequix import write_tiny_nequix
from phonosmith.core.errors import InputError, PotentialError
from phonosmith.potentials.base import Potential
from phonosmith.potentials.hessian import difference_columns
from phonosmith.potentials.nequix.backend import nequix_installed
from phonosmith.potentials.registry import load, resolve

needs_nequix = pytest.mark.skipif(
    not nequix_installed(), reason="nequix's JAX backend is not installed (tools/install_nequix.sh)"
)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """Return a .nqx file of a small Nequix with random weights for Si and Ge, written by nequix itself."""
    return write_tiny_nequix(tmp_path_factory.mktemp("nequix") / "tiny.nqx")


@pytest.fixture
def potential(request):
    """Return one network potential of each architecture, float64."""
    # asked for only where it can be made: MACE conforms without nequix, too
    name = "embedded" if request.param == "mace" else str(request.getfixturevalue("tiny_file"))
    return load(resolve(name), dtype="float64")


both = pytest.mark.parametrize(
    "potential", ["mace", pytest.param("nequix", marks=needs_nequix)], indirect=True, ids=["mace", "nequix"]
)


def crystal(seed=0, repeat=(1, 1, 1)):
    """Return a rattled silicon crystal of 8 atoms or more."""
    atoms = bulk("Si", cubic=True) * repeat
    atoms.rattle(0.08, seed=seed)
    return atoms


class TestConformance:
    """What every network potential has to do."""

    @both
    def test_protocol_and_elements(self, potential):
        assert isinstance(potential, Potential)
        assert "Si" in potential.elements
        with pytest.raises(PotentialError, match="does not know Xe"):
            potential.evaluate([Atoms("Xe", positions=[[0, 0, 0]], cell=[5, 5, 5], pbc=True)])

    @both
    def test_batches_equal_single_configurations(self, potential):
        """1e-9: sums in float64 over other shapes."""
        frames = [crystal(1), crystal(2, (2, 1, 1)), crystal(3)]
        together = potential.evaluate(frames)
        for atoms, found in zip(frames, together, strict=True):
            alone = potential.evaluate([atoms])[0]
            assert found.energy == pytest.approx(alone.energy, abs=1e-9)
            np.testing.assert_allclose(found.forces, alone.forces, atol=1e-9)
            np.testing.assert_allclose(found.stress, alone.stress, atol=1e-9)
        assert potential.evaluate([]) == []

    @both
    def test_forces_and_stress_are_derivatives_of_the_energy(self, potential):
        """Central differences in float64: errors of order h² (1e-8 relative) and rounding (1e-9)."""
        atoms, h = crystal(4), 1e-4
        found = potential.evaluate([atoms])[0]
        moved = []
        for sign in (1, -1):
            shifted = atoms.copy()
            shifted.positions[3, 1] += sign * h
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * h * np.diag([0, 0, 1.0])), scale_atoms=True)
            moved += [shifted, strained]
        energies = [one.energy for one in potential.evaluate(moved)]
        assert -(energies[0] - energies[2]) / (2 * h) == pytest.approx(found.forces[3, 1], abs=1e-6)
        slope = (energies[1] - energies[3]) / (2 * h) / atoms.get_volume()
        assert slope == pytest.approx(found.stress[2], abs=1e-7)

    @both
    def test_hessian_columns_equal_finite_differences(self, potential):
        atoms = crystal(5)
        columns = [0, 13, 23]
        found = potential.hessian_columns(atoms, columns)
        assert found.shape == (3, 24)
        expected = difference_columns(potential, atoms, columns, step=1e-4)
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max() + 1e-7)
        with pytest.raises(InputError, match="column 24"):
            potential.hessian_columns(atoms, [24])

    @both
    def test_calculator_gives_the_same_numbers(self, potential):
        atoms = crystal(6)
        found = potential.evaluate([atoms])[0]
        atoms.calc = potential.calculator()
        assert atoms.get_potential_energy() == pytest.approx(found.energy, abs=1e-10)
        np.testing.assert_allclose(atoms.get_stress(), found.stress, atol=1e-12)

    @both
    def test_plain_file_loads_again(self, potential, tmp_path):
        path = tmp_path / ("plain.nqx" if potential.architecture == "nequix" else "plain.model")
        potential.save_plain(path)
        again = load(resolve(str(path), trust=True), dtype="float64")
        atoms = crystal(7)
        assert again.evaluate([atoms])[0].energy == pytest.approx(potential.evaluate([atoms])[0].energy, abs=1e-9)


@needs_nequix
class TestAgainstNequix:
    """The adapter reproduces the calculator of the package that made the file."""

    def test_energy_forces_stress_and_hessian(self, tiny_file):
        """1e-5 as nequix computes in float32."""
        compare_with_nequix(tiny_file, crystal(8))

    def test_molecule_without_a_cell(self, tiny_file):
        from nequix.calculator import NequixCalculator

        atoms = molecule("Si2H6")
        atoms = atoms[[atom.index for atom in atoms if atom.symbol == "Si"]]
        found = load(str(tiny_file), dtype="float32").evaluate([atoms])[0]
        atoms.calc = NequixCalculator(model_path=str(tiny_file), backend="jax", use_kernel=False)
        assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-5)
        assert not found.stress.any()

    def test_slab_keeps_its_periodic_images(self, tiny_file):
        """A slab equals the periodic crystal with a vacuum wider than the range of two layers; 1e-9 in float64."""
        slab = crystal(11)
        slab.center(vacuum=9.0, axis=2)
        everywhere = slab.copy()
        slab.pbc = (True, True, False)
        one, other = load(str(tiny_file)).evaluate([slab, everywhere])
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-9)
        assert not one.stress.any()
        assert other.stress.any()

    def test_no_compilation_for_another_model_of_the_same_architecture(self, tiny_file, tmp_path):
        from phonosmith.potentials.nequix.functions import compiled

        atoms = crystal(9)
        one = load(str(tiny_file))
        one.evaluate([atoms])
        before = one.functions.evaluate._cache_size()
        other = load(str(write_tiny_nequix(tmp_path / "other.nqx", seed=5)))
        assert other.evaluate([atoms])[0].energy != one.evaluate([atoms])[0].energy
        assert other.functions is one.functions
        assert other.functions.evaluate._cache_size() == before
        assert compiled.cache_info().currsize >= 1

    def test_damaged_file(self, tiny_file, tmp_path):
        data = tiny_file.read_bytes()
        cut = tmp_path / "cut.nqx"
        cut.write_bytes(data[: len(data) // 2])
        with pytest.raises(PotentialError, match="not a readable Nequix model"):
            resolve(str(cut))
        header = json.loads(data[: data.find(b"\n")])
        del header["lmax"]
        cut.write_bytes(json.dumps(header).encode() + data[data.find(b"\n") :])
        with pytest.raises(PotentialError, match="lmax"):
            resolve(str(cut))

    def test_identity_is_that_of_the_file(self, tiny_file):
        ref = resolve(str(tiny_file))
        assert (ref.architecture, ref.elements, ref.cutoff) == ("nequix", ["Si", "Ge"], 4.0)
        assert resolve(ref.sha256[:10]).sha256 == ref.sha256

    @pytest.mark.slow
    def test_published_model(self, shared):
        path = shared / "models" / "nequix" / "nequix-mp-1.nqx"
        if not path.is_file():
            pytest.skip("no published Nequix weights present")
        compare_with_nequix(path, crystal(10))


def compare_with_nequix(path, atoms):
    """Compare with ``NequixCalculator``: E, F, S and its full Hessian to 1e-5 (of its largest element)."""
    from nequix.calculator import NequixCalculator

    potential = load(str(path), dtype="float32")
    found = potential.evaluate([atoms])[0]
    columns = [0, 4, 11, 23]
    rows = potential.hessian_columns(atoms, columns)
    theirs = NequixCalculator(model_path=str(path), backend="jax", use_kernel=False)
    atoms.calc = theirs
    assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5 * len(atoms))
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-5)
    np.testing.assert_allclose(found.stress, atoms.get_stress(), atol=1e-5)
    full = theirs.get_hessian(atoms).swapaxes(1, 2).reshape(24, 24)
    np.testing.assert_allclose(rows, full[:, columns].T, atol=1e-5 * np.abs(full).max())


@needs_nequix
def test_phonons_from_the_command_line(tiny_file, tmp_path):
    """``phonosmith phonons`` takes a .nqx file like any other potential."""
    from typer.testing import CliRunner

    from phonosmith.cli.main import app

    path = tmp_path / "si.vasp"
    bulk("Si").write(path)
    arguments = ["phonons", str(path), "--potential", str(tiny_file), "--supercell", "2 2 2", "--no-relax", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["formula"] == "Si"
    assert found["potential"]["architecture"] == "nequix"
