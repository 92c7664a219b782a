"""Blocks of a material's section: its results, what lies beyond harmonic phonons, how its potentials were made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from phonosmith.analysis.choice import largest_trainings
from phonosmith.analysis.table import DASH, Cell, Table, Tone, duration, number, whole
from phonosmith.core.errors import PhonosmithError
from phonosmith.report.figures.campaign import crystal_system
from phonosmith.report.figures.forgetting import forgetting_figure
from phonosmith.report.figures.material import ladder_figure, structure_figure, training_figure
from phonosmith.report.figures.mechanics import elastic_figure, energy_volume_figure
from phonosmith.report.figures.modes import mode_energies_figure, pathways_figure
from phonosmith.report.figures.phonons import (
    PhononCurves,
    load_model,
    many_bands_figure,
    many_thermal_figure,
    phonon_curves,
)
from phonosmith.report.page.content import Block, space_group_text
from phonosmith.report.page.pictures import Gallery, reason_of
from phonosmith.report.page.potential_tables import entry_name, one_per_strategy

if TYPE_CHECKING:
    from phonosmith.analysis.documents import MaterialReport, PhononSummary, PotentialReport
    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.evaluation.forgetting.documents import ForgettingDoc
    from phonosmith.evaluation.modes.documents import FollowedMode
    from phonosmith.evaluation.phonons.documents import PhononComparison

Document = TypeVar("Document")
MOST_DRAWN = 6
"""Potentials in one figure of bands; more cannot be told apart."""
MOST_PATHWAYS = 3
_KINDS = {
    "far": "same material, far from equilibrium",
    "strain": "strained",
    "eos": "other volumes",
    "replay": "replay pool",
    "other": "another material",
}


class Named(NamedTuple, Generic[Document]):
    """A document of one side: what figures call the side, what tables call it."""

    name: str
    label: str
    document: Document


def sides_of(
    report: MaterialReport,
    reference: Document | None,
    get: Callable[[PotentialReport], Document | None],
    *,
    foundation_last: bool = False,
) -> list[Named[Document]]:
    """Return what is known of the reference, the foundation and each strategy's largest training."""
    sides = [] if reference is None else [Named("reference", "reference", reference)]
    base, *tuned = one_per_strategy(report)
    for name, entry in [*tuned, base] if foundation_last else [base, *tuned]:
        document = get(entry)
        if document is not None:
            sides.append(Named(name, entry_name(entry, report), document))
    return sides


def compared_phonons(report: MaterialReport) -> list[Named[PhononComparison]]:
    """Return the comparison of each potential's phonons with the reference's."""
    return sides_of(report, None, lambda entry: entry.phonons)


def _stable(answer: object, otherwise: Tone = "warn") -> Cell:
    return Cell("stable", tone="good") if answer else Cell("unstable", tone=otherwise)


def matrix_text(matrix: Sequence[Sequence[int]]) -> str:
    """Return an integer matrix as three short rows; a diagonal one as 2 × 2 × 2."""
    if all(value == 0 for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j):
        return " × ".join(str(row[i]) for i, row in enumerate(matrix))
    return "; ".join(" ".join(str(value) for value in row) for row in matrix)


def summaries(report: MaterialReport) -> dict[str, PhononSummary]:
    """Return the phonons to draw by name: reference, potentials with the best first, foundation."""
    base, *tuned = one_per_strategy(report)
    drawn = {"reference": report.reference_result.phonons}
    drawn |= {name: entry.summary for name, entry in [*tuned[: MOST_DRAWN - 1], base]}
    return {name: summary for name, summary in drawn.items() if summary is not None}


def load_curves(report: MaterialReport, artefacts: ArtefactStore, problems: list[str]) -> PhononCurves | None:
    """Return the curves of a material's phonons; force constants that are not there become sentences."""
    models = {}
    for name, summary in summaries(report).items():
        try:
            models[name] = load_model(summary, artefacts)
        except PhonosmithError as error:
            problems.append(f"The phonons of {name} cannot be drawn: {error.message}")
    if not models:
        return None
    try:
        curves = phonon_curves(models)
    except Exception as error:  # noqa: BLE001 - numerical libraries fail in many ways; the page goes on and says it
        problems.append(f"The phonons of {report.material} cannot be drawn: {reason_of(error)}")
        return None
    problems.extend(f"{name} is not drawn: {why}" for name, why in curves.left_out.items())
    return curves


