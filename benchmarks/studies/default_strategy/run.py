"""What a better default is made of: labels and strategy as the commands draw them, one change at a time, at equal cost.

Run: ``OMP_NUM_THREADS=1 python benchmarks/studies/default_strategy/run.py DATA --foundation FILE --work FOLDER
[--out results.json]`` with DATA a folder of ``NAME.phonopy.yaml[.xz]`` files that hold forces or force constants and
FILE a foundation that knows their elements (``distil.py`` makes one), or the name of one.

``default`` is what ``phonosmith from-phonons`` and ``phonosmith train`` do when nothing is asked for; a variant says
which labels and which settings differ. Truth and evaluation are those of ``../real_dft``. Cost is counted as `visits`
counts it (atoms, and 16 for a step), the same for all; the measured processor time stands beside it.

Every stage is kept in FOLDER; a second run goes on where the first one stopped, and several may share FOLDER as long
as their ``--materials`` differ: ``--workers 2`` runs two at once, ``--device cuda`` on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real_dft"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from distil import cached
from pool import add_options, side_by_side
from run import chosen_files, compare, of_cost, opened

FORMER_LABELS = {"n_train": 8, "n_valid": 3, "displacement": 0.03, "most_atoms": 10_000, "stress_at_rest_alone": True}
FORMER = {"lr": 0.01, "forces_weight": 100.0, "stress_weight": 1000.0}  # a rate that is named is that of every model
VARIANTS = {
    "default": ("phonosmith", {}, {}),
    "former": ("phonosmith", FORMER_LABELS, FORMER),
    "former, new labels": ("phonosmith", {}, FORMER),
    "transfer": ("transfer", FORMER_LABELS, {"patience": None}),
    "lr 0.01": ("phonosmith", {}, {"lr": 0.01}),
    "lr 0.005": ("phonosmith", {}, {"lr": 0.005}),
    "lr 0.0053": ("phonosmith", {}, {"lr": 0.0053}),
    "lr 0.002": ("phonosmith", {}, {"lr": 0.002}),
    "lr 0.001": ("phonosmith", {}, {"lr": 0.001}),
    "low rank": ("phonosmith", {}, {"anchor": "low_rank"}),
    "low rank, lr 0.01": ("phonosmith", {}, {"anchor": "low_rank", "lr": 0.01}),
    "low rank, lr 0.02": ("phonosmith", {}, {"anchor": "low_rank", "lr": 0.02}),
    "all weights": ("phonosmith", {}, {"anchor": "none"}),
    "stress 1000": ("phonosmith", {}, {"stress_weight": 1000.0}),
    "stress at rest alone": ("phonosmith", {"stress_at_rest_alone": True}, {"stress_weight": 1000.0}),
    "forces 100": ("phonosmith", {}, {"forces_weight": 100.0}),
    "8 cells": ("phonosmith", {"n_train": 8}, {}),
    "large cells": ("phonosmith", {"most_atoms": 10_000}, {}),
    "0.03 Å": ("phonosmith", {"displacement": 0.03}, {}),
    "no average": ("phonosmith", {}, {"ema": None}),
    "batch 4": ("phonosmith", {}, {"batch_size": 4}),
    "pull 1": ("phonosmith", {}, {"anchor": "pull", "pull": 1.0}),
}
"""Of each variant: strategy, how the labels differ from those of the command, and the settings from the strategy's."""


def trained(truth, ground, variant, visits, seed, workdir):
    """Train one variant; return the result and its cost."""
    from phonosmith.harmonic.oracle import dataset_from_phonons
    from phonosmith.training.finetune import prepare
    from phonosmith.training.spec import make_spec

    strategy, labels, settings = VARIANTS[variant]
    labels = dict(labels)
    at_rest_alone = labels.pop("stress_at_rest_alone", False)
    data = dataset_from_phonons(truth, seed=seed, **labels)
    if at_rest_alone:
        for atoms in data.train + data.valid:
            if atoms.get_forces().any():
                atoms.calc.results.pop("stress", None)
    spec = of_cost(make_spec(strategy, **settings), visits, data.train)
    begin = time.process_time()
    training = prepare(ground, data.train, data.valid, spec, seed=seed, workdir=workdir)
    training.fitter.run()
    result = training.result()
    seconds = time.process_time() - begin
    document = result.document
    valid = document.metrics["valid"]
    return result.potential, {
        "n_train": len(data.train),
        "atoms_per_cell": float(np.mean([len(atoms) for atoms in data.train])),
        "epochs": document.epochs_run,
        "best_epoch": document.best_epoch,
        "steps": document.steps,
        "cpu_seconds": seconds,
        "forces_mae_before_mev_per_angstrom": valid.before.mae_forces_mev_per_angstrom,
        "forces_mae_mev_per_angstrom": valid.after.mae_forces_mev_per_angstrom,
    }


def material(path, work, arguments, foundation):
    """Run what is missing for one material; return its rows."""
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.training.assemble import Groundwork

    work.mkdir(parents=True, exist_ok=True)
    truth, ground = load_harmonic(path, fc_calculator="traditional", symprec=1e-4), Groundwork(foundation)
    name = path.name.split(".")[0]
    before = cached(work / "foundation.json", lambda: compare(truth, foundation, arguments.mesh))
    print(name, truth.formula, "foundation", round(before["phonon_mae_thz"], 4), flush=True)
    rows = [{"variant": "foundation", "seed": None} | before]
    for seed in arguments.seeds:
        for variant in arguments.variants:
            stem = f"{variant}-{arguments.visits}-{seed}".replace(", ", "_").replace(" ", "-")

            def row(variant=variant, stem=stem, seed=seed):
                potential, cost = trained(truth, ground, variant, arguments.visits, seed, work / stem)
                return {"visits": arguments.visits} | cost | compare(truth, potential, arguments.mesh)

            found = cached(work / f"{stem}.json", row)
            rows.append({"variant": variant, "seed": seed} | found)
            mae, force = found["phonon_mae_thz"], found["forces_mae_mev_per_angstrom"]
            print(name, variant, seed, f"MAE {mae:.4f} THz, forces {force:.2f} meV/Å, {found['cpu_seconds']:.0f} s, "
                  f"epoch {found['best_epoch']}/{found['epochs']}, fit {found['fit']}", flush=True)  # fmt: skip
    return {"formula": truth.formula, "n_atoms_supercell": len(truth.phonon.supercell), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of NAME.phonopy.yaml[.xz] files with forces or force constants")
    parser.add_argument("--foundation", required=True, help="name, or file of a foundation")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--materials", nargs="*", default=[], help="names of files without suffix; all by default")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--visits", type=int, default=120_000, help="cost of a training")
    parser.add_argument("--mesh", type=int, default=12)
    parser.add_argument("--out", type=Path)
    add_options(parser)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    files = chosen_files(parser, arguments)
    side_by_side(arguments, list(files))
    foundation, described = opened(arguments.foundation)
    materials = {}
    for name in files:
        materials[name] = material(files[name], arguments.work / name, arguments, foundation)
        if arguments.out is not None:
            settings = {key: getattr(arguments, key) for key in ("seeds", "visits", "mesh")}
            found = {"foundation": described, "settings": settings, "materials": materials}
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
