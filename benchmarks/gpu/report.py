"""Goals and page of the GPU benchmark."""

from __future__ import annotations

from sections import SECTIONS


def row_of(rows, **wanted):
    """Return the first row without an error that has these values, or None."""
    hits = (one for one in rows if all(one.get(key) == value for key, value in wanted.items()))
    return next((one for one in hits if "error" not in one), None)


def ratio(upper, lower, key):
    """Return a ratio of two rows, None where one is missing or says nothing."""
    if not upper or not lower or upper.get(key) is None or not lower.get(key):
        return None
    return upper[key] / lower[key]


def goals(sections):
    """Return what was to be reached: (goal, at least or at most, limit, measured or None)."""
    rows = {name: section.get("rows", []) for name, section in sections.items()}
    train, process, packs = rows.get("training", []), rows.get("process", []), rows.get("packs", [])

    def epochs(**case):
        case = {"dtype": "float32", **case}
        ours = row_of(train, peer="phonosmith", compile="auto", **case)
        theirs = next(
            (
                one
                for one in train
                if one.get("peer") == "mace"
                and not one.get("cueq")
                and "error" not in one
                and all(one.get(k) == v for k, v in case.items())
            ),
            None,
        )
        return ratio(theirs, ours, "epoch_s")

    def memory(size, n_atoms, batch):
        case = {"peer": "phonosmith", "size": size, "n_atoms": n_atoms, "batch": batch, "dtype": "float32"}
        return ratio(row_of(train, compile="auto", **case), row_of(train, compile="off", **case), "peak_gb")

    one = next((row for row in packs if row["trainings"] == 1 and not row["warm_up"] and "error" not in row), None)
    eight = row_of(packs, trainings=8)
    side_by_side = 8 / ratio(eight, one, "wall_s") if one and eight else None
    found = [
        ("epoch over mace's, 64x0e, 32 atoms, batch 1", ">=", 3.0, epochs(size="small", n_atoms=32, batch=1)),
        ("epoch over mace's, 64x0e, 216 atoms, batch 1", ">=", 3.0, epochs(size="small", n_atoms=216, batch=1)),
        ("epoch over mace's, 64x0e, 16 x 216 atoms, batch 4", ">=", 3.0, epochs(size="small", n_atoms=216, batch=4)),
        ("epoch over mace's, 128x0e+128x1o, 216 atoms, batch 1", ">=", 3.0, epochs(size="large", n_atoms=216, batch=1)),
        ("epoch over mace's, 128x0e+128x1o, 216 atoms, batch 4", ">=", 1.7, epochs(size="large", n_atoms=216, batch=4)),
        (
            f"whole process over mace's, {process[0]['epochs'] if process else 200} epochs (goal for 200)",
            "<=",
            0.5,
            ratio(row_of(process, peer="phonosmith"), row_of(process, peer="mace"), "wall_s"),
        ),
        ("throughput of 8 packed over one after another", ">=", 3.0, side_by_side),
    ]
    for size in ("small", "large"):
        curved = row_of(rows.get("curvature", []), size=size, columns=1, compile="auto") or {}
        found.append(
            (f"curvature part over a force step, {size}, 512 atoms", "<=", 3.0, curved.get("curvature_over_force"))
        )
        found.append((f"memory of a curvature step, {size}, 512 atoms, GB", "<=", 8.0, curved.get("peak_gb")))
        found.append((f"memory recorded over launched, {size}, 4 x 216 atoms", "<=", 1.3, memory(size, 216, 4)))
    for size in ("small", "large"):
        relaxed = row_of(rows.get("inference", []), what="relaxations", size=size)
        worth = relaxed["mace_calculator_s"] / relaxed["batched_s"] if relaxed else None
        found.append((f"12 relaxations over looping mace's calculator, {size}", ">=", 1.0, worth))
    made = row_of(rows.get("inference", []), what="phonons")
    found.append(
        (
            "phonons of 216 atoms over atomate2's PhononMaker",
            ">=",
            1.0,
            made["atomate2_s"] / made["ours_s"] if made else None,
        )
    )
    bits = row_of(rows.get("choices", []), what="bits", deterministic=True)
    found.append(
        ("deterministic=true repeats to the bit (1: yes)", ">=", 1.0, float(bits["same_bits"]) if bits else None)
    )
    return found


def judged(goal, measured_on_gpu):
    """Return pass, fail or not measured."""
    _, kind, limit, value = goal
    if value is None or not measured_on_gpu:
        return "not measured"
    return "pass" if (value >= limit if kind == ">=" else value <= limit) else "FAIL"


def table(rows):
    """Return rows as a table in Markdown, a column for every key."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("key", "device")))

    def cell(value):
        return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value).replace("|", "/")

    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    return "\n".join([*lines, *("| " + " | ".join(cell(row.get(key)) for key in keys) + " |" for row in rows)])


def page(content):
    """Return the page of some results."""
    on_gpu = content["machine"]["device"] == "cuda"
    lines = ["# GPU benchmark", "", ", ".join(f"{key} {value}" for key, value in content["machine"].items()), ""]
    if not on_gpu:
        lines += [
            "**No GPU was used: tiny models on the CPU, to see that the script works. The times mean nothing.**",
            "",
        ]
    lines += ["## Goals, as ratios of this run", ""]
    lines += ["| goal | | limit | measured | |", "|---|---|---|---|---|"]
    for goal in goals(content["sections"]):
        value = "" if goal[3] is None else f"{goal[3]:.3g}"
        lines.append(f"| {goal[0]} | {goal[1]} | {goal[2]:g} | {value} | {judged(goal, on_gpu)} |")
    for name, section in content["sections"].items():
        summary = (SECTIONS[name].__doc__ or "").splitlines()[0]
        took = f" ({section['seconds']:.0f} s, {section['status']})"
        lines += ["", f"## {name}{took}", "", summary, ""]
        if section.get("error"):
            lines += [f"Failed: `{section['error']}`", ""]
        lines.append(table(section["rows"]) if section["rows"] else "No rows.")
    return "\n".join(lines) + "\n"
