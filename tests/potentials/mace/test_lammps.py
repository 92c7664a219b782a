"""Files for LAMMPS, driven as LAMMPS drives them: own atoms and ghosts, forces of ghosts folded back."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.core.errors import ConfigurationError
from phonosmith.potentials.graphs import neighbours
from phonosmith.potentials.registry import export_lammps, load, resolve


@pytest.fixture(scope="module")
def crystal():
    atoms = bulk("SiC", "zincblende", a=4.4, cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.01 * np.arange(9).reshape(3, 3)), scale_atoms=True)
    return atoms


@pytest.fixture(scope="module")
def expected(crystal):
    return load(resolve("embedded"), dtype="float64", device="cpu").evaluate([crystal])[0]


def with_ghosts(atoms, reach):
    """Return positions, numbers and owners: the cell's atoms, then images of them within reach of any."""
    edges, shifts, _ = neighbours(atoms, reach)
    images = sorted({(int(j), *map(int, s)) for j, s in zip(edges[1], shifts, strict=True) if np.any(s != 0)})
    owners = np.array([*range(len(atoms)), *(image[0] for image in images)])
    moved = [atoms.positions[j] + np.array(shift) @ atoms.cell.array for j, *shift in images]
    return np.vstack([atoms.positions, moved]), atoms.numbers[owners], owners


DRIVER = """
import sys, numpy as np, torch
torch.set_num_threads(1)
model = torch.jit.load(sys.argv[1])
data = dict(np.load(sys.argv[2]))
batch = {key: torch.as_tensor(value) for key, value in data.items() if key != "local"}
batch["positions"].requires_grad_(True)
out = model(batch, torch.as_tensor(data["local"]), True)
np.savez(sys.argv[3], energy=out["total_energy_local"].detach(), forces=out["forces"].detach(),
         virials=out["virials"].detach())
assert not any(name.startswith(("phonosmith", "mace", "e3nn")) for name in sys.modules)
"""


def test_pair_style_mace_without_our_packages(crystal, expected, tmp_path):
    file = export_lammps(resolve("embedded"), tmp_path / "lammps.pt", "torchscript")
    model = torch.jit.load(file)
    cutoff, layers, table = float(model.r_max), int(model.num_interactions), model.atomic_numbers.tolist()
    positions, numbers, owners = with_ghosts(crystal, layers * cutoff)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    edges = np.argwhere((distance < cutoff) & (distance > 0)).T
    species = np.array([table.index(number) for number in numbers])
    np.savez(
        tmp_path / "in.npz",
        positions=positions,
        node_attrs=np.eye(len(table))[species],
        edge_index=edges,
        shifts=np.zeros((edges.shape[1], 3)),
        unit_shifts=np.zeros((edges.shape[1], 3)),
        cell=crystal.cell.array,
        batch=np.zeros(len(positions), dtype=int),
        ptr=np.array([0, len(positions)]),
        energy=np.zeros(1),
        forces=np.zeros_like(positions),
        local=(np.arange(len(positions)) < len(crystal)).astype(float),
    )
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    arguments = [str(tmp_path / name) for name in ("lammps.pt", "in.npz", "out.npz")]
    subprocess.run([sys.executable, str(script), *arguments], check=True, cwd=tmp_path)
    out = np.load(tmp_path / "out.npz")
    forces = np.zeros((len(crystal), 3))
    np.add.at(forces, owners, out["forces"])
    # double precision, sums in another order
    assert out["energy"][0] == pytest.approx(expected.energy, abs=1e-9)
    assert np.abs(forces - expected.forces).max() < 1e-9


class LammpsData(SimpleNamespace):
    """What LAMMPS' ML-IAP hands to Python."""

    def __init__(self, atoms, cutoff, table):
        positions, numbers, self.owners = with_ghosts(atoms, cutoff)
        distance = np.linalg.norm(positions[: len(atoms), None] - positions[None], axis=2)
        self.pair_i, self.pair_j = np.argwhere((distance < cutoff) & (distance > 0)).T
        self.rij = positions[self.pair_j] - positions[self.pair_i]
        self.elems = np.array([table.index(number) for number in numbers])
        self.nlocal, self.ntotal, self.npairs = len(atoms), len(positions), len(self.pair_i)
        self.eatoms = torch.zeros(len(atoms), dtype=torch.float64)
        self.forces = np.zeros((len(atoms), 3))
        super().__init__()

    def forward_exchange(self, features, out, _length):
        out.copy_(features[torch.as_tensor(self.owners)])

    def reverse_exchange(self, gradient, out, _length):
        out.zero_()
        out.index_add_(0, torch.as_tensor(self.owners), gradient)

    def update_pair_forces_gpu(self, pair_forces):
        pairs = pair_forces.detach().numpy()
        np.add.at(self.forces, self.pair_i, pairs)
        np.add.at(self.forces, self.owners[self.pair_j], -pairs)


def test_pair_style_mliap(crystal, expected, tmp_path):
    file = export_lammps(resolve("embedded"), tmp_path / "mliap.pt", "mliap")
    model = torch.load(file, weights_only=False)
    table = model.model.atomic_numbers.tolist()
    assert model.element_types == list(resolve("embedded").elements)
    data = LammpsData(crystal, 2 * model.rcutfac, table)
    model.compute_forces(data)
    assert data.energy == pytest.approx(expected.energy, abs=1e-9)
    assert np.abs(data.forces - expected.forces).max() < 1e-9


def test_the_command_says_what_to_put_into_the_input(tmp_path):
    file = tmp_path / "si.pt"
    done = CliRunner().invoke(app, ["models", "export", "embedded", str(file), "--lammps"])
    assert done.exit_code == 0, done.output
    assert f"pair_coeff * * {file} C Si Ge" in done.output
    done = CliRunner().invoke(app, ["models", "export", "embedded", str(file), "--lammps", "--mliap"])
    assert done.exit_code == 2


def test_other_architectures_say_so(tmp_path):
    from phonosmith.potentials.architecture import architectures

    for one in architectures():
        if one.name in {"mace", "empirical"} or not one.installed():
            continue
        with pytest.raises(ConfigurationError, match="cannot be written for LAMMPS"):
            one.backend().lammps_bytes(torch.nn.Identity(), "torchscript")
