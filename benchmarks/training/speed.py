"""Seconds per epoch and time to equal accuracy: our loop, mace's, Equitrain; same model, data, precision, one thread.

Run: ``OMP_NUM_THREADS=1 python benchmarks/training/speed.py [--rounds 5] [--repeat 2 2 1] [--out FILE]``.

Per epoch: rounds are interleaved (ours, mace, Equitrain, ours, ...), medians are quoted and their ratios are what to
trust. mace's loop is its own ``train_one_epoch`` and ``evaluate`` with its data loader and loss, in process, so that
imports and set-up count for nobody; Equitrain's is the difference of a run of three and one of one epoch. To equal
accuracy: seconds of training and validation until the validation force MAE falls below that which mace reaches after
``--target-epochs`` epochs in float64 with all elements; ours runs with its defaults (float32, pruned, stopping there).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from ase.build import bulk

BATCH = 4


def labelled(count, seed, repeat, reference):
    """Rattled silicon cells labelled by the reference potential."""
    from phonosmith.structures.labels import label_frame

    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        atoms = bulk("Si", "diamond", a=5.43, cubic=True) * repeat
        atoms.set_cell(atoms.cell.array * (1 + rng.uniform(-0.015, 0.015)), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.06, atoms.positions.shape)
        frames.append(atoms)
    found = reference.evaluate(frames)
    return [
        label_frame(a, energy=e.energy, forces=e.forces, stress=e.stress) for a, e in zip(frames, found, strict=True)
    ]


def our_epochs(foundation, train, valid, dtype, rounds):
    """Yield seconds of one epoch (training and validation) of our loop."""
    from phonosmith.training.assemble import assemble
    from phonosmith.training.loop import Fitter
    from phonosmith.training.spec import make_spec
    from phonosmith.training.trainable import select_trainable

    spec = make_spec("transfer", dtype=dtype, prune=False, batch_size=BATCH, lr=1e-3)
    parts = assemble(foundation, train, valid, spec, replay=None, curvature=None, seed=0)
    work = parts.backend.cast(parts.start, dtype)
    fitter = Fitter(parts.backend, work, select_trainable(parts.backend, work, spec), parts.train, parts.valid, spec)
    fitter.begin()
    for _ in range(rounds):
        start = time.perf_counter()
        fitter.launch_epoch()
        fitter.finish_epoch()
        yield time.perf_counter() - start


class MaceLoop:
    """mace's own training step, validation, loader and loss."""

    def __init__(self, model, train, valid, dtype, lr=1e-3, weight_decay=5e-3):
        import torch
        from mace import data as mace_data
        from mace import modules
        from mace.tools import AtomicNumberTable, torch_geometric

        self.dtype = getattr(torch, dtype)
        torch.set_default_dtype(self.dtype)
        self.model = copy.deepcopy(model).to(self.dtype)
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
        keys = mace_data.KeySpecification(info_keys={"energy": "E", "stress": "S"}, arrays_keys={"forces": "F"})

        def loader(frames, size, shuffle):
            found = []
            for atoms in frames:
                plain = atoms.copy()
                plain.info["E"], plain.info["S"] = atoms.get_potential_energy(), atoms.get_stress()
                plain.arrays["F"] = atoms.get_forces()
                config = mace_data.config_from_atoms(plain, key_specification=keys)
                found.append(mace_data.AtomicData.from_config(config, z_table=table, cutoff=float(model.r_max)))
            return torch_geometric.dataloader.DataLoader(found, batch_size=size, shuffle=shuffle, drop_last=False)

        self.train, self.valid = loader(train, BATCH, True), loader(valid, 2 * BATCH, False)
        self.loss = modules.WeightedHuberEnergyForcesStressLoss(10.0, 100.0, 1000.0, huber_delta=0.01)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, amsgrad=True)
        self.outputs = {"forces": True, "virials": False, "stress": True}

    def epoch(self):
        """Train and validate once; return seconds and the validation force MAE in eV/Å."""
        import torch
        from mace.tools.train import evaluate, train_one_epoch

        class Silent:
            def log(self, _):
                pass

        torch.set_default_dtype(self.dtype)
        start = time.perf_counter()
        device = torch.device("cpu")
        train_one_epoch(
            self.model, self.loss, self.train, self.optimizer, 0, self.outputs, 10.0, None, Silent(), device, False
        )
        _, found = evaluate(self.model, self.loss, self.valid, self.outputs, device)
        return time.perf_counter() - start, float(found["mae_f"])


def equitrain_epoch(model_file, folder, dtype):
    """Return seconds of one epoch of Equitrain: a third of the difference of four epochs and one, after a first run."""
    from equitrain import get_args_parser_train
    from equitrain.train import train

    seconds = []
    for epochs in (1, 1, 4):
        arguments = get_args_parser_train().parse_args([])
        arguments.train_file, arguments.valid_file = str(folder / "train.h5"), str(folder / "valid.h5")
        arguments.model, arguments.model_wrapper = str(model_file), "mace"
        arguments.output_dir = str(folder / f"run{epochs}{time.time_ns()}")
        arguments.epochs, arguments.batch_size, arguments.dtype, arguments.lr = epochs, BATCH, dtype, 1e-3
        arguments.loss_type = "huber"
        arguments.energy_weight, arguments.forces_weight, arguments.stress_weight = 10.0, 100.0, 1000.0
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(arguments)
        seconds.append(time.perf_counter() - start)
    return (seconds[2] - seconds[1]) / 3


