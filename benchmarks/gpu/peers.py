"""What is measured against: mace's own training loop and Equitrain, in a process that never imports phonosmith.

phonosmith turns e3nn's TorchScript off for a process, which mace leaves on: each side runs as it does for its users.

Run by run.py: ``python peers.py TASKS.json`` prints one JSON line for every task as soon as it is done.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

SIZES = {"tiny": ("8x0e", 1, 2), "small": ("64x0e", 3, 3), "large": ("128x0e+128x1o", 3, 3)}
"""Hidden irreps, max_ell and correlation of the models by name; the large one is a published medium foundation's."""
NUMBERS, CUTOFF, NEIGHBOURS, LATTICE = (50, 52), 6.0, 28.0, 6.32


def build_model(size, numbers=NUMBERS, seed=0):
    """Return a MACE with random weights in float32, made as the process makes them."""
    import torch
    from mace import modules  # first: it lets e3nn read its constants
    from e3nn import o3  # isort: skip

    irreps, max_ell, correlation = SIZES[size]
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float32)
    return modules.ScaleShiftMACE(
        r_max=CUTOFF, num_bessel=8, num_polynomial_cutoff=5, max_ell=max_ell,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2, num_elements=len(numbers), hidden_irreps=o3.Irreps(irreps), MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)), avg_num_neighbors=NEIGHBOURS, atomic_numbers=list(numbers),
        correlation=correlation, gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64], radial_type="bessel",
        atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip


def cells(count, n_atoms, seed):
    """Return rattled SnTe cells with the energies, forces and stresses of a Lennard-Jones crystal as labels."""
    from ase.build import bulk
    from ase.calculators.lj import LennardJones
    from ase.calculators.singlepoint import SinglePointCalculator

    repeat = {8: (1, 1, 1), 16: (2, 1, 1), 32: (2, 2, 1), 64: (2, 2, 2), 216: (3, 3, 3), 512: (4, 4, 4)}[n_atoms]
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("SnTe", "rocksalt", a=LATTICE * (1 + rng.uniform(-0.01, 0.01)), cubic=True) * repeat
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        atoms.calc = LennardJones(sigma=2.7, epsilon=0.05, rc=6.0, smooth=True)
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        found.append(atoms)
    return found


class MaceLoop:
    """mace's own training step, validation, loader and loss on one device."""

    def __init__(self, model, train, valid, *, dtype, batch, device):
        import torch
        from mace import data as mace_data
        from mace import modules
        from mace.tools import AtomicNumberTable, torch_geometric

        self.device = torch.device(device)
        torch.set_default_dtype(getattr(torch, dtype))
        self.model = copy.deepcopy(model).to(getattr(torch, dtype)).to(self.device)
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

        self.train, self.valid = loader(train, batch, True), loader(valid, 2 * batch, False)
        self.loss = modules.WeightedHuberEnergyForcesStressLoss(10.0, 100.0, 1000.0, huber_delta=0.01)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=5e-3, amsgrad=True)
        self.outputs = {"forces": True, "virials": False, "stress": True}

    def epoch(self):
        """Train and validate once; return seconds of training and of both."""
        from mace.tools.train import evaluate, train_one_epoch

        class Silent:
            def log(self, _):
                pass

        start = time.perf_counter()
        train_one_epoch(
            self.model, self.loss, self.train, self.optimizer, 0, self.outputs, 10.0, None, Silent(), self.device, False
        )
        wait(self.device)
        trained = time.perf_counter() - start
        evaluate(self.model, self.loss, self.valid, self.outputs, self.device)
        wait(self.device)
        return trained, time.perf_counter() - start


def wait(device):
    """Wait until a device has done what it was told."""
    import torch

    if str(device).startswith("cuda"):
        torch.cuda.synchronize()


def peak_gb(device):
    """Return the most memory held so far on a GPU, GB; None on a CPU."""
    import torch

    return torch.cuda.max_memory_reserved() / 1e9 if str(device).startswith("cuda") else None


def forget(device):
    """Start counting memory anew."""
    import torch

    if str(device).startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def mace_training(task):
    """Return times of mace's loop; with ``cueq`` of the model turned into cuEquivariance's."""
    model = build_model(task["size"])
    if task.get("cueq"):
        from mace.cli.convert_e3nn_cueq import run as to_cueq

        model = to_cueq(model, device=task["device"])
    forget(task["device"])
    train, valid = cells(task["train"], task["n_atoms"], 1), cells(task["valid"], task["n_atoms"], 2)
    loop = MaceLoop(model, train, valid, dtype=task["dtype"], batch=task["batch"], device=task["device"])
    loop.epoch()
    times = np.array([loop.epoch() for _ in range(task["rounds"])])
    steps = -(-task["train"] // task["batch"])
    trained, whole = np.median(times, axis=0)
    return {"step_s": trained / steps, "epoch_s": whole, "peak_gb": peak_gb(task["device"])}


def equitrain_training(task):
    """Return seconds of one epoch of Equitrain: a third of the difference of four epochs and one, after a first run."""
    import torch
    from equitrain import get_args_parser_train
    from equitrain.data.format_hdf5 import HDF5Dataset
    from equitrain.train import train

    seconds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count, seed in (("train", task["train"], 1), ("valid", task["valid"], 2)):
            with HDF5Dataset(folder / f"{split}.h5", "w") as file:
                for index, atoms in enumerate(cells(count, task["n_atoms"], seed)):
                    file[index] = atoms
        torch.save(build_model(task["size"]).to(getattr(torch, task["dtype"])), folder / "start.model")
        for epochs in (1, 1, 4):
            arguments = get_args_parser_train().parse_args([])
            arguments.train_file, arguments.valid_file = str(folder / "train.h5"), str(folder / "valid.h5")
            arguments.model, arguments.model_wrapper = str(folder / "start.model"), "mace"
            arguments.output_dir = str(folder / f"run{time.time_ns()}")
            arguments.epochs, arguments.batch_size, arguments.dtype = epochs, task["batch"], task["dtype"]
            arguments.lr, arguments.loss_type = 1e-3, "huber"
            arguments.energy_weight, arguments.forces_weight, arguments.stress_weight = 10.0, 100.0, 1000.0
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                train(arguments)
            wait(task["device"])
            seconds.append(time.perf_counter() - start)
    return {"epoch_s": (seconds[2] - seconds[1]) / 3}


PEERS = {"mace": mace_training, "equitrain": equitrain_training}


def main() -> None:
    warnings.filterwarnings("ignore")
    for task in json.loads(Path(sys.argv[1]).read_text()):
        with contextlib.redirect_stdout(sys.stderr):
            try:
                found = PEERS[task["peer"]](task)
            except Exception as error:  # noqa: BLE001  # one task must not end the others
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
        print(json.dumps({"key": task["key"], **found}), flush=True)


if __name__ == "__main__":
    main()
