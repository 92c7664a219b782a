"""What reference phonons, labels and trainings take as functions of the number of displaced cells.

Run::

    python benchmarks/studies/cost/run.py DATA [--measured ../protocol/results.json] [--out FOLDER]

with DATA a folder of ``NAME.phonopy.yaml[.xz]`` files of finished phonon calculations: their supercells and numbers of
displaced cells are real. Core-hours are those of ``phonosmith plan`` (its scaling model, calibrated with
``--prefactor`` where finished calculations are at hand), labels those of the published protocol: 20 static
calculations in a large cell. ``--measured`` adds wall times of trainings from the results of the protocol study.
Writes ``results.json`` and ``README.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from study_tables import table


def one(path, model, settings):
    """Return sizes and estimated core-hours of one material."""
    import phonopy

    from phonosmith.harmonic.model import to_structure
    from phonosmith.structures.cost import workload
    from phonosmith.structures.preflight import plan_material

    phonon = phonopy.load(str(path), produce_fc=False, is_nac=False, symprec=1e-4)
    dataset = phonon.dataset or {}
    displaced = len(dataset.get("first_atoms", dataset.get("displacements", [])))
    planned = plan_material(to_structure(phonon.primitive), path.name, settings, cost=model)
    each = model.core_hours(workload(to_structure(phonon.supercell), kspacing=None, encut=settings.encut).work)
    label = planned.cells["large"]
    return {
        "material": path.name.split(".")[0],
        "formula": planned.formula,
        "spacegroup": planned.spacegroup,
        "n_displaced_cells": displaced,
        "n_atoms_phonon": len(phonon.supercell),
        "n_atoms_label": label.n_atoms,
        "label_kpoints": label.n_kpoints,
        "phonon_core_hours": each * displaced,
        "label_core_hours": label.core_hours,
        "label_hours": None,
        "phonon_hours": None,
    }


def power(x, y):
    """Return exponent, factor and correlation of y = factor x^exponent, fitted to logarithms."""
    a, b = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    slope, level = np.polyfit(a, b, 1)
    return {"exponent": float(slope), "factor": float(np.exp(level)), "r": float(np.corrcoef(a, b)[0, 1])}


def measured_trainings(document):
    """Return training times by strategy and cell from the protocol study's results."""
    found = {}
    for row in document["rows"]:
        if row["training_seconds"] is not None:
            found.setdefault((row["strategy"], row["cell"]), []).append(row["training_seconds"] / 60)
    return [
        {
            "strategy": strategy,
            "cell": cell,
            "n": len(values),
            "median_minutes": float(np.median(values)),
            "least_minutes": min(values),
        }
        for (strategy, cell), values in sorted(found.items())
    ]