def phonons_block(report: MaterialReport, curves: PhononCurves | None, gallery: Gallery, problems: list[str]) -> Block:
    """Return bands with densities of states and the comparison in numbers."""
    block = Block("Phonons", problems=problems)
    compared = compared_phonons(report)
    if compared:
        block.tables = [
            Table.of(
                f"Phonons of {report.material} against the reference",
                compared,
                {
                    "potential": lambda side: side.label,
                    "MAE, THz": lambda side: number(side.document.mae_thz),
                    "RMSE, THz": lambda side: number(side.document.rmse_thz),
                    "ω_max, THz": lambda side: number(side.document.candidate.omega_max_thz, 2),
                    "ω_max error, %": lambda side: number(side.document.omega_max_error_percent, 2, signed=True),
                    "ω_mean error, %": lambda side: number(side.document.omega_mean_error_percent, 2, signed=True),
                    "DOS error, %": lambda side: number(side.document.dos_error_percent, 1),
                    "sum rule violated by, eV/Å²": lambda side: number(side.document.candidate.asr_residual, 6),
                },
                sortable=True,
            )
        ]
    reference = report.reference_result.phonons
    if reference is not None:
        cells = f"{reference.n_displacements} with {reference.n_atoms_supercell} atoms"
        block.facts = [
            ("displaced cells of the reference", cells),
            ("supercell", matrix_text(reference.supercell_matrix)),
            ("highest frequency of the reference", f"{reference.omega_max_thz:.3f} THz"),
        ]
    elif report.mode == "production":
        block.texts = ["Production mode: no reference phonons were calculated; the potentials are drawn alone."]
    if curves is not None:
        errors = [f"{side.name} {side.document.mae_thz:.3f} THz" for side in compared]
        block.pictures = gallery.draw(
            "bands",
            lambda: many_bands_figure(curves),
            f"Phonon bands and densities of states of {report.material}: "
            f"{', '.join(side.name for side in curves.sides)}."
            + (f" Mean absolute errors: {', '.join(errors)}." if errors else ""),
            f"Phonon bands and density of states of {report.material}; reference black, imaginary modes below zero",
        )
    for entry in [report.foundation, *report.strategies]:
        if entry.phonons is not None:
            block.texts += [f"{entry_name(entry, report)}: {note}" for note in entry.phonons.notes]
    return block


def thermal_block(report: MaterialReport, curves: PhononCurves | None, gallery: Gallery) -> Block:
    """Return harmonic heat capacity, entropy and free energy."""
    block = Block("Thermal properties")
    compared = [(side.label, side.document) for side in compared_phonons(report)]
    if compared:
        first = compared[0][1]
        block.tables = [
            Table.of(
                f"Thermodynamics of {report.material} at {first.temperature:g} K, per mole of primitive cells",
                [("reference", first.reference), *((label, comparison.candidate) for label, comparison in compared)],
                {
                    "potential": lambda side: side[0],
                    "C_v, J/K/mol": lambda side: number(side[1].heat_capacity, 2),
                    "S, J/K/mol": lambda side: number(side[1].entropy, 2),
                    "F, kJ/mol": lambda side: number(side[1].free_energy, 3),
                    "modes left out (not real), %": lambda side: number(100 * side[1].imaginary_share, 2),
                },
            )
        ]
    if curves is not None:
        block.pictures = gallery.draw(
            "thermal",
            lambda: many_thermal_figure(curves),
            f"Heat capacity, entropy and free energy of {report.material} from 0 to 800 K: "
            f"{', '.join(side.name for side in curves.sides)}.",
            "Harmonic thermodynamics per mole of primitive cells; modes that are not real are left out",
        )
    return block