def per_epoch(foundation, train, valid, dtype, rounds, folder):
    """Median seconds per epoch of each loop, interleaved."""
    import torch

    module = foundation.model
    cast = copy.deepcopy(module).to(getattr(torch, dtype))
    model_file = folder / f"{dtype}.model"
    torch.save(cast, model_file)
    ours, theirs = our_epochs(foundation, train, valid, dtype, rounds + 1), MaceLoop(module, train, valid, dtype)
    found = {"phonosmith": [], "mace": [], "equitrain": []}
    torch.set_default_dtype(torch.float32)
    next(ours)
    theirs.epoch()
    for round_ in range(rounds):
        torch.set_default_dtype(torch.float32)
        found["phonosmith"].append(next(ours))
        found["mace"].append(theirs.epoch()[0])
        if round_ < 2 and (folder / "train.h5").is_file():
            try:
                found["equitrain"].append(equitrain_epoch(model_file, folder, dtype))
            except (RuntimeError, TypeError, ValueError, OSError, ImportError) as error:
                print(f"equitrain did not run: {error}")
                (folder / "train.h5").unlink()
    medians = {name: float(np.median(values)) for name, values in found.items() if values}
    ratios = {f"{name}/phonosmith": value / medians["phonosmith"] for name, value in medians.items()}
    return {"dtype": dtype, "median_s_per_epoch": medians, "ratios": ratios, "rounds": found}


def to_accuracy(foundation, train, valid, epochs):
    """Seconds to the validation force MAE that mace's loop reaches after some epochs at lr 0.01."""
    import torch

    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    theirs = MaceLoop(foundation.model, train, valid, "float64", lr=0.01)
    history = [theirs.epoch() for _ in range(epochs)]
    torch.set_default_dtype(torch.float32)
    reached = min(mae for _, mae in history)
    first = next(index for index, (_, mae) in enumerate(history) if mae <= reached)
    spent = sum(seconds for seconds, _ in history[: first + 1])
    rows = {"target_mev_per_angstrom": 1000 * reached, "mace_s": spent, "mace_epochs": first + 1}
    for strategy in ("transfer", "delta"):
        spec = make_spec(strategy, target_forces_mae=reached, epochs=4 * epochs, patience=None, batch_size=BATCH)
        start = time.perf_counter()
        document = fine_tune(foundation, train, valid, spec, seed=0).document
        rows[strategy] = {
            "s_with_setup": time.perf_counter() - start,
            "s": document.seconds,
            "epochs": document.epochs_run,
            "reached": "force MAE" in document.stop_reason,
            "speed_up": spent / document.seconds,
        }
    return rows


def profile(foundation, train, valid):
    """Share of an epoch of our loop spent inside the model (forward, force gradient, backward)."""
    import torch

    from phonosmith.training import loop

    spent = {"forward": 0.0, "backward": 0.0, "collate": 0.0}
    kind = type(foundation.model)
    forward, backward, collate = kind.forward, torch.Tensor.backward, loop.labelled_batch

    def timed(name, function):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return wrapper

    epochs = our_epochs(foundation, train, valid, "float32", 3)
    next(epochs)
    kind.forward = timed("forward", forward)
    torch.Tensor.backward = timed("backward", backward)
    loop.labelled_batch = timed("collate", collate)
    try:
        total = sum(epochs)
    finally:
        kind.forward, torch.Tensor.backward, loop.labelled_batch = forward, backward, collate
    shares = {name: value / total for name, value in spent.items()}
    return {**shares, "model": shares["forward"] + shares["backward"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, nargs=3, default=[2, 1, 1], help="multiples of the 8-atom cell")
    parser.add_argument("--structures", type=int, default=8)
    parser.add_argument("--target-epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from phonosmith.potentials.registry import load

    foundation = load("embedded", dtype="float64", device="cpu")
    reference = load("embedded-reference")
    train = labelled(arguments.structures, 1, arguments.repeat, reference)
    valid = labelled(4, 2, arguments.repeat, reference)
    content = {"n_atoms": len(train[0]), "n_train": len(train), "per_epoch": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            from equitrain.data.format_hdf5 import HDF5Dataset

            for split, frames in (("train", train), ("valid", valid)):
                with HDF5Dataset(folder / f"{split}.h5", "w") as file:
                    for index, atoms in enumerate(frames):
                        file[index] = atoms
        except ImportError as error:
            print(f"equitrain is not complete: {error}")
        for dtype in ("float64", "float32"):
            content["per_epoch"].append(per_epoch(foundation, train, valid, dtype, arguments.rounds, folder))
            print(json.dumps(content["per_epoch"][-1]["ratios"]), flush=True)
    torch.set_default_dtype(torch.float32)
    content["profile_float32"] = profile(foundation, train, valid)
    print(json.dumps(content["profile_float32"]), flush=True)
    content["to_accuracy"] = to_accuracy(foundation, train, valid, arguments.target_epochs)
    print(json.dumps(content["to_accuracy"], indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
