"""Phonons of wurtzite SiC with Nequix: our batched evaluator against a loop over ``NequixCalculator``.

Run: ``OMP_NUM_THREADS=1 python benchmarks/evaluator/nequix_phonons.py MODEL.nqx OTHER.nqx``

Each way is given the same displaced cells, float32. Printed are CPU and wall seconds, what the compiler took included:
that is most of it. ``first`` is a process that never ran before, ``second model`` another model of the same
architecture in the same process, ``next process`` a process that finds the compiled program on disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np


def cells():
    """Return symmetry-reduced displaced cells of wurtzite SiC."""
    from ase.build import bulk
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.evaluation.phonons.fastpath import displaced_cells
    from phonosmith.harmonic.model import new_phonon, to_phonopy_atoms

    crystal = AseAtomsAdaptor.get_structure(bulk("SiC", "wurtzite", a=3.09, c=5.05))
    return displaced_cells(new_phonon(to_phonopy_atoms(crystal), np.diag([2, 2, 1]).tolist(), "auto", 1e-5))


def timed(work):
    """Return CPU and wall seconds of a function, and its result."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}, found


def ours(files, frames):
    """Evaluate with several models one after the other."""
    from phonosmith.potentials.registry import load

    results = []
    for file in files:
        potential = load(file, dtype="float32")
        spent, found = timed(lambda potential=potential: potential.evaluate(frames, stress=False))
        results.append((spent, [one.forces for one in found]))
    return results


def theirs(file, frames):
    """Evaluate with one ASE calculator in a loop."""
    from nequix.calculator import NequixCalculator

    calculator = NequixCalculator(model_path=file, backend="jax", use_kernel=False)

    def loop():
        found = []
        for atoms in frames:
            atoms.calc = calculator
            found.append(atoms.get_forces())
        return found

    return timed(loop)


def main():
    """Run all ways, each in a process of its own."""
    if sys.argv[1] == "worker":
        way, *files = sys.argv[2:]
        frames = cells()
        if way == "theirs":
            spent, forces = theirs(files[0], frames)
            print(json.dumps([spent]))
        else:
            results = ours(files, frames)
            forces = results[0][1]
            print(json.dumps([spent for spent, _ in results]))
        print(json.dumps([len(frames), len(frames[0]), float(np.sum(np.abs(forces)))]))
        return
    one, other = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as home:
        fresh = {**os.environ, "PHONOSMITH_HOME": home}
        for label, arguments in (
            ("calculator in a loop", ["theirs", one]),
            ("ours: first, second model", ["ours", one, other]),
            ("ours: next process", ["ours", one]),
        ):
            command = [sys.executable, __file__, "worker", *arguments]
            output = subprocess.run(command, env=fresh, check=True, capture_output=True, text=True).stdout
            print(label, *output.splitlines(), flush=True)


if __name__ == "__main__":
    main()
