"""Calibrate the intervals of committees and write the page of this study.

Run: ``python benchmarks/studies/sure/page.py WORK --out results.json > README.md`` with WORK the folder of ``run.py``,
or ``page.py results.json > README.md``.

Left out once each, a crystal is judged by factors from all others: the order statistics that hold in 80 % of cases when
crystals are exchangeable (of nine others the smallest and the largest).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from phonosmith.evaluation.phonons.committee import COVERAGE, another_training


def two_sided(values):
    """Return the ends between which one more value falls with the coverage, or the nearest to it there is."""
    ordered = np.sort(values)
    tail = max(1, math.floor((1 - COVERAGE) / 2 * (len(ordered) + 1)))
    return float(ordered[tail - 1]), float(ordered[-tail])


def upper(values):
    """Return the bound below which one more value falls with the coverage, or the largest value."""
    ordered = np.sort(values)
    return float(ordered[min(len(ordered), math.ceil(COVERAGE * (len(ordered) + 1))) - 1])


def held(values, bounds):
    """Return for each value whether bounds from all others hold it."""
    inside = []
    for place, value in enumerate(values):
        low, high = bounds([other for i, other in enumerate(values) if i != place])
        inside.append(low <= value <= high)
    return inside


def off_by(row, name):
    """Return how many standard deviations of the committee the truth is from its mean."""
    found = row[name]
    true = row["omega_max_true_thz" if name == "omega_max_thz" else f"{name}_true"]
    return abs(true - np.mean(found)) / np.std(found, ddof=1)


def calibration(rows, kind):
    """Return ratios, factors and coverage of one kind of committee."""
    chosen = [row[kind] for row in rows.values()]
    ratios = [one["mae_thz"][0] / one["disagreement_thz"] for one in chosen]
    found = {"mae": {"ratios": ratios, "factors": two_sided(ratios), "held": held(ratios, two_sided)}}
    for name in ("omega_max_thz", "entropy"):
        values = [off_by(one, name) for one in chosen]
        found[name] = {
            "ratios": values,
            "factors": (0.0, upper(values)),
            "held": held(values, lambda others: (0.0, upper(others))),
        }
    return found


def one_more(rows):
    """Return for every member of every committee of seeds whether the interval of the two others holds it."""
    inside = []
    for row in rows.values():
        errors = row["seeds"]["mae_thz"]
        for place, error in enumerate(errors):
            interval = another_training([e for i, e in enumerate(errors) if i != place], positive=True)
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
        "| committee (3 members, 10 labels) | of | factors from all crystals | truth within |",
        "|---|---|---:|---:|",
    ]
    words = {"jackknife": "one with all labels, two without a half each", "seeds": "three seeds, the same labels"}
    for kind, said in words.items():
        for name, one in calibration(rows, kind).items():
            low, high = one["factors"]
            what = {
                "mae": "MAE of the first member / disagreement",
                "omega_max_thz": "ω_max, deviations from the mean",
                "entropy": "S(300 K), deviations from the mean",
            }[name]
            lines.append(f"| {said} | {what} | {low:.2f} to {high:.2f} | {share(one['held'])} |")
    lines += [
        "",
        "With the reference known: the MAE of a third seed within the interval (Student, logarithms) of the others:",
        f"{share(one_more(rows))}.",
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
