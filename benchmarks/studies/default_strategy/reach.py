"""How much of a crystal's phonons lies in force constants that reach beyond a distance.

Run: ``python benchmarks/studies/default_strategy/reach.py DATA NAMES... [--out reach.json]``

Force constants between atoms farther apart than a radius are set to zero, those of an atom with itself again to minus
the sum of the rest; the phonon MAE that this makes, against all of them, is an upper bound of what a potential must
miss that sees no farther (it may bend nearer ones to make up for it). A message-passing model of n layers and cutoff r
sees n r at most, and what it passes beyond r is what it can squeeze through the features of the atoms between.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np


def distances(phonon):
    """Return the distance of every atom of the supercell to each of the primitive cell (their nearest image), Å."""
    vectors, multiplicity = phonon.primitive.get_smallest_vectors()
    first = vectors[multiplicity[:, :, 1]]
    return np.linalg.norm(first @ phonon.primitive.cell, axis=2).T


def truncated(phonon, radius):
    """Return compact force constants without those beyond a radius, Å; the sum over neighbours stays zero."""
    rows = phonon.primitive.p2s_map
    constants = phonon.force_constants
    kept = (constants if len(constants) == len(rows) else constants[rows]).copy()
    kept[distances(phonon) > radius] = 0.0
    for row, atom in enumerate(rows):
        kept[row, atom] -= kept[row].sum(axis=0)
    return kept


def frequencies(phonon, constants, mesh):
    """Return frequencies, THz (imaginary negative)."""
    phonon.force_constants = constants
    phonon.run_mesh([mesh] * 3)
    return phonon.get_mesh_dict()["frequencies"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("materials", nargs="+")
    parser.add_argument("--radii", type=float, nargs="*", default=[6.0, 9.0, 12.0])
    parser.add_argument("--mesh", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    from phonosmith.harmonic.files import load_harmonic

    rows = {}
    for name in arguments.materials:
        path = next(arguments.data.glob(f"{name}.phonopy.yaml*"))
        model = load_harmonic(path, fc_calculator="traditional", symprec=1e-4)
        phonon = model.phonon
        cut = {radius: truncated(phonon, radius) for radius in arguments.radii}
        whole = frequencies(phonon, truncated(phonon, np.inf), arguments.mesh)
        rows[name] = {"formula": model.formula, "omega_min_thz": float(whole.min())}
        for radius, constants in cut.items():
            found = frequencies(phonon, constants, arguments.mesh)
            rows[name][f"mae_thz_within_{radius:g}"] = float(np.abs(found - whole).mean())
            rows[name][f"omega_min_thz_within_{radius:g}"] = float(found.min())
        print(name, json.dumps(rows[name]), flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