def page(document):
    """Return the page as Markdown."""
    from phonosmith.analysis.published import grandel2026

    paper = grandel2026().cost
    rows, fit = document["materials"], document["scaling"]
    saved = [
        [
            f"≥ {s['at_least']}", s["n"], f"{s['mean_phonon_core_hours']:.0f}", f"{s['mean_label_core_hours']:.0f}",
            f"{s['saving_percent']:.0f}", f"{s['median_saving_percent']:.0f}",
            f"{paper.saving_percent.get(s['at_least'], float('nan')):.0f}",
        ]
        for s in document["savings"]
    ]  # fmt: skip
    each = [
        [
            f"{r['formula']} ({r['material']})", r["n_displaced_cells"], r["n_atoms_phonon"], r["n_atoms_label"],
            r["label_kpoints"], f"{r['phonon_core_hours']:.0f}", f"{r['label_core_hours']:.0f}",
        ]
        for r in sorted(rows, key=lambda r: r["n_displaced_cells"])
    ]  # fmt: skip
    crossing = document["crossing"]
    parts = [
        f"""# Cost of phonons, labels and trainings

Made by `run.py` (its first lines say how). Supercells and numbers of displaced cells are those of {len(rows)} real
phonon calculations; **core-hours are estimates of the scaling model of `phonosmith plan`
({document["model"]}), not measurements**; both columns carry the same factor, so that
their ratio is better known than either.

## What labels save

{table(["displaced cells", "materials", "phonons, core-h", "labels, core-h", "saving, %", "median saving, %",
        "published saving, %"], saved)}

Published: arXiv:2604.01017, section 3.6, measured for 53 other materials (means {paper.phonon_hours * paper.cores:.0f}
core-hours for phonons, {paper.label_hours * paper.cores:.0f} for labels). Saving: 1 − labels / phonons of the means.

Core-hours of the phonons grow with the number of displaced cells to the power {fit["exponent"]:.2f} (correlation of
logarithms {fit["r"]:.2f}); those of the labels do not depend on it. {crossing}

## By material

{table(["material", "displaced cells", "atoms, phonons", "atoms, labels", "k-points, labels", "phonons, core-h",
        "labels, core-h"], each)}
"""
    ]  # fmt: skip
    if document["trainings"]:
        lines = [
            [t["strategy"], t["cell"], t["n"], f"{t['median_minutes']:.1f}", f"{t['least_minutes']:.1f}",
             f"{paper.training_minutes.get(t['strategy'], float('nan')):.1f}"]
            for t in document["trainings"]
        ]  # fmt: skip
        parts.append(f"""## Trainings, measured

Wall minutes from the protocol study ({document["epochs"]} epochs) on a two-core machine shared with up to six other
processes: the least of each row is nearest to a core of its own. The published column is for one A100 and up to 200
epochs in large cells. Training does not depend on the number of displaced cells.

{table(["strategy", "cell", "trainings", "median, min", "least, min", "published, min"], lines)}
""")
    if document["left_out"]:
        parts.append(f"Left out: {'; '.join(f'{name} ({why})' for name, why in document['left_out'].items())}.\n")
    parts.append("""## Limits

- No first-principles calculation was timed for this table: calibrate with `phonosmith tables --calibration` after the
  first finished materials of a campaign. What was timed, with GPAW in small cells, has [its own page](gpaw.md).
- The model knows plane waves, bands and k-points, not the number of electronic steps nor parallel efficiency.
""")
    return "\n".join(parts).replace("| nan |", "| – |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of phonopy files")
    parser.add_argument("--measured", type=Path, help="results.json of the protocol study")
    parser.add_argument("--prefactor", type=float, help="core-hours per unit of work, from a calibration")
    parser.add_argument("--frames", type=int, default=20, help="labels per material")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    import pandas as pd

    from phonosmith.analysis.costs import savings
    from phonosmith.structures.cost import CostModel
    from phonosmith.structures.preflight import PlanSettings

    measured = json.loads(arguments.measured.read_text()) if arguments.measured else None
    model = CostModel() if arguments.prefactor is None else CostModel(prefactor=arguments.prefactor)
    settings = PlanSettings(frames_per_cell=arguments.frames)
    rows, left_out = [], {}
    for path in sorted(f for f in arguments.data.iterdir() if ".phonopy.yaml" in f.name):
        try:
            found = one(path, model, settings)
        except Exception as error:  # noqa: BLE001  # a damaged file must not end the study; it is named in the results
            left_out[path.name] = str(error)
            continue
        same = [r["material"] for r in rows if r["phonon_core_hours"] == found["phonon_core_hours"]]
        if found["n_displaced_cells"] == 0 or same:
            left_out[path.name] = f"same content as {same[0]}" if same else "no displacements in the file"
            continue
        rows.append(found)
        print(found["material"], found["n_displaced_cells"], round(found["phonon_core_hours"]), file=sys.stderr)
    frame = pd.DataFrame(rows)
    ratio = frame["label_core_hours"] / frame["phonon_core_hours"]
    frame["saving_percent"] = 100 * (1 - ratio)
    cheaper = frame[ratio < 1]["n_displaced_cells"]
    document = {
        "model": f"prefactor {model.prefactor:g}, off by a factor of {model.spread:g} typically",
        "materials": rows,
        "left_out": left_out,
        "scaling": power(frame["n_displaced_cells"], frame["phonon_core_hours"]),
        "savings": json.loads(savings(frame).to_json(orient="records")),
        "crossing": (
            f"Labels are cheaper than phonons for {len(cheaper)} of {len(frame)} materials, those of at least "
            f"{int(cheaper.min())} displaced cells; the largest material for which they are not has "
            f"{int(frame[ratio >= 1]['n_displaced_cells'].max()) if (ratio >= 1).any() else 0}."
            if len(cheaper)
            else "Labels are cheaper than phonons for none of the materials."
        ),
        "trainings": measured_trainings(measured) if measured else [],
        "epochs": measured["settings"]["training"]["epochs"] if measured else None,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.out / "README.md").write_text(page(document))


if __name__ == "__main__":
    main()
