"""Five relaxations of silicon as one batch against ASE's FIRE one by one: same numbers, less time.

    python benchmarks/sampling/batched_fire.py --foundation embedded --out benchmarks/sampling/batched_fire.json

Both run in this process, one after the other, so that ratios mean something on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ase.optimize import FIRE
from pymatgen.core import Lattice, Structure

from phonosmith.potentials import registry
from phonosmith.sampling.fire import relax_batch
from phonosmith.sampling.ladder import volume_ladder
from phonosmith.sampling.protocol import perfect_supercell
from phonosmith.structures.standard import standard_primitive
from phonosmith.structures.supercell import sampling_supercell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--foundation", default="embedded")
    parser.add_argument("--cells", nargs="+", default=["primitive", "small", "large"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--fmax", type=float, default=1e-4)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    potential = registry.load(options.foundation, device=options.device)
    primitive = standard_primitive(Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]))
    rows = []
    for cell in options.cells:
        supercell = perfect_supercell(primitive, sampling_supercell(primitive, cell))
        frames = [start.atoms for start in volume_ladder(supercell, 1)]
        potential.evaluate(frames[:1])  # warm up
        alone, together = [], []
        for _ in range(options.repeat):
            start = time.perf_counter()
            energies, steps, calculator = [], [], potential.calculator()
            for frame in frames:
                atoms = frame.copy()
                atoms.calc = calculator
                optimizer = FIRE(atoms, logfile=None)
                optimizer.run(fmax=options.fmax, steps=options.steps)
                energies.append(atoms.get_potential_energy())
                steps.append(optimizer.nsteps)
            alone.append(time.perf_counter() - start)
            start = time.perf_counter()
            trajectories = relax_batch(frames, potential, fmax=options.fmax, max_steps=options.steps)
            together.append(time.perf_counter() - start)
        error = max(abs(item.energies[-1] - energy) for item, energy in zip(trajectories, energies, strict=True))
        row = {
            "foundation": options.foundation,
            "cell": cell,
            "atoms": len(supercell),
            "steps_ase": steps,
            "steps_batched": [item.n_steps for item in trajectories],
            "largest_energy_difference_ev": error,
            "seconds_one_by_one": min(alone),
            "seconds_batched": min(together),
            "speed_up": min(alone) / min(together),
        }
        rows.append(row)
        print(row)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
