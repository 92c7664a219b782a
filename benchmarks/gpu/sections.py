"""The sections of the GPU benchmark: what each measures, row by row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from peers import LATTICE, build_model, cells, forget, peak_gb, wait

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plan:
    """How much is measured, and where."""

    device: str
    quick: bool
    tiny: bool

    def pick(self, full, quick, tiny):
        """Return what goes for this plan."""
        return tiny if self.tiny else quick if self.quick else full


class Results:
    """Rows of one section, written after each, so that nothing measured is lost."""

    def __init__(self, path):
        self.path, self.rows = path, []

    def add(self, **row):
        """Keep a row."""
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        write(self.path, self.rows)


def write(path, content):
    """Write JSON so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1, default=float) + "\n")
    temporary.replace(path)


def first_line(error):
    """Return an error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def peers(tasks, results, limit):
    """Run tasks of peers.py in one process and keep what each gave, also when the process dies on the way."""
    left = {task["key"]: task for task in tasks}
    if limit <= 0 or not tasks:
        for task in tasks:
            results.add(**task, error="no time was left")
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "tasks.json"
        path.write_text(json.dumps(tasks))
        process = subprocess.Popen(
            [sys.executable, str(HERE / "peers.py"), str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        end = time.monotonic() + limit
        try:
            while left and (line := process.stdout.readline()):
                found = json.loads(line)
                results.add(**left.pop(found["key"]), **{k: v for k, v in found.items() if k != "key"})
                if time.monotonic() > end:
                    break
        finally:
            process.kill()
            process.wait()
    for task in left.values():
        results.add(**task, error="its process ended or ran out of time before")


# steps and epochs


def our_training(plan, task, *, strategy="transfer", targets=None, settings=None):
    """Return times of our loop on a task of peers.py, recorded (``compile=auto``) or launched (``off``)."""
    from phonosmith.potentials.mace.potential import MacePotential
    from phonosmith.training.finetune import prepare
    from phonosmith.training.spec import make_spec

    frames = cells(task["train"], task["n_atoms"], 1), cells(task["valid"], task["n_atoms"], 2)
    options = {"dtype": task["dtype"], "batch_size": task["batch"], "device": plan.device, "lr": 1e-3, "prune": False}
    compiled = {} if task["compile"] == "auto" else {"compile": task["compile"]}
    spec = make_spec(strategy, **{**options, "epochs": 10_000, "patience": None, **compiled, **(settings or {})})
    foundation = MacePotential(our_model(task["size"]).double())
    forget(plan.device)
    start = time.perf_counter()
    fitter = prepare(foundation, *frames, spec, seed=0, curvature=targets).fitter
    fitter.begin()
    wait(plan.device)
    begun, times = time.perf_counter() - start, []
    for number in range(task["rounds"] + 1):
        start, steps = time.perf_counter(), fitter.state.steps
        fitter.launch_epoch()
        wait(plan.device)
        trained = time.perf_counter() - start
        fitter.finish_epoch()
        wait(plan.device)
        if number:
            times.append((trained / max(1, fitter.state.steps - steps), time.perf_counter() - start))
    step, epoch = np.median(times, axis=0)
    return {"step_s": step, "epoch_s": epoch, "begin_s": begun, "peak_gb": peak_gb(plan.device)}


def our_model(size, numbers=(50, 52), seed=0):
    """Return the same model, made as phonosmith makes models."""
    from phonosmith.potentials.mace.imports import import_mace

    import_mace()
    return build_model(size, numbers, seed)


def training_section(plan, results, limit):
    """Steps and epochs: ours recorded and launched, mace, mace with cuEquivariance, Equitrain."""
    every = [
        {"size": size, "n_atoms": n, "batch": batch, "dtype": dtype}
        for size in ("small", "large")
        for n in (32, 216)
        for batch in (1, 4)
        for dtype in ("float32", "float64")
    ]
    said = [("small", 32, 1), ("small", 216, 1), ("small", 216, 4), ("large", 216, 1), ("large", 216, 4)]
    wanted = [{"size": size, "n_atoms": n, "batch": batch, "dtype": "float32"} for size, n, batch in said]
    wanted.append({"size": "large", "n_atoms": 216, "batch": 4, "dtype": "float64"})
    least = [{"size": "tiny", "n_atoms": 8, "batch": 2, "dtype": "float32"}]
    counts = plan.pick(
        {"train": 16, "valid": 4, "rounds": 3},
        {"train": 16, "valid": 4, "rounds": 2},
        {"train": 4, "valid": 2, "rounds": 1},
    )
    tasks = [{**one, **counts} for one in plan.pick(every, wanted, least)]
    end = time.monotonic() + limit

    def ours(compiled):
        for task in tasks:
            asked = {**task, "peer": "phonosmith", "compile": compiled}
            try:
                results.add(**asked, **our_training(plan, asked))
            except Exception as error:  # noqa: BLE001  # one setting must not end the others
                traceback.print_exc()
                results.add(**asked, error=first_line(error))

    def theirs(some):
        numbered = [{**one, "device": plan.device, "key": str(number)} for number, one in enumerate(some)]
        peers(numbered, results, end - time.monotonic())

    # what the goals are about comes first
    ours("auto")
    theirs([{**task, "peer": "mace"} for task in tasks])
    ours("off")
    usual = [one for one in tasks if one["dtype"] == "float32" and one["batch"] > 1 and one["n_atoms"] != 32]
    if plan.device == "cuda":
        theirs([{**task, "peer": "mace", "cueq": True} for task in usual])
    theirs([{**task, "peer": "equitrain"} for task in usual])


# whole processes

EQUITRAIN = """
import sys
from equitrain import get_args_parser_train
from equitrain.train import train
a = get_args_parser_train().parse_args([])
a.model, a.train_file, a.valid_file, a.output_dir, epochs = sys.argv[1:]
a.model_wrapper, a.epochs, a.dtype = "mace", int(epochs), "float32"
a.loss_type, a.huber_delta, a.lr = "huber", 0.01, 0.001
a.batch_size, a.energy_weight, a.forces_weight, a.stress_weight = 1, 10.0, 100.0, 1000.0
train(a)
"""


def process_section(plan, results, limit):
    """Wall time of whole programs, start to written model: ``phonosmith train``, ``mace_run_train``, Equitrain."""
    import torch
    from ase.io import write as write_frames

    from phonosmith.structures.labels import label_frame, labels_of

    size, n_atoms = plan.pick("small", "small", "tiny"), plan.pick(32, 32, 8)
    counts, epochs = plan.pick((10, 4), (10, 4), (3, 2)), plan.pick(200, 25, 2)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        torch.save(our_model(size), work / "start.model")
        for split, count, seed in (("train", counts[0], 1), ("valid", counts[1], 2)):
            labelled = []
            for atoms in cells(count, n_atoms, seed):
                labels = labels_of(atoms)
                atoms.info["REF_energy"], atoms.info["REF_stress"] = labels.energy, atoms.get_stress(False)
                atoms.arrays["REF_forces"] = labels.forces
                labelled.append(label_frame(atoms, energy=labels.energy, forces=labels.forces, stress=labels.stress))
            write_frames(work / f"{split}.xyz", labelled, format="extxyz")
            try:
                from equitrain.data.format_hdf5 import HDF5Dataset

                with HDF5Dataset(work / f"{split}.h5", "w") as file:
                    for index, atoms in enumerate(labelled):
                        file[index] = atoms
            except ImportError:
                pass
        common = {"size": size, "n_atoms": n_atoms, "epochs": epochs, "batch": 1, "dtype": "float32"}
        commands = {
            "phonosmith": [
                sys.executable,
                "-c",
                "from phonosmith.cli.main import main; main()",
                "train",
                "--trust",
                "--json",
                "--foundation",
                str(work / "start.model"),
                "--train",
                str(work / "train.xyz"),
                "--valid",
                str(work / "valid.xyz"),
                "--strategy",
                "transfer",
                "--set",
                f"epochs={epochs}",
                "--set",
                "patience=none",
                "--set",
                "batch_size=1",
                "--set",
                "lr=0.001",
                "--set",
                "e0=foundation",
                "--set",
                f"device={plan.device}",
                "--out",
                str(work / "ours"),
            ],
            "mace": [
                sys.executable,
                "-m",
                "mace.cli.run_train",
                "--name",
                "m",
                "--work_dir",
                str(work / "mace"),
                "--device",
                plan.device,
                "--seed",
                "1",
                "--train_file",
                str(work / "train.xyz"),
                "--valid_file",
                str(work / "valid.xyz"),
                "--energy_key",
                "REF_energy",
                "--forces_key",
                "REF_forces",
                "--stress_key",
                "REF_stress",
                "--foundation_model",
                str(work / "start.model"),
                "--model",
                "ScaleShiftMACE",
                "--E0s",
                "foundation",
                "--multiheads_finetuning",
                "False",
                "--loss",
                "huber",
                "--huber_delta",
                "0.01",
                "--energy_weight",
                "10",
                "--forces_weight",
                "100",
                "--stress_weight",
                "1000",
                "--optimizer",
                "adamw",
                "--lr",
                "0.001",
                "--weight_decay",
                "5e-3",
                "--max_num_epochs",
                str(epochs),
                "--plot",
                "False",
                "--eval_interval",
                "1",
                "--default_dtype",
                "float32",
                "--batch_size",
                "1",
                "--valid_batch_size",
                "2",
            ],
            "equitrain": [
                sys.executable,
                "-c",
                EQUITRAIN,
                str(work / "start.model"),
                str(work / "train.h5"),
                str(work / "valid.h5"),
                str(work / "equitrain"),
                str(epochs),
            ],
        }
        environment = {**os.environ, "PHONOSMITH_HOME": str(work / "home")}
        begin = time.monotonic()
        for peer, command in commands.items():
            (work / f"in_{peer}").mkdir()
            start = time.perf_counter()
            try:
                left = max(1.0, limit - (time.monotonic() - begin))
                done = subprocess.run(
                    command,
                    cwd=work / f"in_{peer}",
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=left,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                results.add(peer=peer, **common, error="ran out of time")
                continue
            row = {"wall_s": time.perf_counter() - start}
            if done.returncode:
                row = {"error": ((done.stderr or done.stdout).strip().splitlines() or ["failed"])[-1][:200]}
            elif peer == "phonosmith":
                row["training_s"] = json.loads((work / "ours" / "training.json").read_text())["seconds"]
            results.add(peer=peer, **common, **row)


# packs


def packs_section(plan, results, limit):  # noqa: ARG001
    """Trainings side by side in one process, and one alone; all begin from nothing shared but the foundation."""
    from phonosmith.potentials.mace.potential import MacePotential
    from phonosmith.training.finetune import prepare
    from phonosmith.training.packing import Planned, SideBySide
    from phonosmith.training.spec import make_spec

    size, n_atoms = plan.pick("small", "small", "tiny"), plan.pick(32, 32, 8)
    counts, epochs = plan.pick((10, 4), (10, 4), (3, 2)), plan.pick(200, 60, 2)
    train, valid = cells(counts[0], n_atoms, 1), cells(counts[1], n_atoms, 2)
    foundation = MacePotential(our_model(size).double())
    options = {"device": plan.device, "batch_size": 1, "lr": 1e-3, "epochs": epochs, "patience": None, "prune": False}
    spec = make_spec("transfer", **options)

    def planned(seed):
        return Planned(f"seed {seed}", lambda: prepare(foundation, train, valid, spec, seed=seed))

    for count in plan.pick((1, 1, 2, 4, 8), (1, 1, 2, 4, 8), (1, 2)):
        forget(plan.device)
        start = time.perf_counter()
        outcomes = SideBySide().run([planned(seed) for seed in range(count)])
        wait(plan.device)
        wall = time.perf_counter() - start
        failed = [first_line(one.error) for one in outcomes if one.error is not None]
        # the first one of all warms up
        results.add(
            trainings=count,
            epochs=epochs,
            size=size,
            n_atoms=n_atoms,
            wall_s=wall,
            peak_gb=peak_gb(plan.device),
            warm_up=len(results.rows) == 0 and not plan.tiny,
            **({"error": "; ".join(failed)} if failed else {}),
        )


# curvature


def curvature_section(plan, results, limit):  # noqa: ARG001
    """Time of the exact curvature part of a step over that of a step on forces, and memory, on about 500 atoms."""
    from ase.build import bulk

    from phonosmith.harmonic.curvature import CurvatureTarget

    n_atoms = plan.pick(512, 512, 8)
    repeat = {512: 4, 8: 1}[n_atoms]
    atoms = bulk("SnTe", "rocksalt", a=LATTICE, cubic=True) * (repeat, repeat, repeat)
    columns = tuple(range(4))
    target = CurvatureTarget(atoms, np.zeros((3 * n_atoms, 3 * n_atoms)), columns, (1.0,) * 4)
    for size in plan.pick(("small", "large"), ("small", "large"), ("tiny",)):
        for compiled in plan.pick(("auto", "off"), ("auto",), ("auto", "off")):
            counts = {"train": 2, "valid": 2, "rounds": plan.pick(4, 2, 1)}
            task = {"size": size, "n_atoms": n_atoms, "batch": 1, "dtype": "float32", "compile": compiled, **counts}
            try:
                force = our_training(plan, task)
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                results.add(**task, error=first_line(error))
                continue
            for count in (1, 4):
                settings = {
                    "curvature_weight": 100.0,
                    "curvature_columns": count,
                    "curvature_mode": "joint",
                    "curvature_sampling": "irreducible",
                    "curvature_memory_gb": 1e3,
                }
                try:
                    joint = our_training(plan, task, targets=target, settings=settings)
                except Exception as error:  # noqa: BLE001
                    traceback.print_exc()
                    results.add(**task, columns=count, error=first_line(error))
                    continue
                results.add(
                    **task,
                    columns=count,
                    force_step_s=force["step_s"],
                    joint_step_s=joint["step_s"],
                    curvature_over_force=(joint["step_s"] - force["step_s"]) / force["step_s"],
                    force_peak_gb=force["peak_gb"],
                    peak_gb=joint["peak_gb"],
                )


# inference


def timed(action, plan, *, warm=True):
    """Return seconds of an action and what it gave; by default it runs twice and the second counts."""
    for _ in range(1 + warm):
        start = time.perf_counter()
        found = action()
        wait(plan.device)
        seconds = time.perf_counter() - start
    return seconds, found


def inference_section(plan, results, limit):  # noqa: ARG001
    """Displaced cells, relaxations and phonons end to end: in batches and recorded, looped, and by atomate2."""
    for part in (displaced_cells, relaxations, phonons):
        try:
            part(plan, results)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            results.add(what=part.__name__, error=first_line(error))


def loop(frames, calculator):
    """Return the forces an ASE calculator gives one after the other."""
    found = []
    for atoms in frames:
        copied = atoms.copy()
        copied.calc = calculator
        found.append(copied.get_forces())
    return found


def mace_calculator(plan, size):
    """Return mace's own ASE calculator of the same model in float64, as phonosmith makes models (TorchScript off)."""
    from mace.calculators import MACECalculator

    return MACECalculator(models=[our_model(size).double()], device=plan.device, default_dtype="float64")


