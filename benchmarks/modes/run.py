"""What following modes costs: energies and seconds of plain grids, with symmetry, and coarse to fine.

    python benchmarks/modes/run.py > benchmarks/modes/results.json

Crystals of anharmonic bonds with closed-form wells (one to four amplitudes) and simple cubic germanium by an empirical
potential (two modes at M, three at R). Every way surveys the same spaces of amplitudes; the scan that brackets the
minima is counted.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.manifest import host_kind, package_versions
from phonosmith.evaluation.modes.grid import GridOptions, Sample, run_survey
from phonosmith.evaluation.modes.search import find_imaginary_modes
from phonosmith.evaluation.modes.supercell import ModeSpace, mode_space
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.relax import relax_atoms
from phonosmith.potentials.registry import load, resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.bond_crystal import bond_potential

WAYS = {"plain": {"symmetry": False}, "symmetry": {}, "symmetry, coarse to fine": {"coarse": True}}


def stiff() -> Any:
    springs = np.zeros((3, 3, 3))
    springs[0], springs[1] = 2.0 + 2.0 * np.eye(3), 1.0
    return springs


def crystal(edges: list[float], springs: Any, supercell: list[int], **options: Any) -> tuple[Any, Any]:
    potential = bond_potential(["Si"], edges, springs, np.full((3, 3), 2.0), **options)
    structure = Structure(Lattice.orthorhombic(*edges), ["Si"], [[0, 0, 0]])
    return harmonic_from_potential(structure, potential, np.diag(supercell)), potential


def tripled_well(sextic: float) -> float:
    """Depth per atom of one polarisation at q = 1/3, eV."""
    alpha = sum(k * np.sin(np.pi * n / 3) ** 2 for n, k in zip((1, 2, 3), (-1.0, -0.5, 0.8), strict=True))
    beta, gamma = 2.0 / 4 * 3 / 8 * 9, sextic / 6 * 9 / 32 * 27
    square = (-beta + np.sqrt(beta**2 - 3 * alpha * gamma)) / (3 * gamma)
    return float(alpha * square + beta * square**2 + gamma * square**3)


def cases() -> list[tuple[str, Any, Any, Any, float | None]]:
    """Return (name, model, potential, which mode, closed-form depth in eV/atom)."""
    found: list[tuple[str, Any, Any, Any, float | None]] = []
    springs = stiff()
    springs[0, 0, 2], springs[1, 0, 2] = -1.0, 1.0
    doubled = crystal([3.0, 3.3, 3.7], springs, [6, 4, 4])
    found.append(("double well at X", *doubled, lambda mode: mode.label == "X", -0.125))
    springs = stiff()
    springs[:, 0, 2] = -1.0, -0.5, 0.8
    sextic = np.full((3, 3), 4.0)
    tripled = crystal([3.0, 3.3, 3.7], springs, [6, 4, 4], sextic=sextic)
    found.append(("complex q = 1/3", *tripled, lambda mode: abs(abs(mode.q[0]) - 1 / 3) < 1e-6, tripled_well(4.0)))
    springs = np.zeros((3, 3, 3))
    springs[0], springs[1], springs[2] = -0.2, 1.0, 0.05
    salt = bond_potential(["Na", "Cl"], [3.0] * 3, springs, np.full((3, 3), 2.0), cross=[0.5] * 3)
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    model = harmonic_from_potential(structure, salt, 2 * np.eye(3, dtype=int))
    depth = -((1.5 * 6 * -0.15) ** 2) / (4 * (4.5 * 2.0 + 9 * 0.5)) / 2
    found.append(("threefold at Γ", model, salt, lambda mode: mode.label == "GAMMA", depth))
    springs = stiff()
    springs[:, 2, 0] = springs[:, 2, 1] = -1.0, -0.5, 0.8
    fourfold = crystal([3.0, 3.0, 3.6], springs, [4, 4, 6], sextic=sextic)
    both = 2 * tripled_well(4.0)
    found.append(("twofold at complex q", *fourfold, lambda mode: abs(abs(mode.q[2]) - 1 / 3) < 1e-6, both))
    potential = load(resolve("embedded-reference"))
    atoms = relax_atoms(bulk("Ge", "sc", a=2.8), potential, fmax=1e-4).atoms
    germanium = harmonic_from_potential(AseAtomsAdaptor.get_structure(atoms), potential, 4 * np.eye(3, dtype=int))
    found.append(("cubic Ge at M", germanium, potential, lambda mode: mode.label == "M", None))
    found.append(("cubic Ge at R", germanium, potential, lambda mode: mode.label == "R", None))
    return found


def surveyed(space: ModeSpace, potential: Any, options: GridOptions) -> tuple[Any, float]:
    def sample(amplitudes: Any) -> list[Sample]:
        results = potential.evaluate([space.frame(point) for point in amplitudes], stress=False)
        return [Sample(one.energy, tuple(space.gradient(one.forces))) for one in results]

    start = time.perf_counter()
    return run_survey(space, options, sample), time.perf_counter() - start


def measure() -> list[dict[str, Any]]:
    rows = []
    for name, model, potential, wanted, depth in cases():
        mode = next(mode for mode in find_imaginary_modes(model) if mode.skipped is None and wanted(mode))
        space = mode_space(model.phonon, mode.q, mode.eigenvectors)
        row: dict[str, Any] = {
            "case": name,
            "dimension": space.dimension,
            "atoms": len(space.atoms),
            "operations": len(space.operations),
            "closed_form_ev_per_atom": depth,
        }
        for way, choice in WAYS.items():
            found, seconds = surveyed(space, potential, GridOptions(**choice))
            lowest = min((one.energy for one in found.minima), default=0.0) / len(space.atoms)
            row[way] = {
                "energies": found.n_energies,
                "seconds": round(seconds, 2),
                "minima": len(found.minima),
                "lowest_ev_per_atom": lowest,
            }
            print(f"{name}: {way}: {found.n_energies} energies, {seconds:.2f} s, {lowest:.6f}", file=sys.stderr)
        rows.append(row)
    return rows


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    result = {"host": host_kind(), "packages": package_versions(), "rows": measure()}
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")
