"""Cost of a curvature step against a force step, and how it grows with the number of atoms: time and peak memory.

Run: ``OMP_NUM_THREADS=1 python benchmarks/training/curvature_cost.py [--sizes 2 3 4 5] [--out FILE]``.

The model has the size of a small published foundation, pruned to two elements: 64 scalar channels, two layers, cutoff
6 Å, correlation 3, random weights, float32. The cells are 4 n³ atoms at the density of SnTe (32, 108, 256, 500 atoms).
Kinds of step: ``force`` (energy, forces and stress), ``autograd`` (one Hessian column, exact, everything at once),
``autograd4`` (four columns sharing one force graph), ``blocks`` (one column, exact, in blocks of atoms within
``--memory`` GB), ``fd`` (one column by central difference of forces). Times are CPU seconds of the one thread, medians
over ``--repeats`` steps; ``peak_mb`` is the growth of the largest resident size over that after a step on a four-atom
cell. Each kind has a process of its own, which goes through the cells from the smallest to the largest.
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

KINDS = ("force", "autograd", "autograd4", "blocks", "fd")
LATTICE = 5.03
"""Å; four atoms per cube at the density of SnTe."""


def small_model(numbers=(50, 52), cutoff=6.0, neighbours=28.0):
    """Random MACE of the size of a small foundation; of two elements unless said otherwise."""
    import torch

    from phonosmith.potentials.mace.imports import import_mace

    import_mace()
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    return modules.ScaleShiftMACE(
        r_max=cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2, num_elements=len(numbers), hidden_irreps=o3.Irreps("64x0e"), MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)), avg_num_neighbors=neighbours, atomic_numbers=list(numbers),
        correlation=3,
        gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64], radial_type="bessel",
        atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip


def measure(task):
    """Return (median s, growth of the peak in MB, atoms, edges, block) of one kind of step on every cell."""
    warnings.filterwarnings("ignore")
    import torch
    from ase.build import bulk

    from phonosmith.potentials.graphs import collate, make_graph
    from phonosmith.potentials.mace.backend import MaceBackend
    from phonosmith.structures.labels import Labels
    from phonosmith.training.curvature import Columns, CurvatureCell, CurvatureTerm
    from phonosmith.training.graphs import labelled_batch, labelled_graphs
    from phonosmith.training.losses import efs_loss
    from phonosmith.training.spec import TrainSpec

    torch.set_num_threads(1)
    kind, sizes, repeats, memory = task
    model, backend = small_model(), MaceBackend()
    parameters = [p.requires_grad_(True) for _, p in model.named_parameters() if p.numel()]

    def stepper(repeat):
        atoms = bulk("Sn", "fcc", a=LATTICE, cubic=True)
        atoms.symbols[2:] = "Te"
        atoms = atoms * repeat
        atoms.rattle(0.05, seed=0)
        batch = collate([make_graph(atoms, [50, 52], 6.0)], torch.float32, "cpu")
        zero = Labels(energy=0.0, forces=np.zeros((len(atoms), 3)), stress=np.zeros(6))
        labelled = labelled_batch(labelled_graphs([atoms], [zero], "train", [50, 52], 6.0, np.zeros(2)), torch.float32)
        columns = 4 if kind == "autograd4" else 1
        zeros = torch.zeros(columns, 3 * len(atoms))
        cell = CurvatureCell(batch, (Columns(torch.arange(columns), zeros, torch.ones(columns)),))
        spec = TrainSpec(
            curvature_weight=100.0, curvature_columns=columns, curvature_method="fd" if kind == "fd" else "autograd",
            curvature_memory_gb=memory if kind == "blocks" else 1e9,
        )  # fmt: skip
        term = CurvatureTerm(backend, [cell], spec)

        def step():
            start = time.process_time()
            if kind == "force":
                predictions = backend.predict(model, labelled.inputs, stress=True, create_graph=True)
                efs_loss(predictions, labelled, spec).backward(inputs=parameters)
            else:
                term.accumulate(model, parameters)
            return time.process_time() - start

        return step, term, len(atoms), batch["edge_index"].shape[1]

    warm, *_ = stepper(1)
    warm()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = []
    for size in sorted(sizes):
        step, term, n_atoms, n_edges = stepper(size)
        spent = [step() for _ in range(repeats + 1)][1:]
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        found.append((float(np.median(spent)), peak, n_atoms, n_edges, term.block(model)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[2, 3, 4, 5], help="multiples of the 4-atom cell, cubed"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, default=0.5, help="GB for the steps in blocks")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rows = [{} for _ in arguments.sizes]
    context = multiprocessing.get_context("spawn")
    for kind in arguments.kinds:
        with context.Pool(1) as pool:
            task = (kind, arguments.sizes, arguments.repeats, arguments.memory)
            measured = pool.map(measure, [task])[0]
        for row, (seconds, peak, n_atoms, n_edges, block) in zip(rows, measured, strict=True):
            row.update({"n_atoms": n_atoms, "n_edges": n_edges, f"{kind}_s": seconds, f"{kind}_peak_mb": peak})
            if kind == "blocks":
                row["block_atoms"] = block
            if kind != "force" and "force_s" in row:
                row[f"{kind}/force"] = row[f"{kind}_s"] / row["force_s"]
        print(kind, json.dumps(measured), flush=True)
    atoms = np.log([row["n_atoms"] for row in rows])
    growth = {
        quantity: {
            kind: float(
                np.polyfit(atoms[-3:], np.log([max(row[f"{kind}_{quantity}"], 1e-3) for row in rows])[-3:], 1)[0]
            )
            for kind in arguments.kinds
        }
        for quantity in ("s", "peak_mb")
    }
    print(json.dumps({"exponent over atoms, last three sizes": growth}))
    if arguments.out is not None:
        content = {"memory_gb": arguments.memory, "rows": rows, "exponents": growth}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
