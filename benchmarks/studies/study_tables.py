"""Tables and intervals on the pages of the studies."""

from __future__ import annotations

import numpy as np


def table(headings, rows):
    """Return a Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def interval(values, statistic=np.median, seed=0, draws=9999):
    """Return a statistic and its 95 % bootstrap interval over materials, as text."""
    values = np.asarray(values)
    drawn = statistic(np.random.default_rng(seed).choice(values, (draws, len(values))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{statistic(values):.3f} [{low:.3f}, {high:.3f}]"
