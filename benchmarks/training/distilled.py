"""Every strategy on SnTe, from a foundation of realistic size: a MACE distilled from Nequix.

Run, in an environment with ``nequix`` and JAX for the CPU beside phonosmith:
``JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 python benchmarks/training/distilled.py MODELS --work FOLDER [--out FILE]``
with MODELS the folder that holds ``nequix-mp-1.nqx`` and ``nequix-oam-1-pft.nqx``.

1. Foundation: 64 channels, L=0, two layers, cutoff 6 Å, fitted to ``nequix-mp-1`` (stands in for a foundation model) on
   rattled and strained rocksalt SnTe and GeTe.
2. Training set: the sampling protocol with that foundation, in a 16-atom cell of SnTe, one relaxation per volume.
3. Labels: ``nequix-oam-1-pft``, a stand-in for the reference method; nothing here is a first-principles result.
4. Phonons of every model in its own relaxed rocksalt cell, 64-atom supercell, 12x12x12 mesh, no long-range electric
   term, against the stand-in's in its own. Imaginary frequencies count as negative numbers.

Labels, foundation and finished strategies are kept in FOLDER; a second run goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from ase.build import bulk
from presets import frequencies, label_all, phonon_mae, phonons, sample
from scipy.optimize import minimize_scalar

FOUNDATION, REFERENCE = "nequix-mp-1", "nequix-oam-1-pft"
STRATEGIES = ("scratch", "transfer", "freeze1", "freeze2", "multihead", "delta", "lora", "delta+pft")
LATTICE = {"SnTe": 6.40, "GeTe": 6.02}
EDGES_PER_ATOM = 40
"""Capacity of the padded graphs, so that JAX compiles one program per number of atoms."""
SEED = 0


class Nequix:
    """The two Nequix models as potentials; loaded when first asked, one calculator for all sizes."""

    def __init__(self, folder):
        self.folder = folder
        self.loaded = {}

    def __call__(self, name):
        if name not in self.loaded:
            import jraph
            from ase.data import chemical_symbols
            from nequix.calculator import NequixCalculator

            from phonosmith.potentials.ase_potential import AsePotential

            class Padded(NequixCalculator):
                def _pad_graph_jax(self, graph, numbers_changed=False):  # noqa: ARG002
                    atoms = int(graph.n_node[0])
                    edges = EDGES_PER_ATOM * atoms
                    edges = max(edges, 256 * (int(graph.n_edge[0]) // 256 + 1)) if graph.n_edge[0] >= edges else edges
                    return jraph.pad_with_graphs(graph, n_node=8 * (atoms // 8 + 1), n_edge=edges, n_graph=2)

            path = self.folder / f"{name}.nqx"
            calculator = Padded(model_name=name, model_path=str(path), backend="jax", use_kernel=False)
            known = [chemical_symbols[number] for number in calculator.config["atomic_numbers"]]
            self.loaded[name] = AsePotential(lambda: calculator, known)
        return self.loaded[name]


def cached(path, compute):
    """Return the value of a JSON file, computed and written when absent."""
    if not path.exists():
        from phonosmith.core.artefacts import write_atomic

        write_atomic(path, json.dumps(compute(), indent=2).encode())
    return json.loads(path.read_text())


def cached_frames(path, compute):
    """Return the configurations of an extended-xyz file, computed and written when absent."""
    import ase.io

    if not path.exists():
        partial = path.with_suffix(".partial")
        ase.io.write(partial, compute(), format="extxyz")
        partial.rename(path)
    return ase.io.read(path, ":", format="extxyz")


def rocksalt(name, a, repeat=2):
    """Return a multiple of the two-atom rocksalt cell."""
    return bulk(name, "rocksalt", a=a) * (repeat, repeat, repeat)


def lattice_constant(potential, name="SnTe"):
    """Return the lattice constant of lowest energy, Å, of the rocksalt crystal (its sites are fixed by symmetry)."""

    def energy(a):
        return potential.evaluate([rocksalt(name, a)], stress=False)[0].energy

    guess = LATTICE[name]
    bounds = (0.93 * guess, 1.07 * guess)
    return float(minimize_scalar(energy, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x)


def teaching_frames():
    """Return unlabelled cells for the distillation: 16 atoms of both compounds, 64 atoms of SnTe, in random order."""
    frames = []
    for index, rattle in enumerate((0.08, 0.2, 0.35)):
        small = rocksalt("SnTe", LATTICE["SnTe"])
        frames += sample(small, (-0.06, -0.02, 0.02, 0.06), 3, 10 + index, rattle=rattle, strain=0.03)
        frames += sample(
            rocksalt("GeTe", LATTICE["GeTe"]), (-0.05, 0.0, 0.05), 2, 20 + index, rattle=rattle, strain=0.03
        )
        large = bulk("SnTe", "rocksalt", a=LATTICE["SnTe"], cubic=True) * (2, 2, 2)
        frames += sample(large, (-0.04, 0.0, 0.04), 1, 30 + index, rattle=rattle, strain=0.02)
    order = np.random.default_rng(SEED).permutation(len(frames))
    return [frames[index] for index in order]


def untrained(frames, channels=64, cutoff=6.0):
    """Return a random model of scalar channels whose scale and neighbour number fit labelled configurations."""
    import torch
    from ase.neighborlist import neighbor_list
    from mace import modules

    from e3nn import o3  # isort: skip

    neighbours = np.mean([len(neighbor_list("i", a, cutoff)) / len(a) for a in frames])
    scale = float(np.sqrt(np.mean(np.concatenate([a.get_forces() for a in frames]) ** 2)))
    numbers = sorted({int(z) for a in frames for z in a.numbers})
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.float64)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=block,
        interaction_cls_first=block, num_interactions=2, num_elements=len(numbers),
        hidden_irreps=o3.Irreps(f"{channels}x0e"),
        MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.zeros(len(numbers)), avg_num_neighbors=float(neighbours),
        atomic_numbers=numbers, correlation=3, gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64],
        radial_type="bessel", atomic_inter_scale=scale, atomic_inter_shift=0.0,
    )  # fmt: skip


def distil(work, labelled, epochs, held_out):
    """Fit the foundation, or load it; return module and errors on the held-out cells."""
    import torch

    from phonosmith.potentials.mace.potential import MacePotential
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    path = work / "foundation.model"
    if not path.exists():
        spec = make_spec(
            "transfer", epochs=epochs, weight_decay=5e-7, batch_size=2, scheduler_patience=5, patience=None,
            forces_weight=100.0, e0="refit",
        )  # fmt: skip
        train, valid = labelled[:-held_out], labelled[-held_out:]
        start = time.process_time()
        result = fine_tune(
            MacePotential(untrained(train)), train, valid, spec, seed=SEED, workdir=work / "distillation"
        )
        after = result.document.metrics["valid"].after
        document = {
            "n_train": len(train),
            "n_atoms": sum(len(a) for a in train),
            "n_parameters": result.document.n_parameters,
            "epochs": result.document.epochs_run,
            "forces_mae_mev_per_angstrom": after.mae_forces_mev_per_angstrom,
            "energy_mae_mev_per_atom": after.mae_energy_mev_per_atom,
            "seconds": result.document.seconds,
            "cpu_seconds": time.process_time() - start,
        }
        (work / "foundation.json").write_text(json.dumps(document, indent=2))
        partial = path.with_suffix(".partial")
        torch.save(result.model, partial)
        partial.rename(path)
    model = torch.load(path, weights_only=False)  # written by this script
    return model, json.loads((work / "foundation.json").read_text())


def protocol_frames(foundation, structure, max_steps):
    """Return training and validation configurations of the sampling protocol, marked in their info."""
    from phonosmith.sampling.documents import SamplingSettings
    from phonosmith.sampling.protocol import sample_configurations

    settings = SamplingSettings(supercell_matrix=(2 * np.eye(3, dtype=int)).tolist(), max_steps=max_steps, fmax=1e-3)
    found = sample_configurations(structure, foundation, settings, SEED)
    frames = []
    for split in ("train", "valid"):
        for atoms in getattr(found, split):
            plain = atoms.copy()
            plain.calc = None
            plain.info = {"split": split}
            frames.append(plain)
    return frames


def train_one(strategy, foundation, data, epochs, replay_size):
    """Train one strategy; return its row without phonons, and the model."""
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    chosen = {"epochs": epochs}
    if strategy == "multihead":
        chosen["replay_size"] = replay_size
    spec = make_spec(strategy, **chosen)
    start = time.process_time()
    result = fine_tune(
        foundation, data["train"], data["valid"], spec, seed=SEED,
        replay=data["pool"] if spec.uses_replay else None,
        curvature=data["curvature"]() if spec.uses_curvature else None,
    )  # fmt: skip
    document = result.document
    after = document.metrics["valid"].after
    row = {
        "strategy": strategy,
        "forces_mae_mev_per_angstrom": after.mae_forces_mev_per_angstrom,
        "energy_mae_mev_per_atom": after.mae_energy_mev_per_atom,
        "n_changed": document.n_changed,
        "n_parameters": document.n_parameters,
        "epochs": document.epochs_run,
        "best_epoch": document.best_epoch,
        "seconds": document.seconds,
        "cpu_seconds": time.process_time() - start,
        "improved": document.improved,
    }
    before = document.metrics["valid"].before
    shifted = document.metrics["valid"].shifted
    row["foundation"] = {
        "forces_mae_mev_per_angstrom": before.mae_forces_mev_per_angstrom,
        "energy_mae_mev_per_atom": shifted.mae_energy_mev_per_atom,
    }
    return row, result.model


def harmonic(potential):
    """Return lattice constant (Å), frequencies (THz) and weights of rocksalt SnTe in a potential's own cell."""
    a = lattice_constant(potential)
    found, weights = frequencies(phonons(potential, bulk("SnTe", "rocksalt", a=a, cubic=True)))
    return {"a": a, "frequencies": found.tolist(), "weights": weights.tolist()}


