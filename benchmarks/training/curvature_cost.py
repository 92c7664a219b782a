"""Cost of a curvature step against a force step, and how it grows with the number of atoms.

Run: ``OMP_NUM_THREADS=1 python benchmarks/training/curvature_cost.py [--sizes 1 2 3] [--out FILE]``.

Times are medians over ``--repeats`` steps, force and curvature steps interleaved; ``peak_mb`` is the growth of the
process's largest resident size in a process of its own per measurement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
import warnings
from pathlib import Path

import numpy as np

KINDS = ("force", "autograd", "autograd4", "fd")


def measure(task):
    """Return (median s, growth of the peak in MB, atoms) of one kind of step on one cell."""
    warnings.filterwarnings("ignore")
    import torch
    from ase.build import bulk

    from phonosmith.potentials.registry import load
    from phonosmith.training.curvature import CurvatureTerm
    from phonosmith.training.graphs import build_graph, collate, fresh
    from phonosmith.training.losses import LossTerms, efs_loss
    from phonosmith.training.models import cast, model_e0, model_numbers, prune

    torch.set_num_threads(1)
    kind, size, repeats = task
    model = cast(prune(load("embedded", dtype="float64", device="cpu").model, [14]), "float32")
    parameters = [p.requires_grad_(True) for _, p in model.named_parameters() if p.numel()]
    cells = size if isinstance(size, int) else tuple(size)
    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * cells
    shape = {"numbers": model_numbers(model), "cutoff": float(model.r_max), "e0": model_e0(model)[0]}
    batch = collate([build_graph(atoms, None, dtype=torch.float32, **shape)])
    columns = 4 if kind == "autograd4" else 1
    term = CurvatureTerm(
        batch, torch.zeros(columns, 3 * len(atoms)), tuple(range(columns)), torch.ones(columns), 100.0,
        per_step=columns, method="fd" if kind == "fd" else "autograd",
    )  # fmt: skip

    def step():
        start = time.perf_counter()
        if kind == "force":
            data = fresh(batch)
            efs_loss(model(data, training=True, compute_stress=True), data, LossTerms()).backward(inputs=parameters)
        else:
            term.accumulate(model, parameters)
        return time.perf_counter() - start

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    spent = [step() for _ in range(repeats)]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return float(np.median(spent)), peak, len(atoms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[1, 2, 3, 4], help="multiples of the 8-atom cell, cubed"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rows = []
    context = multiprocessing.get_context("spawn")
    for size in arguments.sizes:
        row = {}
        for kind in KINDS:
            with context.Pool(1) as pool:
                seconds, peak, n_atoms = pool.map(measure, [(kind, size, arguments.repeats)])[0]
            row.update({"n_atoms": n_atoms, f"{kind}_s": seconds, f"{kind}_peak_mb": peak})
        for kind in KINDS[1:]:
            row[f"{kind}/force"] = row[f"{kind}_s"] / row["force_s"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    atoms = np.log([row["n_atoms"] for row in rows])
    growth = {
        kind: float(np.polyfit(atoms[-2:], np.log([row[f"{kind}_s"] for row in rows])[-2:], 1)[0]) for kind in KINDS
    }
    print(json.dumps({"exponent of the time over atoms, last two sizes": growth}))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"rows": rows, "exponents": growth}, indent=2) + "\n")


if __name__ == "__main__":
    main()
