"""Imaginary modes followed with a potential, beside the phases and energies of arXiv:2604.01017, tables 6 and 7.

    python benchmarks/modes/published.py GeTe --potential nequix-oam-1-pft.nqx --out benchmarks/modes/gete.json
    python benchmarks/modes/published.py K3Sb --potential nequix-oam-1-pft.nqx --out benchmarks/modes/k3sb.json

The published numbers are PBE and MACE-MP-0b3; the potential given here is neither, so phases can be expected to agree,
and energies only roughly. The phonon supercells are smaller than the published ones (64 and 144 atoms), and only wave
vectors of small commensurate cells are followed (--max-atoms).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.artefacts import write_atomic
from phonosmith.evaluation.modes.follow import FollowOptions, follow_with_potential
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.relax import relax_atoms
from phonosmith.potentials.registry import load, resolve

CASES: dict[str, dict[str, Any]] = {
    "GeTe": {
        "crystal": "rocksalt, mp-2612",
        "supercell": [[-2, 2, 2], [2, -2, 2], [2, 2, -2]],
        "max_atoms": 4,
        "published": {
            "GAMMA": {"PBE": [["R3m", 2, -0.01955798]], "MACE-MP-0b3": [["R3m", 2, -0.019445665]]},
            "X": {
                "PBE": [["Pmmn", 4, -0.003247811], ["P4/nmm", 4, -0.000450387]],
                "MACE-MP-0b3": [["P4/nmm", 4, -0.00430617], ["Pmmn", 4, -0.00340047]],
            },
        },
    },
    "K3Sb": {
        "crystal": "hexagonal (Na3As type), mp-14017",
        "supercell": [[3, 0, 0], [0, 3, 0], [0, 0, 2]],
        "max_atoms": 24,
        "published": {"K": {"PBE": [["P6_3cm", 24, -0.00090241]], "MACE-MP-0b3": "no imaginary mode"}},
    },
}
"""Final phases: space group, atoms of the primitive cell, energy above the initial crystal in eV/atom (printed without
the sign)."""


def build(name: str) -> Atoms:
    """Return the initial crystal with lattice constants near those of PBE."""
    if name == "GeTe":
        return bulk("GeTe", "rocksalt", 6.0)
    return crystal(
        ("K", "K", "Sb"),
        basis=[(0, 0, 0.25), (1 / 3, 2 / 3, 0.583), (1 / 3, 2 / 3, 0.25)],
        spacegroup=194,
        cellpar=[6.03, 6.03, 10.69, 90, 90, 120],
    )


def main() -> None:
    """Relax, compute phonons, follow and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("material", choices=sorted(CASES))
    parser.add_argument("--potential", required=True)
    parser.add_argument("--max-atoms", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    started = time.perf_counter()
    ref = resolve(options.potential)
    potential = load(ref)
    case = CASES[options.material]
    relaxed = relax_atoms(build(options.material), potential, fmax=1e-4, smax_gpa=0.01).atoms
    print(f"{time.perf_counter() - started:6.0f} s relaxed: {relaxed.cell.cellpar().round(4).tolist()}", flush=True)
    model = harmonic_from_potential(AseAtomsAdaptor.get_structure(relaxed), potential, case["supercell"])
    document = follow_with_potential(
        model,
        potential,
        ref=ref,
        options=FollowOptions(max_atoms=options.max_atoms or case["max_atoms"]),
        on_progress=lambda *news: print(f"{time.perf_counter() - started:6.0f} s", *news, flush=True),
    )
    found: dict[str, Any] = {
        "material": options.material,
        "crystal": case["crystal"],
        "cell": [float(value) for value in relaxed.cell.cellpar()],
        "potential": ref.name,
        "potential_sha256": ref.sha256,
        "phonon_supercell_atoms": len(model.phonon.supercell),
        "published": case["published"],
        "phases": [
            [phase.space_group, phase.n_atoms_primitive, phase.energy_difference_ev_per_atom]
            for phase in document.phases
        ],
        "modes": [_mode(mode.model_dump(exclude={"energies"})) for mode in document.modes],
        "n_energies": document.n_energies,
        "wall_seconds": time.perf_counter() - started,
        "host": document.manifest.host,
    }
    write_atomic(options.out, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found["phases"]))


def _mode(mode: dict[str, Any]) -> dict[str, Any]:
    """Return a mode without structures."""
    for pathway in mode["pathways"]:
        for end in ("displaced", "final"):
            if pathway[end] is not None:
                del pathway[end]["structure"]
    return mode


if __name__ == "__main__":
    main()
