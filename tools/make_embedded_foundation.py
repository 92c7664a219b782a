"""Make the embedded foundation: a small MACE trained from scratch on published empirical potentials.

    OMP_NUM_THREADS=1 python tools/make_embedded_foundation.py --out src/phonosmith/potentials/embedded/foundation.safetensors
    OMP_NUM_THREADS=1 python tools/make_embedded_foundation.py --check src/phonosmith/potentials/embedded/foundation.safetensors

The labels come from `embedded/teacher.json` (Stillinger-Weber silicon; Tersoff's germanium, carbon and silicon carbide of
1989). Nothing is tuned against `embedded/reference.json`, which plays DFT: how wrong the foundation is there is the
difference between published parameterisations, and the table printed at the end reports it. The same seed gives the same
numbers on one thread with the same libraries; other versions differ by rounding, which training amplifies. About six
minutes on one core. With --check only the table of an existing file is made.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list

from embedded_figures import ELEMENTS, GPA, compare, print_table
from phonosmith.core.artefacts import write_atomic
from phonosmith.potentials.embedded import DEMO_MATERIALS, lattice_constant, teacher_bytes
from phonosmith.potentials.empirical.potential import EmpiricalPotential, load_empirical
from phonosmith.potentials.mace.files import pack_model, unpack_model

NUMBERS = [atomic_numbers[symbol] for symbol in ELEMENTS]
R_MAX, SEED, EPOCHS = 4.5, 7, 60
TRAIN, VALID = {"supercell": 44, "cubic": 16, "prototype": 8}, {"supercell": 6, "cubic": 2, "prototype": 1}
"""Frames per material: 16-atom supercells of the primitive cell, 8-atom cubic cells, other prototypes."""
RATTLES = (0.01, 0.03, 0.06, 0.1, 0.15)
"""Standard deviations of displacements for silicon, Å; other materials scale them with the lattice constant."""
APART = {"SiC": ("Si", 3.0)}
"""Distance (Å) kept between atoms of an element: below 3.0 Å Tersoff's Si-Si bond switches on, just inside the second
neighbours of SiC (3.06 Å); that kink is an artefact of the cutoff function and is left out of the training data."""


@dataclass
class Frame:
    """One labelled configuration: energy eV, forces eV/Å, stress eV/Å³ (3×3), and its material's force scale."""

    material: str
    atoms: Atoms
    energy: float
    forces: np.ndarray
    stress: np.ndarray
    scale: float = 1.0


def prototypes(material: str, a: float) -> list[Atoms]:
    """Return other crystals of about the same bond length, away from the distances where Tersoff's cutoffs act."""
    bond = a * math.sqrt(3) / 4
    if material == "SiC":
        wurtzite = bulk("SiC", "wurtzite", a=a / math.sqrt(2), c=a / math.sqrt(2) * math.sqrt(8 / 3))
        return [wurtzite * (2, 1, 1)]
    hexagonal = bulk(material + "C", "wurtzite", a=a / math.sqrt(2), c=a / math.sqrt(2) * math.sqrt(8 / 3))
    hexagonal.symbols[:] = material
    found = [hexagonal * (2, 1, 1), bulk(material, "sc", a=bond * 1.06) * (2, 2, 2)]
    if material != "Si":
        return found
    tin = Atoms(
        material * 4,
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), (0, 0.5, 0.25), (0.5, 0, 0.75)],
        cell=np.diag([0.9, 0.9, 0.9 * 0.55]) * a,
        pbc=True,
    )
    return [*found, tin * (1, 1, 2)]


