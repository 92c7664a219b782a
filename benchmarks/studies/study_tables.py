"""Tables and intervals on the pages of the studies."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.stats import wilcoxon


def table(headings, rows):
    """Return a Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def interval(values, statistic=np.median, seed=0, draws=9999, digits=3):
    """Return a statistic and its 95 % bootstrap interval over materials, as text."""
    values = np.asarray(values)
    drawn = statistic(np.random.default_rng(seed).choice(values, (draws, len(values))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{statistic(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def paired(first, second, differences, unit="THz"):
    """Return one sentence on how two potentials differ material by material (first − second)."""
    better = sum(one < 0 for one in differences)
    text = (
        f"- {first} − {second}: smaller phonon MAE on {better} of {len(differences)} materials, "
        f"median difference {interval(differences)} {unit}"
    )
    if len(differences) > 5:  # below that no outcome is significant
        text += f" (Wilcoxon's signed-rank test, two-sided: p = {wilcoxon(differences).pvalue:.3f})"
    return text + "."


def beside_published(found, cell):
    """Return medians from worst to best beside the published ones, THz, and in how many pairs the orders agree."""
    from phonosmith.analysis.published import grandel2026

    published = grandel2026().phonon_mae
    # the paper prints the foundation once: it does not depend on the cells of the labels
    theirs = {"foundation": published["large"]["foundation"], **published[cell]}
    theirs = {name: pair[0] for name, pair in theirs.items() if name in found}
    pairs = [pair for pair in combinations(theirs, 2) if theirs[pair[0]] != theirs[pair[1]]]
    same = sum((theirs[one] > theirs[other]) == (found[one] > found[other]) for one, other in pairs)
    return (
        f"{_sorted(found)}. Published: {_sorted(theirs)}. "
        f"{same} of {len(pairs)} pairs of potentials stand in the same order."
    )


def _sorted(found):
    """Return names and medians from worst to best, as text."""
    names = sorted(found, key=found.get, reverse=True)
    return " > ".join(f"{name} {found[name]:.3g}" for name in names)
