"""Calibrate the intervals of committees and write the page of this study.

Run: ``python benchmarks/studies/sure/page.py WORK --out results.json > README.md`` with WORK the folder of ``run.py``,
or ``page.py results.json > README.md``.

Each crystal is judged by factors from all others.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from phonosmith.evaluation.phonons.committee import COVERAGE, another_training

KINDS = ("jackknife", "seeds")


def order_statistic(values, share):
    """Return the bound below which one more value falls with a share, or the first or last value."""
    ordered = np.sort(values)
    place = share * (len(ordered) + 1)
    # outwards, so that the share is kept
    place = math.floor(place) if share < 0.5 else math.ceil(place)
    return float(ordered[min(max(place, 1), len(ordered)) - 1])


def two_sided(values):
    """Return bounds that leave as much below as above."""
    rest = (1 - COVERAGE) / 2
    return order_statistic(values, rest), order_statistic(values, 1 - rest)


def upper(values):
    """Return zero and the bound below which one more value falls with the coverage."""
    return 0.0, order_statistic(values, COVERAGE)


def held(by_crystal, bounds):
    """Return for each value whether bounds from all other crystals hold it."""
    inside = []
    for name, values in by_crystal.items():
        low, high = bounds([value for other, some in by_crystal.items() if other != name for value in some])
        inside += [low <= value <= high for value in values]
    return inside


def off_by(row, name):
    """Return how many standard deviations of the committee the truth is from its mean."""
    found = row[name]
    true = row["omega_max_true_thz" if name == "omega_max_thz" else f"{name}_true"]
    return abs(true - np.mean(found)) / np.std(found, ddof=1)


def calibration(rows):
    """Return what is measured, by crystal, with the bounds that rule it: two committees of each crystal."""
    both = {name: [row[kind] for kind in KINDS] for name, row in rows.items()}
    error = {name: [one["mae_thz"][0] / one["disagreement_thz"] for one in some] for name, some in both.items()}
    off = {
        name: [off_by(one, what) for one in some for what in ("omega_max_thz", "entropy")]
        for name, some in both.items()
    }
    return {
        "phonon MAE of the first member over the disagreement": (error, two_sided),
        "standard deviations of ω_max and S from the truth": (off, upper),
    }


def usual_spread(rows):
    """Return the standard deviation of the logarithm of the MAE between seeds, over crystals (root mean square)."""
    return float(np.sqrt(np.mean([np.var(np.log(row["seeds"]["mae_thz"]), ddof=1) for row in rows.values()])))


def one_more(rows):
    """Return for every member of every committee of seeds whether the interval of the two others holds it.

    The spread to expect is that of the other crystals.
    """
    inside = []
    for name, row in rows.items():
        errors = row["seeds"]["mae_thz"]
        spread = usual_spread({other: one for other, one in rows.items() if other != name})
        for place, error in enumerate(errors):
            interval = another_training([e for i, e in enumerate(errors) if i != place], spread)
            inside.append(interval.low <= error <= interval.high)
    return inside


def share(inside):
    """Return a share in words."""
    return f"{sum(inside)} of {len(inside)} ({100 * np.mean(inside):.0f} %)"


def page(rows):
    """Return the page."""
    lines = [
        "# How sure is it, and how few labels are enough?",
        "",
        "Made by `run.py` (its first lines say how), page by `page.py`. Truth: force constants of PBE calculations,",
        "in supercells with edges of 10 Å; labels: their harmonic energy in ten small cells; foundation: a MACE of 32",
        "channels distilled from nequix-mp-1 (9.5 meV/Å from its teacher); trainings of 120 steps, short on purpose.",
        "MAE in THz.",
        "",
        "## Intervals that contain the truth, every crystal left out once",
        "",
        "Two committees of three for each crystal: one training with all ten labels and two without a half each; three",
        "seeds with all labels. Factors are order statistics of the ratios of the other crystals that hold in 80 % of",
        "cases: for the MAE between a lower and an upper one, for ω_max and S below one.",
        "",
        "| measured | factors from all crystals | truth within, each crystal by the others |",
        "|---|---:|---:|",
    ]
    for what, (values, bounds) in calibration(rows).items():
        low, high = bounds([value for some in values.values() for value in some])
        lines.append(f"| {what} | {low:.2f} to {high:.2f} | {share(held(values, bounds))} |")
    lines += [
        "",
        "With the reference known: the MAE of a third seed within the interval (Student, logarithms) of the others:",
        f"{share(one_more(rows))}. Their spread counts together with that of the other crystals,",
        f"{usual_spread(rows):.2f} over all; two seeds that happen to agree promised too much without it",
        "(8 of 12 on the first four crystals).",
        "",
        "| crystal | foundation | first member | disagreement, jackknife | disagreement, seeds | seeds |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, row in rows.items():
        a, b = row["jackknife"], row["seeds"]
        seeds = ", ".join(f"{one:.3f}" for one in b["mae_thz"])
        lines.append(
            f"| {row['formula']} ({name}) | {row['foundation_mae_thz']:.3f} | {a['mae_thz'][0]:.3f} | "
            f"{a['disagreement_thz']:.3f} | {b['disagreement_thz']:.3f} | {seeds} |"
        )
    adapted = {name: row for name, row in rows.items() if "adaptive" in row}
    lines += [
        "",
        "## Four labels instead of ten",
        "",
        "Training labels; the relaxed cell (without forces) and two validation cells come on top everywhere. Chosen:",
        "three, then the one where the committee's forces are furthest apart. Reached: MAE within 5 % of ten labels'.",
        "",
        "| crystal | ten labels (three seeds) | four, chosen | four, in order | three | reached |",
        "|---|---:|---:|---:|---:|---|",
    ]
    reached = []
    for name, row in adapted.items():
        three, four = (one["mae_thz"][0] for one in row["adaptive"])
        ten = float(np.mean(row["seeds"]["mae_thz"]))
        reached.append(four <= 1.05 * ten)
        lines.append(
            f"| {row['formula']} ({name}) | {ten:.3f} | {four:.3f} | {row['in_order_mae_thz']:.3f} | {three:.3f} | "
            f"{'yes' if reached[-1] else 'no'} |"
        )
    return "\n".join([*lines, "", f"Reached for {share(reached)} of the crystals." if reached else ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of run.py, or results.json")
    parser.add_argument("--out", type=Path, help="write all results into one file")
    arguments = parser.parse_args()
    if arguments.source.is_dir():
        rows = {one.stem: json.loads(one.read_text()) for one in sorted(arguments.source.glob("*.json"))}
    else:
        rows = json.loads(arguments.source.read_text())
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(page(rows))


if __name__ == "__main__":
    main()
