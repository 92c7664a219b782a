"""What could make a step on a CPU cheaper: TorchScript, threads, padding, inductor, for training and for evaluation.

Run: ``python benchmarks/training/cpu_step.py [--rounds 5] [--variants eager inductor] [--out FILE]``.

One step is forward, loss and the gradient by all parameters (``train``), or energy and forces (``evaluate``), of one
cell of SnTe by a MACE of 64x0e, cutoff 6 Å, random weights, float32. Each variant is a process of its own; they take
turns for some rounds and the median of the CPU seconds of a step is quoted over that of ``eager``, which is what is
done: TorchScript off, one thread. ``threads`` is quoted in wall seconds: two threads against one. ``inductor`` traces
the whole step with make_fx and compiles it, which takes minutes; the time of that is ``compile_s``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))

VARIANTS = ("eager", "script", "padded", "threads", "inductor")


def step_of(kind, variant, n_atoms):
    """Return a step, and what it took to compile it."""
    import torch
    from peers import build_model, cells

    torch.set_num_threads(2 if variant == "threads" else 1)
    if variant != "script":
        from phonosmith.potentials.mace.imports import import_mace

        import_mace()
    model = build_model("small")
    from phonosmith.potentials.graphs import Shape, frozen, padded_shape
    from phonosmith.potentials.mace.backend import MaceBackend
    from phonosmith.structures.labels import labels_of
    from phonosmith.training.graphs import labelled_batch, labelled_graphs
    from phonosmith.training.losses import efs_loss
    from phonosmith.training.spec import TrainSpec

    backend, spec, (atoms,) = MaceBackend(), TrainSpec(), cells(1, n_atoms, 0)
    parameters = list(model.parameters())
    (graph,) = labelled_graphs([atoms], [labels_of(atoms)], "train", (50, 52), 6.0, np.zeros(2))
    least = padded_shape([graph.graph])
    shape = Shape(*least[:2], int(1.1 * least.edges)) if variant == "padded" else None
    labelled = labelled_batch([graph], torch.float32, shape=shape, cutoff=6.0)
    if variant == "inductor":
        # a determinant cannot be traced
        labelled = labelled_batch([graph], torch.float32, shape=least, cutoff=6.0)
    batch = labelled.inputs

    def train(data):
        found = backend.predict(model, data, stress=True, create_graph=True)
        return torch.autograd.grad(efs_loss(found, labelled, spec), parameters, allow_unused=True)

    def evaluate(data):
        with frozen(model):
            found = backend.predict(model, data, stress=False, create_graph=False)
        return found.energy, found.forces

    function = train if kind == "train" else evaluate
    if variant != "inductor":
        prepared = backend.prepare(model, batch) if kind == "evaluate" and variant != "padded" else batch
        return lambda: function(prepared), 0.0
    from torch.fx.experimental.proxy_tensor import make_fx

    start = time.perf_counter()
    compiled = torch.compile(make_fx(function)(batch), dynamic=False)

    def step():
        with torch.no_grad():  # the derivatives are in the traced operations
            return compiled(batch)

    step()
    return step, time.perf_counter() - start


def measure(kind, variant, n_atoms, repeats):
    """Return CPU and wall seconds of a step, and the seconds of compiling."""
    warnings.filterwarnings("ignore")
    step, compiling = step_of(kind, variant, n_atoms)
    for _ in range(5):  # TorchScript optimises what it has seen a few times
        step()
    found = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = np.median(found, axis=0)
    return {"cpu_s": cpu, "wall_s": wall, "compile_s": compiling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--atoms", type=int, nargs="*", default=[8, 32, 64])
    parser.add_argument("--kinds", nargs="*", choices=["train", "evaluate"], default=["train", "evaluate"])
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=["eager", "script", "padded", "threads"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, variant, n_atoms = arguments.one
        print(json.dumps(measure(kind, variant, int(n_atoms), arguments.repeats)))
        return
    rows = []
    for n_atoms in arguments.atoms:
        for kind in arguments.kinds:
            found = {variant: [] for variant in arguments.variants}
            for round_ in range(arguments.rounds):
                for variant in arguments.variants:
                    if variant == "inductor" and round_ > 0:
                        continue
                    command = [sys.executable, __file__, "--repeats", str(arguments.repeats)]
                    done = subprocess.run(
                        [*command, "--one", kind, variant, str(n_atoms)], capture_output=True, text=True, check=False
                    )
                    if done.returncode:
                        print(variant, done.stderr.strip().splitlines()[-1], file=sys.stderr)
                        continue
                    found[variant].append(json.loads(done.stdout.splitlines()[-1]))
            row = {"atoms": n_atoms, "step": kind}
            for variant, measured in found.items():
                for key in ("cpu_s", "wall_s", "compile_s"):
                    if measured:
                        row[f"{variant}_{key}"] = float(np.median([one[key] for one in measured]))
            for variant in arguments.variants:
                key = "wall_s" if variant == "threads" else "cpu_s"
                if f"{variant}_{key}" in row:
                    row[f"{variant}/eager"] = row[f"{variant}_{key}"] / row[f"eager_{key}"]
            rows.append(row)
            print(json.dumps(row), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
