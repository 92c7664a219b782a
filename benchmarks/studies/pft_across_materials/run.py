"""Phonon fine-tuning of one Nequix for many materials: train on some, judge on others.

Run, in an environment with ``tools/install_nequix.sh``::

    OMP_NUM_THREADS=1 python benchmarks/studies/pft_across_materials/run.py DATA --foundation nequix-mp-1.nqx \
        --compare nequix-mp-1-pft.nqx --work FOLDER --minutes 25

with DATA a folder of ``NAME.phonopy.yaml[.xz]`` files that hold forces or force constants.

1. Every file's force constants are brought to a small supercell of the primitive cell (edges of ``--min-length``) at
   the wave vectors both share; materials whose small cell has more than ``--max-atoms`` atoms or ``--max-edges``
   neighbour pairs are left out and named.
2. A seeded draw orders the compositions and deals them into ``--folds``; each fold is held out once, of the others
   ``--validation`` compositions choose the epoch and the rest are learnt. No composition is on two sides, and with
   ``--first`` of the folds only some are run.
3. Training: irreducible columns of the training materials take turns, each step with the mean force and stress of the
   perfect cells; between them, energy, force and stress steps on rattled and strained cells of the training materials
   labelled by the foundation itself (what stands for its original data); moving average of the weights; the epoch with
   the smallest column error on the validation materials (``--validation 0``: on the training materials) is kept.
   One training for each fold.
4. Phonons of every potential in the small supercells, at the reference's geometry, against the reference in the same
   supercells: every material is judged by the training that did not see it. Forgetting: how far energies and forces
   of rattled held-out cells moved from the foundation's.

Every stage is kept in FOLDER; a second run goes on where the first one stopped. ``page.py`` writes the tables.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

SETTINGS = {
    "curvature_columns": 2,
    "curvature_sampling": "irreducible",
    "cotrain_steps": 1,
    "replay": "none",
    "energy_weight": 10.0,
    "forces_weight": 100.0,
    "stress_weight": 1000.0,
    "huber_delta": 0.01,
    "decay": "all",
    "epochs": 500,
    "patience": None,
    "batch_size": 2,
    "scheduler_patience": 50,
    "e0": "foundation",
}
"""What differs from the preset pft: two columns share a force graph, one co-training step for each curvature step."""
MESH = 9


def cached(path, make):
    """Return a JSON result, computing it only once."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = make()
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.rename(path)
    return json.loads(path.read_text())


def prepare(source, args):
    """Fold one material's force constants into its small supercell; return plain numbers."""
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.harmonic.model import atoms_of
    from phonosmith.harmonic.oracle import in_supercell, small_supercell
    from phonosmith.potentials.graphs import make_graph

    try:
        model = load_harmonic(source, fc_calculator=args.fc_calculator)
    except Exception as error:  # noqa: BLE001  # a damaged file must not end the study; it is named in the results
        return {"error": str(error)}
    matrix = small_supercell(model, args.min_length)
    n_atoms = round(abs(np.linalg.det(matrix))) * len(model.phonon.primitive)
    found = {"formula": model.formula, "matrix": np.array(matrix).tolist(), "n_atoms": n_atoms}
    found["n_atoms_reference"] = len(model.phonon.supercell)
    if n_atoms > args.max_atoms:
        return {**found, "error": f"small cell of {n_atoms} atoms"}
    small = in_supercell(model, matrix)
    atoms = atoms_of(small.supercell)
    edges = make_graph(atoms, sorted(set(atoms.numbers.tolist())), 6.0).n_edges
    if edges > args.max_edges:
        return {**found, "error": f"small cell of {edges} neighbour pairs"}
    cell = model.phonon.primitive
    return {
        **found,
        "n_edges": edges,
        "numbers": cell.numbers.tolist(),
        "cell": cell.cell.tolist(),
        "scaled_positions": cell.scaled_positions.tolist(),
        "force_constants": small.force_constants.tolist(),
    }


def phonon_of(entry):
    """Return phonopy's object of a prepared material, force constants inside."""
    from phonopy.structure.atoms import PhonopyAtoms

    from phonosmith.harmonic.model import new_phonon

    cell = PhonopyAtoms(numbers=entry["numbers"], cell=entry["cell"], scaled_positions=entry["scaled_positions"])
    phonon = new_phonon(cell, entry["matrix"], np.eye(3))
    phonon.force_constants = np.array(entry["force_constants"])
    return phonon


