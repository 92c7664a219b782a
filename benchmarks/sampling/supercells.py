"""Supercell rule against atomate2's on crystals of every system: sizes, shapes, times.

python benchmarks/sampling/supercells.py --out benchmarks/sampling/supercells.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
from atomate2.common.utils import get_supercell_matrix
from pymatgen.core import Lattice, Structure

from phonosmith.structures.standard import spacegroup_number, standard_primitive
from phonosmith.structures.supercell import phonon_supercell, sampling_supercell

# space group, lattice, species, sites: textbook structures
CRYSTALS = {
    "Si": (227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]),
    "NaCl": (225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "GeTe": (225, Lattice.cubic(6.009), ["Ge", "Te"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "Fe": (229, Lattice.cubic(2.87), ["Fe"], [[0, 0, 0]]),
    "SrTiO3": (221, Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    "TiO2 rutile": (136, Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    "SnSe Pnma": (
        62, Lattice.orthorhombic(11.79, 4.21, 4.57), ["Sn", "Se"], [[0.118, 0.25, 0.104], [0.855, 0.25, 0.48]]
    ),
    "ZnO": (186, Lattice.hexagonal(3.25, 5.207), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]),
    "K3Sb": (
        194, Lattice.hexagonal(6.125, 10.877), ["K", "K", "Sb"],
        [[1 / 3, 2 / 3, 0.581], [0, 0, 0.25], [1 / 3, 2 / 3, 0.25]],
    ),
    "Bi2Te3": (166, Lattice.hexagonal(4.44, 31.6), ["Bi", "Te", "Te"], [[0, 0, 0.4], [0, 0, 0], [0, 0, 0.209]]),
    "Al2O3": (167, Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]),
    "CuO": (15, Lattice.monoclinic(4.684, 3.423, 5.129, 99.5), ["Cu", "O"], [[0.25, 0.25, 0], [0, 0.418, 0.25]]),
    "ZrO2": (
        14, Lattice.monoclinic(5.15, 5.21, 5.32, 99.2), ["Zr", "O", "O"],
        [[0.275, 0.04, 0.208], [0.07, 0.332, 0.345], [0.45, 0.757, 0.479]],
    ),
    "triclinic": (
        2, Lattice.from_parameters(3.9, 4.6, 5.3, 82, 97, 106), ["C", "N"], [[0.2, 0.3, 0.1], [0.6, 0.1, 0.7]]
    ),
}  # fmt: skip


def atomate2_choice(structure: Structure, low: float, high: float | None, queue) -> None:
    start = time.perf_counter()
    try:
        matrix = np.array(
            get_supercell_matrix(
                structure=structure, min_length=low, max_length=high, prefer_90_degrees=True, max_atoms=1200
            )
        ).T
        lattice = Lattice(matrix @ structure.lattice.matrix)
        atoms = round(abs(np.linalg.det(matrix))) * len(structure)
        queue.put({**row(atoms, lattice.abc, lattice.angles), "seconds": time.perf_counter() - start})
    except AttributeError as error:
        queue.put({"failed": str(error)[:60], "seconds": time.perf_counter() - start})


def limited(structure: Structure, low: float, high: float | None, limit: float) -> dict:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=atomate2_choice, args=(structure, low, high, queue))
    worker.start()
    try:
        return queue.get(timeout=limit)
    except Exception:  # noqa: BLE001 - queue.Empty
        worker.kill()
        return {"failed": f"no answer in {limit:g} s"}
    finally:
        worker.join()


def row(atoms, lengths, angles) -> dict:
    return {
        "atoms": int(atoms),
        "lengths": [round(float(x), 3) for x in lengths],
        "angles": [round(float(x), 2) for x in angles],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=float, default=30.0, help="seconds allowed to atomate2 per cell")
    options = parser.parse_args()
    table = []
    for name, (group, lattice, species, sites) in CRYSTALS.items():
        primitive = standard_primitive(Structure.from_spacegroup(group, lattice, species, sites))
        for size, low, high in (("small", 5.0, 10.0), ("large", 10.0, 15.0), ("phonon", 20.0, None)):
            start = time.perf_counter()
            choice = phonon_supercell(primitive) if size == "phonon" else sampling_supercell(primitive, size)
            seconds = time.perf_counter() - start
            ours = {
                **row(choice.n_atoms, choice.lengths, choice.angles),
                "seconds": seconds,
                "warnings": list(choice.warnings),
            }
            theirs = limited(primitive, low, high, options.limit)
            table.append({"crystal": name, "group": spacegroup_number(primitive), "cell": size, "phonosmith": ours,
                          "atomate2": theirs})  # fmt: skip
            told = theirs.get("failed") or f"{theirs['atoms']:5d} {theirs['lengths']} {theirs['angles']}"
            print(
                f"{name:12s} {size:7s} {ours['atoms']:5d} {ours['lengths']} {ours['angles']} {seconds:.2f} s | {told}"
            )
    if options.out:
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
