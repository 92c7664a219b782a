"""Five relaxations of silicon as one batch against ASE's FIRE one by one: same numbers, less time.

    python benchmarks/sampling/batched_fire.py --foundation embedded --out benchmarks/sampling/batched_fire.json

Where torch-sim is installed (torch-sim-atomistic) and the foundation is a MACE, its batched FIRE does the same. All
run in this process, one after the other, so that ratios mean something on a busy machine; times are processor times.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ase import Atoms
from ase.optimize import FIRE
from pymatgen.core import Lattice, Structure

from phonosmith.potentials import registry
from phonosmith.sampling.fire import relax_batch
from phonosmith.sampling.ladder import volume_ladder
from phonosmith.sampling.protocol import perfect_supercell
from phonosmith.structures.standard import standard_primitive
from phonosmith.structures.supercell import sampling_supercell


def torch_sim_relaxation(foundation: str, fmax: float, steps: int) -> Callable[[list[Atoms]], list[float]] | None:
    """Return what relaxes cells with torch-sim's FIRE (as ASE has it) and gives energies, eV; None without it."""
    if importlib.util.find_spec("torch_sim") is None:
        return None
    import torch_sim
    from torch_sim.models.mace import MaceModel

    with tempfile.TemporaryDirectory() as folder:
        file = registry.export_plain(registry.resolve(foundation), Path(folder) / "foundation.model")
        module = torch.load(file, weights_only=False).double()
    model = MaceModel(module, device=torch.device("cpu"), dtype=torch.float64, compute_stress=False)
    converged = torch_sim.generate_force_convergence_fn(fmax, include_cell_forces=False)

    def relax(frames: list[Atoms]) -> list[float]:
        # converged systems leave the batch after every step, as in ours
        final = torch_sim.optimize(
            frames,
            model,
            optimizer=torch_sim.optimizers.fire,
            convergence_fn=converged,
            max_steps=steps,
            steps_between_swaps=1,
        )
        return [float(energy) for energy in final.energy]

    return relax


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
    simulated = torch_sim_relaxation(options.foundation, options.fmax, options.steps)
    rows = []
    for cell in options.cells:
        supercell = perfect_supercell(primitive, sampling_supercell(primitive, cell))
        frames = [start.atoms for start in volume_ladder(supercell, 1)]
        potential.evaluate(frames[:1])  # warm up
        alone, together, theirs = [], [], []
        if simulated is not None:
            simulated(frames[:1])
        for _ in range(options.repeat):
            start = time.process_time()
            energies, steps, calculator = [], [], potential.calculator()
            for frame in frames:
                atoms = frame.copy()
                atoms.calc = calculator
                optimizer = FIRE(atoms, logfile=None)
                optimizer.run(fmax=options.fmax, steps=options.steps)
                energies.append(atoms.get_potential_energy())
                steps.append(optimizer.nsteps)
            alone.append(time.process_time() - start)
            start = time.process_time()
            trajectories = relax_batch(frames, potential, fmax=options.fmax, max_steps=options.steps)
            together.append(time.process_time() - start)
            if simulated is not None:
                start = time.process_time()
                peers = simulated(frames)
                theirs.append(time.process_time() - start)
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
        if theirs:
            pairs = zip(peers, energies, strict=True)
            row |= {
                "torch_sim_seconds": min(theirs),
                "torch_sim_over_batched": min(theirs) / min(together),
                "torch_sim_largest_energy_difference_ev": max(abs(peer - energy) for peer, energy in pairs),
            }
        rows.append(row)
        print(row)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
