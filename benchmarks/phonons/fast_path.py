"""Fast path against atomate2's PhononMaker with our collection and as shipped, in one process and one run.

Run: ``OMP_NUM_THREADS=1 python benchmarks/phonons/fast_path.py [--potential NAME] [--supercell 3] [--out FILE]``.

All routes relax the same cell of silicon with symmetry kept, displace it in the same supercell and end in frequencies.
One route is run once in a small cell before the clock starts, so that imports count for nobody. Wall seconds depend on
the machine and its load; the ratio is what to quote.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path


def forcefield_phonon_maker(ref, **options):
    """atomate2's force-field PhononMaker for one of our potentials, tight and symmetry-preserving."""
    from atomate2.forcefields.flows.phonons import PhononMaker
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker

    calculator = {
        "force_field_name": {"@module": "phonosmith.potentials.calculator", "@callable": "PotentialCalculator"},
        "calculator_kwargs": {"potential": ref.model_dump()},
    }
    return PhononMaker(
        bulk_relax_maker=ForceFieldRelaxMaker(
            **calculator, fix_symmetry=True, symprec=1e-3, steps=500, relax_kwargs={"fmax": 1e-5}
        ),
        static_energy_maker=ForceFieldStaticMaker(**calculator),
        phonon_displacement_maker=ForceFieldStaticMaker(**calculator),
        **{"symprec": 1e-4, "create_thermal_displacements": False, "store_force_constants": False, **options},
    )


def routes(ref, structure, matrix):
    """Return the flows to compare by name."""
    from phonosmith.evaluation.phonons.jobs import FastPhononMaker, PhononFlowMaker

    # atomate2's own defaults for what it computes and stores; only potential, symmetry and tolerances are ours
    shipped = forcefield_phonon_maker(ref, store_force_constants=True)
    return {
        "fast": lambda: FastPhononMaker().make(structure, ref, supercell_matrix=matrix),
        "flow with our collection": lambda: PhononFlowMaker(maker=forcefield_phonon_maker(ref), potential=ref).make(
            structure, supercell_matrix=matrix
        ),
        "flow as shipped": lambda: shipped.make(structure, supercell_matrix=matrix),
    }


def timed(make):
    """Run a flow locally in an empty folder and return (wall s, CPU s, last output)."""
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            work = make()
            wall, cpu = time.perf_counter(), time.process_time()
            found = run_locally(work, store=store, create_folders=True, ensure_success=True, log=False)
            spent = time.perf_counter() - wall, time.process_time() - cpu
        finally:
            os.chdir(here)
    last = work.output.uuid if hasattr(work, "output") else work.uuid
    return *spent, found[last][1].output, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", default="embedded-reference")
    parser.add_argument("--supercell", type=int, default=3, help="multiple of the 8-atom cubic cell (3: 216 atoms)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    import numpy as np
    from pymatgen.core import Lattice, Structure

    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.evaluation.phonons.mesh import mesh_frequencies
    from phonosmith.evaluation.phonons.summary import harmonic_from_document
    from phonosmith.potentials.registry import resolve

    structure = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.45), ["Si"], [[0, 0, 0]])
    ref = resolve(arguments.potential)
    matrix = np.diag([arguments.supercell] * 3).tolist()
    flows = routes(ref, structure, matrix)
    timed(routes(ref, structure, np.eye(3, dtype=int).tolist())["flow as shipped"])
    results, documents = {}, {}
    for name, make in flows.items():
        wall, cpu, output, _ = timed(make)
        documents[name] = output
        results[name] = {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}
        print(f"{name:28s} {wall:8.2f} s wall {cpu:8.2f} s CPU", flush=True)
    sides = [
        mesh_frequencies(harmonic_from_document(documents[name], default_artefacts()), 12).frequencies
        for name in ("fast", "flow with our collection")
    ]
    summary = {
        "potential": ref.name,
        "atoms": 8 * arguments.supercell**3,
        "routes": results,
        "largest_difference_thz": float(np.abs(sides[0] - sides[1]).max()),
        "wall_ratio_shipped_over_fast": round(results["flow as shipped"]["wall_s"] / results["fast"]["wall_s"], 2),
        "wall_ratio_collected_over_fast": round(
            results["flow with our collection"]["wall_s"] / results["fast"]["wall_s"], 2
        ),
    }
    print(json.dumps(summary, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
