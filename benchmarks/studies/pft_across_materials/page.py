"""Write the page of the study from its results: ``python page.py results.json > README.md``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from study_tables import interval, paired, table

COLUMNS = {
    "phonon_mae_thz": "phonon MAE (THz)",
    "omega_max_percent": "abs. ω_max error (%)",
    "entropy_percent": "abs. S(300 K) error (%)",
    "free_energy_kj_mol": "abs. F(300 K) error (kJ/mol)",
    "heat_capacity_percent": "abs. C_v(300 K) error (%)",
}


def summary(results):
    """Return the rows of means over held-out materials, one for each potential."""
    rows = []
    for label, one in results["potentials"].items():
        judged = list(one["held_out"].values())
        lost = one["forgetting"]
        rows.append(
            [f"{label} ({one['file']})"]
            + [interval([abs(row[key]) for row in judged], np.mean) for key in COLUMNS]
            + [f"{lost['energy_mev_per_atom']:.1f}", f"{lost['forces_mev_per_angstrom']:.1f}"]
        )
    return rows


def changes(results):
    """Return sentences: on how many held-out materials another potential is better than the foundation."""
    base = results["potentials"]["foundation"]["held_out"]
    return "\n".join(
        paired(
            label,
            "foundation",
            [row["phonon_mae_thz"] - base[name]["phonon_mae_thz"] for name, row in one["held_out"].items()],
        )
        for label, one in results["potentials"].items()
        if label != "foundation"
    )


def per_material(results):
    """Return phonon MAE and ω_max error of every held-out material."""
    rows = []
    for number, fold in enumerate(results["folds"]):
        for name in fold["split"]["held_out"]:
            cell = results["cells"][name]
            row = [cell["formula"], name, number, cell["n_atoms"]]
            for one in results["potentials"].values():
                entry = one["held_out"][name]
                row.append(f"{entry['phonon_mae_thz']:.3f} / {entry['omega_max_percent']:+.1f}")
            rows.append(row)
    return rows


def trainings(results):
    """Return one row for each fold's training."""
    rows = []
    for number, fold in enumerate(results["folds"]):
        training, history = fold["training"], fold["training"]["history"]
        curvature, best = training["curvature"], history[training["best_epoch"]]
        before, after = (curvature[f"mae_{when}_ev_per_angstrom2"] for when in ("before", "after"))
        key = "curvature_mae_ev_per_angstrom2"
        chosen = ", ".join(results["cells"][name]["formula"] for name in fold["split"]["validation"])
        rows.append([
            number, len(fold["split"]["train"]), curvature["n_columns"], chosen or "none", training["steps"],
            f"{training['epochs_run']} / {training['best_epoch']}", f"{training['seconds'] / 60:.0f}",
            f"{before:.4f} → {after:.4f}", f"{history[0][key]:.4f} → {best[key]:.4f}",
            f"{best['valid_mae_forces_mev_per_angstrom']:.1f}", f"{100 * training['change_relative']:.2f}",
        ])  # fmt: skip
    return rows


def main():
    """Print the page."""
    results = json.loads(Path(sys.argv[1]).read_text())
    found, settings = results["potentials"], results["settings"]
    sizes = [cell["n_atoms"] for cell in results["cells"].values()]
    judged, folds = len(found["foundation"]["held_out"]), len(results["folds"])
    headings = [
        "fold", "materials", "columns", "validation", "steps", "epochs run / kept", "minutes",
        "column error learnt, eV/Å²", "of validation, eV/Å²", "ΔF, meV/Å", "weights, %",
    ]  # fmt: skip
    print(f"""# Phonon fine-tuning across materials

Foundation {results["foundation"]}. {judged} materials, each judged by the one of {folds} trainings that did not learn
it or its composition: folds by a draw with seed {settings["seed"]}, learning rate {settings["lr"]}. Made by `run.py`
(its first lines say how and how to run it on other materials), page by `page.py`.

## Held-out materials

Mean over the {judged} held-out materials with a 95 % bootstrap interval over materials; the last two
columns are how far energies (meV/atom) and forces (meV/Å) of rattled held-out cells moved from the foundation's
labels (mean force there {found["foundation"]["forgetting"]["mean_force_mev_per_angstrom"]:.0f} meV/Å).

{table(["potential", *COLUMNS.values(), "ΔE", "ΔF"], summary(results))}

Paired by material:

{changes(results)}

Phonon MAE (THz) / ω_max error (%) per material:

{table(["material", "file", "fold", "atoms", *found], per_material(results))}

## Training

{table(headings, trainings(results))}

- ΔF: force error on the foundation's own labels of rattled cells of the validation materials, at the epoch kept
- weights: norm of the change over the norm
- left out: {", ".join(f"{name} ({why})" for name, why in results["left_out"].items()) or "none"}

## Limits

- One draw of folds, one training seed: intervals are over held-out materials only. The published model learnt from
  about ten thousand materials and may have seen these.
- Phonons are those of small supercells ({min(sizes)} to {max(sizes)} atoms) at the reference's geometry, for the
  potentials and for the reference alike: exact at the wave vectors of the small cell, interpolated between. They are
  not the phonons of the full supercells, and no potential relaxed the crystal.
- The steps are few (the paper: 150 epochs over about ten thousand materials).
- Co-training uses cells labelled by the foundation, not its original data.
""")
    if results.get("remarks"):
        print("\n".join(["## Remarks", "", *(f"- {remark}" for remark in results["remarks"])]))


if __name__ == "__main__":
    main()
