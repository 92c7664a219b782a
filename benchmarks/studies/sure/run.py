"""How sure is it, and how few labels are enough? Committees on real crystals, where the truth is known.

Run: ``OMP_NUM_THREADS=1 python benchmarks/studies/sure/run.py FILES... --foundation FOUNDATION.model --work FOLDER``
with FILES phonopy files that hold forces or force constants, and as foundation a MACE file (``distil.py`` makes one).
``--adapt NAME ...``: crystals for which labelling by disagreement is measured as well. A second run goes on where the
first one stopped.

For each crystal:

1. Truth: the force constants of the file, in a supercell with edges of ``--truth-length``.
2. Labels: the harmonic energy of those force constants in ten small cells of different shape with random displacements.
   The relaxed cell itself (no forces, no stress) is in every training set and not counted; two more cells validate.
3. Trainings with all ten labels: three seeds, and two that go without one half of the labels each. The first seed and
   those two are the committee of ``phonosmith adapt``.
4. Labelling by disagreement: such a committee on the first three labels, then on those and the one where its forces are
   furthest apart. Beside it, as many labels in the order they were drawn. All trainings take the same number of steps.

Every potential relaxes the crystal itself before its phonons.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

POOL, FIRST, MESH, STEPS, BATCH = 10, 3, 10, 120, 2


def truth_of(path, length):
    """Return the truth in a small supercell, and its labelled cells: the relaxed one, the pool, validation."""
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.harmonic.model import HarmonicModel
    from phonosmith.harmonic.oracle import dataset_from_phonons, in_supercell, small_supercell

    full = load_harmonic(path, fc_calculator="traditional", symprec=1e-4)
    model = HarmonicModel(in_supercell(full, small_supercell(full, length)), "given", full.source)
    data = dataset_from_phonons(full, min_length=7.0, n_train=POOL, n_valid=2, displacement=0.03, seed=0)
    # a small cell at rest follows the large one
    return model, data.train[0], data.train[-POOL:], data.valid


class Crystal:
    """Everything about one crystal; trainings are made once."""

    def __init__(self, path, foundation, length):
        self.truth, self.still, self.pool, self.valid = truth_of(path, length)
        self.foundation, self.made = foundation, {}

    def phonons(self, potential):
        """Return the harmonic model of a potential in its own relaxed cell."""
        from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
        from phonosmith.harmonic.model import to_structure

        matrix = np.array(self.truth.phonon.supercell_matrix).tolist()
        cell = to_structure(self.truth.phonon.unitcell)
        return evaluate_phonons(
            cell, potential, supercell_matrix=matrix, fc_calculator="traditional", mesh=4, fmax=1e-4
        ).model

    def trained(self, places, seed):
        """Return the potential trained on some of the pool, and its phonons."""
        from phonosmith.training.finetune import fine_tune
        from phonosmith.training.spec import make_spec

        key = tuple(sorted(places)), seed
        if key not in self.made:
            frames = [self.still, *(self.pool[place] for place in key[0])]
            spec = make_spec(
                "transfer", batch_size=BATCH, epochs=round(STEPS / -(-len(frames) // BATCH)), patience=None
            )
            made = fine_tune(self.foundation, frames, self.valid, spec, seed=seed)
            self.made[key] = made.potential, self.phonons(made.potential)
        return self.made[key]

    def committee(self, places):
        """Return the committee of ``phonosmith adapt`` on some of the pool: one with all, two without a part each."""
        from phonosmith.flows.adaptive import places_without

        parts = [places, *([places[i] for i in places_without(len(places), part, 2)] for part in range(2))]
        return [self.trained(part, seed) for seed, part in enumerate(parts)]

    def judged(self, members):
        """Return what a committee says without the truth, and what is true."""
        from phonosmith.evaluation.phonons.bands import band_structure, standard_path
        from phonosmith.evaluation.phonons.committee import committee_in_full
        from phonosmith.evaluation.phonons.comparison import compare_phonons

        named = {str(i): model for i, (_, model) in enumerate(members)}
        alone = committee_in_full(named, mesh=MESH).result
        compared = [compare_phonons(self.truth, model, MESH) for model in named.values()]
        tops = [band_structure(model, standard_path(model)).highest for model in named.values()]
        return {
            "disagreement_thz": alone.disagreement_thz,
            "std_thz": alone.std_thz,
            "mae_thz": [one.mae_thz for one in compared],
            "omega_max_thz": tops,
            "omega_max_true_thz": compared[0].reference.omega_max_thz,
            "entropy": [one.candidate.entropy for one in compared],
            "entropy_true": compared[0].reference.entropy,
        }


def measured(crystal, *, adapt):
    """Return the row of one crystal."""
    from phonosmith.evaluation.phonons.committee import force_disagreement
    from phonosmith.evaluation.phonons.comparison import compare_phonons
    from phonosmith.flows.adaptive import next_places

    start = time.process_time()
    everything = list(range(POOL))
    row = {
        "formula": crystal.truth.formula,
        "foundation_mae_thz": compare_phonons(crystal.truth, crystal.phonons(crystal.foundation), MESH).mae_thz,
        "jackknife": crystal.judged(crystal.committee(everything)),
        "seeds": crystal.judged([crystal.trained(everything, seed) for seed in range(3)]),
    }
    if adapt:
        asked, rounds = list(range(FIRST)), []
        while True:
            members = crystal.committee(asked)
            rounds.append({"asked": list(asked)} | crystal.judged(members))
            if len(asked) > FIRST:
                break
            left = [place for place in everything if place not in asked]
            frames = [crystal.pool[place] for place in left]
            forces = [[e.forces for e in one.evaluate(frames, stress=False)] for one, _ in members]
            doubts = dict(zip(left, force_disagreement(forces), strict=True))
            asked += next_places(POOL, asked, doubts, 1)
        row["adaptive"] = rounds
        in_order = crystal.trained(range(len(asked)), 0)[1]
        row["in_order_mae_thz"] = compare_phonons(crystal.truth, in_order, MESH).mae_thz
    return row | {"cpu_seconds": time.process_time() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="phonopy files with forces or force constants")
    parser.add_argument("--foundation", type=Path, required=True, help="MACE file")
    parser.add_argument("--work", type=Path, required=True, help="one JSON file per crystal is kept here")
    parser.add_argument("--adapt", nargs="*", default=[], help="crystals to label by disagreement too")
    parser.add_argument("--truth-length", type=float, default=10.0, help="shortest edge of phonon supercells, Å")
    arguments = parser.parse_args()
    import torch

    from phonosmith.core.artefacts import write_atomic
    from phonosmith.potentials.registry import import_file, load

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    arguments.work.mkdir(parents=True, exist_ok=True)
    # written by distil.py, or the caller's own choice
    foundation = load(import_file(arguments.foundation, name="foundation", trust=True), dtype="float64")
    for path in arguments.files:
        name = path.parent.name if path.name.startswith("phonopy") else path.name.split(".")[0]
        done = arguments.work / f"{name}.json"
        if done.exists():
            continue
        row = measured(Crystal(path, foundation, arguments.truth_length), adapt=name in arguments.adapt)
        write_atomic(done, (json.dumps(row, indent=1) + "\n").encode())
        print(name, row["formula"], *(f"{x:.3f}" for x in (row["foundation_mae_thz"], *row["jackknife"]["mae_thz"])),
              f"{row['cpu_seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
