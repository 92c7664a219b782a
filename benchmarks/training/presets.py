"""Every preset on one material: errors in forces and phonons, parameters changed, seconds.

Run: ``OMP_NUM_THREADS=1 python benchmarks/training/presets.py [--foundation embedded] [--epochs 100] [--out FILE]``.

Silicon, labels by the embedded reference potential, foundation the embedded MACE model. 16 training and 4 validation
structures of 8 atoms (rattle 0.1 Å, strain 2 %, volume ±2.5 and ±5 %; validation at 0 %). Phonons of every model in its
own relaxed cell, 64-atom supercell, 12x12x12 mesh, against the reference's in its own. Curvature: force constants of
the reference in a cubic supercell (``--curvature-repeat``). Replay: rattled
cells of other elements of the foundation, labelled by it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from ase.build import bulk
from scipy.optimize import minimize_scalar

PRESET_ORDER = (
    "scratch", "transfer", "freeze1", "freeze2", "freeze3", "freeze4", "freeze5", "multihead", "delta", "lora", "pft",
    "delta+pft",
)  # fmt: skip


def label_all(potential, frames):
    """Label configurations with a potential."""
    from phonosmith.structures.labels import label_frame

    found = potential.evaluate(frames)
    return [
        label_frame(a, energy=e.energy, forces=e.forces, stress=e.stress) for a, e in zip(frames, found, strict=True)
    ]


def sample(cell, volumes, per_volume, seed, rattle=0.1, strain=0.02):
    """Rattled and strained copies of a cell at several volumes."""
    rng = np.random.default_rng(seed)
    frames = []
    for volume in volumes:
        for _ in range(per_volume):
            atoms = cell.copy()
            tensor = rng.uniform(-strain, strain, (3, 3))
            scale = (1 + volume) ** (1 / 3)
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + (tensor + tensor.T) / 2) * scale, scale_atoms=True)
            atoms.positions += rng.normal(0, rattle / np.sqrt(3), atoms.positions.shape)
            frames.append(atoms)
    return frames


def relaxed_silicon(potential):
    """Return the conventional cell at the lattice constant of lowest energy (the sites are fixed by symmetry)."""

    def energy(a):
        return potential.evaluate([bulk("Si", "diamond", a=a, cubic=True)], stress=False)[0].energy

    found = minimize_scalar(energy, bounds=(5.2, 5.7), method="bounded", options={"xatol": 1e-5})
    return bulk("Si", "diamond", a=float(found.x), cubic=True)


def phonons(potential, cell, repeat=2, primitive="F"):
    """Return phonopy's object with force constants of a potential."""
    from ase import Atoms
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(numbers=cell.numbers, cell=cell.cell.array, positions=cell.positions)
    phonon = Phonopy(unit, supercell_matrix=np.eye(3, dtype=int) * repeat, primitive_matrix=primitive)
    phonon.generate_displacements(distance=0.01)
    frames = [
        Atoms(numbers=d.numbers, positions=d.positions, cell=d.cell, pbc=True)
        for d in phonon.supercells_with_displacements
    ]
    phonon.forces = np.array([e.forces for e in potential.evaluate(frames, stress=False)])
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


def frequencies(phonon, mesh=12):
    """Return sorted frequencies (THz) and weights on a mesh."""
    phonon.run_mesh([mesh] * 3)
    found = phonon.get_mesh_dict()
    return np.sort(found["frequencies"], axis=1), found["weights"]


def phonon_mae(reference, candidate):
    """Weighted mean absolute difference of branches, THz."""
    (theirs, weights), (ours, _) = reference, candidate
    return float(np.average(np.abs(ours - theirs).mean(axis=1), weights=weights))


def replay_pool(foundation, seed):
    """Rattled bulk cells of elements the foundation knows besides silicon (silicon itself where it knows no other)."""
    others = [symbol for symbol in foundation.elements if symbol != "Si"] or ["Si"]
    frames = []
    for index, symbol in enumerate(others[:3]):
        structure = "diamond" if symbol in {"C", "Si", "Ge"} else None
        cell = bulk(symbol, structure, cubic=True) if structure else bulk(symbol)
        frames += sample(cell, (-0.05, 0.0, 0.05), 12, seed + index)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foundation", default="embedded")
    parser.add_argument("--reference", default="embedded-reference")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--per-volume", type=int, default=4, help="training structures at each of the four volumes")
    parser.add_argument("--curvature-repeat", type=int, default=2, help="supercell of the force constants trained on")
    parser.add_argument("--replay-size", type=int, default=24)
    parser.add_argument("--presets", nargs="*", default=list(PRESET_ORDER))
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    from phonosmith.potentials.registry import load
    from phonosmith.training.finetune import fine_tune
    from phonosmith.training.spec import make_spec, parse_settings

    foundation = load(arguments.foundation, dtype="float64", device="cpu")
    reference = load(arguments.reference)
    cell = relaxed_silicon(reference)
    target = phonons(reference, cell)
    truth = frequencies(target)
    taught = target if arguments.curvature_repeat == 2 else phonons(reference, cell, arguments.curvature_repeat)
    train = label_all(reference, sample(cell, (-0.05, -0.025, 0.025, 0.05), arguments.per_volume, 1))
    valid = label_all(reference, sample(cell, (0.0,), 4, 2))
    pool = replay_pool(foundation, 3)
    rows = []

    def judge(potential):
        own = relaxed_silicon(potential)
        found = frequencies(phonons(potential, own))
        return {
            "phonon_mae_thz": phonon_mae(truth, found),
            "max_frequency_percent": float(100 * (found[0].max() / truth[0].max() - 1)),
            "lattice_percent": float(100 * (own.cell.array[0, 0] / cell.cell.array[0, 0] - 1)),
        }

    for strategy in ("foundation", *arguments.presets):
        if strategy == "foundation":
            rows.append({"strategy": strategy, **judge(foundation)})
        else:
            chosen = {"epochs": arguments.epochs, **parse_settings(arguments.settings)}
            if strategy == "multihead":
                chosen["replay_size"] = arguments.replay_size
            spec = make_spec(strategy, **chosen)
            result = fine_tune(
                foundation,
                train,
                valid,
                spec,
                replay=pool if spec.uses_replay else None,
                curvature=taught if spec.uses_curvature else None,
                seed=0,
            )
            document = result.document
            errors = document.metrics["valid"]
            rows[0].setdefault("forces_mae_mev_per_angstrom", errors.before.mae_forces_mev_per_angstrom)
            rows.append(
                {
                    "strategy": strategy,
                    "forces_mae_mev_per_angstrom": errors.after.mae_forces_mev_per_angstrom,
                    "energy_mae_mev_per_atom": errors.after.mae_energy_mev_per_atom,
                    **judge(result.potential),
                    "curvature_mae_after": document.curvature and document.curvature.mae_after_ev_per_angstrom2,
                    "n_changed": document.n_changed,
                    "n_parameters": document.n_parameters,
                    "n_trainable": document.n_trainable,
                    "epochs": document.epochs_run,
                    "best_epoch": document.best_epoch,
                    "seconds": document.seconds,
                    "improved": document.improved,
                }
            )
        print(json.dumps(rows[-1]), flush=True)
    if arguments.out is not None:
        content = {"settings": {k: str(v) for k, v in vars(arguments).items() if k != "out"}, "rows": rows}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
