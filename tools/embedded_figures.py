"""Lattice, elastic and phonon figures of the embedded foundation, its teacher and the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from phonosmith.potentials.ase_potential import AsePotential
from phonosmith.potentials.base import Potential
from phonosmith.potentials.embedded import DEMO_MATERIALS, lattice_constant, reference_bytes, teacher_bytes
from phonosmith.potentials.empirical.potential import load_empirical

ELEMENTS = ("C", "Si", "Ge")
GPA = 160.21766208
"""1 eV/Å³."""


def as_potential(model: torch.nn.Module) -> AsePotential:
    """Return the model as a potential."""
    from mace.calculators import MACECalculator

    return AsePotential(lambda: MACECalculator(models=[model], device="cpu", default_dtype="float64"), ELEMENTS)


def equilibrium(potential: Potential, material: str, guess: float) -> float:
    """Return the lattice constant (Å) without pressure."""
    from scipy.optimize import brentq

    def tension(a: float) -> float:
        (found,) = potential.evaluate([bulk(material, DEMO_MATERIALS[material], a=a)])
        return float(found.stress[:3].mean())

    return float(brentq(tension, 0.96 * guess, 1.04 * guess, xtol=1e-8))


def frequencies(potential: Potential, material: str, a: float) -> tuple[np.ndarray, np.ndarray]:
    """Return phonon frequencies (THz) and weights on a Γ-centred 12³ mesh from a 3×3×3 primitive supercell."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = bulk(material, DEMO_MATERIALS[material], a=a)
    atoms = PhonopyAtoms(symbols=cell.symbols, cell=cell.cell.array, scaled_positions=cell.get_scaled_positions())
    phonon = Phonopy(atoms, 3 * np.eye(3, dtype=int), primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=0.01)
    frames = [
        Atoms(moved.symbols, cell=moved.cell, scaled_positions=moved.scaled_positions, pbc=True)
        for moved in phonon.supercells_with_displacements
    ]
    phonon.forces = [found.forces for found in potential.evaluate(frames, stress=False)]
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    phonon.run_mesh([12, 12, 12], is_gamma_center=True)
    return np.array(phonon.mesh.frequencies), np.array(phonon.mesh.weights, dtype=float)


def elastic(potential: Potential, material: str, a: float, size: float = 2e-3) -> tuple[float, float, float]:
    """Return C11, C12 and C44 (GPa); the inner displacement is relaxed with the Hessian of the two-atom cell."""
    cell = bulk(material, DEMO_MATERIALS[material], a=a)
    hessian = potential.hessian_columns(cell, range(6))[3:, 3:]

    def stress(strain: np.ndarray) -> np.ndarray:
        moved = cell.copy()
        moved.set_cell(cell.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        for _ in range(3):
            (found,) = potential.evaluate([moved])
            moved.positions[1] += np.linalg.solve(hessian, found.forces[1])
        (found,) = potential.evaluate([moved])
        return found.stress

    axial, shear = np.diag([size, 0.0, 0.0]), np.zeros((3, 3))
    shear[1, 2] = shear[2, 1] = size / 2
    along = (stress(axial) - stress(-axial)) / (2 * size) * GPA
    across = (stress(shear) - stress(-shear)) / (2 * size) * GPA
    return float(along[0]), float((along[1] + along[2]) / 2), float(across[3])


def compare(model: torch.nn.Module) -> list[dict[str, float | str]]:
    """Return lattice, elastic and phonon figures of teacher, foundation and reference for every material."""
    potentials: dict[str, Potential] = {
        "reference": load_empirical(reference_bytes()),
        "teacher": load_empirical(teacher_bytes()),
        "foundation": as_potential(model),
    }
    rows: list[dict[str, float | str]] = []
    for material in DEMO_MATERIALS:
        truth: tuple[float, np.ndarray] | None = None
        for name, potential in potentials.items():
            guess = truth[0] if truth else lattice_constant(load_empirical(reference_bytes()), material)
            a = equilibrium(potential, material, guess)
            values, weights = frequencies(potential, material, a)
            truth = truth or (a, values)
            c11, c12, c44 = elastic(potential, material, a)
            (found,) = potential.evaluate([bulk(material, DEMO_MATERIALS[material], a=a)])
            rows.append(
                {
                    "material": material,
                    "potential": name,
                    "a_angstrom": a,
                    "volume_error_percent": 100 * ((a / truth[0]) ** 3 - 1),
                    "energy_ev_per_atom": found.energy / 2,
                    "omega_max_thz": float(values.max()),
                    "omega_max_error_percent": 100 * float(values.max() / truth[1].max() - 1),
                    "omega_min_thz": float(values.min()),
                    "phonon_mae_thz": float(np.average(np.abs(values - truth[1]).mean(axis=1), weights=weights)),
                    "c11_gpa": c11,
                    "c12_gpa": c12,
                    "c44_gpa": c44,
                }
            )
    return rows


def print_table(rows: Sequence[dict[str, float | str]]) -> None:
    """Print the comparison as a Markdown table."""
    titles = (
        "material, potential, a Å, V %, E eV/atom, ω_max THz, ω_max %, ω_min THz, MAE THz, C11 GPa, C12 GPa, C44 GPa"
    )
    print("| " + titles.replace(", ", " | ") + " |")
    print("|---" * 12 + "|")
    for row in rows:
        print(
            "| {material} | {potential} | {a_angstrom:.4f} | {volume_error_percent:+.2f} | {energy_ev_per_atom:.3f} |"
            " {omega_max_thz:.2f} | {omega_max_error_percent:+.1f} | {omega_min_thz:.3f} | {phonon_mae_thz:.3f} |"
            " {c11_gpa:.0f} | {c12_gpa:.0f} | {c44_gpa:.0f} |".format(**row)
        )
