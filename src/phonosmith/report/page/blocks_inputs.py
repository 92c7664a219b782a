"""Blocks of a material's section about how its potentials were made: crystal, sampling, labels, training, costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from phonosmith.report.figures.campaign import crystal_system
from phonosmith.report.figures.material import ladder_figure, largest_trainings, structure_figure, training_figure
from phonosmith.report.page.content import NOTHING, Block, Cell, Table, duration, number, space_group_text, whole
from phonosmith.report.page.potential_tables import entry_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from phonosmith.analysis.documents import Cost, MaterialReport
    from phonosmith.core.manifest import Manifest
    from phonosmith.report.figures.pictures import Gallery


def matrix_text(matrix: Any) -> str:
    """Return an integer matrix as three short rows; a diagonal one as 2 × 2 × 2."""
    rows = [[int(value) for value in row] for row in matrix]
    if all(value == 0 for i, row in enumerate(rows) for j, value in enumerate(row) if i != j):
        return " × ".join(str(rows[i][i]) for i in range(len(rows)))
    return "; ".join(" ".join(str(value) for value in row) for row in rows)


def structure_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return the crystal: cell, symmetry, drawing."""
    block = Block("Structure")
    if report.structure is None:
        return block
    from pymatgen.core import Structure

    structure = Structure.from_dict(report.structure)
    a, b, c = structure.lattice.abc
    alpha, beta, gamma = structure.lattice.angles
    block.facts = [
        ("formula", report.formula),
        (
            "space group",
            f"{space_group_text(report.space_group) or NOTHING} ({report.space_group_number or 'number unknown'})",
        ),
        ("crystal system", crystal_system(report.space_group_number) or NOTHING),
        ("edges a, b, c", f"{a:.4f}, {b:.4f}, {c:.4f} Å"),
        ("angles α, β, γ", f"{alpha:.2f}°, {beta:.2f}°, {gamma:.2f}°"),
        ("atoms in this cell", str(len(structure))),
        ("volume", f"{structure.volume / len(structure):.3f} Å³ per atom"),
    ]
    block.pictures = gallery.draw(
        "structure",
        lambda: structure_figure(structure),
        f"Ball drawing of {report.formula}, space group {report.space_group}, in two views.",
        f"Conventional cell of {report.formula}",
    )
    return block


def sampling_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return how configurations were drawn."""
    block, sampling = Block("Sampling"), report.sampling
    if sampling is None:
        return block
    chosen = sum(len(steps) for steps in sampling.selected_steps)
    block.facts = [
        ("cell", f"{sampling.cell}, {sampling.n_atoms} atoms, supercell {matrix_text(sampling.supercell_matrix)}"),
        ("volumes", ", ".join(f"{100 * (factor - 1):+g} %" for factor in sampling.volume_factors)),
        ("configurations chosen", f"{chosen} of {len(sampling.volume_factors)} relaxations with the foundation"),
    ]
    block.texts = [f"Warning: {warning}" for warning in sampling.warnings]
    block.pictures = gallery.draw(
        "sampling",
        lambda: ladder_figure(sampling),
        f"Energy against step of {len(sampling.volume_factors)} relaxations of {report.material}; "
        f"{chosen} configurations are marked, equally spaced in energy.",
        "Relaxations and the configurations taken from them",
    )
    return block


def labels_block(report: MaterialReport) -> Block:
    """Return labels and what the audit found."""
    labels = report.labels
    block = Block("Labels and audit")
    words = {"pass": "passed", "pass_with_exclusions": "passed with exclusions"}
    block.facts = [
        ("reference", report.reference + (" (rehearsal)" if report.rehearsal else "")),
        ("audit", words.get(labels.verdict, labels.verdict)),
        ("training labels", f"{labels.train.n_frames} ({labels.train.n_atoms} atoms)"),
        ("validation labels", f"{labels.valid.n_frames} ({labels.valid.n_atoms} atoms)"),
        ("left out by the audit", str(labels.n_excluded)),
        ("without a label", str(labels.n_failed)),
        ("time of the reference", duration(labels.label_seconds).text),
        ("functional", ", ".join(labels.train.functionals) or NOTHING),
        ("training data sha256", labels.train.sha256),
        ("validation data sha256", labels.valid.sha256),
    ]
    block.texts = list(labels.findings)
    return block


def training_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return training curves and why each training ended."""
    block = Block("Training")
    curved = [entry for entry in report.strategies if entry.curve is not None and entry.curve.epoch]
    if not curved:
        return block
    rows = [
        [
            Cell(entry_name(entry, report)),
            whole(entry.curve.best_epoch),
            whole(entry.curve.epoch[-1]),
            number(entry.train_force_mae, 1),
            number(entry.valid_force_mae, 1),
            duration(entry.training_seconds),
            Cell(entry.curve.stop_reason or NOTHING),
            Cell({True: "yes", False: "no", None: NOTHING}[entry.improved]),
        ]
        for entry in curved
        if entry.curve is not None
    ]
    columns = (
        "potential", "best epoch", "last epoch", "training force MAE, meV/Å", "validation force MAE, meV/Å", "time",
        "ended because", "better than its start",
    )  # fmt: skip
    block.tables = [Table(f"Trainings of {report.material}", columns, rows, numeric=frozenset(range(1, 6)))]
    drawn = largest_trainings(curved)
    block.pictures = gallery.draw(
        "training",
        lambda: training_figure(drawn),
        f"Validation force error and loss against the epoch for {', '.join(entry.strategy for entry in drawn)}; "
        "a mark shows the epoch whose weights were kept.",
        "Training curves; marks show the weights kept",
    )
    return block