def stability_block(report: MaterialReport) -> Block:
    """Return dynamical stability at commensurate wave vectors."""
    block = Block("Stability")
    compared = [(side.label, side.document) for side in compared_phonons(report)]
    if compared:
        block.tables = [
            Table.of(
                f"Dynamical stability of {report.material}",
                [
                    ("reference", compared[0][1].reference),
                    *((label, comparison.candidate) for label, comparison in compared),
                ],
                {
                    "potential": lambda side: side[0],
                    "strict (1e-4 THz)": lambda side: _stable(side[1].stable),
                    "practical": lambda side: _stable(side[1].stable_practical),
                    "imaginary modes": lambda side: whole(side[1].n_imaginary_commensurate),
                    "lowest on path, THz": lambda side: number(side[1].omega_min_thz),
                    "space group after relaxation": lambda side: (
                        f"{space_group_text(side[1].space_group)} ({side[1].space_group_number})"
                    ),
                },
            )
        ]
    elif alone := summaries(report):
        block.tables = [
            Table.of(
                f"Dynamical stability of {report.material} (no reference)",
                alone.items(),
                {
                    "potential": lambda side: side[0],
                    "strict (1e-4 THz)": lambda side: "stable" if side[1].stable else "unstable",
                    "space group after relaxation": lambda side: space_group_text(side[1].space_group) or DASH,
                },
            )
        ]
    return block


def elastic_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return elastic constants, moduli and Slack conductivity."""
    block = Block("Elastic properties")
    sides = sides_of(report, report.reference_result.elastic, lambda entry: entry.elastic)
    if not sides:
        return block
    rows: list[list[Cell | str]] = []
    for _, label, document in sides:
        fit, moduli, slack = document.fit, document.fit.moduli, document.slack
        rows.append(
            [
                label,
                number(None if moduli is None else moduli.bulk_vrh, 1),
                number(None if moduli is None else moduli.shear_vrh, 1),
                number(None if slack is None else slack.poisson),
                number(None if slack is None else slack.debye_temperature, 0),
                number(None if slack is None else slack.gruneisen, 2),
                number(None if slack is None else slack.kappa, 2),
                _stable(fit.born_stable, "bad"),
                Cell("yes") if fit.reliable and not document.n_unconverged else Cell("no", tone="warn"),
            ]
        )
        block.texts += [f"{label}: {warning}" for warning in fit.warnings]
    columns = (
        "potential", "bulk modulus, GPa", "shear modulus, GPa", "Poisson ratio", "Debye temperature, K", "Grüneisen",
        "κ Slack, W/m/K", "Born", "reliable",
    )  # fmt: skip
    caption = f"Elastic properties of {report.material} (Voigt-Reuss-Hill)"
    block.tables = [Table(caption, columns, rows, sortable=True, numeric=frozenset(range(1, 7)))]
    block.pictures = gallery.draw(
        "elastic",
        lambda: elastic_figure([side.document for side in sides], [side.name for side in sides]),
        f"Independent elastic constants, bulk and shear modulus and Slack conductivity of {report.material} by "
        f"{', '.join(side.label for side in sides)}; the values are in the table.",
        "Elastic constants, moduli and Slack conductivity",
    )
    return block


def eos_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return the equations of state."""
    block = Block("Equation of state")
    sides = sides_of(report, report.reference_result.eos, lambda entry: entry.eos)
    if not sides:
        return block
    block.tables = [
        Table.of(
            f"Birch-Murnaghan fits of {report.material}",
            [(side.name, side.document.fit, side.document.n_atoms) for side in sides],
            {
                "potential": lambda side: side[0],
                "volume, Å³/atom": lambda side: number(side[1].volume / side[2]),
                "bulk modulus, GPa": lambda side: number(side[1].bulk_modulus, 1),
                "its derivative": lambda side: number(side[1].bulk_modulus_derivative, 2),
                "residual, meV/atom": lambda side: number(1000 * side[1].rms_residual / side[2]),
                "points": lambda side: whole(side[1].n_points),
            },
            numeric=range(1, 6),
        )
    ]
    for side in sides:
        block.texts += [f"{side.name}: {words}" for words in (*side.document.fit.reasons, *side.document.fit.warnings)]
    block.pictures = gallery.draw(
        "eos",
        lambda: energy_volume_figure([side.document for side in sides], [side.name for side in sides]),
        f"Energy above the minimum against volume per atom of {report.material} by "
        f"{', '.join(side.name for side in sides)}; equilibrium volumes are in the table.",
        "Energy against volume, with Birch-Murnaghan fits",
    )
    return block


