"""JSON lists of pymatgen structures with outputs, as the mlearn benchmark publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.importers.frames import Read, attempted, joined, judged
from phonosmith.structures.labels import label_frame


def is_structures_json(tree: Any) -> bool:
    """Tell whether a parsed JSON tree is a list of structures with labels."""
    return (
        isinstance(tree, list)
        and bool(tree)
        and all(isinstance(item, Mapping) and {"structure", "outputs"} <= item.keys() for item in tree)
    )


def frames_of_structures(tree: list[Mapping[str, Any]], where: str) -> Read:
    """Return labelled frames of a list of {structure, outputs: {energy, forces, virial_stress}}.

    ``virial_stress`` is VASP's: kbar, positive under compression, in the order xx yy zz xy yz zx (its finite-strain
    energies confirm unit, sign and order). Nothing in such a file names functional or settings.
    """

    def entry(index: int) -> Read:
        name = f"{where}, entry {index}"
        return attempted(name, lambda: judged(_frame(tree[index], where), name))

    return joined(map(entry, range(len(tree))))


def _frame(item: Mapping[str, Any], where: str) -> Atoms:
    structure, outputs = item["structure"], item["outputs"]
    sites = structure["sites"]
    if any(len(site["species"]) != 1 or abs(float(site["species"][0]["occu"]) - 1) > 1e-8 for site in sites):
        raise ValueError("a site is disordered")
    atoms = Atoms(
        [str(site["species"][0]["element"]) for site in sites],
        cell=np.array(structure["lattice"]["matrix"], dtype=float),
        scaled_positions=np.array([site["abc"] for site in sites], dtype=float),
        pbc=True,
    )
    stress = outputs.get("virial_stress")
    if stress is not None:
        stress = np.array(stress, dtype=float)[[0, 1, 2, 4, 5, 3]] * EV_PER_A3_PER_VASP_KBAR
    return label_frame(
        atoms,
        energy=float(outputs["energy"]),
        forces=outputs["forces"],
        stress=stress,
        config_type=str(item.get("group") or "Default"),
        config_stress_weight=None if stress is not None else 0.0,
        source=where,
    )
