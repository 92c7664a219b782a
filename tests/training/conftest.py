"""Small models and labelled structures shared by the training tests."""

import copy

import numpy as np
import pytest
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


@pytest.fixture(scope="session")
def tiny_model():
    """Return the builder of small models; each kind is compiled once and copied."""
    built = {}

    def copy_of(**settings):
        key = repr(sorted(settings.items()))
        if key not in built:
            built[key] = model(**settings)
        return copy.deepcopy(built[key])

    return copy_of


@pytest.fixture(scope="session")
def tiny_frames():
    """Return the builder of labelled cells."""
    return frames


@pytest.fixture(scope="session")
def copper_phonon():
    """Return phonopy's object of fcc copper with EMT force constants in a 2x2x2 cubic supercell (32 atoms)."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = bulk("Cu", cubic=True)
    phonon = Phonopy(
        PhonopyAtoms(numbers=cell.numbers, cell=cell.cell.array, positions=cell.positions),
        supercell_matrix=np.eye(3, dtype=int) * 2,
        primitive_matrix="F",
    )
    phonon.generate_displacements(distance=0.01)
    forces = []
    for displaced in phonon.supercells_with_displacements:
        atoms = Atoms(numbers=displaced.numbers, positions=displaced.positions, cell=displaced.cell, pbc=True)
        atoms.calc = EMT()
        forces.append(atoms.get_forces())
    phonon.forces = np.array(forces)
    phonon.produce_force_constants()
    return phonon


def mace_batch(frames_, module, heads=("Default",), head="Default"):
    """Build a batch with mace's own data pipeline, independent of ours."""
    from mace import data as mace_data
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable([int(z) for z in module.atomic_numbers])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = []
        for atoms in frames_:
            plain = atoms.copy()
            plain.info["E"] = atoms.get_potential_energy()
            plain.arrays["F"] = atoms.get_forces()
            plain.info["S"] = atoms.get_stress()
            keys = mace_data.KeySpecification(info_keys={"energy": "E", "stress": "S"}, arrays_keys={"forces": "F"})
            config = mace_data.config_from_atoms(plain, key_specification=keys, head_name=head)
            found.append(
                mace_data.AtomicData.from_config(config, z_table=table, cutoff=float(module.r_max), heads=list(heads))
            )
        return torch_geometric.Batch.from_data_list(found)
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def mace_own_batch():
    """Return the builder of batches by mace's own pipeline."""
    return mace_batch
