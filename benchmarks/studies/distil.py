"""Distil one MACE for several crystals from a Nequix: a foundation for the studies where no published file is at hand.

Run, in an environment with ``tools/install_nequix.sh``::

    OMP_NUM_THREADS=1 python benchmarks/studies/distil.py nequix-mp-1.nqx CRYSTALS... --work FOLDER

with CRYSTALS any of: a table of prototypes (JSON, all its entries or ``TABLE.json:NAME,NAME``), phonopy files,
structure files. Writes FOLDER/foundation.model and FOLDER/foundation.json, which says how well it follows its teacher.

Every crystal is taught in supercells of different shape, each strained (2 %), at another volume (5 %) and rattled by
0.02 to 0.25 Å; one cell of each crystal is held out and chooses the epoch. The model has 64 scalar channels, two
layers, cutoff 6 Å, as small published foundations have.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from distilled import cached, cached_frames, untrained
from presets import label_all

__all__ = ["cached", "crystals", "distil", "known", "prototype"]

RATTLES = (0.02, 0.06, 0.12, 0.25)
"""Mean displacements, Å, in turn."""


def known(foundation):
    """Return the identity of a foundation, given by name or file, and what is known about it.

    Of a file that is what :func:`distil` wrote beside it; a file is the caller's own choice, so it is opened.
    """
    from phonosmith.potentials.registry import import_file, resolve

    path = Path(foundation)
    if not path.is_file():
        return resolve(str(foundation)), str(foundation)
    record = path.with_suffix(".json")
    described = json.loads(record.read_text()) if record.is_file() else path.name
    return import_file(path, name=path.stem, trust=True), described


def prototype(entry):
    """Return the primitive cell of one entry of a table of prototypes (space group and Wyckoff sites)."""
    from ase.spacegroup import crystal
    from pymatgen.io.ase import AseAtomsAdaptor

    symbols, basis = zip(*((symbol, place) for symbol, _, place in entry["sites"]), strict=True)
    atoms = crystal(
        symbols, basis=basis, spacegroup=entry["spacegroup"], cellpar=entry["cellpar"],
        setting=entry["rebuilds_with_ase_setting"],
    )  # fmt: skip
    return AseAtomsAdaptor.get_structure(atoms).get_primitive_structure()


def crystals(sources):
    """Return primitive cells by name from tables of prototypes, phonopy files and structure files."""
    import phonopy
    from pymatgen.core import Structure

    from phonosmith.harmonic.model import to_structure

    found = {}
    for source in sources:
        path, _, names = str(source).partition(":")
        if path.endswith(".json"):
            table = json.loads(Path(path).read_text())
            unknown = [name for name in names.split(",") if name and name not in table]
            if unknown:
                raise SystemExit(f"{path} has no {', '.join(unknown)}; it holds {', '.join(table)}.")
            found |= {name: prototype(table[name]) for name in (names.split(",") if names else table)}
        elif ".phonopy.yaml" in path:
            phonon = phonopy.load(path, produce_fc=False, is_nac=False, symprec=1e-4)
            found[Path(path).name.split(".")[0]] = to_structure(phonon.primitive)
        else:
            found[Path(path).stem] = Structure.from_file(path).get_primitive_structure()
    return found


def teaching_frames(structure, count, n_atoms, seed):
    """Return unlabelled rattled and strained supercells of one crystal, each of another shape."""
    from phonopy.structure.atoms import PhonopyAtoms

    from phonosmith.harmonic.model import atoms_of, new_phonon
    from phonosmith.harmonic.oracle import varied_supercells

    primitive = PhonopyAtoms(
        symbols=[site.specie.symbol for site in structure],
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
    )
    rng = np.random.default_rng(seed)
    frames = []
    for index, matrix in enumerate(varied_supercells(primitive, n_atoms, count, rng)):
        atoms = atoms_of(new_phonon(primitive, matrix, np.eye(3)).supercell)
        tensor = rng.uniform(-0.02, 0.02, (3, 3))
        scale = (1 + rng.uniform(-0.05, 0.05)) ** (1 / 3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (tensor + tensor.T) / 2) * scale, scale_atoms=True)
        atoms.positions += rng.normal(0, RATTLES[index % len(RATTLES)] / np.sqrt(8 / np.pi), atoms.positions.shape)
        frames.append(atoms)
    return frames


def distil(work, teacher, structures, *, count=14, n_atoms=28, epochs=40, channels=64, cutoff=6.0):
    """Fit the foundation, or find it finished in the folder; return its path.

    Parameters
    ----------
    work
        Folder of labels, state of the training and result.
    teacher
        ``.nqx`` file.
    structures
        Primitive cells by name.
    count
        Cells per crystal, the last of them held out.
    n_atoms
        Largest cell.
    epochs
        Of the fit.
    channels, cutoff
        Scalar channels of the model; Å.
    """
    import torch

    from phonosmith.potentials.mace.potential import MacePotential
    from phonosmith.potentials.registry import load
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    path = work / "foundation.model"
    taught = {"teacher": Path(teacher).stem, "crystals": sorted(structures), "cells": count, "n_atoms": n_atoms}
    taught |= {"channels": channels, "cutoff": cutoff}
    if path.exists():
        before = json.loads((work / "foundation.json").read_text())
        if any(before.get(key, value) != value for key, value in taught.items()):
            raise SystemExit(f"{path} was taught with other settings: choose another folder, or the same settings.")
        return path

    def label():
        drawn = {
            name: teaching_frames(structure, count, n_atoms, [0, index])
            for index, (name, structure) in enumerate(sorted(structures.items()))
        }
        train = [atoms for frames in drawn.values() for atoms in frames[:-1]]
        return label_all(load(str(teacher), dtype="float32"), [*train, *(frames[-1] for frames in drawn.values())])

    work.mkdir(parents=True, exist_ok=True)
    frames = cached_frames(work / "teaching.xyz", label)
    train, valid = frames[: -len(structures)], frames[-len(structures) :]
    spec = make_spec(
        "transfer", epochs=epochs, weight_decay=5e-7, batch_size=2, scheduler_patience=3, patience=None, e0="refit"
    )
    result = fine_tune(
        MacePotential(untrained(train, channels, cutoff)),
        train,
        valid,
        spec,
        seed=0,
        workdir=work / "distillation",
        progress=True,
    )
    document = result.document
    after = document.metrics["valid"].after
    record = taught | {
        "n_train": len(train),
        "epochs": document.epochs_run,
        "n_parameters": document.n_parameters,
        "forces_mae_mev_per_angstrom": after.mae_forces_mev_per_angstrom,
        "energy_mae_mev_per_atom": after.mae_energy_mev_per_atom,
        "seconds": document.seconds,
    }
    (work / "foundation.json").write_text(json.dumps(record, indent=1) + "\n")
    partial = path.with_suffix(".partial")
    torch.save(result.model, partial)
    partial.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="nequix-*.nqx")
    parser.add_argument("crystals", nargs="+", help="TABLE.json[:NAME,NAME], phonopy files, structure files")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=14, help="per crystal, one of them held out")
    parser.add_argument("--atoms", type=int, default=28, help="of the largest cell")
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    structures = crystals(arguments.crystals)
    print(", ".join(f"{name} ({len(one)} atoms)" for name, one in structures.items()), flush=True)
    print(distil(
        arguments.work, arguments.teacher, structures, count=arguments.cells, n_atoms=arguments.atoms,
        epochs=arguments.epochs,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