def our_potential(plan, size):
    """Return our potential of the model on the device, float64."""
    from phonosmith.potentials.mace.potential import MacePotential

    return MacePotential(our_model(size).double()).at(plan.device)


def displaced_cells(plan, results):
    """Evaluate cells displaced by 0.01 Å."""
    for size in plan.pick(("small", "large"), ("small", "large"), ("tiny",)):
        potential, calculator = our_potential(plan, size), mace_calculator(plan, size)
        for n_atoms in plan.pick((216, 512), (216,) if size == "small" else (512,), (8,)):
            (perfect,) = cells(1, n_atoms, 3)
            frames = [perfect.copy() for _ in range(plan.pick(24, 12, 2))]
            for number, atoms in enumerate(frames):
                atoms.positions[number % n_atoms, number % 3] += 0.01
            results.add(
                what="displaced cells", size=size, n_atoms=n_atoms, **compared(plan, potential, calculator, frames)
            )


def compared(plan, potential, calculator, frames):
    """Return times of one evaluation of all frames, and of loops over calculators; how far the forces differ, eV/Å."""
    forget(plan.device)
    batched, found = timed(lambda: potential.evaluate(frames, stress=False), plan)
    memory = peak_gb(plan.device)
    ours, _ = timed(lambda: loop(frames, potential.calculator()), plan)
    theirs, plain = timed(lambda: loop(frames, calculator), plan)
    worst = max(float(np.abs(a.forces - b).max()) for a, b in zip(found, plain, strict=True))
    times = {"batched_s": batched, "our_calculator_s": ours, "mace_calculator_s": theirs}
    return {"n_frames": len(frames), **times, "peak_gb": memory, "largest_force_difference": worst}


