"""Labels and core-hours to 0.05 THz against finite displacements, on measured GPAW calculations.

Run::

    python benchmarks/studies/cost/gpaw.py WORK [--materials Si,AlAs] [--sizes 2,4,6] [--out FOLDER]

It is ``phonosmith demo --real`` with several training-set sizes (needs GPAW and SevenNet; can be stopped and called
again; calculations kept by an earlier demonstration are found). Every time is processor time of one process, kept with
each calculation. What was not calculated - the published label cells and 20 Å phonon cells - is estimated by the
scaling model of ``phonosmith plan`` with its prefactor fitted to the calculations that were, and said to be.
Writes ``gpaw.json``, ``gpaw.md`` and ``gpaw.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from study_tables import table

TARGET_THZ = 0.05
PUBLISHED_FRAMES = 10
"""Training labels behind the published costs."""


def run_reports(work, materials, sizes):
    """Run the demonstration's flow (or what is left of it) and return its reports."""
    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.core.identity import fix_identities
    from phonosmith.engines.local.runner import LocalRunner
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.flows.demo import real_demo_flow

    flow = fix_identities(real_demo_flow(materials, sizes=sizes))
    store = open_embedded_jobstore(work / "store.sqlite")
    store.connect()
    summary = LocalRunner(store, work / "run", progress=os.isatty(2)).run(flow)
    if not summary.ok:
        sys.exit("\n".join(f"{row.name}: {row.error}" for row in summary.failed))
    uuids = [job.uuid for job, _ in flow.iterflow() if job.metadata.get("stage") == "report"]
    return [MaterialReport.model_validate(store.get_output(uuid, load=True)) for uuid in uuids]


def timings(folder, reports):
    """Return processor hours of calculations by material and kind: label, displaced, primitive."""
    from ase.formula import Formula

    from phonosmith.reference.kept import kept_results

    known = {report.material: report for report in reports}
    found = defaultdict(list)
    for kept in kept_results(folder):
        atoms = kept.calculated
        name = str(Formula.from_list(atoms.symbols).reduce()[0])
        report = known.get(name)
        if report is None or atoms.settings["kpts"].get("size") is None:
            continue
        if len(atoms.symbols) == 2:
            kind = "primitive"
        elif len(atoms.symbols) != report.reference_result.phonons.n_atoms_supercell:
            continue
        else:
            kind = "label" if _is_rattled(atoms) else "displaced"
        found[name, kind].append((kept, kept.numbers.processor_seconds / 3600))
    return found


def _is_rattled(calculated):
    """Tell a label from a displaced cell, in which all atoms but one keep their distances to each other."""
    from ase import Atoms

    atoms = Atoms(calculated.symbols, cell=calculated.cell, positions=calculated.positions, pbc=True)
    distances = np.sort(atoms.get_all_distances(mic=True)[:, 1:], axis=None)
    return len(np.unique(distances.round(4))) > 5 * len(atoms)


def fitted_model(found):
    """Return plan's cost model fitted to the label cells, which have no symmetry but time reversal."""
    from pymatgen.core import Structure

    from phonosmith.structures.cost import calibrate, workload

    works, hours = [], []
    for (_, kind), rows in found.items():
        for kept, spent in rows if kind == "label" else []:
            cell = kept.calculated
            structure = Structure(cell.cell, cell.symbols, cell.positions, coords_are_cartesian=True)
            size, lengths = cell.settings["kpts"]["size"], structure.lattice.reciprocal_lattice.abc
            spacing = max(length / number for length, number in zip(lengths, size, strict=True)) * (1 + 1e-9)
            load = workload(structure, kspacing=spacing, encut=cell.settings["mode"]["ecut"])
            works.append(load.work)
            hours.append(spent)
    return calibrate(works, hours)


def published_cells(report, model):
    """Return estimated core-hours of the published calculations: one label in a large cell, one 20 Å displaced cell."""
    from pymatgen.core import Structure

    from phonosmith.reference.protocol import ReferenceProtocol
    from phonosmith.structures.cost import workload
    from phonosmith.structures.supercell import phonon_supercell, sampling_supercell

    crystal = Structure.from_dict(report.structure)
    protocol = ReferenceProtocol()
    label = sampling_supercell(crystal, "large").build(crystal)
    phonon = phonon_supercell(crystal, 20.0).build(crystal)
    each = [
        model.core_hours(workload(cell, kspacing=spacing, encut=protocol.encut).work)
        for cell, spacing in ((label, protocol.kspacing), (phonon, None))
    ]
    return {"label_atoms": len(label), "phonon_atoms": len(phonon), "label_hours": each[0], "displaced_hours": each[1]}


def labels_needed(curve):
    """Return how many training labels reach the target, interpolated in logarithms; None where none does."""
    before = None
    for size, error in sorted(curve):
        if error <= TARGET_THZ:
            if before is None:
                return float(size)
            part = math.log(before[1] / TARGET_THZ) / math.log(before[1] / error)
            return float(before[0] * (size / before[0]) ** part)
        before = size, error
    return None


def one(report, found, model):
    """Return a material's row."""
    spent = {kind: [hours for _, hours in found[report.material, kind]] for kind in ("primitive", "displaced", "label")}
    curve = [(entry.n_train or report.labels.train.n_frames, entry.phonons.mae_thz) for entry in report.strategies]
    label, displaced = (float(np.median(spent[kind])) for kind in ("label", "displaced"))
    return {
        "material": report.material,
        "n_displaced_cells": report.reference_result.phonons.n_displacements,
        "n_atoms": report.reference_result.phonons.n_atoms_supercell,
        "n_label_calculations": len(spent["label"]),
        "label_core_hours": label,
        "displaced_core_hours": displaced,
        "relaxation_core_hours": float(np.sum(spent["primitive"])),
        "foundation_mae_thz": report.foundation.phonons.mae_thz,
        "curve": sorted(curve),
        "labels_to_target": labels_needed(curve),
        "published_cells": published_cells(report, model),
    }


