"""The page of the protocol study, from its results and the package's own tables."""

from __future__ import annotations

from statistics import median

from study_tables import beside_published

PAIRS = (("delta+pft", "delta"), ("delta", "transfer"), ("freeze1", "transfer"), ("phonosmith", "transfer"))
SHOWN = ("table1_phonon_mae", "table2_phonon_errors", "table3_stability", "paired_tests_phonon", "verdicts")


def by_strategy(document, cell, materials=None):
    """Return phonon MAE by strategy and material, THz (mean over seeds), for the materials of a cell size."""
    rows = [row for row in document["rows"] if row["phonon_mae_thz"] is not None]
    chosen = {row["material"] for row in rows if row["cell"] == cell} if materials is None else materials
    found = {}
    for row in rows:
        if row["material"] in chosen and (row["cell"] == cell or row["strategy"] == "foundation"):
            found.setdefault(row["strategy"], {}).setdefault(row["material"], []).append(row["phonon_mae_thz"])
    return {
        strategy: {material: sum(values) / len(values) for material, values in by_material.items()}
        for strategy, by_material in found.items()
    }


def order(document, cell):
    """Return one sentence: the order found, the published one, and in how many pairs they agree."""
    values = by_strategy(document, cell)
    found = {strategy: median(one.values()) for strategy, one in values.items()}
    return (
        f"- {cell} cells, {len(values['foundation'])} materials, median phonon MAE in THz: "
        f"{beside_published(found, cell)}"
    )


def sizes(document, cells):
    """Return the section that compares cell sizes on the materials that have them all, or nothing."""
    have = [{row["material"] for row in document["rows"] if row["cell"] == cell} for cell in cells]
    common = sorted(set.intersection(*have))
    if len(cells) < 2 or not common:
        return []
    found = {cell: by_strategy(document, cell, common) for cell in cells}
    strategies = [
        name for name in found[cells[0]] if all(len(found[cell].get(name, ())) == len(common) for cell in cells)
    ]
    lines = [
        f"## Cell sizes on the same crystals ({', '.join(common)}): median phonon MAE, THz",
        "",
        "| cell | structures | " + " | ".join(strategies) + " |",
        "|---|---:|" + "---:|" * len(strategies),
    ]
    for cell in cells:
        rows = [row for row in document["rows"] if row["cell"] == cell and row["material"] in common]
        counts = [row["n_train"] for row in rows if row["n_train"]]
        values = " | ".join(f"{median(found[cell][name].values()):.3f}" for name in strategies)
        lines.append(f"| {cell} | {min(counts)} to {max(counts)} | {values} |")
    return [*lines, ""]


def seeds(document, cell):
    """Return the section on how much the training seed changes, or nothing."""
    values = {}
    for row in document["rows"]:
        if row["cell"] == cell and row["phonon_mae_thz"] is not None and row["strategy"] != "foundation":
            values.setdefault(row["strategy"], {}).setdefault(row["material"], {})[row["seed"]] = row["phonon_mae_thz"]
    lines = []
    for strategy, by_material in values.items():
        pairs = [one for one in by_material.values() if len(one) > 1]
        if pairs:
            spread = median(max(one.values()) - min(one.values()) for one in pairs)
            each = ", ".join(
                f"seed {seed}: {median(one[seed] for one in pairs):.3f}" for seed in sorted(pairs[0])
            )  # fmt: skip
            lines.append(f"| {strategy} | {len(pairs)} | {each} | {spread:.3f} |")
    if not lines:
        return []
    return [
        f"## Training seeds, {cell} cells",
        "",
        "| strategy | materials | median phonon MAE, THz | median spread between seeds, THz |",
        "|---|---:|---|---:|",
        *lines,
        "",
    ]


def lost(document):
    """Return one sentence on potentials whose crystal relaxed into another one, or nothing."""
    found = [
        f"{row['material']} {row['strategy']} ({row['cell']} cells, seed {row['seed']})"
        for row in document["rows"]
        if row["phonon_mae_thz"] is None and row["n_train"]
    ]
    if not found:
        return ""
    return f"- The crystal relaxed into another one: {', '.join(found)}. Judged not fit, and in no median here."


def against(document, cell, first, second):
    """Return one sentence on two strategies compared material by material, or nothing."""
    rows = {}
    for row in document["rows"]:
        if row["cell"] == cell and row["strategy"] in (first, second) and row["phonon_mae_thz"] is not None:
            key = (row["material"], row["seed"])
            rows.setdefault(key, {})[row["strategy"]] = row["phonon_mae_thz"]
    pairs = [pair for pair in rows.values() if len(pair) == 2]
    if not pairs:
        return ""
    better = sum(pair[first] < pair[second] for pair in pairs)
    middle = median(pair[first] - pair[second] for pair in pairs)
    return (
        f"- {cell} cells, {first} against {second} on the same labels: smaller phonon MAE on {better} of {len(pairs)} "
        f"(materials and seeds), median difference {middle:+.3f} THz (interval and test in the table of pairs)."
    )


