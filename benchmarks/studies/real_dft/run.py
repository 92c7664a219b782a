"""Fine-tune per material on real DFT force constants, with and without curvature supervision.

Run: ``OMP_NUM_THREADS=1 python benchmarks/studies/real_dft/run.py DATA --foundation MACE-MP-0b3 --work FOLDER``
with DATA a folder of ``NAME.phonopy.yaml[.xz]`` files that hold forces or force constants. Where no published MACE
file is at hand, give the file that ``distil.py`` wrote, or ``--teacher nequix-mp-1.nqx`` (environment with ``nequix``):
one 64-channel MACE is then first distilled from that model for all materials; it plays the foundation.

For each material:

1. Truth: force constants of the file, all q-points.
2. Training data: the harmonic energy of those force constants in *small* supercells of different shape (up to the
   number of atoms of one with edges of ``--min-length``): a few cells with small random displacements and a perfect
   one (zero forces and stress); for curvature supervision its columns of force constants. Validation: other cells.
3. Evaluation: every potential relaxes the crystal itself, then phonons in the *full* supercell of the calculation,
   against its force constants on one mesh. Wave vectors not commensurate with the small supercell were not trained on
   directly, though they are of the same calculation.

Every stage is kept in FOLDER; a second run goes on where the first one stopped. ``--workers 2`` runs two materials at
once, ``--device cuda`` on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from distil import cached, crystals, distil, known
from pool import add_options, side_by_side

COMMON = {"batch_size": 1}
CURVATURE = {"curvature_mode": "alternate", "cotrain_steps": 4, "curvature_sampling": "irreducible"}
STRATEGIES = {
    "scratch": ("scratch", COMMON),
    "transfer": ("transfer", COMMON),
    "transfer+curvature": ("transfer", COMMON | CURVATURE | {"curvature_weight": 0.2}),
    "freeze1": ("freeze1", COMMON),
    "lora": ("lora", COMMON),
    "delta": ("delta", COMMON),
    "delta, pull 1": ("delta", COMMON | {"pull": 1.0}),
    "delta, pull 0.1": ("delta", COMMON | {"pull": 0.1}),
    "delta+pft": ("delta+pft", COMMON),
    "pft": ("pft", COMMON | {"replay": "none"}),
    "pft, rate 0.002": ("pft", COMMON | {"replay": "none", "lr": 0.002}),
    "phonosmith": ("phonosmith", {}),
}
"""Preset and settings; pft goes with the labels of the material alone beside its curvature."""


# a weight of 2, in every step or every fifth, left the forces of CaTe worse than none: the curvature term, an absolute
# error, then outweighs the quadratic force term as soon as both are small


def opened(foundation):
    """Return the potential and what is known about it."""
    from phonosmith.potentials.registry import load

    reference, described = known(foundation)
    return load(reference, dtype="float64"), described


def of_cost(spec, visits, frames):
    """Return the same with the epochs that take so many visits, whatever the strategy and the model."""
    counted = spec.model_copy(update={"epochs": 100_000, "visits": visits, "lr_weights": None})
    epochs = counted.for_cells([len(atoms) for atoms in frames], 1).epochs
    return spec.model_copy(update={"epochs": epochs, "visits": None})


def compare(truth, potential, mesh):
    """Return the phonon comparison of a potential in its own relaxed cell, as a row."""
    from phonosmith.evaluation.phonons.comparison import compare_phonons
    from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
    from phonosmith.harmonic.model import to_structure

    phonon = truth.phonon
    found = evaluate_phonons(
        to_structure(phonon.unitcell),
        potential,
        supercell_matrix=np.array(phonon.supercell_matrix).tolist(),
        fc_calculator="traditional",
        mesh=8,
        fmax=1e-4,
        steps=300,
    )
    return comparison_row(compare_phonons(truth, found.model, mesh))


def comparison_row(comparison):
    """Return the numbers the study reports from one comparison."""
    from phonosmith.evaluation.verdict import Thresholds, judge
    from phonosmith.settings import get_settings

    left, right = comparison.reference, comparison.candidate
    verdict = judge(comparison, Thresholds.of(get_settings()))
    return {
        "phonon_mae_thz": comparison.mae_thz,
        "omega_max_error_percent": comparison.omega_max_error_percent,
        "omega_min_reference_thz": left.omega_min_thz,
        "omega_min_thz": right.omega_min_thz,
        "heat_capacity_error_percent": 100 * (right.heat_capacity / left.heat_capacity - 1),
        "entropy_error_percent": 100 * (right.entropy / left.entropy - 1),
        "free_energy_error_kj_mol": right.free_energy - left.free_energy,
        "volume_error_percent": 100 * (right.volume / left.volume - 1),
        "stable_reference": left.stable_practical,
        "stable": right.stable_practical,
        "fit": verdict.fit,
        "reasons": verdict.reasons,
    }


def gamma_optical(model):
    """Return the lowest optical frequency at Γ, THz (imaginary negative)."""
    return float(np.sort(model.phonon.run_qpoints([[0, 0, 0]]).frequencies[0])[0])


def material(path, work, arguments, foundation):
    """Run what is missing for one material and return its rows."""
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.harmonic.oracle import dataset_from_phonons
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec

    work.mkdir(parents=True, exist_ok=True)
    loaded = []

    def truth():
        if not loaded:
            loaded.append(load_harmonic(path, fc_calculator="traditional", symprec=1e-4))
        return loaded[0]

    rows = [
        {"strategy": "foundation"}
        | cached(work / "foundation.json", lambda: compare(truth(), foundation, arguments.mesh))
    ]
    for other in arguments.beside:
        candidates = [f for f in other.iterdir() if f.name.split(".")[0] == path.name.split(".")[0]]
        for found in candidates[:1]:

            def published(found=found):
                from phonosmith.evaluation.phonons.comparison import compare_phonons

                model = load_harmonic(found, fc_calculator="traditional", symprec=1e-4)
                return comparison_row(compare_phonons(truth(), model, arguments.mesh))

            rows.append({"strategy": other.name} | cached(work / f"beside-{other.name}.json", published))
    for seed in arguments.seeds:
        for name in arguments.strategies:

            def train(name=name, seed=seed):
                preset, changes = STRATEGIES[name]
                spec = make_spec(preset, **{"epochs": arguments.epochs} | changes)
                data = dataset_from_phonons(
                    truth(), min_length=arguments.min_length, n_train=arguments.frames, n_valid=4, seed=seed,
                    displacement=arguments.displacement, most_atoms=arguments.most_atoms,
                )  # fmt: skip
                if arguments.visits is not None:
                    spec = of_cost(spec, arguments.visits, data.train)
                    spec = spec.model_copy(update={"schedule": "cosine", "patience": None})
                result = fine_tune(
                    foundation, data.train, data.valid, spec, seed=seed,
                    curvature=data.phonon if spec.uses_curvature else None,
                    progress=True, name=f"{path.name.split('.')[0]} {name}",
                )  # fmt: skip
                document = result.document
                valid = document.metrics["valid"]
                row = {
                    "n_train": len(data.train),
                    "atoms_per_cell": len(data.train[0]),
                    "epochs": document.epochs_run,
                    "best_epoch": document.best_epoch,
                    "steps": document.steps,
                    "seconds": document.seconds,
                    "improved": document.improved,
                    "forces_mae_before_mev_per_angstrom": valid.before.mae_forces_mev_per_angstrom,
                    "forces_mae_mev_per_angstrom": valid.after.mae_forces_mev_per_angstrom,
                }
                if document.curvature is not None:
                    row["curvature_mae_before"] = document.curvature.mae_before_ev_per_angstrom2
                    row["curvature_mae"] = document.curvature.mae_after_ev_per_angstrom2
                return row | compare(truth(), result.potential, arguments.mesh)

            row = cached(work / f"{name.replace(', ', '_').replace(' ', '_')}-{seed}.json", train)
            rows.append({"strategy": name, "seed": seed} | row)
            print(path.name.split(".")[0], name, seed, round(row["phonon_mae_thz"], 4), "from",
                  round(rows[0]["phonon_mae_thz"], 4), flush=True)  # fmt: skip

    def crystal():
        symbol, _ = truth().space_group
        return {"formula": truth().formula, "space_group": symbol, "n_atoms_supercell": len(truth().phonon.supercell)}

    return {"crystal": cached(work / "crystal.json", crystal), "rows": rows}


def summary(materials):
    """Return medians and interquartile ranges over materials (mean over seeds first)."""
    strategies = list(dict.fromkeys(row["strategy"] for found in materials.values() for row in found["rows"]))
    table = {}
    for strategy in strategies:
        values, gains, forces, tops, worse = [], [], [], [], []
        for name, found in materials.items():
            rows = [row for row in found["rows"] if row["strategy"] == strategy]
            if not rows:
                continue
            mae = float(np.mean([row["phonon_mae_thz"] for row in rows]))
            base = found["rows"][0]["phonon_mae_thz"]
            values.append(mae)
            gains.append(base / mae)
            tops.append(float(np.mean([abs(row["omega_max_error_percent"]) for row in rows])))
            forces += [row["forces_mae_mev_per_angstrom"] for row in rows if "forces_mae_mev_per_angstrom" in row]
            if any(row["phonon_mae_thz"] > base and row["fit"] for row in rows):
                worse.append(name)
        table[strategy] = {
            "n_materials": len(values),
            "phonon_mae_thz_median": float(np.median(values)),
            "phonon_mae_thz_iqr": float(np.subtract(*np.percentile(values, [75, 25]))),
            "gain_median": float(np.median(gains)),
            "gain_min": float(np.min(gains)),
            "abs_omega_max_error_percent_median": float(np.median(tops)),
            "forces_mae_mev_per_angstrom_median": float(np.median(forces)) if forces else None,
            "worse_than_foundation_yet_judged_fit": worse,
        }
    return table


def chosen_files(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the phonopy files of the materials asked for (all by default) by name."""
    files = {f.name.split(".")[0]: f for f in sorted(arguments.data.iterdir()) if ".phonopy.yaml" in f.name}
    if unknown := [name for name in arguments.materials if name not in files]:
        parser.error(f"{arguments.data} has no {', '.join(unknown)}; it holds {', '.join(files)}")
    return {name: files[name] for name in arguments.materials or files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of NAME.phonopy.yaml[.xz] files with forces or force constants")
    parser.add_argument("--foundation", default="MACE-MP-0b3", help="name, or file of a foundation")
    parser.add_argument("--teacher", type=Path, help="nequix-*.nqx to distil the foundation from")
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="folders of published phonons to compare too"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--materials", nargs="*", default=[], help="names of files without suffix; all by default")
    parser.add_argument("--strategies", nargs="*", default=["transfer", "transfer+curvature"], choices=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--min-length", type=float, default=8.0, help="edge of the training supercell, Å")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--visits",
        type=int,
        help="instead of epochs: one cost for all (atoms, and 16 for a step), cosine schedule",
    )
    parser.add_argument("--displacement", type=float, default=0.03, help="mean length, Å")
    parser.add_argument("--most-atoms", type=int, default=10_000, help="of a training cell")
    parser.add_argument("--mesh", type=int, default=16)
    parser.add_argument("--out", type=Path)
    add_options(parser)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    files = chosen_files(parser, arguments)
    chosen = list(files)
    if arguments.teacher is not None:
        arguments.foundation = distil(
            arguments.work / "foundation", arguments.teacher, crystals([files[name] for name in chosen])
        )
    side_by_side(arguments, chosen)
    foundation, described = opened(arguments.foundation)
    results, failures = {}, {}
    for name in chosen:
        start = time.perf_counter()
        try:
            results[name] = material(files[name], arguments.work / name, arguments, foundation)
        except Exception as error:  # noqa: BLE001 one material must not end the study
            failures[name] = f"{type(error).__name__}: {error}"
            print(name, "failed", failures[name], file=sys.stderr, flush=True)
            traceback.print_exc()
            continue
        print(name, f"{time.perf_counter() - start:.0f} s", flush=True)
        if arguments.out is not None:
            kept = ("seeds", "min_length", "frames", "epochs", "visits", "displacement", "most_atoms", "mesh")
            document = {
                "foundation": described,
                "settings": {key: getattr(arguments, key) for key in kept},
                "summary": summary(results), "materials": results, "failures": failures,
            }  # fmt: skip
            arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