def splits(materials, args):
    """Deal the compositions into folds; return for each which materials are held out, validate and train."""
    by_formula = {}
    for name, entry in materials.items():
        by_formula.setdefault(entry["formula"], []).append(name)
    order = [sorted(by_formula)[k] for k in np.random.default_rng(args.seed).permutation(len(by_formula))]
    if not 2 <= args.folds <= len(order) or args.validation + 1 > len(order) - -(-len(order) // args.folds):
        raise SystemExit(
            f"{len(order)} compositions cannot be dealt into {args.folds} folds with {args.validation} to validate: "
            "give more files, or other --folds and --validation."
        )
    found = []
    for fold in range(args.folds):
        others = [formula for k, formula in enumerate(order) if k % args.folds != fold]
        roles = {
            "held_out": order[fold :: args.folds],
            "validation": others[: args.validation],
            "train": others[args.validation :],
        }
        found.append({role: [name for one in some for name in by_formula[one]] for role, some in roles.items()})
    return found[: args.first]


def rattled(entry, count, seed, length=0.08, strain=0.02):
    """Return rattled and strained copies of a prepared material's small cell."""
    from phonosmith.harmonic.model import atoms_of

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = atoms_of(phonon_of(entry).supercell)
        change = rng.normal(0, strain, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (change + change.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, length, (len(atoms), 3))
        found.append(atoms)
    return found


def train(foundation, materials, parts, work, args):
    """Fine-tune; leave the trained model and its document in ``work``."""
    from phonosmith.harmonic.curvature import curvature_target
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.replay import label_with
    from phonosmith.training.spec import make_spec

    def targets(role):
        return [curvature_target(phonon_of(materials[name]), source=name) for name in parts[role]]

    # without validation materials, other cells of the training materials
    drawn = {}
    for seed, role in enumerate(("train", "validation"), start=1):
        names = parts[role] or parts["train"]
        each = max(1, 2 // len(names))  # a data set of one cell is refused
        drawn[role] = [one for k, name in enumerate(names) for one in rattled(materials[name], each, [seed, k])]
    labelled = label_with(foundation.backend, foundation.model, [*drawn["train"], *drawn["validation"]])

    spec = make_spec("pft", **SETTINGS, lr=args.lr)
    result = fine_tune(
        foundation,
        labelled[: len(drawn["train"])],
        labelled[len(drawn["train"]) :],
        spec,
        curvature=targets("train"),
        valid_curvature=targets("validation"),
        seed=args.seed,
        workdir=work,
        walltime=60 * args.minutes,
        name=f"across materials, {work.name}",
        progress=True,
    )
    result.write(work)


def judge(potential, materials, names):
    """Compare a potential's phonons in the small supercells with the reference's.

    Returns the comparison by material, the evaluations of rattled cells of the same materials, and seconds; everything
    is evaluated in one call.
    """
    from phonosmith.evaluation.phonons.comparison import compare_phonons
    from phonosmith.evaluation.phonons.fastpath import displaced_cells
    from phonosmith.harmonic.fit import make_force_constants
    from phonosmith.harmonic.model import HarmonicModel

    phonons = {name: phonon_of(materials[name]) for name in names}
    cells = {name: displaced_cells(phonon, 0.01) for name, phonon in phonons.items()}
    order = list(materials)
    shaken = [one for name in names for one in rattled(materials[name], 2, [9, order.index(name)])]
    start = time.perf_counter()
    evaluated = potential.evaluate([*(atoms for name in names for atoms in cells[name]), *shaken])
    seconds = time.perf_counter() - start
    found = iter(evaluated)
    results = {}
    for name in names:
        phonon = phonons[name]
        phonon.forces = [next(found).forces for _ in cells[name]]
        candidate = HarmonicModel(phonon, make_force_constants(phonon, "symfc", name), potential.name)
        reference = HarmonicModel(phonon_of(materials[name]), "folded", name)
        compared = compare_phonons(reference, candidate, MESH)
        one, other = compared.reference, compared.candidate
        results[name] = {
            "formula": materials[name]["formula"],
            "phonon_mae_thz": compared.mae_thz,
            "omega_max_percent": compared.omega_max_error_percent,
            "omega_max_reference_thz": one.omega_max_thz,
            "entropy_percent": 100 * (other.entropy / one.entropy - 1),
            "free_energy_kj_mol": other.free_energy - one.free_energy,
            "heat_capacity_percent": 100 * (other.heat_capacity / one.heat_capacity - 1),
            "omega_min_thz": other.omega_min_thz,
            "omega_min_reference_thz": one.omega_min_thz,
        }
    return results, list(found), seconds


def forgetting(before, after):
    """Return how far the labels of rattled cells not trained on moved from the foundation's."""
    energies = [(a.energy - b.energy) / len(b.forces) for a, b in zip(after, before, strict=True)]
    forces = np.concatenate([(a.forces - b.forces).ravel() for a, b in zip(after, before, strict=True)])
    return {
        "energy_mev_per_atom": 1000 * float(np.mean(np.abs(energies))),
        "forces_mev_per_angstrom": 1000 * float(np.mean(np.abs(forces))),
        "mean_force_mev_per_angstrom": 1000 * float(np.mean([np.abs(one.forces).mean() for one in before])),
        "n_cells": len(before),
    }


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="phonopy files, or folders of NAME.phonopy.yaml[.xz]")
    parser.add_argument("--foundation", type=Path, required=True)
    parser.add_argument("--compare", type=Path, help="a published model to judge on the same held-out materials")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="where results.json goes (default: the work folder)")
    parser.add_argument("--minutes", type=float, default=25.0, help="of training for each fold")
    parser.add_argument("--min-length", type=float, default=5.0)
    # symfc took more than 6 GB and ten minutes for a cell of 1176 atoms with 28 displacements
    parser.add_argument("--fc-calculator", default="traditional", choices=["symfc", "traditional"])
    parser.add_argument("--max-atoms", type=int, default=24)
    parser.add_argument("--max-edges", type=int, default=800)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--first", type=int, help="run the first so many folds; default: all")
    parser.add_argument("--validation", type=int, default=2, help="compositions that choose the epoch")
    parser.add_argument("--lr", type=float, default=3e-5, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", default="float64", choices=["float32", "float64"], help="precision of evaluation")
    parser.add_argument("--prepare-only", action="store_true")
    return parser.parse_args()


def main():
    """Run all stages."""
    warnings.filterwarnings("ignore")
    args = parse()
    from phonosmith.potentials.registry import load

    files = [
        one for place in args.data for one in (sorted(place.glob("*.phonopy.yaml*")) if place.is_dir() else [place])
    ]
    entries = {}
    for source in files:
        name = source.name.split(".phonopy")[0]
        entries[name] = cached(args.work / "materials" / f"{name}.json", lambda source=source: prepare(source, args))
        print(name, entries[name].get("formula"), entries[name].get("error", entries[name].get("n_edges")), flush=True)
    if args.prepare_only:
        return
    for name, entry in entries.items():
        same = [k for k in entries if k < name and entries[k].get("force_constants", 0) == entry.get("force_constants")]
        if same:
            entries[name] = {"error": f"same content as {same[0]}"}
    materials = {name: entry for name, entry in entries.items() if "error" not in entry}
    folds = splits(materials, args)
    judged = [name for parts in folds for name in parts["held_out"]]
    results = {
        "settings": {**SETTINGS, "lr": args.lr, "seed": args.seed, "min_length": args.min_length, "mesh": MESH},
        "foundation": args.foundation.name,
        "cells": {name: {k: entry[k] for k in ("formula", "n_atoms", "n_edges")} for name, entry in materials.items()},
        "left_out": {name: entry["error"] for name, entry in entries.items() if "error" in entry},
        "folds": [],
        "potentials": {},
    }
    foundation = load(str(args.foundation), dtype="float32")
    # for every label: which file answers for which materials
    answers = {"foundation": [(args.foundation, judged)], "trained": []}
    keys = ("epochs_run", "best_epoch", "steps", "seconds", "stop_reason", "n_changed", "change_relative", "curvature")
    for number, parts in enumerate(folds):
        work = args.work / f"fold-{number}"
        if not (work / "training.json").is_file():
            train(foundation, materials, parts, work, args)
        document = json.loads((work / "training.json").read_text())
        results["folds"].append(
            {"split": parts, "training": {key: document[key] for key in keys} | {"history": document["history"]}}
        )
        answers["trained"].append((work / "model.nqx", parts["held_out"]))
        print(f"fold {number}: {document['steps']} steps, epoch {document['best_epoch']} kept", flush=True)
    if args.compare:
        answers["published"] = [(args.compare, judged)]
    shaken = {}
    for label, files in answers.items():
        compared, shaken[label], seconds = {}, [], 0.0
        for path, names in files:
            rows, evaluated, took = judge(load(str(path), dtype=args.judge), materials, names)
            compared |= rows
            shaken[label] += evaluated
            seconds += took
        results["potentials"][label] = {
            "file": files[0][0].name,
            "held_out": compared,
            "seconds_of_evaluation": seconds,
            "forgetting": forgetting(shaken["foundation"], shaken[label]),
        }
    target = (args.out or args.work) / "results.json"
    target.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {target}", flush=True)


if __name__ == "__main__":
    main()