def relaxations(plan, results):
    """Relax 12 rattled cells for a number of FIRE steps that is the same for all."""
    for size in plan.pick(("small", "large"), ("small", "large"), ("tiny",)):
        potential, calculator = our_potential(plan, size), mace_calculator(plan, size)
        for n_atoms in plan.pick((32, 216), (32,), (8,)):
            starts = [atoms.copy() for atoms in cells(plan.pick(12, 12, 2), n_atoms, 4)]
            found = relaxed(plan, potential, calculator, starts, plan.pick(100, 15, 3))
            results.add(what="relaxations", size=size, n_atoms=n_atoms, **found)


def relaxed(plan, potential, calculator, starts, steps):
    """Return times of relaxing all starts together, and one by one with calculators."""
    from ase.optimize import FIRE

    from phonosmith.sampling.fire import relax_batch

    def looped(with_calculator):
        found = []
        for atoms in starts:
            copied = atoms.copy()
            copied.calc = with_calculator
            FIRE(copied, logfile=None).run(fmax=1e-12, steps=steps)
            found.append(copied)
        return found

    batched, ends = timed(lambda: relax_batch(starts, potential, fmax=1e-12, max_steps=steps), plan)
    theirs, plain = timed(lambda: looped(calculator), plan, warm=False)
    ours, _ = timed(lambda: looped(potential.calculator()), plan, warm=False)
    worst = max(float(np.abs(a.frames[-1].positions - b.positions).max()) for a, b in zip(ends, plain, strict=True))
    times = {"batched_s": batched, "our_calculator_s": ours, "mace_calculator_s": theirs}
    problem = potential.recorded.problem if potential.recorded is not None else "nothing is recorded on a CPU"
    return {"n_frames": len(starts), "steps": steps, **times, "largest_position_difference": worst, "problem": problem}


