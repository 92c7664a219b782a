"""What a better default strategy is made of: one change at a time, at equal cost, on real DFT force constants.

Run: ``OMP_NUM_THREADS=1 python benchmarks/studies/default_strategy/run.py DATA --foundation FILE --work FOLDER
[--out results.json]`` with DATA a folder of ``NAME.phonopy.yaml[.xz]`` files that hold forces or force constants and
FILE a foundation that knows their elements (``distil.py`` makes one).

Truth, training cells and evaluation are those of ``../real_dft``. Cost is counted in *atoms visited*: every gradient of
a cell counts its atoms, whatever the batch; the measured processor time stands beside it, for steps of single small
cells take more time per atom. A variant says which cells it trains on and which settings of transfer it changes; its
epochs follow from the cost.

Every stage is kept in FOLDER; a second run goes on where the first one stopped, and several may share FOLDER as long
as their ``--materials`` differ.
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
from run import chosen_files, compare, opened

STEADY = {"schedule": "cosine", "batch_size": 1, "patience": None, "ema": 0.99, "weight_decay": 0.0}
"""The base of the ablation: single cells, a rate that falls to zero, averaged weights."""
LABELS = {"n_train": 8, "n_valid": 3, "displacement": 0.03}
VARIANTS = {
    "transfer": ({}, {}),
    "transfer, single cells": ({}, {"batch_size": 1}),
    "cosine": ({}, STEADY),
    "cosine, lr 0.003": ({}, STEADY | {"lr": 0.003}),
    "cosine, 20 cells": ({"n_train": 20}, STEADY),
    "cosine, longer cells": ({"min_length": 9.0}, STEADY),
}
"""Of each variant: how the cells differ from `LABELS`, and which settings of transfer it changes."""


def trained(truth, ground, labels, settings, arguments, seed, workdir):
    """Train one variant; return the result and its cost."""
    from phonosmith.harmonic.oracle import dataset_from_phonons
    from phonosmith.training.finetune import prepare
    from phonosmith.training.spec import make_spec

    data = dataset_from_phonons(truth, seed=seed, **{"min_length": arguments.min_length} | LABELS | labels)
    epochs = max(1, round(arguments.cost / sum(map(len, data.train))))
    begin = time.process_time()
    training = prepare(ground, data.train, data.valid, make_spec("transfer", **{"epochs": epochs} | settings),
                       seed=seed, workdir=workdir)  # fmt: skip
    training.fitter.run()
    seconds = time.process_time() - begin
    result = training.result()
    document = result.document
    valid = document.metrics["valid"]
    return result.potential, {
        "n_train": len(data.train),
        "atoms_per_cell": float(np.mean([len(atoms) for atoms in data.train])),
        "epochs": document.epochs_run,
        "best_epoch": document.best_epoch,
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
            labels, settings = VARIANTS[variant]
            stem = f"{variant}-{seed}".replace(", ", "_").replace(" ", "-")

            def row(labels=labels, settings=settings, stem=stem, seed=seed):
                potential, cost = trained(truth, ground, labels, settings, arguments, seed, work / stem)
                return cost | compare(truth, potential, arguments.mesh)

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
    parser.add_argument("--cost", type=int, default=80_000, help="atoms a training may visit")
    parser.add_argument("--min-length", type=float, default=9.0, help="edge of the training supercell, Å")
    parser.add_argument("--mesh", type=int, default=12)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    files = chosen_files(parser, arguments)
    foundation, described = opened(arguments.foundation)
    materials = {}
    for name in files:
        materials[name] = material(files[name], arguments.work / name, arguments, foundation)
        if arguments.out is not None:
            settings = {key: getattr(arguments, key) for key in ("seeds", "cost", "min_length", "mesh")}
            found = {"foundation": described, "settings": settings, "materials": materials}
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
