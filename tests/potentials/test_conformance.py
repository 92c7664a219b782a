"""What every network potential has to do, whatever its architecture; what is not installed is skipped."""

import copy
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from helpers.tiny_potentials import ARCHITECTURES, tiny_reference
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError, InputError, PotentialError
from phonosmith.potentials.architecture import architecture, find_foundation
from phonosmith.potentials.backend import FreshStart, require_ability
from phonosmith.potentials.base import Potential
from phonosmith.potentials.graphs import collate, make_graph
from phonosmith.potentials.hessian import difference_columns, reverse_columns
from phonosmith.potentials.registry import check_model, export_plain, load, resolve, verify_potential
from phonosmith.potentials.torch_potential import TorchPotential


@pytest.fixture(params=ARCHITECTURES)
def ref(request):
    return tiny_reference(request.param)


def test_its_file_predicts_what_it_was_saved_with(ref):
    # as 'models add' and 'models verify' look at it: cutoff, elements and probe energies
    found = verify_potential(ref)
    assert found.ok, found.message
    if ref.artefact.suffix == ".safetensors":
        check_model(default_artefacts().get_bytes(ref.artefact), ref.name)


@pytest.fixture
def potential(ref):
    return load(ref)


def crystal(seed=0, repeat=(1, 1, 1)):
    """Return a rattled silicon crystal of 8 atoms or more."""
    atoms = bulk("Si", cubic=True) * repeat
    atoms.rattle(0.08, seed=seed)
    return atoms


def test_protocol_and_elements(potential):
    assert isinstance(potential, Potential)
    assert "Si" in potential.elements
    with pytest.raises(PotentialError, match="does not know Xe"):
        potential.evaluate([Atoms("Xe", positions=[[0, 0, 0]], cell=[5, 5, 5], pbc=True)])
    assert potential.backend is not architecture(potential.architecture).backend()
    potential.backend.require_trainable(potential.model)


def test_batches_equal_single_configurations(potential):
    """1e-9: sums in float64 over other shapes."""
    frames = [crystal(1), crystal(2, (2, 1, 1)), crystal(3)]
    together = potential.evaluate(frames)
    for atoms, one in zip(frames, together, strict=True):
        alone = potential.evaluate([atoms])[0]
        assert one.energy == pytest.approx(alone.energy, abs=1e-9)
        np.testing.assert_allclose(one.forces, alone.forces, atol=1e-9)
        np.testing.assert_allclose(one.stress, alone.stress, atol=1e-9)
    assert potential.evaluate([]) == []


def test_forces_and_stress_are_derivatives_of_the_energy(potential):
    """Central differences in float64: errors of order h² (1e-8 relative) and rounding (1e-9)."""
    atoms, h = crystal(4), 1e-4
    here = potential.evaluate([atoms])[0]
    moved = []
    for sign in (1, -1):
        shifted = atoms.copy()
        shifted.positions[3, 1] += sign * h
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * h * np.diag([0, 0, 1.0])), scale_atoms=True)
        moved += [shifted, strained]
    energies = [one.energy for one in potential.evaluate(moved)]
    assert -(energies[0] - energies[2]) / (2 * h) == pytest.approx(here.forces[3, 1], abs=1e-6)
    slope = (energies[1] - energies[3]) / (2 * h) / atoms.get_volume()
    assert slope == pytest.approx(here.stress[2], abs=1e-7)


def test_hessian_columns_equal_finite_differences(potential):
    """1e-6 of the largest element: the error of the difference, so the energy is smooth to about 1e-10 eV."""
    atoms = crystal(5)
    columns = [0, 13, 23]
    rows = potential.hessian_columns(atoms, columns)
    assert rows.shape == (3, 24)
    expected = difference_columns(potential, atoms, columns, step=1e-4)
    np.testing.assert_allclose(rows, expected, atol=1e-6 * np.abs(expected).max() + 1e-7)
    with pytest.raises(InputError, match="column 24"):
        potential.hessian_columns(atoms, [24])


def test_gradient_of_a_hessian_column_by_a_parameter(potential):
    """The norm of a column, differentiated by the parameter it depends on most; 1e-5 relative for the difference."""
    import torch

    model, backend = potential.model, potential.backend
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    graph = make_graph(crystal(6), potential.z_table, potential.r_max)

    def norm():
        batch = collate([graph], torch.float64, "cpu")
        predictions = backend.predict(model, batch, stress=False, create_graph=True)
        rows = reverse_columns(predictions.forces, predictions.positions, [7], create_graph=True)
        return rows.square().sum()

    trained = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.numel() and backend.block_of(model, name) is not None
    ]
    gradients = torch.autograd.grad(norm(), trained, allow_unused=True)
    sizes = [0.0 if one is None else float(one.abs().max()) for one in gradients]
    most = int(np.argmax(sizes))
    place, h = int(gradients[most].abs().argmax()), 1e-5
    flat = trained[most].data.view(-1)
    flat[place] += h
    up = norm().item()
    flat[place] -= 2 * h
    down = norm().item()
    flat[place] += h
    assert (up - down) / (2 * h) == pytest.approx(float(gradients[most].view(-1)[place]), rel=1e-5)


def test_calculator_gives_the_same_numbers(potential):
    atoms = crystal(6)
    here = potential.evaluate([atoms])[0]
    atoms.calc = potential.calculator()
    assert atoms.get_potential_energy() == pytest.approx(here.energy, abs=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), here.stress, atol=1e-12)