def _mode_cells(name: str, mode: FollowedMode) -> list[Cell | str]:
    deepest = min((minimum.energy_ev_per_atom for minimum in mode.minima), default=None)
    ends = sorted({space_group_text(path.final.space_group) for path in mode.pathways if path.final is not None})
    q = ", ".join(f"{value:.3g}" for value in mode.q)
    return [
        name,
        f"{mode.label} ({q})" if mode.label else f"({q})",
        number(mode.frequency_thz),
        whole(mode.multiplicity),
        Cell("exact" if mode.exact else "interpolated", tone="plain" if mode.exact else "warn"),
        number(None if deepest is None else 1000 * deepest, 2),
        mode.skipped or ", ".join(ends) or "no other phase",
    ]


def transitions_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return imaginary modes, energies along them and the phases they lead to."""
    block = Block("Phase transitions")
    truth = report.reference_result.transitions
    followed = sides_of(report, truth, lambda entry: entry.transitions, foundation_last=True)
    sides = {side.name: side.document for side in followed}
    for name, document in sides.items():
        for mode in document.modes:
            block.texts += [f"{name}, {mode.label or mode.q}: {note}" for note in mode.notes]
        if not document.modes:
            block.texts.append(f"{name}: no imaginary mode to follow.")
    modes = [_mode_cells(name, mode) for name, document in sides.items() for mode in document.modes]
    if modes:
        columns = (
            "potential", "wave vector", "frequency, THz", "multiplicity", "at its wave vector", "deepest, meV/atom",
            "leads to",
        )  # fmt: skip
        block.tables.append(Table(f"Imaginary modes of {report.material}", columns, modes))
    phases = [(name, phase) for name, document in sides.items() for phase in document.phases]
    if phases:
        block.tables.append(
            Table.of(
                f"Phases the modes of {report.material} lead to",
                phases,
                {
                    "potential": lambda side: side[0],
                    "phase": lambda side: f"{space_group_text(side[1].space_group)} ({side[1].space_group_number})",
                    "atoms in the primitive cell": lambda side: whole(side[1].n_atoms_primitive),
                    "energy above the start, meV/atom": lambda side: number(
                        1000 * side[1].energy_difference_ev_per_atom, 2, signed=True
                    ),
                },
            )
        )
    if any(mode.energies for document in sides.values() for mode in document.modes):
        block.pictures += gallery.draw(
            "modes",
            lambda: mode_energies_figure(sides),
            f"Energy along the imaginary modes of {report.material} by {', '.join(sides)}; depths are in the table.",
            "Energy along imaginary modes",
        )
    # one panel each: more than three cannot be read
    shown = dict(list(sides.items())[:MOST_PATHWAYS])
    if any(document.phases for document in shown.values()):
        block.pictures += gallery.draw(
            "pathways",
            lambda: pathways_figure(shown),
            f"Energies of the phases that the modes of {report.material} lead to, by {', '.join(shown)}.",
            "Pathways to other phases",
        )
    return block


def forgetting_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return errors where potentials were not tuned, beside the foundation's."""
    block = Block("Forgetting")
    sides: list[Named[ForgettingDoc]] = sides_of(report, None, lambda entry: entry.forgetting)
    if not sides:
        return block
    for side in sides:
        block.texts += [f"{side.name}: not used: {why}" for why in side.document.skipped]
    block.tables = [
        Table.of(
            f"Force MAE of the potentials of {report.material} where they were not tuned",
            [(side.label, item) for side in sides for item in side.document.sets],
            {
                "potential": lambda side: side[0],
                "structures": lambda side: side[1].name,
                "kind": lambda side: _KINDS.get(side[1].kind, side[1].kind),
                "number": lambda side: whole(side[1].n_structures),
                "compared with": lambda side: (
                    "the reference" if side[1].truth == "reference" else "the foundation (drift)"
                ),
                "foundation, meV/Å": lambda side: number(side[1].foundation_force_mae, 1),
                "tuned, meV/Å": lambda side: number(side[1].tuned_force_mae, 1),
                "ratio": lambda side: number(_ratio(side[1].tuned_force_mae, side[1].foundation_force_mae), 2),
            },
            sortable=True,
            numeric=(3, 5, 6, 7),
        )
    ]
    if not block.tables[0].rows:
        block.tables = [replace(block.tables[0], rows=[[DASH] * 8])]
        return block
    names = [side.name for side in sides]
    block.pictures = gallery.draw(
        "forgetting",
        lambda: forgetting_figure([side.document for side in sides], names),
        f"Force errors of {', '.join(names)} on structures they were not tuned on, beside the foundation's; "
        "the values are in the table.",
        "Errors where the potentials were not tuned",
    )
    return block


