"""Batched evaluator against looping mace's own ASE calculator over 40 displaced 64-atom silicon cells.

Both evaluate energy, forces and stress in float64 on the same model in the same process; rounds alternate, so that a
busy machine slows both, and the ratio is the result. Weights are random: cost does not depend on their values.

    python benchmarks/evaluator/run.py [--rounds 3] [--frames 40] [--device cpu] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from phonosmith.potentials.mace.imports import import_mace  # noqa: E402

import_mace()
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase.build import bulk  # noqa: E402
from e3nn import o3  # noqa: E402
from mace import modules  # noqa: E402
from mace.calculators import MACECalculator  # noqa: E402
from mace.tools.torch_tools import default_dtype  # noqa: E402

from phonosmith.core.manifest import host_kind, package_versions  # noqa: E402
from phonosmith.potentials.graphs import make_graph  # noqa: E402
from phonosmith.potentials.mace.potential import MacePotential  # noqa: E402

MODELS = {
    "small: 16x0e+16x1o, 4.5 Å, 4 elements": {
        "hidden_irreps": "16x0e+16x1o", "max_ell": 2, "correlation": 2, "r_max": 4.5, "elements": [6, 13, 14, 32],
    },
    "foundation-like: 32x0e+32x1o, 5 Å, 89 elements": {
        "hidden_irreps": "32x0e+32x1o", "max_ell": 3, "correlation": 3, "r_max": 5.0, "elements": list(range(1, 90)),
    },
}  # fmt: skip


def build(spec: dict, device: str) -> torch.nn.Module:
    """Return a model with random weights and the blocks of the current MACE foundations."""
    torch.manual_seed(0)
    with default_dtype(torch.float64):
        model = modules.ScaleShiftMACE(
            r_max=spec["r_max"],
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=spec["max_ell"],
            interaction_cls=modules.interaction_classes["RealAgnosticDensityResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticDensityInteractionBlock"],
            num_interactions=2,
            num_elements=len(spec["elements"]),
            hidden_irreps=o3.Irreps(spec["hidden_irreps"]),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros((1, len(spec["elements"]))),
            avg_num_neighbors=20.0,
            atomic_numbers=spec["elements"],
            correlation=spec["correlation"],
            gate=torch.nn.functional.silu,
            pair_repulsion=True,
            distance_transform="Agnesi",
            radial_MLP=[64, 64, 64],
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
    return model.to(device)


def displaced(count: int) -> list:
    """Return copies of a 64-atom silicon cell with every atom displaced by 0.01 Å (standard deviation)."""
    frames = []
    for seed in range(count):
        atoms = bulk("Si", cubic=True) * (2, 2, 2)
        atoms.rattle(0.01, seed=seed)
        frames.append(atoms)
    return frames


def timed(work, device: str):
    """Return a result, and CPU seconds (wall seconds on a GPU)."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return result, clock() - start


def compare(spec: dict, frames: list, rounds: int, device: str) -> dict:
    """Time both ways and compare their numbers."""
    model = build(spec, device)
    potential = MacePotential(model)
    calculator = MACECalculator(models=[model], device=device, default_dtype="float64")

    def loop() -> list:
        found = []
        for atoms in frames:
            calculator.calculate(atoms)
            found.append(dict(calculator.results))
        return found

    _, first_call = timed(lambda: potential.evaluate(frames), device)
    timed(lambda: [calculator.calculate(atoms) for atoms in frames[:3]], device)
    seconds: dict[str, list[float]] = {"loop": [], "batched": []}
    for _ in range(rounds):
        looped, spent = timed(loop, device)
        seconds["loop"].append(spent)
        ours, spent = timed(lambda: potential.evaluate(frames), device)
        seconds["batched"].append(spent)
    _, graphs = timed(lambda: [make_graph(a, potential.z_table, potential.r_max) for a in frames], "cpu")
    per_frame = {name: 1e3 * statistics.median(values) / len(frames) for name, values in seconds.items()}
    return {
        "loop_ms_per_frame": round(per_frame["loop"], 2),
        "batched_ms_per_frame": round(per_frame["batched"], 2),
        "speedup": round(statistics.median(a / b for a, b in zip(seconds["loop"], seconds["batched"], strict=True)), 2),
        "neighbour_lists_ms_per_frame": round(1e3 * graphs / len(frames), 2),
        "first_batched_call_s": round(first_call, 2),
        "max_energy_difference_eV": max(abs(a["energy"] - b.energy) for a, b in zip(looped, ours, strict=True)),
        "max_force_difference_eV_per_A": max(
            float(abs(a["forces"] - b.forces).max()) for a, b in zip(looped, ours, strict=True)
        ),
        "max_stress_difference_eV_per_A3": max(
            float(abs(a["stress"] - b.stress).max()) for a, b in zip(looped, ours, strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    arguments = parser.parse_args()
    frames = displaced(arguments.frames)
    report = {
        "frames": arguments.frames,
        "rounds": arguments.rounds,
        "device": arguments.device if arguments.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "clock": "process CPU time" if arguments.device == "cpu" else "wall time",
        "host": host_kind(),
        "packages": package_versions(),
        "models": {},
    }
    for name, spec in MODELS.items():
        report["models"][name] = compare(spec, frames, arguments.rounds, arguments.device)
        print(name, json.dumps(report["models"][name], indent=1))
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
