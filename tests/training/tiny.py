"""Small models and labelled structures shared by the training tests."""

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator


def label(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.calc = EMT()
    energy, forces = copy.get_potential_energy(), copy.get_forces()
    stress = copy.get_stress(voigt=True) if all(copy.pbc) else None
    frame = atoms.copy()
    results = {"energy": energy, "forces": forces}
    if stress is not None:
        results["stress"] = stress
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def frames(count: int, seed: int = 0, symbols: str = "Cu", rattle: float = 0.08) -> list[Atoms]:
    """Rattled, strained 4-atom fcc cells labelled with EMT; a second symbol replaces half of the atoms."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        if symbols == "CuAl":
            atoms.symbols[:2] = "Al"
        elif symbols == "Al":
            atoms = bulk("Al", cubic=True)
        strain = rng.uniform(-0.02, 0.02, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        found.append(label(atoms))
    return found


def model(
    numbers=(13, 29), seed: int = 0, channels: int = 8, heads=None, first="RealAgnosticInteractionBlock", **settings
) -> torch.nn.Module:
    """Random two-layer ScaleShiftMACE in float64."""
    # mace first: it teaches torch to load e3nn's constants
    from mace import modules  # isort: skip
    from e3nn import o3

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return modules.ScaleShiftMACE(
                **{
                    "r_max": 3.5,
                    "num_bessel": 4,
                    "num_polynomial_cutoff": 5,
                    "max_ell": 2,
                    "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
                    "interaction_cls_first": modules.interaction_classes[first],
                    "num_interactions": 2,
                    "num_elements": len(numbers),
                    "hidden_irreps": o3.Irreps(f"{channels}x0e + {channels}x1o"),
                    "MLP_irreps": o3.Irreps("8x0e"),
                    "atomic_energies": np.linspace(-0.5, 0.5, len(numbers)),
                    "avg_num_neighbors": 12.0,
                    "atomic_numbers": list(numbers),
                    "correlation": 2,
                    "gate": torch.nn.functional.silu,
                    "radial_MLP": [16, 16],
                    "radial_type": "bessel",
                    "atomic_inter_scale": 0.5,
                    "atomic_inter_shift": 0.1,
                    **settings,
                }
            )
    finally:
        torch.set_default_dtype(before)