def compare(truth, own):
    """Return the phonon errors of one model."""
    ours, theirs = np.array(own["frequencies"]), np.array(truth["frequencies"])
    weights = np.array(truth["weights"])
    return {
        "phonon_mae_thz": phonon_mae((theirs, weights), (ours, weights)),
        "max_frequency_percent": float(100 * (ours.max() / theirs.max() - 1)),
        "min_frequency_thz": float(ours.min()),
        "lattice_percent": float(100 * (own["a"] / truth["a"] - 1)),
    }


def table(work, arguments):
    """Run every stage that is not yet done and return the result as one object."""
    from phonosmith.potentials.mace.potential import MacePotential

    nequix = Nequix(arguments.models)
    teaching = cached_frames(work / "teaching.xyz", lambda: label_all(nequix(FOUNDATION), teaching_frames()))
    print(len(teaching), "cells to distil", time.process_time(), flush=True)
    module, distillation = distil(work, teaching, arguments.distil_epochs, arguments.held_out)
    foundation = MacePotential(module)
    print(json.dumps(distillation), flush=True)
    truth = cached(work / "reference.json", lambda: harmonic(nequix(REFERENCE)))
    crystal = bulk("SnTe", "rocksalt", a=truth["a"])

    def sampled():
        from pymatgen.io.ase import AseAtomsAdaptor

        structure = AseAtomsAdaptor.get_structure(crystal)
        return protocol_frames(foundation, structure, arguments.max_steps)

    drawn = cached_frames(work / "sampled.xyz", sampled)
    splits = [atoms.info["split"] for atoms in drawn]
    labelled = cached_frames(work / "labelled.xyz", lambda: label_all(nequix(REFERENCE), drawn))
    data = {split: [a for a, own in zip(labelled, splits, strict=True) if own == split] for split in ("train", "valid")}
    # replay: what the foundation was taught, with the labels it was taught with
    data["pool"] = [a for a in teaching[: -arguments.held_out] if len(a) == len(drawn[0])]
    data["curvature"] = lambda: phonons(nequix(REFERENCE), crystal, 2, primitive=None)
    print(len(data["train"]), len(data["valid"]), "frames", time.process_time(), flush=True)
    rows = [{"strategy": "foundation", **compare(truth, cached(work / "own.json", lambda: harmonic(foundation)))}]
    teacher = compare(truth, cached(work / "teacher.json", lambda: harmonic(nequix(FOUNDATION))))
    for strategy in arguments.strategies:

        def run(strategy=strategy):
            row, model = train_one(strategy, foundation, data, arguments.epochs, arguments.replay_size)
            return row | compare(truth, harmonic(MacePotential(model)))

        row = cached(work / f"{strategy}.json", run)
        rows[0].update(row.pop("foundation"))
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {
        "material": "SnTe, rocksalt", "foundation": FOUNDATION + ", distilled", "reference": REFERENCE, "seed": SEED,
        "epochs": arguments.epochs, "n_train": len(data["train"]), "n_valid": len(data["valid"]),
        "reference_lattice": truth["a"], "reference_min_frequency_thz": float(np.min(truth["frequencies"])),
        "distillation": distillation, "teacher": teacher, "rows": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of the Nequix weights")
    parser.add_argument("--work", type=Path, required=True, help="folder of labels, foundation and finished strategies")
    parser.add_argument("--distil-epochs", type=int, default=60)
    parser.add_argument("--held-out", type=int, default=8, help="cells kept out of the distillation")
    parser.add_argument("--max-steps", type=int, default=200, help="step cap of the protocol's relaxations")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--replay-size", type=int, default=12)
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = table(arguments.work, arguments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
