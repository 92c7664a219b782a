"""Write the page of the study from its results: ``python page.py results.json [more.json ...] > README.md``.

Further files may hold other strategies, seeds or materials of the same settings, or trainings of another length: these
get a table of their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from study_tables import beside_published, interval, paired, table

ERRORS = {
    "omega_max_error_percent": "abs. ω_max error, %",
    "heat_capacity_error_percent": "abs. C_v error, %",
    "entropy_error_percent": "abs. S error, %",
    "free_energy_error_kj_mol": "abs. F error, kJ/mol",
    "volume_error_percent": "abs. volume error, %",
}


def mean(found, strategy, key):
    """Return the mean over seeds of one number of one material; None without a result."""
    values = [row[key] for row in found["rows"] if row["strategy"] == strategy and row.get(key) is not None]
    return float(np.mean(values)) if values else None


def names(materials):
    """Return every strategy, in order."""
    return list(dict.fromkeys(row["strategy"] for found in materials.values() for row in found["rows"]))


def summary_rows(materials):
    """Return one row of medians per potential; gains and errors are of materials that have both."""
    rows = []
    for strategy in names(materials):
        seeds = {row.get("seed") for one in materials.values() for row in one["rows"] if row["strategy"] == strategy}
        known = [found for found in materials.values() if mean(found, strategy, "phonon_mae_thz") is not None]
        gains = [
            mean(found, "foundation", "phonon_mae_thz") / mean(found, strategy, "phonon_mae_thz") for found in known
        ]
        spent = [mean(found, strategy, "seconds") for found in known]
        rows.append(
            [
                strategy,
                len(known),
                len(seeds - {None}) or "–",
                interval([mean(found, strategy, "phonon_mae_thz") for found in known]),
            ]
            + [
                "–"
                if strategy == "foundation"
                else f"{interval(gains, digits=1)} ({min(gains):.1f} to {max(gains):.1f})"
            ]
            + [f"{np.median([abs(mean(found, strategy, key)) for found in known]):.2f}" for key in ERRORS]
            + ["–" if None in spent else f"{np.median(spent) / 60:.1f}"]
        )
    return rows


def material_rows(materials):
    """Return one row per material: phonon MAE of every potential, and what the verdict says."""
    rows = []
    for name, found in materials.items():
        crystal = found["crystal"]
        row = [f"{crystal['formula']} ({name})", crystal["space_group"], crystal["n_atoms_supercell"]]
        for strategy in names(materials):
            value = mean(found, strategy, "phonon_mae_thz")
            fits = [one["fit"] for one in found["rows"] if one["strategy"] == strategy]
            row.append("–" if value is None else f"{value:.3f}" + (" fit" if fits and all(fits) else ""))
        rows.append(row)
    return rows


def pairs(materials):
    """Return sentences on pairs of potentials evaluated here, over the materials that have both."""
    lines = []
    trained = {row["strategy"] for found in materials.values() for row in found["rows"] if "n_train" in row}
    strategies = [name for name in names(materials) if name in trained | {"foundation"}]
    for k, second in enumerate(strategies):
        for first in strategies[k + 1 :]:
            both = [[mean(found, one, "phonon_mae_thz") for one in (first, second)] for found in materials.values()]
            differences = [one - other for one, other in both if None not in (one, other)]
            if len(differences) > 1:
                lines.append(paired(first, second, differences))
    return "\n".join(lines)


def seed_spread(materials):
    """Return sentences on how much the training seed changes the phonon MAE, for strategies with more than one."""
    lines = []
    for strategy in names(materials):
        spreads = []
        for found in materials.values():
            values = [row["phonon_mae_thz"] for row in found["rows"] if row["strategy"] == strategy]
            if len(values) > 1:
                spreads.append((max(values) - min(values)) / np.mean(values))
        if spreads:
            lines.append(
                f"- {strategy}: between training seeds the phonon MAE differs by {100 * np.median(spreads):.0f} % of "
                f"its mean (median of {len(spreads)} materials; largest {100 * max(spreads):.0f} %)."
            )
    return "\n".join(lines)


def lowest_rows(materials):
    """Return the lowest frequency of materials that are unstable in DFT."""
    rows = []
    for name, found in materials.items():
        truth = found["rows"][0]["omega_min_reference_thz"]
        if not found["rows"][0]["stable_reference"]:
            values = [mean(found, strategy, "omega_min_thz") for strategy in names(materials)]
            rows.append(
                [f"{found['crystal']['formula']} ({name})", f"{truth:.2f}"]
                + ["–" if value is None else f"{value:.2f}" for value in values]
            )
    return rows


def worse(materials):
    """Return a sentence on potentials that got worse than the foundation."""
    found = [
        (name, row["strategy"], row["fit"])
        for name, one in materials.items()
        for row in one["rows"]
        if "n_train" in row and row["phonon_mae_thz"] > one["rows"][0]["phonon_mae_thz"]
    ]
    if not found:
        return "No fine-tuned potential has a larger phonon MAE than the foundation."
    said = [f"{name} {strategy} ({'judged fit' if fit else 'judged not fit'})" for name, strategy, fit in found]
    return f"Larger phonon MAE than the foundation's: {', '.join(said)}."


def order(materials):
    """Return a sentence on the order of the potentials that every material has, beside the published one."""
    names = dict.fromkeys(row["strategy"] for found in materials.values() for row in found["rows"])
    errors = {name: [mean(found, name, "phonon_mae_thz") for found in materials.values()] for name in names}
    medians = {name: float(np.median(values)) for name, values in errors.items() if None not in values}
    return f"Median phonon MAE in THz: {beside_published(medians, 'small')}"


def unfinished(trained):
    """Return a sentence on trainings that were still getting better when they ended."""
    late = [row for row in trained if row["best_epoch"] > 0.95 * row["epochs"]]
    return (
        f"{len(late)} of {len(trained)} trainings had their best epoch among the last 5 %: more epochs would help them."
    )


def merged(files):
    """Return the first result with what the others of its settings hold besides, and those of other epochs."""
    results, *others = (json.loads(Path(file).read_text()) for file in files)
    elsewhere = []

    def fixed(one, *free):
        return one["foundation"], {key: value for key, value in one["settings"].items() if key not in free}

    for other in others:
        if fixed(other, "seeds") == fixed(results, "seeds"):
            for name, found in other["materials"].items():
                known = results["materials"].setdefault(name, found)["rows"]
                known += [row for row in found["rows"] if row not in known]
        elif fixed(other, "seeds", "epochs") == fixed(results, "seeds", "epochs"):
            elsewhere.append(other)
        else:
            raise SystemExit("These results are of different foundations or settings.")
    return results, elsewhere


def longer_rows(results, elsewhere):
    """Return one row per training whose length differs, beside the usual one."""
    rows = []
    for one in [results, *elsewhere]:
        for name in {name for other in elsewhere for name in other["materials"]} & set(one["materials"]):
            found = one["materials"][name]
            for row in found["rows"]:
                same = any(row["strategy"] in names(other["materials"]) for other in elsewhere)
                if "n_train" in row and same:
                    rows.append([
                        f"{found['crystal']['formula']} ({name})", row["strategy"], row["seed"],
                        f"{row['epochs']} / {row['best_epoch']}", f"{row['seconds'] / 60:.0f}",
                        f"{row['forces_mae_mev_per_angstrom']:.2f}", f"{row['phonon_mae_thz']:.3f}",
                        f"{row['omega_min_thz']:.2f}", f"{row['omega_min_reference_thz']:.2f}",
                    ])  # fmt: skip
    return sorted(rows, key=lambda row: row[:3])


def main():
    """Print the page."""
    results, elsewhere = merged(sys.argv[1:])
    materials, settings, foundation = results["materials"], results["settings"], results["foundation"]
    taught = foundation
    if isinstance(foundation, dict):
        taught = (
            f"a MACE distilled from {foundation['teacher']} for {len(foundation['crystals'])} crystals together "
            f"({foundation['n_train']} cells, {foundation['forces_mae_mev_per_angstrom']:.0f} meV/Å from its teacher)"
        )
    length = f"{settings['epochs']} epochs"
    if settings.get("visits"):
        length = f"as long as {settings['visits']:,} visits (atoms, and 16 for a step) take, for all strategies"
    trained = [row for found in materials.values() for row in found["rows"] if "n_train" in row]
    unstable = lowest_rows(materials)
    print(f"""# Fine-tuning on real DFT force constants