def phonons(plan, results):
    """Harmonic phonons of a crystal end to end: ours, and atomate2's PhononMaker with our calculator of the model."""
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
    from phonosmith.potentials.mace.backend import MaceBackend
    from phonosmith.potentials.registry import load
    from phonosmith.settings import get_settings

    sys.path.insert(0, str(HERE.parent / "phonons"))
    from fast_path import forcefield_phonon_maker

    size, matrix = plan.pick("large", "large", "tiny"), plan.pick(3, 3, 1)
    # no symmetry: every atom is displaced
    structure = AseAtomsAdaptor.get_structure(cells(1, 8, 5)[0])
    supercell = np.diag([matrix] * 3).tolist()
    with tempfile.TemporaryDirectory() as name:
        os.environ.update(PHONOSMITH_HOME=name, PHONOSMITH_DEVICE=plan.device)
        get_settings.cache_clear()
        ref = MaceBackend().register(our_model(size).double(), "benchmark", [])
        ours, result = timed(
            lambda: evaluate_phonons(structure, load(ref), supercell_matrix=supercell, relax=False), plan
        )
        maker = replace(forcefield_phonon_maker(ref), bulk_relax_maker=None, static_energy_maker=None)
        store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        here = Path.cwd()
        os.chdir(name)
        try:
            flow = maker.make(structure, supercell_matrix=supercell)
            theirs, _ = timed(
                lambda: run_locally(flow, store=store, create_folders=True, ensure_success=True, log=False),
                plan,
                warm=False,
            )
        finally:
            os.chdir(here)
    results.add(
        what="phonons",
        size=size,
        n_atoms=8 * matrix**3,
        n_frames=result.document.n_displacements,
        ours_s=ours,
        atomate2_s=theirs,
    )


