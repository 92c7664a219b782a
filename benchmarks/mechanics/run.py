"""Fast path against atomate2's ElasticMaker and EosMaker: same numbers, wall and CPU ratios, in one run.

Run: ``OMP_NUM_THREADS=1 python benchmarks/mechanics/run.py [--repeats 5] [--materials Si SiC] [--out FILE]``.

Routes take turns (fast, flow, flow as shipped, fast, ...), so that the load of the machine falls on all; each runs once
before the clock starts, so that imports count for nobody. Quote the ratios. "flow" is atomate2's flow with the
calculations of our force-field engine and our collecting job; "flow as shipped" has atomate2's own force-field job
(symmetry kept, equal thresholds) and its own fit.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

CALCULATOR = {"@module": "phonosmith.potentials.calculator", "@callable": "PotentialCalculator"}


def routes(ref, structure):
    """Return the flows to compare, by property and route."""
    from atomate2.common.flows.eos import CommonEosMaker
    from atomate2.forcefields.flows.elastic import ElasticMaker
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    from phonosmith.evaluation.mechanics.elastic import SYMPREC
    from phonosmith.evaluation.mechanics.jobs import ElasticFlowMaker, EosFlowMaker, FastElasticMaker, FastEosMaker
    from phonosmith.reference.engines import make_engine
    from phonosmith.reference.protocol import ReferenceProtocol

    engine = make_engine("forcefield", ReferenceProtocol(), ref)
    common = {"force_field_name": dict(CALCULATOR), "calculator_kwargs": {"potential": ref.model_dump()}, "steps": 2000}
    relax = ForceFieldRelaxMaker(**common, fix_symmetry=True, symprec=1e-3, relax_kwargs={"fmax": 4.75e-4})
    strained = ForceFieldRelaxMaker(**common, relax_cell=False, relax_kwargs={"fmax": 1e-4})
    shipped_elastic = ElasticMaker(symprec=SYMPREC, bulk_relax_maker=relax, elastic_relax_maker=strained)
    shipped_eos = CommonEosMaker(
        initial_relax_maker=relax, eos_relax_maker=strained, linear_strain=(-0.017, 0.0164), number_of_frames=11
    )
    return {
        "elastic": {
            "fast": lambda: FastElasticMaker().make(structure, ref),
            "flow": lambda: ElasticFlowMaker(engine=engine).make(structure),
            "flow as shipped": lambda: shipped_elastic.make(structure),
        },
        "eos": {
            "fast": lambda: FastEosMaker().make(structure, ref),
            "flow": lambda: EosFlowMaker(engine=engine).make(structure),
            "flow as shipped": lambda: shipped_eos.make(structure),
        },
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
    return *spent, found[work.output.uuid][1].output


def numbers(kind, output):
    """Return moduli (GPa) and volume (Å³) of our document or atomate2's."""
    if kind == "elastic":
        if hasattr(output, "fit"):
            tensor, moduli = output.fit.tensor, output.fit.moduli
            bulk, shear = moduli.bulk_vrh, moduli.shear_vrh
        else:
            tensor = output.elastic_tensor.ieee_format
            bulk, shear = output.derived_properties.k_vrh, output.derived_properties.g_vrh
        return {"c11": tensor[0][0], "c12": tensor[0][1], "c44": tensor[3][3], "bulk_vrh": bulk, "shear_vrh": shear}
    if hasattr(output, "fit"):
        return {"bulk_modulus": output.fit.bulk_modulus, "volume": output.fit.volume}
    found = output["relax"]["EOS"]["birch_murnaghan"]
    return {"bulk_modulus": found["b0 GPa"], "volume": found["v0"]}


def compare(kind, flows, repeats):
    """Return medians of the routes of one property, their numbers and ratios."""
    spent = {name: [] for name in flows}
    results = {}
    for turn in range(repeats + 1):
        for name, make in flows.items():
            wall, cpu, output = timed(make)
            if turn:
                spent[name].append((wall, cpu))
            results[name] = {key: round(float(value), 4) for key, value in numbers(kind, output).items()}
    rows = {
        name: {
            "wall_s": round(statistics.median(wall for wall, _ in values), 3),
            "cpu_s": round(statistics.median(cpu for _, cpu in values), 3),
            **results[name],
        }
        for name, values in spent.items()
    }
    fast = rows["fast"]
    ratios = {
        f"{quantity}_ratio_{name.replace(' ', '_')}_over_fast": round(
            rows[name][f"{quantity}_s"] / fast[f"{quantity}_s"], 2
        )
        for name in ("flow", "flow as shipped")
        for quantity in ("wall", "cpu")
    }
    return {"routes": rows, **ratios}


def main() -> None:
    """Run all materials and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", default="embedded-reference")
    parser.add_argument("--materials", nargs="+", default=["Si", "SiC"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.potentials.embedded import demo_structure
    from phonosmith.potentials.registry import resolve

    ref = resolve(arguments.potential)
    summary = {"potential": ref.name, "repeats": arguments.repeats, "materials": {}}
    for name in arguments.materials:
        atoms = demo_structure(name)
        atoms.set_cell(atoms.cell * 1.005, scale_atoms=True)
        structure = AseAtomsAdaptor.get_structure(atoms)
        found = {kind: compare(kind, flows, arguments.repeats) for kind, flows in routes(ref, structure).items()}
        found["atoms"] = len(structure)
        for route in ("fast", "flow"):
            elastic, eos = found["elastic"]["routes"][route]["bulk_vrh"], found["eos"]["routes"][route]["bulk_modulus"]
            found[f"bulk_eos_over_elastic_{route}"] = round(eos / elastic, 5)
        summary["materials"][name] = found
    print(json.dumps(summary, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