Made by `run.py` (its first lines say how), page by `page.py`. Truth: force constants of {len(materials)} finished
PBE phonon calculations. Foundation: {taught}.
`mace_mp_0b3`, where it is listed, are published phonons of that foundation for the same supercells, not a potential
evaluated here. One fine-tuning per material and seed: {trained[0]["n_train"]} cells
labelled by the harmonic energy of the DFT force constants, of at most the size of a supercell with edges of
{settings["min_length"]:g} Å, {length}.
Every potential relaxes the crystal itself; phonons in the full supercell of the calculation, {settings["mesh"]}³ mesh.

## Over materials

Medians; for the phonon MAE with a 95 % bootstrap interval over materials, for the gain (MAE of the foundation over
that of the potential) with the same and its range. Thermal properties at 300 K.

{table(["potential", "materials", "seeds", "phonon MAE, THz", "gain", *ERRORS.values(), "training, min"],
       summary_rows(materials))}

{worse(materials)}

{order(materials)}

Paired by material, p not corrected for the number of pairs:

{pairs(materials)}
{seed_spread(materials)}

## By material, phonon MAE in THz

"fit": the verdict's thresholds are kept (MAE 0.1 THz, ω_max 3 %, entropy 2 %, same stability).

{table(["material", "space group", "atoms", *names(materials)], material_rows(materials))}
""")  # fmt: skip
    if unstable:
        print(f"""## Crystals unstable in DFT: lowest frequency on the mesh, THz (imaginary negative)

{table(["material", "DFT", *names(materials)], unstable)}
""")
    if elsewhere:
        headings = [
            "material", "strategy", "seed", "epochs / best", "minutes", "force MAE, meV/Å", "phonon MAE, THz",
            "lowest, THz", "in DFT, THz",
        ]  # fmt: skip
        print(f"""## Longer trainings

{table(headings, longer_rows(results, elsewhere))}
""")
    print(
        """## Limits

- Labels are harmonic: made from the force constants that are also the truth, in smaller cells. That is what real
  calculations of such small displacements would give, without their anharmonicity and numerical noise. Wave vectors
  commensurate with a training cell were seen; the mesh holds many that were not.
- No long-range electric term on either side.
- Perfect cells are taught with zero stress, for the calculations started from relaxed cells.
- At most {seeds} training seed(s) per material: intervals are over materials. {late}""".format(
            seeds=len({row["seed"] for row in trained}), late=unfinished(trained)
        )
    )
    if isinstance(foundation, dict):
        print("""- The foundation is not a published one: it knows these crystals from its teacher and inherits the
  teacher's errors against PBE. The column `mace_mp_0b3` says what a published one is worth here.""")
    if results["failures"]:
        print("- Failed: " + ", ".join(f"{name} ({why})" for name, why in results["failures"].items()))


if __name__ == "__main__":
    main()