def test_plain_file_loads_again(potential, tmp_path):
    path = tmp_path / f"plain{architecture(potential.architecture).plain_suffix}"
    potential.save_plain(path)
    again = load(resolve(str(path), trust=True), dtype="float64")
    atoms = crystal(7)
    assert again.evaluate([atoms])[0].energy == pytest.approx(potential.evaluate([atoms])[0].energy, abs=1e-9)


def own_calculator(ref, folder):
    """Return the calculator of the package that the architecture comes from, for the exported plain file."""
    path = export_plain(ref, folder / f"plain{architecture(ref.architecture).plain_suffix}")
    if ref.architecture == "mace":
        from mace.calculators import MACECalculator

        return MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    if ref.architecture == "sevennet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(str(path), device="cpu")
    calculator = pytest.importorskip("nequix.calculator", reason="NequixCalculator needs JAX")
    return calculator.NequixCalculator(model_path=str(path), backend="torch", use_kernel=False)


def agrees_with_its_own_calculator(ref, atoms, folder):
    dtype, close = ("float64", 1e-10) if ref.architecture == "mace" else ("float32", 1e-5)
    here = load(ref, dtype=dtype).evaluate([atoms])[0]
    atoms.calc = own_calculator(ref, folder)
    assert here.energy == pytest.approx(atoms.get_potential_energy(), abs=close * len(atoms))
    np.testing.assert_allclose(here.forces, atoms.get_forces(), atol=close)
    np.testing.assert_allclose(here.stress, atoms.get_stress(), atol=close)


def test_the_architectures_own_calculator_agrees(ref, tmp_path):
    """1e-10 where it computes in float64, 1e-5 where it has float32 only."""
    agrees_with_its_own_calculator(ref, crystal(8), tmp_path)


def test_another_process_gives_the_same_bits(ref, tmp_path):
    """Save, artefact store, load in a fresh interpreter, twice in a row there: equal to the last bit."""
    atoms = crystal(9)
    atoms.write(tmp_path / "cell.traj")
    script = (
        "import sys; from ase.io import read; from phonosmith.potentials.registry import load\n"
        "from phonosmith.potentials.documents import PotentialRef\n"
        "potential = load(PotentialRef.model_validate_json(sys.argv[1]))\n"
        "for _ in range(3):\n"
        "    found = potential.evaluate([read(sys.argv[2])])[0]\n"
        "    print(found.energy.hex(), found.forces.tobytes().hex(), found.stress.tobytes().hex())"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, ref.model_dump_json(), tmp_path / "cell.traj"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    here = load(ref).evaluate([atoms])[0]
    bits = f"{here.energy.hex()} {here.forces.tobytes().hex()} {np.asarray(here.stress).tobytes().hex()}"
    assert ran.stdout.split("\n")[:3] == [bits] * 3


def test_blocks_fresh_start_and_atomic_energies(potential):
    backend, model = potential.backend, copy.deepcopy(potential.model)
    blocks = backend.blocks(model)
    trained = {backend.block_of(model, name) for name, value in model.named_parameters() if value.numel()}
    assert trained - {None} == set(range(len(blocks)))
    fresh = backend.fresh(model, FreshStart(seed=3, neighbours=20.0, force_scale=0.5))
    again = backend.fresh(model, FreshStart(seed=3, neighbours=20.0, force_scale=0.5))
    atoms = crystal(1)
    energies = [TorchPotential(backend, one).evaluate([atoms])[0].energy for one in (fresh, again)]
    assert energies[0] == energies[1] != potential.evaluate([atoms])[0].energy
    before = TorchPotential(backend, model).evaluate([atoms])[0].energy
    backend.set_atomic_energies(model, 0, backend.atomic_energies(model)[0] + 0.25)
    assert TorchPotential(backend, model).evaluate([atoms])[0].energy == pytest.approx(before + 8 * 0.25, abs=1e-9)


def test_abilities_that_lack_are_refused_by_name(potential):
    for ability in ("heads", "low_rank", "atom_blocks"):
        if ability not in potential.backend.abilities:
            with pytest.raises(ConfigurationError, match=potential.architecture):
                require_ability(potential.backend, ability, "strategy multihead")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["7net-0", "7net-l3i5", "7net-mf-0"])
@pytest.mark.skipif(not architecture("sevennet").installed(), reason="sevenn is not installed")
def test_published_sevennet(name, tmp_path):
    """Weights inside the wheel, against ``SevenNetCalculator`` of the same name."""
    from sevenn.calculator import SevenNetCalculator

    atoms = bulk("SnTe", "rocksalt", a=6.4, cubic=True)
    atoms.rattle(0.05, seed=0)
    channel = "PBE" if "mf" in name else None
    here = load(resolve(name), dtype="float32").evaluate([atoms])[0]
    exported = export_plain(resolve(name), tmp_path / "plain.pth")
    for calculator in (name, str(exported)):
        atoms.calc = SevenNetCalculator(calculator, device="cpu", modal=channel)
        assert here.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5 * len(atoms))
        np.testing.assert_allclose(here.forces, atoms.get_forces(), atol=1e-5)
        np.testing.assert_allclose(here.stress, atoms.get_stress(), atol=1e-5)


@pytest.mark.parametrize("name", ["7net-0", "7net-l3i5", "7net-mf-0", "nequix-mp-1", "nequix-oam-1", "MACE-MP-0b3"])
def test_foundations_by_name(name):
    owner, foundation = find_foundation(name.upper())
    assert foundation.name == name
    assert owner.foundations