# the choice of the device, and bits


def choices_section(plan, results, limit):  # noqa: ARG001
    """Where auto trains a small potential on small cells and a large one; what bits cost, and whether they repeat."""
    # cuBLAS reads it when the GPU is first used
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from phonosmith.core.hashing import digest_array
    from phonosmith.potentials.mace.potential import MacePotential
    from phonosmith.potentials.registry import load
    from phonosmith.settings import get_settings
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    with tempfile.TemporaryDirectory() as name:
        os.environ.update(PHONOSMITH_HOME=name, PHONOSMITH_DEVICE="auto")
        get_settings.cache_clear()
        from ase.build import bulk

        from phonosmith.structures.labels import label_frame

        silicon = []
        for seed in range(6):
            atoms = bulk("Si", cubic=True)
            atoms.rattle(0.05, seed=seed)
            (found,) = load("embedded-reference", device="cpu").evaluate([atoms])
            silicon.append(label_frame(atoms, energy=found.energy, forces=found.forces, stress=found.stress))
        large = plan.pick("large", "large", "tiny")
        own = cells(3, plan.pick(216, 216, 8), 1)
        cases = {
            "embedded, 8 atoms": (load("embedded", dtype="float64", device="cpu"), silicon),
            f"{large}, {len(own[0])} atoms": (MacePotential(our_model(large).double()), own),
        }
        for what, (foundation, frames) in cases.items():
            spec = make_spec("transfer", epochs=1, lr=1e-3)
            document = fine_tune(foundation, frames[:-1], frames[-1:], spec, seed=0).document
            results.add(what="device", case=what, device=document.device, reason=document.device_reason)
    foundation = MacePotential(our_model(plan.pick("small", "small", "tiny")).double())
    frames = cells(5, plan.pick(32, 32, 8), 1)
    for deterministic in (True, False):
        spec = make_spec(
            "transfer",
            epochs=plan.pick(20, 10, 2),
            lr=1e-3,
            device=plan.device,
            deterministic=deterministic,
            batch_size=1,
        )
        runs = [fine_tune(foundation, frames[:-1], frames[-1:], spec, seed=0) for _ in range(2)]
        digests = {"".join(digest_array(p.detach().cpu().numpy()) for p in one.model.parameters()) for one in runs}
        results.add(
            what="bits",
            deterministic=deterministic,
            same_bits=len(digests) == 1,
            training_s=min(one.document.seconds for one in runs),
        )


SECTIONS = {
    "training": training_section,
    "process": process_section,
    "packs": packs_section,
    "curvature": curvature_section,
    "inference": inference_section,
    "choices": choices_section,
}