def deform(atoms: Atoms, rng: np.random.Generator, unit: float, apart: tuple[str, float] | None) -> Atoms:
    """Strain, scale and rattle a cell (`unit` scales displacements); draw again while like atoms are too close."""
    while True:
        changed = atoms.copy()
        strain = rng.uniform(0.0, 0.03) * rng.uniform(-1.0, 1.0, (3, 3))
        strain = (strain + strain.T) / 2 + np.eye(3) * ((1 + rng.uniform(-0.08, 0.08)) ** (1 / 3) - 1)
        changed.set_cell(changed.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        changed.positions += rng.normal(0.0, rng.choice(RATTLES) * unit, changed.positions.shape)
        if apart is None or not len(neighbor_list("i", changed, {(apart[0], apart[0]): apart[1]})):
            return changed


def make_frames(teacher: EmpiricalPotential, counts: dict[str, int], rng: np.random.Generator) -> list[Frame]:
    """Return labelled configurations of every demonstration material."""
    frames = []
    for material, prototype in DEMO_MATERIALS.items():
        a = lattice_constant(teacher, material)
        unit = a / 5.43
        cells = [bulk(material, prototype, a=a) * (2, 2, 2)] * counts["supercell"]
        cells += [bulk(material, prototype, a=a, cubic=True)] * counts["cubic"]
        others = prototypes(material, a)
        cells += [others[index % len(others)] for index in range(counts["prototype"])]
        configurations = [deform(cell, rng, unit, APART.get(material)) for cell in cells]
        labels = teacher.evaluate(configurations)
        scale = float(np.sqrt(np.mean(np.concatenate([label.forces for label in labels]) ** 2)))
        for atoms, label in zip(configurations, labels, strict=True):
            xx, yy, zz, yz, xz, xy = label.stress
            stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            frames.append(Frame(material, atoms, label.energy, label.forces, stress, scale))
    return frames


def atomic_energies(frames: Sequence[Frame]) -> np.ndarray:
    """Return energies per element (eV) by least squares over compositions, as MACE's `--E0s average` does."""
    counts = np.array([[int((frame.atoms.numbers == z).sum()) for z in NUMBERS] for frame in frames])
    return np.linalg.lstsq(counts, np.array([frame.energy for frame in frames]), rcond=None)[0]


def build_model(energies: np.ndarray, neighbours: float, seed: int) -> torch.nn.Module:
    """Return an untrained model in torch's default dtype."""
    from mace import modules  # before e3nn, whose constants newer torch opens only with a setting that mace makes

    from e3nn import o3  # isort: skip

    torch.manual_seed(seed)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=R_MAX,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(NUMBERS),
        hidden_irreps=o3.Irreps("16x0e + 16x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=energies,
        avg_num_neighbors=neighbours,
        atomic_numbers=NUMBERS,
        correlation=2,
        gate=torch.nn.functional.silu,
        radial_MLP=[32, 32, 32],
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def make_graphs(frames: Sequence[Frame]) -> list:
    """Return mace's graphs of the frames in torch's default dtype."""
    from mace import data
    from mace.tools import AtomicNumberTable

    table = AtomicNumberTable(NUMBERS)
    graphs = []
    for frame in frames:
        config = data.Configuration(
            atomic_numbers=frame.atoms.numbers,
            positions=frame.atoms.positions,
            properties={"energy": frame.energy, "forces": frame.forces, "stress": frame.stress},
            property_weights={"energy": 1.0, "forces": 1.0, "stress": 1.0},
            cell=frame.atoms.cell.array,
            pbc=tuple(bool(flag) for flag in frame.atoms.pbc),
        )
        graphs.append(data.AtomicData.from_config(config, z_table=table, cutoff=R_MAX))
    return graphs


def residuals(model: torch.nn.Module, batch: dict, training: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return energy error per atom (eV), force errors (eV/Å) and stress errors (eV/Å³)."""
    out = model(dict(batch), training=training, compute_force=True, compute_stress=True)
    sizes = batch["ptr"][1:] - batch["ptr"][:-1]
    return (
        (out["energy"] - batch["energy"]) / sizes,
        out["forces"] - batch["forces"],
        out["stress"] - batch["stress"].view(-1, 3, 3),
    )


def collate(graphs: list, scales: np.ndarray, members: Sequence[int]) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """Return a batch, the force scale of each configuration and of each atom."""
    from mace.tools import torch_geometric

    batch = torch_geometric.Batch.from_data_list([graphs[index] for index in members]).to_dict()
    per_frame = torch.tensor(scales[list(members)], dtype=torch.get_default_dtype())
    return batch, per_frame, per_frame[batch["batch"]]


def train(
    model: torch.nn.Module, frames: Sequence[Frame], epochs: int, seed: int, batch_size: int = 4, lr: float = 0.01
) -> None:
    """Minimise mean force-error norms with small energy and stress terms; weights end as their moving average."""
    graphs = make_graphs(frames)
    scales = np.array([frame.scale for frame in frames])
    rng = np.random.default_rng(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-6, amsgrad=True)
    average = [parameter.detach().clone() for parameter in parameters]
    steps, step, start = epochs * math.ceil(len(graphs) / batch_size), 0, time.process_time()
    for epoch in range(epochs):
        order, total = rng.permutation(len(graphs)), 0.0
        for first in range(0, len(order), batch_size):
            batch, per_frame, per_atom = collate(graphs, scales, order[first : first + batch_size])
            for group in optimizer.param_groups:
                group["lr"] = lr * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            energy, forces, stress = residuals(model, batch, training=True)
            loss = (forces.norm(dim=1) / per_atom).mean()
            loss = loss + 2.0 * (energy.abs() / per_frame).mean() + 8.0 * (stress.abs().mean((1, 2)) / per_frame).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            step += 1
            decay = min(0.995, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, parameter in zip(average, parameters, strict=True):
                    mean.lerp_(parameter, 1 - decay)
            total += float(loss.detach())
        if epoch % 5 == 4 or epoch == epochs - 1:
            print(
                f"epoch {epoch + 1:3d} loss {total * batch_size / len(order):.4f} {time.process_time() - start:.0f} s",
                flush=True,
            )
    with torch.no_grad():
        for mean, parameter in zip(average, parameters, strict=True):
            parameter.copy_(mean)


def errors(model: torch.nn.Module, frames: Sequence[Frame]) -> dict[str, dict[str, float]]:
    """Return mean absolute errors per material: energy meV/atom, forces meV/Å, stress GPa."""
    graphs, found = make_graphs(frames), {}
    for material in dict.fromkeys(frame.material for frame in frames):
        members = [index for index, frame in enumerate(frames) if frame.material == material]
        batch, _, _ = collate(graphs, np.ones(len(frames)), members)
        energy, forces, stress = residuals(model, batch, training=False)
        found[material] = {
            "energy_mev_per_atom": 1e3 * float(energy.abs().mean()),
            "forces_mev_per_angstrom": 1e3 * float(forces.abs().mean()),
            "stress_gpa": GPA * float(stress.abs().mean()),
        }
    return found


def in_float64(trained: torch.nn.Module, energies: np.ndarray, neighbours: float) -> torch.nn.Module:
    """Return the trained weights in a model whose constants (Clebsch-Gordan, radial basis) were built in float64."""
    torch.set_default_dtype(torch.float64)
    model = build_model(energies, neighbours, seed=0)
    weights = dict(trained.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.eval()


def report(model: torch.nn.Module, validation: Sequence[Frame], file: Path | None) -> None:
    """Print errors on validation frames and the table of figures; write both as JSON where asked."""
    quality = errors(model, validation)
    for material, values in quality.items():
        print(material, ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
    rows = compare(model)
    print_table(rows)
    if file:
        content = json.dumps({"validation": quality, "figures": rows}, indent=1) + "\n"
        write_atomic(file, content.encode())


def main() -> None:
    """Make the frames, train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="model file to write")
    target.add_argument("--check", type=Path, help="model file to report on, without training")
    parser.add_argument("--report", type=Path, help="JSON file for the figures")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = time.process_time()

    teacher = load_empirical(teacher_bytes())
    rng = np.random.default_rng(options.seed)
    training, validation = make_frames(teacher, TRAIN, rng), make_frames(teacher, VALID, rng)
    if options.check:
        torch.set_default_dtype(torch.float64)
        report(unpack_model(options.check.read_bytes()), validation, options.report)
        return
    torch.set_default_dtype(torch.float32)
    neighbours = float(np.mean([graph.edge_index.shape[1] / graph.num_nodes for graph in make_graphs(training)]))
    energies = atomic_energies(training)
    model = build_model(energies, neighbours, options.seed)
    print(
        f"{len(training)} training frames, {len(validation)} validation frames, {neighbours:.1f} neighbours per atom,"
    )
    print(f"{sum(parameter.numel() for parameter in model.parameters())} weights, E0 {np.round(energies, 3)} eV")
    train(model, training, options.epochs, options.seed)
    model = in_float64(model, energies, neighbours)
    write_atomic(options.out, pack_model(model))
    report(model, validation, options.report)
    print(f"{time.process_time() - start:.0f} s of one core")


if __name__ == "__main__":
    main()
