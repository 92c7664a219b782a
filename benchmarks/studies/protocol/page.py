"""The page of the protocol study, from its results and the package's own tables."""

from __future__ import annotations

from statistics import median

PAPER_ORDER = ("scratch", "foundation", "multihead", "transfer", "delta")
"""From worst to best median phonon MAE in large cells, arXiv:2604.01017, table 1."""
PAIRS = (("delta+pft", "delta"), ("delta", "transfer"), ("freeze1", "transfer"))
SHOWN = ("table1_phonon_mae", "table2_phonon_errors", "table3_stability", "paired_tests_phonon", "verdicts")


def medians(document, cell):
    """Return the median phonon MAE over materials of every strategy, THz (mean over seeds first)."""
    found = {}
    for row in document["rows"]:
        if row["phonon_mae_thz"] is not None and (row["cell"] == cell or row["strategy"] == "foundation"):
            found.setdefault(row["strategy"], {}).setdefault(row["material"], []).append(row["phonon_mae_thz"])
    return {
        strategy: median(sum(values) / len(values) for values in by_material.values())
        for strategy, by_material in found.items()
    }


def order(document, cell):
    """Return one sentence: the order found, and whether it is the paper's."""
    found = medians(document, cell)
    ours = sorted(found, key=found.get, reverse=True)
    common = [name for name in ours if name in PAPER_ORDER]
    expected = [name for name in PAPER_ORDER if name in common]
    words = " > ".join(f"{name} {found[name]:.3f}" for name in ours)
    verdict = "the paper's order" if common == expected else f"not the paper's order ({' > '.join(expected)})"
    return f"- {cell} cells, median phonon MAE in THz: {words}. This is {verdict}."


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
        f"- {cell} cells, {first} against {second} on the same labels: smaller phonon MAE on {better} of {len(pairs)}, "
        f"median difference {middle:+.3f} THz (interval and test in the table of pairs)."
    )


def by_material(document, cell):
    """Return the table of phonon MAE by material."""
    rows = [row for row in document["rows"] if row["cell"] == cell or row["strategy"] == "foundation"]
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    lines = ["| material | space group | " + " | ".join(strategies) + " |", "|---|---|" + "---:|" * len(strategies)]
    for name, crystal in document["materials"].items():
        cells = []
        for strategy in strategies:
            values = [
                row["phonon_mae_thz"] for row in rows
                if (row["material"], row["strategy"]) == (name, strategy) and row["phonon_mae_thz"] is not None
            ]  # fmt: skip
            cells.append(f"{sum(values) / len(values):.3f}" if values else "–")
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
    training, cells, count = settings["training"], list(tables), len(document["materials"])
    taught = foundation
    if isinstance(foundation, dict):
        taught = (
            f"a MACE distilled from {foundation['teacher']} for {len(foundation['crystals'])} crystals together "
            f"({foundation['n_train']} cells; {foundation['forces_mae_mev_per_angstrom']:.0f} meV/Å from its teacher "
            "on cells held out)"
        )
    answers = [order(document, cell) for cell in cells]
    answers += [against(document, cell, *pair) for pair in PAIRS for cell in cells]
    minutes = [f"{stage} {value / 60:.0f} min" for stage, value in sorted(document["wall_seconds_by_stage"].items())]
    parts = [
        f"""# Protocol study, stand-in reference

Made by `run.py` (its first lines say how). Foundation: {taught}. Reference: **{document["reference"]}, a
machine-learned potential that plays DFT; no number here is a first-principles result.** {count} materials; training
seeds {settings["seeds"]}; {training["epochs"]} epochs with one structure per step; phonons in supercells of at least
{settings["min_length"]:g} Å, {settings["mesh"]}³ mesh.

## Answers
""",
        *filter(None, answers),
        "",
    ]
    for cell in cells:
        parts += [f"## Phonon MAE by material, {cell} cells, THz", "", by_material(document, cell), ""]
    for key in SHOWN:
        for cell in cells[-1:] if key.startswith("table1") else cells:
            parts += [table.markdown() for table in tables[cell] if table.key == key]
    parts.append(f"""## What it took

Wall time by stage on two cores shared with other work: {", ".join(minutes)}.

## Limits

- {count} materials, {len(settings["seeds"])} training seed(s), one draw of configurations; intervals are over
  materials.
- {training["epochs"]} epochs, and sampling relaxations of at most {settings["sampling"]["max_steps"]} steps; the paper
  trains up to 200 epochs and relaxes to 1e-4 eV/Å.
- The foundation knows little more than these crystals; a published one starts from far more data.
- The stand-in misses instabilities that DFT finds (SnTe, PbSe2): stability here is the stand-in's.
- delta+pft also learns force constants of the reference, of a supercell with edges of at least
  {settings["curvature_min_length"]:g} Å: a few displaced cells that the others were not given.
- Replay of multihead: {training.get("multihead", {}).get("replay_size", 0)} of the cells the foundation was taught on.
""")
    if document["failures"]:
        parts += ["Without a result: " + ", ".join(f"{f['material']} {f['what']}" for f in document["failures"]), ""]
    # the package's tables know the foundation by the digest of its file
    return "\n".join(parts).replace(f"foundation {document['foundation_identity']}", "the foundation above")