def by_material(document, cell):
    """Return the table of phonon MAE by material."""
    rows = [row for row in document["rows"] if row["cell"] == cell or row["strategy"] == "foundation"]
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    have = {row["material"] for row in rows if row["strategy"] != "foundation"}
    lines = ["| material | space group | " + " | ".join(strategies) + " |", "|---|---|" + "---:|" * len(strategies)]
    for name, crystal in document["materials"].items():
        if name not in have:
            continue
        cells = []
        for strategy in strategies:
            asked = [
                row["phonon_mae_thz"] for row in rows if (row["material"], row["strategy"]) == (name, strategy)
            ]  # fmt: skip
            values = [value for value in asked if value is not None]
            none = "other crystal" if asked else "–"
            cells.append(f"{sum(values) / len(values):.3f}" if values else none)
        lines.append(f"| {name} | {crystal['space_group']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(document, tables):
    """Return the page as Markdown.

    Parameters
    ----------
    document
        Content of results.json.
    tables
        The package's tables by sampling cell.
    """
    settings, foundation = document["settings"], document["foundation"]
    training, count = settings["training"], len(document["materials"])
    cells = [cell for cell in ("primitive", "small", "large") if cell in tables]
    drawn = {cell: sorted({row["seed"] for row in document["rows"] if row["cell"] == cell}) for cell in cells}
    seeds_drawn = ", ".join(f"{drawn[cell]} ({cell} cells)" for cell in cells)
    taught, title = foundation, f"Protocol study, stand-in reference, {foundation}"
    if isinstance(foundation, dict):
        title = "Protocol study, stand-in reference"
        taught = (
            f"a MACE distilled from {foundation['teacher']} for {len(foundation['crystals'])} crystals together "
            f"({foundation['n_train']} cells; {foundation['forces_mae_mev_per_angstrom']:.0f} meV/Å from its teacher "
            "on cells held out)"
        )
    # medians and tests of one or two crystals say nothing
    shown = [cell for cell in cells if len(by_strategy(document, cell)["foundation"]) > 2] or cells
    answers = [order(document, cell) for cell in shown]
    answers += [against(document, cell, *pair) for pair in PAIRS for cell in shown]
    answers.append(lost(document))
    minutes = [f"{stage} {value / 60:.0f} min" for stage, value in sorted(document["wall_seconds_by_stage"].items())]
    parts = [
        f"""# {title}

Made by `run.py` (its first lines say how). Foundation: {taught}. Reference: **{document["reference"]}, a
machine-learned potential that plays DFT; no number here is a first-principles result.** {count} materials; training
seeds {seeds_drawn}; {training["epochs"]} epochs with one structure per step; phonons in supercells of at least
{settings["min_length"]:g} Å, {settings["mesh"]}³ mesh.

## Answers
""",
        *filter(None, answers),
        "",
    ]
    for cell in cells:
        parts += [f"## Phonon MAE by material, {cell} cells, THz", "", by_material(document, cell), ""]
        parts += seeds(document, cell)
    parts += sizes(document, shown)
    if shown != cells:
        parts += sizes(document, cells)
    for key in SHOWN:
        for cell in shown[-1:] if key.startswith("table1") else shown:
            parts += [table.markdown() for table in tables[cell] if table.key == key]
    little = extra = ""
    if isinstance(foundation, dict):
        little = "- The foundation knows little more than these crystals; a published one starts from far more data.\n"
    tried = {row["strategy"] for row in document["rows"]}
    if "delta+pft" in tried:
        extra += (
            "- delta+pft also learns force constants of the reference, of a supercell with edges of at least\n"
            f"  {settings['curvature_min_length']:g} Å: a few displaced cells that the others were not given.\n"
        )
    if "multihead" in tried:
        replayed = training.get("multihead", {}).get("replay_size", 0)
        extra += f"- Replay of multihead: {replayed} of the cells the foundation was taught on.\n"
    parts.append(f"""## What it took

Wall time by stage on two cores shared with other work: {", ".join(minutes)}.

## Limits

- {count} materials, few training seeds, one draw of configurations; intervals are over materials.
- {training["epochs"]} epochs, and sampling relaxations of at most {settings["sampling"]["max_steps"]} steps; the paper
  trains up to 200 epochs and relaxes to 1e-4 eV/Å.
{little}- The stand-in misses instabilities that DFT finds (SnTe, PbSe2): stability here is the stand-in's.
{extra}""")
    if document["failures"]:
        parts += ["Without a result: " + ", ".join(f"{f['material']} {f['what']}" for f in document["failures"]), ""]
    # the package's tables know the foundation by the digest of its file
    return "\n".join(parts).replace(f"foundation {document['foundation_identity']}", "the foundation above")