def _ratio(ours: float | None, base: float | None) -> float | None:
    return ours / base if ours is not None and base else None


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
            f"{space_group_text(report.space_group) or DASH} ({report.space_group_number or 'number unknown'})",
        ),
        ("crystal system", crystal_system(report.space_group_number) or DASH),
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
        ("functional", ", ".join(labels.train.functionals) or DASH),
        ("training data sha256", labels.train.sha256),
        ("validation data sha256", labels.valid.sha256),
    ]
    block.texts = list(labels.findings)
    return block


def training_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return training curves and why each training ended."""
    block = Block("Training")
    curved = [(entry, entry.curve) for entry in report.strategies if entry.curve is not None and entry.curve.epoch]
    if not curved:
        return block
    block.tables = [
        Table.of(
            f"Trainings of {report.material}",
            curved,
            {
                "potential": lambda row: entry_name(row[0], report),
                "best epoch": lambda row: whole(row[1].best_epoch),
                "last epoch": lambda row: whole(row[1].epoch[-1]),
                "training force MAE, meV/Å": lambda row: number(row[0].train_force_mae, 1),
                "validation force MAE, meV/Å": lambda row: number(row[0].valid_force_mae, 1),
                "time": lambda row: duration(row[0].training_seconds),
                "ended because": lambda row: row[1].stop_reason or DASH,
                "better than its start": lambda row: {True: "yes", False: "no", None: DASH}[row[0].improved],
            },
            numeric=range(1, 6),
        )
    ]
    drawn = largest_trainings([entry for entry, _ in curved])
    block.pictures = gallery.draw(
        "training",
        lambda: training_figure(drawn),
        f"Validation force error and loss against the epoch for {', '.join(entry.strategy for entry in drawn)}; "
        "a mark shows the epoch whose weights were kept.",
        "Training curves; marks show the weights kept",
    )
    return block


def costs_block(report: MaterialReport) -> Block:
    """Return what each job of a material took."""
    block = Block("Costs")
    if report.costs:
        block.tables = [
            Table.of(
                f"What the jobs of {report.material} took",
                report.costs,
                {
                    "job": lambda cost: cost.name,
                    "stage": lambda cost: cost.stage,
                    "calculations": lambda cost: whole(cost.n_calculations),
                    "atoms each": lambda cost: whole(cost.n_atoms),
                    "wall time": lambda cost: duration(cost.wall_seconds),
                    "cores": lambda cost: whole(cost.cores),
                    "GPUs": lambda cost: whole(cost.gpus),
                    "core hours": lambda cost: number(cost.wall_seconds * cost.cores / 3600),
                },
                sortable=True,
                numeric=range(2, 8),
            )
        ]
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
    block.facts = [("report made", manifest.started or DASH), ("settings digest", manifest.settings_digest or DASH)]
    block.facts += [(f"input: {role}", digest) for role, digest in manifest.inputs.items()]
    block.facts += [(f"setting: {name}", value) for name, value in setting_rows(manifest.settings)]
    block.facts.append(("seed", str(report.seed)))
    block.tables = [
        Table.of(
            f"Identities of the potentials of {report.material}",
            [(entry_name(entry, report), entry.potential) for entry in [report.foundation, *report.strategies]],
            {
                "potential": lambda row: row[0],
                "name": lambda row: row[1].name,
                "architecture": lambda row: row[1].architecture,
                "precision": lambda row: row[1].dtype,
                "sha256": lambda row: row[1].sha256,
                "made from": lambda row: ", ".join(parent[:12] for parent in row[1].parents) or DASH,
            },
        )
    ]
    block.texts = ["Each potential can be taken from the artefact store: phonosmith models export SHA256."]
    limits = report.foundation.verdict.thresholds
    if limits:
        words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in limits.items())
        block.texts.append(f"Limits of the verdict: {words}.")
    return block
