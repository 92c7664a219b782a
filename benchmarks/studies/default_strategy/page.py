"""Print the tables of this study from results of ``run.py``: ``python page.py RESULTS.json [MORE.json ...]``.

Files may differ in seeds, materials, variants and visits, not in foundation or mesh. Columns are variants at a cost;
errors are means over seeds. The last table says which of the variants at the same cost would have been chosen for each
crystal by the others alone (smallest median of the error over that of the foundation), and what that gave.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from study_tables import interval, paired, table

ERROR = "phonon_mae_thz"


def gathered(files):
    """Return crystals by name, each with its rows by (variant, visits)."""
    crystals = {}
    known = None
    for file in files:
        found = json.loads(Path(file).read_text())
        same = found["foundation"], found["settings"]["mesh"]
        if known not in (None, same):
            raise SystemExit("These results are of different foundations or meshes.")
        known = same
        for name, one in found["materials"].items():
            rows = crystals.setdefault(name, {"formula": one["formula"]})
            for row in one["rows"]:
                kept = rows.setdefault((row["variant"], row.get("visits")), [])
                kept += [row] if row not in kept else []
    return crystals


def error(rows):
    """Return the mean error over seeds."""
    return float(np.mean([row[ERROR] for row in rows]))


def cell(base, rows):
    """Return one cell of the table of crystals."""
    fit = ", fit" if all(row["fit"] for row in rows) else ""
    spent = np.mean([row["cpu_seconds"] for row in rows])
    return f"{error(rows):.3f} ({base / error(rows):.1f}×{fit}) {spent:.0f} s"


def summary(name, crystals, column):
    """Return one row of the summary of a column over the crystals that have it."""
    having = [one for one in crystals.values() if column in one]
    errors = [error(one[column]) for one in having]
    gains = [error(one["foundation", None]) / mean for one, mean in zip(having, errors, strict=True)]
    fits = sum(all(row["fit"] for row in one[column]) for one in having)
    spent = np.median([np.mean([row["cpu_seconds"] for row in one[column]]) for one in having])
    ranged = f"{interval(gains, digits=1)} ({min(gains):.1f} to {max(gains):.1f})"
    return [name, len(having), interval(errors), ranged, f"{fits} of {len(having)}", f"{spent:.0f}"]


def left_out(crystals, columns):
    """Return for each crystal the column that the others choose, and the gain it gives."""
    both = {name: one for name, one in crystals.items() if all(column in one for column in columns)}
    rows = []
    if len(both) < 3:
        return rows
    for name, one in both.items():
        others = [other for key, other in both.items() if key != name]
        shares = {c: np.median([error(o[c]) / error(o["foundation", None]) for o in others]) for c in columns}
        chosen = min(shares, key=shares.get)
        rows.append([one["formula"], chosen[0], f"{error(one[chosen]):.3f}",
                     f"{error(one['foundation', None]) / error(one[chosen]):.1f}"])  # fmt: skip
    return rows


def main():
    """Print the tables."""
    crystals = gathered(sys.argv[1:])
    keys = dict.fromkeys(key for one in crystals.values() for key in one if isinstance(key, tuple))
    columns = [key for key in keys if key[0] != "foundation"]
    names = {column: f"{column[0]}, {column[1]:,}" for column in columns}
    rows = []
    for name, one in crystals.items():
        base = error(one["foundation", None])
        cells = [cell(base, one[column]) if column in one else "–" for column in columns]
        rows.append([f"{one['formula']} ({name})", f"{base:.3f}", *cells])
    print(table(["crystal", "foundation", *names.values()], rows), "\n")
    headings = ["variant, visits", "crystals", "phonon MAE, THz", "gain", "fit", "CPU s"]
    print(table(headings, [summary(names[column], crystals, column) for column in columns]), "\n")
    for visits in dict.fromkeys(column[1] for column in columns):
        first, *others = [column for column in columns if column[1] == visits]
        for other in others:
            differences = [error(o[first]) - error(o[other]) for o in crystals.values() if first in o and other in o]
            if len(differences) > 1:
                print(paired(names[first], names[other], differences))
        compared = [c for c in (first, *others) if sum(c in one for one in crystals.values()) >= 3]
        if len(compared) > 1 and (chosen := left_out(crystals, compared)):
            print("\n" + table(["left out", "chosen by the others", "phonon MAE, THz", "gain"], chosen), "\n")


if __name__ == "__main__":
    main()
