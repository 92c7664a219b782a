"""Soft modes of rocksalt tellurides against temperature, by published potentials.

Effective harmonic phonons of the cubic cell at rest (no thermal expansion) in the cube of 64 atoms:

    python benchmarks/phonons/temperature.py 7net-0 Sn 50 100 300 --snapshots 32
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from pymatgen.core import Lattice, Structure

from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
from phonosmith.evaluation.phonons.mesh import sorted_frequencies
from phonosmith.evaluation.phonons.stability import judge_stability
from phonosmith.evaluation.thermal.effective import effective_harmonic
from phonosmith.harmonic.model import HarmonicModel
from phonosmith.potentials.registry import load, resolve

CUBE = [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]


def transverse_optical(model: HarmonicModel) -> float:
    """Return the mean of the three optical modes at Γ, THz (no Born charges: they are degenerate)."""
    frequencies = sorted_frequencies(model, np.zeros((1, 3)))[0]
    return float(np.delete(frequencies, np.argsort(np.abs(frequencies))[:3]).mean())


def main() -> None:
    """Print one line of JSON for the harmonic crystal and one for each temperature."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("potential")
    parser.add_argument("element", choices=["Sn", "Ge", "Pb"])
    parser.add_argument("temperatures", type=float, nargs="*", help="K")
    parser.add_argument("--snapshots", type=int, default=64)
    asked = parser.parse_args()
    ref = resolve(asked.potential)
    potential = load(ref)
    crystal = Structure.from_spacegroup(225, Lattice.cubic(6.2), [asked.element, "Te"], [[0, 0, 0], [0.5] * 3])
    result = evaluate_phonons(crystal.get_primitive_structure(), potential, supercell_matrix=CUBE, ref=ref)
    edge = (4 * float(result.model.phonon.primitive.volume)) ** (1 / 3)
    line = {"potential": ref.name, "crystal": f"{asked.element}Te", "lattice_angstrom": round(edge, 4)}
    print(json.dumps(line | {"harmonic_to_thz": round(transverse_optical(result.model), 3)}), flush=True)
    for kelvin in asked.temperatures:
        since = time.process_time()
        at = effective_harmonic(result.model, potential, kelvin, snapshots=asked.snapshots)
        model, summary = at.model, at.summary
        found = {
            "temperature_k": kelvin,
            "to_thz": round(transverse_optical(model), 3),
            "no_imaginary_modes": judge_stability(model).stable_practical,
            "curvature_to_thz": None if at.curvature is None else round(transverse_optical(at.curvature), 3),
            "curvature_min_thz": None if summary.curvature is None else round(summary.curvature.omega_min_thz, 3),
            "stable": at.stable,
            "iterations": summary.iterations,
            "converged": summary.converged,
            "free_energy_ev": round(summary.free_energy, 5),
            "processor_seconds": round(time.process_time() - since),
        }
        print(json.dumps(line | found), flush=True)


if __name__ == "__main__":
    main()