def cost_table(costs: Iterable[Cost], caption: str) -> Table:
    """Return what each job took."""
    rows = [
        [
            Cell(cost.name),
            Cell(cost.stage),
            whole(cost.n_calculations),
            whole(cost.n_atoms),
            duration(cost.wall_seconds),
            whole(cost.cores),
            whole(cost.gpus),
            number(cost.wall_seconds * cost.cores / 3600, 3),
        ]
        for cost in costs
    ]
    columns = ("job", "stage", "calculations", "atoms each", "wall time", "cores", "GPUs", "core hours")
    return Table(caption, columns, rows, sortable=True, numeric=frozenset(range(2, 8)))


def costs_block(report: MaterialReport) -> Block:
    """Return the costs of a material's jobs."""
    block = Block("Costs")
    if report.costs:
        block.tables = [cost_table(report.costs, f"What the jobs of {report.material} took")]
    return block


def setting_rows(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as dotted names and short values."""
    rows = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += setting_rows(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((name, text if len(text) <= 200 else f"{text[:200]} …"))
    return rows


def provenance_block(report: MaterialReport) -> Block:
    """Return identities of everything that led to the verdicts."""
    manifest = report.manifest
    block = Block("Provenance")
    block.facts = [*manifest_facts(manifest), ("seed", str(report.seed))]
    rows = [
        [
            Cell(entry_name(entry, report)),
            Cell(entry.potential.name),
            Cell(entry.potential.architecture),
            Cell(entry.potential.dtype),
            Cell(entry.potential.sha256),
            Cell(", ".join(parent[:12] for parent in entry.potential.parents) or NOTHING),
        ]
        for entry in [report.foundation, *report.strategies]
    ]
    columns = ("potential", "name", "architecture", "precision", "sha256", "made from")
    block.tables = [Table(f"Identities of the potentials of {report.material}", columns, rows)]
    block.texts = ["Each potential can be taken from the artefact store: phonosmith models export SHA256."]
    limits = report.foundation.verdict.thresholds
    if limits:
        words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in limits.items())
        block.texts.append(f"Limits of the verdict: {words}.")
    return block


def manifest_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what a provenance record says about when, with what and from what."""
    facts = [("report made", manifest.started or NOTHING), ("settings digest", manifest.settings_digest or NOTHING)]
    facts += [(f"input: {role}", digest) for role, digest in manifest.inputs.items()]
    return facts + [(f"setting: {name}", value) for name, value in setting_rows(manifest.settings)]
