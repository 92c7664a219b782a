"""Bulk and shear moduli of ten cubic binaries by Nequix, beside PBE moduli of the Materials Project: a sanity table.

Run, in an environment with ``nequix`` and JAX for the CPU beside phonosmith:
``JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 python benchmarks/mechanics/matcalc.py SET MODEL [--out FILE]``
with SET = matcalc's ``mp-binary-pbe-elasticity-2025.1.json.gz`` and MODEL = ``nequix-mp-1.nqx``.

Each crystal is relaxed with its symmetry kept; then come `evaluate_elastic` and `evaluate_eos`. The potential works in
float32, so thresholds are looser than the defaults.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
import warnings
from pathlib import Path

CRYSTALS = {
    "NaCl": "Fm-3m", "LiF": "Fm-3m", "MgO": "Fm-3m", "CaO": "Fm-3m", "TiC": "Fm-3m",
    "SiC": "F-43m", "GaAs": "F-43m", "AlAs": "F-43m", "CsCl": "Pm-3m", "AlNi": "Pm-3m",
}  # fmt: skip
FORCE, STRESS_GPA = 1e-4, 0.02
EDGES = 256
"""Graphs are padded to multiples of this many edges, so that JAX compiles few shapes."""


def pick(path, crystals):
    """Return, for each formula, the two-atom entry of the set with the space group asked."""
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    with gzip.open(path, "rt") as handle:
        entries = json.load(handle)
    chosen = {}
    for entry in entries:
        sites = entry["structure"]["sites"]
        if entry["formula"] not in crystals or len(sites) != 2:
            continue
        structure = Structure.from_dict(entry["structure"])
        group = SpacegroupAnalyzer(structure, symprec=1e-2).get_space_group_symbol()
        if group == crystals[entry["formula"]]:
            chosen[entry["formula"]] = entry | {"structure": structure, "spacegroup": group}
    return [chosen[name] for name in crystals if name in chosen]


def nequix_potential(path):
    """Return Nequix as a potential: one calculator for all, padded to few shapes."""
    import jraph
    from ase.data import chemical_symbols
    from nequix.calculator import NequixCalculator

    from phonosmith.potentials.ase_potential import AsePotential

    class Padded(NequixCalculator):
        def _pad_graph_jax(self, graph, numbers_changed=False):  # noqa: ARG002
            edges = EDGES * (int(graph.n_edge[0]) // EDGES + 1)
            nodes = 8 * (int(graph.n_node[0]) // 8 + 1)
            return jraph.pad_with_graphs(graph, n_node=nodes, n_edge=edges, n_graph=2)

    calculator = Padded(model_path=str(path), backend="jax", use_kernel=False)
    known = [chemical_symbols[number] for number in calculator.config["atomic_numbers"]]
    return AsePotential(lambda: calculator, known)


def evaluate(entry, potential, name):
    """Return one row of the table."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.evaluation.mechanics.fastpath import evaluate_elastic, evaluate_eos
    from phonosmith.evaluation.relax import relax_atoms

    start = time.perf_counter()
    atoms = AseAtomsAdaptor.get_atoms(entry["structure"], msonable=False)
    relaxed = relax_atoms(atoms, potential, fmax=FORCE, smax_gpa=STRESS_GPA)
    structure = AseAtomsAdaptor.get_structure(relaxed.atoms)
    elastic = evaluate_elastic(structure, potential, method=name, fmax=FORCE)
    eos = evaluate_eos(structure, potential, method=name, fmax=FORCE)
    moduli = elastic.fit.moduli
    return {
        "mp_id": entry["mp_id"],
        "formula": entry["formula"],
        "spacegroup": entry["spacegroup"],
        "pbe_bulk_vrh_gpa": entry["bulk_modulus_vrh"],
        "pbe_shear_vrh_gpa": entry["shear_modulus_vrh"],
        "potential_bulk_vrh_gpa": round(moduli.bulk_vrh, 2),
        "potential_shear_vrh_gpa": round(moduli.shear_vrh, 2),
        "potential_bulk_eos_gpa": round(eos.fit.bulk_modulus, 2),
        "residual": round(elastic.fit.residual, 5),
        "reliable": elastic.fit.reliable,
        "born_stable": elastic.fit.born_stable,
        "n_unconverged": elastic.n_unconverged,
        "eos_converged": sum(eos.converged),
        "eos_excluded": eos.fit.excluded,
        "wall_s": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Evaluate every chosen entry and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    entries = pick(arguments.set, CRYSTALS)
    potential = nequix_potential(arguments.model)
    rows = []
    for entry in entries:
        try:
            rows.append(evaluate(entry, potential, arguments.model.stem))
        except Exception as error:  # noqa: BLE001 - one material that fails is a line of the table
            rows.append({"mp_id": entry["mp_id"], "formula": entry["formula"], "error": str(error)})
        print(json.dumps(rows[-1]), flush=True)
        if arguments.out:
            summary = {"potential": arguments.model.stem, "reference": "PBE, matcalc set 2025.1", "rows": rows}
            arguments.out.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
