"""Write the page of the study from its results: ``python page.py results.json > README.md``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from study_tables import interval, table

COLUMNS = {
    "phonon_mae_thz": "phonon MAE (THz)",
    "omega_max_percent": "abs. ω_max error (%)",
    "entropy_percent": "abs. S(300 K) error (%)",
    "free_energy_kj_mol": "abs. F(300 K) error (kJ/mol)",
    "heat_capacity_percent": "abs. C_v(300 K) error (%)",
}


def main():
    """Print the page."""
    results = json.loads(Path(sys.argv[1]).read_text())
    found, parts, cells = results["potentials"], results["split"], results["cells"]
    training = results["training"]
    formulas = {role: ", ".join(f"{cells[n]['formula']} ({n})" for n in names) for role, names in parts.items()}
    sizes = [cell["n_atoms"] for cell in cells.values()]
    summary, per_material = [], []
    for label, one in found.items():
        rows = list(one["held_out"].values())
        lost = one["forgetting"]
        summary.append(
            [f"{label} ({one['file']})"]
            + [interval([abs(row[key]) for row in rows], np.mean) for key in COLUMNS]
            + [f"{lost['energy_mev_per_atom']:.1f}", f"{lost['forces_mev_per_angstrom']:.1f}"]
        )
    for name in parts["held_out"]:
        row = [cells[name]["formula"], cells[name]["n_atoms"]]
        for one in found.values():
            entry = one["held_out"][name]
            row.append(f"{entry['phonon_mae_thz']:.3f} / {entry['omega_max_percent']:+.1f}")
        per_material.append(row)
    curvature = training["curvature"]
    history = training["history"]
    best, key = history[training["best_epoch"]], "curvature_mae_ev_per_angstrom2"
    before, after = (curvature[f"mae_{when}_ev_per_angstrom2"] for when in ("before", "after"))
    print(f"""# Phonon fine-tuning across materials

Foundation {results["foundation"]}; {len(parts["train"])} materials to train on, {len(parts["validation"])} to choose
the epoch (none: chosen by the training materials), {len(parts["held_out"])} held out,
by a draw with seed {results["settings"]["seed"]}. Made by `run.py`
(its first lines say how and how to run it on other materials), page by `page.py`.

## Held-out materials

Mean over the {len(parts["held_out"])} held-out materials with a 95 % bootstrap interval over materials; the last two
columns are how far energies (meV/atom) and forces (meV/Å) of rattled held-out cells moved from the foundation's
labels (mean force there {found["foundation"]["forgetting"]["mean_force_mev_per_angstrom"]:.0f} meV/Å).

{table(["potential", *COLUMNS.values(), "ΔE", "ΔF"], summary)}

Phonon MAE (THz) / ω_max error (%) per material:

{table(["material", "atoms", *found], per_material)}

## Training

{training["steps"]} steps in {training["epochs_run"]} epochs and {training["seconds"] / 60:.0f} minutes
({training["stop_reason"]}); epoch {training["best_epoch"]} kept. Column error of the training materials
{before:.3f} → {after:.3f} eV/Å² over {curvature["n_columns"]} irreducible columns; where the epoch was
chosen {history[0][key]:.3f} → {best[key]:.3f}. Force error on the foundation's own labels of rattled cells
{best["valid_mae_forces_mev_per_angstrom"]:.1f} meV/Å. Weights changed by {100 * training["change_relative"]:.2f} %
of their norm.

- training: {formulas["train"]}
- validation: {formulas["validation"] or "none"}
- held out: {formulas["held_out"]}
- left out: {", ".join(f"{name} ({why})" for name, why in results["left_out"].items()) or "none"}

## Limits

- One split, one seed, {len(parts["train"]) + len(parts["validation"])} materials learnt from: intervals are over
  held-out materials only. The published model learnt from about ten thousand materials and may have seen these.
- Phonons are those of small supercells ({min(sizes)} to {max(sizes)} atoms) at the reference's geometry, for the
  potentials and for the reference alike: exact at the wave vectors of the small cell, interpolated between. They are
  not the phonons of the full supercells, and no potential relaxed the crystal.
- {training["steps"]} steps are few (the paper: 150 epochs over about ten thousand materials).
- Co-training uses cells labelled by the foundation, not its original data.
""")
    if results.get("remarks"):
        print("\n".join(["## Remarks", "", *(f"- {remark}" for remark in results["remarks"])]))


if __name__ == "__main__":
    main()