def _shown_need(row):
    need = row["labels_to_target"]
    if need is None:
        return "not reached"
    return f"at most {need:.0f}" if need == row["curve"][0][0] else f"{need:.1f}"


def page(document):
    """Return the page as Markdown."""
    rows = document["materials"]
    measured = [
        [
            r["material"], r["n_atoms"], r["n_displaced_cells"], f"{3600 * r['displaced_core_hours']:.0f}",
            f"{3600 * r['label_core_hours']:.0f}", f"{r['foundation_mae_thz']:.3f}",
            ", ".join(f"{size}: {error:.3f}" for size, error in r["curve"]),
            _shown_need(r),
        ]
        for r in rows
    ]  # fmt: skip
    published = [
        [
            r["material"], r["published_cells"]["label_atoms"], r["published_cells"]["phonon_atoms"],
            f"{r['published_cells']['label_hours']:.0f}", f"{r['published_cells']['displaced_hours']:.0f}",
            f"{document['break_even'][r['material']]:.0f}",
        ]
        for r in rows
    ]  # fmt: skip
    return f"""# Labels against displaced cells, measured with GPAW

Made by `gpaw.py`. Foundation SevenNet-0, PBE by GPAW, labels and displaced cells with the same settings and the same
number of atoms; processor time of one process, median of each kind.

{
        table(
            [
                "crystal",
                "atoms",
                "displaced cells",
                "s each",
                "s per label",
                "foundation, THz",
                "phonon MAE by training labels, THz",
                f"labels to {TARGET_THZ} THz",
            ],
            measured,
        )
    }

For crystals of such symmetry finite displacements are the cheaper way by far, and the table says so: one or two
displaced cells against as many labels as the last column says, and the validation labels on top. Labels pay where a
crystal needs many displaced cells; they do not grow with their number.
One seed each: an error that rises from one size to the next shows how far seeds alone move it, and the number of labels
to the target is no better known.

## At the published sizes, estimated

The scaling model of `phonosmith plan` fitted to these calculations (prefactor {
        document["model"]["prefactor"]:.0f} core-hours
per unit of work, {document["model"]["n"]} label cells, spread × or ÷ {
        document["model"]["spread"]:.2f}; its default, chosen to match the
published averages of parallel VASP runs on 144 cores, is 180). One GPAW process in small cells says nothing about
that difference, so the default stays; here it is the ratio of the two columns that counts. Nothing of this size was
calculated here.

{
        table(
            [
                "crystal",
                "atoms, label",
                "atoms, displaced",
                "label, core-h",
                "displaced cell, core-h",
                "displaced cells at which ten labels cost the same",
            ],
            published,
        )
    }

Published (arXiv:2604.01017, section 3.6; 53 materials): {document["published"]["phonons"]:.0f} core-hours for phonons,
{
        document["published"][
            "labels"
        ]:.0f} for ten labels, on average. The figure shows the published mean savings of materials that need at
least so many displaced cells, and what the ratio of the two estimates above gives for exactly so many.

![Saving by labels](gpaw.png)
"""


def figure(document, path):
    """Draw savings against the number of displaced cells."""
    from phonosmith.report.figures.style import new_figure, save_figure

    drawn = new_figure(5.6, 3.6)
    axes = drawn.subplots()
    cells = np.arange(1, 61)
    for row in document["materials"]:
        even = document["break_even"][row["material"]]
        axes.plot(cells, 100 * (1 - even / cells), label=f"{row['material']} (estimate from GPAW timings)")
    saving = document["published"]["saving_percent"]
    axes.plot([int(n) for n in saving], list(saving.values()), "kd", label="published means, at least so many")
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set(xlabel="displaced cells", ylabel="saving by ten labels (%)", ylim=(-150, 105))
    axes.legend(fontsize=7.5)
    save_figure(drawn, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of the run")
    parser.add_argument("--materials", default="Si,AlAs")
    parser.add_argument("--sizes", default="2,4,6", help="numbers of training labels")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    work = arguments.work.resolve()
    os.environ.setdefault("PHONOSMITH_ARTEFACTS", str(work / "artefacts"))
    from phonosmith.settings import get_settings

    os.environ.setdefault("PHONOSMITH_REFERENCE_CACHE", str(get_settings().home_dir / "reference"))
    get_settings.cache_clear()
    from phonosmith.analysis.published import grandel2026

    sizes = [int(size) for size in arguments.sizes.split(",")]
    reports = run_reports(work, arguments.materials.split(","), sizes)
    found = timings(get_settings().reference_cache, reports)
    model, paper = fitted_model(found), grandel2026().cost
    rows = [one(report, found, model) for report in reports]
    document = {
        "target_thz": TARGET_THZ,
        "model": {"prefactor": model.prefactor, "spread": model.spread, "n": model.n_calibration},
        "materials": rows,
        "break_even": {
            r["material"]: PUBLISHED_FRAMES
            * r["published_cells"]["label_hours"]
            / r["published_cells"]["displaced_hours"]
            for r in rows
        },
        "published": {
            "phonons": paper.phonon_hours * paper.cores,
            "labels": paper.label_hours * paper.cores,
            "saving_percent": paper.saving_percent,
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpaw.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.out / "gpaw.md").write_text(page(document))
    figure(document, arguments.out / "gpaw.png")


if __name__ == "__main__":
    main()
