"""Whole trainings as real processes: ``phonosmith train``, ``mace_run_train`` and Equitrain from one 89-element file.

Run: ``OMP_NUM_THREADS=1 python benchmarks/training/processes.py [--rounds 3] [--epochs 10] [--out FILE]``.

The foundation is a MACE of 64 scalar channels, two layers, cutoff 5 Å, 89 elements (1 to 89), trained here for some
epochs on silicon labelled by the embedded foundation; the task is silicon labelled by the embedded reference, 12
training and 4 validation cells of 8 atoms, energies shifted once so that nobody has to refit atomic energies. All train
all weights with AdamW from lr 0.01 on the Huber loss of weights 10, 100, 1000. Two comparisons:

``defaults``: each program's own precision, batch size and schedule (ours float32 and 4; mace float64 and 10; Equitrain
float64 and 16). ``equal``: float64 and batches of 4 for all. Pruning to silicon is what each does by itself: mace and
we prune, Equitrain does not.

Time is CPU time of the process (one thread each), read when a program writes the validation errors of an epoch; so it
hardly depends on what else the machine does. ``seconds per epoch`` is the median difference of two epochs, training and
validation; ``to_mace`` the time from the program's first validation (or from its start: ``with_start``) to the force
MAE that mace reaches in its best epoch of the same round, ``to_common`` to the largest of the three best ones, which
every program reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from curvature_cost import small_model
from speed import labelled

EQUITRAIN = """
import sys
from equitrain import get_args_parser_train
from equitrain.train import train
a = get_args_parser_train().parse_args([])
a.model, a.train_file, a.valid_file, a.output_dir, epochs, batch, dtype = sys.argv[1:]
a.model_wrapper, a.epochs, a.dtype, a.loss_type, a.huber_delta, a.lr = "mace", int(epochs), dtype, "huber", 0.01, 0.01
a.batch_size = int(batch)
a.energy_weight, a.forces_weight, a.stress_weight, a.verbose = 10.0, 100.0, 1000.0, 1
train(a)
"""


def cpu_seconds(pid):
    """CPU time of a process and its finished children, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def ours_errors(folder):
    """Force MAE of every validation written so far, eV/Å."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["valid_mae_forces_mev_per_angstrom"] / 1000 for line in lines]


def mace_errors(folder):
    """The same of mace_run_train."""
    found = []
    for path in folder.glob("results/*.txt"):
        for line in path.read_text().splitlines():
            item = json.loads(line)
            if item.get("mode") == "eval":
                found.append(item["mae_f"])
    return found


def equitrain_errors(folder):
    """The same of Equitrain."""
    path = folder / "trainer.log"
    return (
        [float(x) for x in re.findall(r"val \[mae\].*?forces: ([0-9.]+)", path.read_text())] if path.is_file() else []
    )


def watch(command, errors, folder):
    """Run a program to its end; return (CPU seconds, force MAE) at each validation it wrote."""
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    series = []
    with (folder / "output.txt").open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=folder)
        while process.poll() is None:
            time.sleep(0.02)
            try:
                known, spent = errors(folder), cpu_seconds(process.pid)
            except (json.JSONDecodeError, FileNotFoundError, ProcessLookupError):
                continue
            series += [(spent, mae) for mae in known[len(series) :]]
    if process.returncode:
        print((folder / "output.txt").read_text()[-1500:], file=sys.stderr)
        raise SystemExit(f"{command[0]} failed")
    return series


def commands(work, out, epochs, equal):
    """Return program, reader of errors and folder of each peer."""
    dtype, batch = ("float64", "4") if equal else (None, None)
    ours = [
        sys.executable, "-c", "from phonosmith.cli.main import main; main()", "train", "--trust", "--json",
        "--foundation", str(work / "foundation.model"), "--train", str(work / "train.xyz"),
        "--valid", str(work / "valid.xyz"), "--strategy", "transfer", "--set", f"epochs={epochs}",
        "--set", "e0=foundation", "--out", str(out / "phonosmith"),
    ]  # fmt: skip
    mace = [
        str(Path(sys.executable).with_name("mace_run_train")), "--name", "m", "--work_dir", str(out / "mace"),
        "--device", "cpu", "--seed", "1", "--train_file", str(work / "train.xyz"),
        "--valid_file", str(work / "valid.xyz"), "--energy_key", "REF_energy", "--forces_key", "REF_forces",
        "--stress_key", "REF_stress", "--foundation_model", str(work / "foundation.model"),
        "--model", "ScaleShiftMACE", "--E0s", "foundation", "--multiheads_finetuning", "False", "--loss", "huber",
        "--huber_delta", "0.01", "--energy_weight", "10", "--forces_weight", "100", "--stress_weight", "1000",
        "--optimizer", "adamw", "--lr", "0.01", "--weight_decay", "5e-3", "--max_num_epochs", str(epochs),
        "--plot", "False", "--eval_interval", "1",
    ]  # fmt: skip
    equitrain = [
        sys.executable, "-c", EQUITRAIN, str(work / "foundation.model"), str(work / "train.h5"), str(work / "valid.h5"),
        str(out / "equitrain"), str(epochs), batch or "16", "float64",
    ]  # fmt: skip
    if equal:
        ours += ["--set", f"dtype={dtype}", "--set", f"batch_size={batch}"]
        mace += ["--default_dtype", dtype, "--batch_size", batch, "--valid_batch_size", "8"]
    return {
        "phonosmith": (ours, ours_errors),
        "mace": (mace, mace_errors),
        "equitrain": (equitrain, equitrain_errors),
    }


def prepare(work, pretrain):
    """Write foundation and data; return what is worth recording."""
    import torch
    from ase.io import write
    from equitrain.data.format_hdf5 import HDF5Dataset

    from phonosmith.potentials.mace.potential import MacePotential
    from phonosmith.potentials.registry import load
    from phonosmith.structures.labels import label_frame
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    model = MacePotential(small_model(tuple(range(1, 90)), 5.0, 26.0).double())
    teacher, reference = load("embedded"), load("embedded-reference")
    spec = make_spec("transfer", epochs=pretrain, prune=False, weight_decay=0.0)
    trained = fine_tune(model, labelled(24, 5, [1, 1, 1], teacher), labelled(4, 6, [1, 1, 1], teacher), spec, seed=0)
    torch.save(trained.model, work / "foundation.model")
    potential = trained.potential
    frames = {"train": labelled(12, 1, [1, 1, 1], reference), "valid": labelled(4, 2, [1, 1, 1], reference)}
    found = potential.evaluate(frames["train"])
    shift = np.mean(
        [(a.get_potential_energy() - e.energy) / len(a) for a, e in zip(frames["train"], found, strict=True)]
    )
    for split, atoms_list in frames.items():
        shifted = [
            label_frame(
                a, energy=a.get_potential_energy() - shift * len(a), forces=a.get_forces(), stress=a.get_stress()
            )
            for a in atoms_list
        ]
        for atoms in shifted:
            # mace reads labels under other names from the same file
            atoms.info["REF_energy"], atoms.info["REF_stress"] = atoms.get_potential_energy(), atoms.get_stress(False)
            atoms.arrays["REF_forces"] = atoms.get_forces()
        write(work / f"{split}.xyz", shifted, format="extxyz")
        with HDF5Dataset(work / f"{split}.h5", "w") as file:
            for index, atoms in enumerate(shifted):
                file[index] = atoms
    return {
        "n_parameters": sum(p.numel() for p in trained.model.parameters()),
        "foundation_valid_force_mae_mev_per_angstrom": trained.document.metrics[
            "valid"
        ].after.mae_forces_mev_per_angstrom,
    }


def reached(series, target):
    """Return epoch, CPU time since the first validation and since the start (s) at a force MAE; Nones if never."""
    hit = next((k for k, (_, mae) in enumerate(series) if mae <= target), None)
    return (None, None, None) if hit is None else (hit, series[hit][0] - series[0][0], series[hit][0])


def middle(values):
    """Median of those that are not None."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def summary(rounds):
    """Medians over rounds and ratios to ours."""
    found = {}
    for name in rounds[0]:
        best = [{peer: min(mae for _, mae in series) for peer, series in one.items()} for one in rounds]
        row = {"s_per_epoch": middle(float(np.median(np.diff([t for t, _ in one[name]]))) for one in rounds)}
        for kind, targets in (("mace", [b["mace"] for b in best]), ("common", [max(b.values()) for b in best])):
            hits = [reached(one[name], target) for one, target in zip(rounds, targets, strict=True)]
            row[f"to_{kind}_epochs"] = [hit[0] for hit in hits]
            row[f"to_{kind}_s"] = middle(hit[1] for hit in hits)
            row[f"to_{kind}_with_start_s"] = middle(hit[2] for hit in hits)
        row["best_force_mae_mev_per_angstrom"] = [1000 * b[name] for b in best]
        found[name] = row
    ours = found["phonosmith"]
    for row in found.values():
        for key in [key for key in row if key.endswith("_s") or key == "s_per_epoch"]:
            row[f"{key}/ours"] = row[key] / ours[key] if row[key] and ours[key] else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pretrain", type=int, default=8, help="epochs of the foundation")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        content = {"rounds": arguments.rounds, "epochs": arguments.epochs, **prepare(work, arguments.pretrain)}
        print(json.dumps(content), flush=True)
        for kind in ("defaults", "equal"):
            rounds = []
            for number in range(arguments.rounds):
                out = work / f"{kind}{number}"
                out.mkdir()
                peers = commands(work, out, arguments.epochs, kind == "equal")
                rounds.append({peer: watch(*task, out / peer) for peer, task in peers.items()})
                print(json.dumps({kind: summary(rounds)}), flush=True)
                content[kind] = {**summary(rounds), "rounds_done": len(rounds), "series": rounds}
                if arguments.out is not None:
                    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
