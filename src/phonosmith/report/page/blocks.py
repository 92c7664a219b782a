"""Blocks of a material's section: its results, what lies beyond harmonic phonons, how its potentials were made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from pymatgen.core import Structure

from phonosmith.analysis.choice import all_entries, entry_name, largest_trainings, one_per_strategy
from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.analysis.table import DASH, Cell, Columns, Table, Tone, duration, fixed, number, whole
from phonosmith.evaluation.forgetting.documents import ForgettingDoc, ForgettingSet
from phonosmith.evaluation.mechanics.documents import ElasticDoc
from phonosmith.evaluation.modes.documents import FollowedMode, Phase
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononSide
from phonosmith.evaluation.thermal.qha import QhaDoc
from phonosmith.report.charts.beyond import forgetting_chart, mode_energies_chart, pathways_chart
from phonosmith.report.charts.campaign import crystal_system
from phonosmith.report.charts.material import (
    elastic_chart,
    energy_volume_chart,
    labels_chart,
    ladder_chart,
    thermal_chart,
    training_chart,
)
from phonosmith.report.page.content import Block
from phonosmith.report.page.phonons import MOST_DRAWN, LoadedPhonons, drawn_sides
from phonosmith.report.page.texts import formula_text, space_group_text

Document = TypeVar("Document")
_TINY = 1e-6
MOST_PATHWAYS = 3
_KINDS = {
    "far": "same material, far from equilibrium", "strain": "strained", "eos": "other volumes",
    "replay": "replay pool", "other": "another material",
}  # fmt: skip


class Named(NamedTuple, Generic[Document]):
    """A document of one side: what figures call the side, what tables call it."""

    name: str
    label: str
    document: Document


@dataclass(frozen=True)
class Sheet:
    """What the parts of a material's section are made from."""

    report: MaterialReport
    phonons: LoadedPhonons


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


def compared_phonons(report: MaterialReport) -> tuple[list[Named[PhononComparison]], list[Named[PhononSide]]]:
    """Return the comparison of each potential's phonons with the reference's, and both sides of all of them."""
    compared: list[Named[PhononComparison]] = sides_of(report, None, lambda entry: entry.phonons)
    sides = [Named("reference", "reference", side.document.reference) for side in compared[:1]]
    return compared, sides + [Named(side.name, side.label, side.document.candidate) for side in compared]


def _group_text(crystal: PhononSide | Phase) -> str:
    return f"{space_group_text(crystal.space_group)} ({crystal.space_group_number})"


def _stable(answer: object, otherwise: Tone = "warn") -> Cell:
    return Cell("stable", tone="good") if answer else Cell("unstable", tone=otherwise)


def matrix_text(matrix: Sequence[Sequence[int]]) -> str:
    """Return an integer matrix as three short rows; a diagonal one as 2 × 2 × 2."""
    if all(value == 0 for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j):
        return " × ".join(str(row[i]) for i, row in enumerate(matrix))
    return "; ".join(" ".join(str(value) for value in row) for row in matrix)


def _tiny(value: float) -> Cell:
    return number(value, 6) if value >= _TINY else Cell("< 10⁻⁶", value)


def _share(share: float) -> Cell:
    return number(100 * share, 2) if share else Cell("none", 0.0)


def phonons_block(sheet: Sheet) -> Block:
    """Return bands with densities of states and the comparison in numbers."""
    report = sheet.report
    block = Block(problems=sheet.phonons.problems)
    compared, _ = compared_phonons(report)
    if compared:
        columns: Columns = (
            ("potential", "label", str), ("MAE, THz", "document.mae_thz", fixed()),
            ("RMSE, THz", "document.rmse_thz", fixed()), ("ω_max, THz", "document.candidate.omega_max_thz", fixed(2)),
            ("ω_max error, %", "document.omega_max_error_percent", fixed(2, signed=True)),
            ("ω_mean error, %", "document.omega_mean_error_percent", fixed(2, signed=True)),
            ("DOS error, %", "document.dos_error_percent", fixed(1)),
            ("sum rule violated by, eV/Å²", "document.candidate.asr_residual", _tiny),
        )  # fmt: skip
        caption = f"Phonons of {report.material} against the reference"
        block.tables = [Table.of(caption, compared, columns)]
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
    for entry in all_entries(report):
        if entry.phonons is not None:
            block.texts += [f"{entry_name(entry, report)}: {note}" for note in entry.phonons.notes]
    return block


def thermal_block(sheet: Sheet) -> Block:
    """Return harmonic heat capacity, entropy and free energy."""
    report, curves, block = sheet.report, sheet.phonons.curves, Block()
    compared, sides = compared_phonons(report)
    if compared:
        columns: Columns = (
            ("potential", "label", str), ("C_v, J/K/mol", "document.heat_capacity", fixed(2)),
            ("S, J/K/mol", "document.entropy", fixed(2)), ("F, kJ/mol", "document.free_energy", fixed(3)),
            ("modes left out (not real), %", "document.imaginary_share", _share),
        )  # fmt: skip
        temperature = f"{compared[0].document.temperature:g} K"
        caption = f"Thermodynamics of {report.material} at {temperature}, per mole of primitive cells"
        block.tables = [Table.of(caption, sides, columns)]
    if curves is not None:
        block.charts = [thermal_chart(curves)]
    return block


def stability_block(sheet: Sheet) -> Block:
    """Return dynamical stability at commensurate wave vectors."""
    caption = f"Dynamical stability of {sheet.report.material}"
    _, sides = compared_phonons(sheet.report)
    if sides:
        columns: Columns = (
            ("potential", "label", str), ("strict (10⁻⁴ THz)", "document.stable", _stable),
            ("practical", "document.stable_practical", _stable),
            ("imaginary modes", "document.n_imaginary_commensurate", whole),
            ("lowest on path, THz", "document.omega_min_thz", fixed()),
            ("space group after relaxation", "document", _group_text),
        )  # fmt: skip
        return Block(tables=[Table.of(caption, sides, columns)])
    alone = drawn_sides(sheet.report, MOST_DRAWN)
    if not alone:
        return Block()
    columns = (
        ("potential", "", itemgetter(0)), ("strict (10⁻⁴ THz)", "", lambda side: _stable(side[1].stable).text),
        ("space group after relaxation", "", lambda side: space_group_text(side[1].space_group) or DASH),
    )  # fmt: skip
    return Block(tables=[Table.of(f"{caption} (no reference)", alone.items(), columns)])


def _reliable(document: ElasticDoc) -> Cell:
    return Cell("yes") if document.fit.reliable and not document.n_unconverged else Cell("no", tone="warn")


def elastic_block(sheet: Sheet) -> Block:
    """Return elastic constants, moduli and Slack conductivity."""
    report = sheet.report
    sides = sides_of(report, report.reference_result.elastic, lambda entry: entry.elastic)
    if not sides:
        return Block()
    columns: Columns = (
        ("potential", "label", str), ("bulk modulus, GPa", "document.fit.moduli.bulk_vrh", fixed(1)),
        ("shear modulus, GPa", "document.fit.moduli.shear_vrh", fixed(1)),
        ("Poisson ratio", "document.slack.poisson", fixed()),
        ("Debye temperature, K", "document.slack.debye_temperature", fixed(0)),
        ("Grüneisen", "document.slack.gruneisen", fixed(2)), ("κ Slack, W/m/K", "document.slack.kappa", fixed(2)),
        ("Born", "document.fit.born_stable", partial(_stable, otherwise="bad")), ("reliable", "document", _reliable),
    )  # fmt: skip
    caption = f"Elastic properties of {report.material} (Voigt-Reuss-Hill)"
    return Block(
        texts=[f"{side.label}: {warning}" for side in sides for warning in side.document.fit.warnings],
        tables=[Table.of(caption, sides, columns)],
        charts=[elastic_chart([(side.name, side.document) for side in sides])],
    )


def eos_block(sheet: Sheet) -> Block:
    """Return the equations of state."""
    report = sheet.report
    sides = sides_of(report, report.reference_result.eos, lambda entry: entry.eos)
    if not sides:
        return Block()
    columns: Columns = (
        ("potential", "name", str),
        ("volume, Å³/atom", "document", lambda one: number(one.fit.volume / one.n_atoms)),
        ("bulk modulus, GPa", "document.fit.bulk_modulus", fixed(1)),
        ("its derivative", "document.fit.bulk_modulus_derivative", fixed(2)),
        ("residual, meV/atom", "document", lambda one: number(1000 * one.fit.rms_residual / one.n_atoms)),
        ("points", "document.fit.n_points", whole),
    )  # fmt: skip
    table = Table.of(f"Birch-Murnaghan fits of {report.material}", sides, columns)
    fits = [(side.name, side.document.fit) for side in sides]
    chart = energy_volume_chart([(side.name, side.document) for side in sides])
    texts = [f"{name}: {words}" for name, fit in fits for words in (*fit.reasons, *fit.warnings)]
    return Block(texts=texts, tables=[table], charts=[chart])


def _expansion(document: QhaDoc) -> Cell:
    return number(None if document.room is None else 1e6 * document.room.thermal_expansion_per_k, 2)


def expansion_block(sheet: Sheet) -> Block:
    """Return quasi-harmonic properties and thermal conductivities."""
    report, block = sheet.report, Block()
    expanding = sides_of(report, report.reference_result.qha, lambda entry: entry.qha)
    conducting = sides_of(report, report.reference_result.kappa, lambda entry: entry.kappa)
    if expanding:
        columns: Columns = (
            ("potential", "label", str),
            ("volume, Å³ per primitive cell", "document.room.volume_angstrom3", fixed(3)),
            ("thermal expansion, 10⁻⁶/K", "document", _expansion),
            ("bulk modulus, GPa", "document.room.bulk_modulus_gpa", fixed(1)),
            ("Cp, J/K/mol", "document.room.heat_capacity_p", fixed(2)),
            ("Grüneisen", "document.gruneisen.mean", fixed(3)),
        )  # fmt: skip
        caption = f"Quasi-harmonic properties of {report.material} at 300 K"
        block.tables.append(Table.of(caption, expanding, columns))
        for side in expanding:
            said = (*side.document.left_out, *side.document.qha.warnings)
            block.texts += [f"{side.label}: {words}" for words in said]
    if conducting:
        columns = (
            ("potential", "label", str),
            ("κ, W/m/K", "document.result.kappa", fixed(3)),
            ("SRME", "document.srme", fixed(3)),
            ("imaginary modes left out", "document.result.n_imaginary", whole),
        )  # fmt: skip
        at = conducting[0].document.result
        caption = f"Thermal conductivity of {report.material} at {at.temperature:g} K, mesh {at.mesh[0]}³"
        block.tables.append(Table.of(caption, conducting, columns))
    return block


def _wave_vector(mode: FollowedMode) -> str:
    q = f"({', '.join(f'{value:.3g}' for value in mode.q)})"
    return f"{mode.label} {q}" if mode.label else q


def _depth(mode: FollowedMode) -> Cell:
    return number(min((1000 * minimum.energy_ev_per_atom for minimum in mode.minima), default=None), 2)


def _displaced(mode: FollowedMode) -> str:
    starts = {space_group_text(path.displaced.space_group) for path in mode.pathways}
    return ", ".join(sorted(starts)) or DASH


def _ends(mode: FollowedMode) -> str:
    ends = sorted({space_group_text(path.final.space_group) for path in mode.pathways if path.final is not None})
    return mode.skipped or ", ".join(ends) or "no other phase"


def transitions_block(sheet: Sheet) -> Block:
    """Return imaginary modes, energies along them and the phases they lead to."""
    report, block = sheet.report, Block()
    truth = report.reference_result.transitions
    followed = sides_of(report, truth, lambda entry: entry.transitions, foundation_last=True)
    sides = {side.name: side.document for side in followed}
    for name, document in sides.items():
        block.texts += [f"{name}, {mode.label or mode.q}: {note}" for mode in document.modes for note in mode.notes]
        block.texts += [] if document.modes else [f"{name}: no imaginary mode to follow."]
    modes = [Named(name, name, mode) for name, document in sides.items() for mode in document.modes]
    if modes:
        columns: Columns = (
            ("potential", "name", str), ("wave vector", "document", _wave_vector),
            ("frequency, THz", "document.frequency_thz", fixed()), ("multiplicity", "document.multiplicity", whole),
            ("at its wave vector", "document.exact", lambda yes: "exact" if yes else Cell("interpolated", tone="warn")),
            ("deepest, meV/atom", "document", _depth), ("displaced symmetry", "document", _displaced),
            ("leads to", "document", _ends),
        )  # fmt: skip
        block.tables.append(Table.of(f"Imaginary modes of {report.material}", modes, columns))
    phases = [Named(name, name, phase) for name, document in sides.items() for phase in document.phases]
    if phases:
        columns = (
            ("potential", "name", str), ("phase", "document", _group_text),
            ("atoms in the primitive cell", "document.n_atoms_primitive", whole),
            ("energy above the start, meV/atom", "document.energy_difference_ev_per_atom",
             lambda energy: number(1000 * energy, 2, signed=True)),
        )  # fmt: skip
        block.tables.append(Table.of(f"Phases the modes of {report.material} lead to", phases, columns))
    # one panel each: more than three cannot be read
    shown = dict(list(sides.items())[:MOST_PATHWAYS])
    charts = (mode_energies_chart(sides, report.material), pathways_chart(shown, report.material))
    block.charts = [chart for chart in charts if chart is not None]
    return block


def forgetting_block(sheet: Sheet) -> Block:
    """Return errors where potentials were not tuned, beside the foundation's."""
    report = sheet.report
    sides: list[Named[ForgettingDoc]] = sides_of(report, None, lambda entry: entry.forgetting)
    if not sides:
        return Block()
    truths = {"reference": "the reference", "foundation": "the foundation (drift)"}
    columns: Columns = (
        ("potential", "name", str), ("structures", "document.name", str),
        ("kind", "document.kind", lambda kind: str(_KINDS.get(kind, kind))), ("number", "document.n_structures", whole),
        ("compared with", "document.truth", truths.__getitem__),
        ("foundation, meV/Å", "document.foundation_force_mae", fixed(1)),
        ("tuned, meV/Å", "document.tuned_force_mae", fixed(1)), ("ratio", "document", _ratio),
    )  # fmt: skip
    caption = f"Force MAE of the potentials of {report.material} where they were not tuned"
    sets = [Named(side.label, side.label, one) for side in sides for one in side.document.sets]
    table = Table.of(caption, sets, columns)
    texts = [f"{side.name}: not used: {why}" for side in sides for why in side.document.skipped]
    if not table.rows:
        return Block(texts=texts, tables=[replace(table, rows=[[DASH] * 8])])
    chart = forgetting_chart([side.document for side in sides], [side.name for side in sides])
    return Block(texts=texts, tables=[table], charts=[] if chart is None else [chart])


def _ratio(one: ForgettingSet) -> Cell:
    ours, base = one.tuned_force_mae, one.foundation_force_mae
    return number(ours / base if ours is not None and base else None, 2)


def structure_block(sheet: Sheet) -> Block:
    """Return the crystal: cell, symmetry, drawing."""
    report = sheet.report
    if report.structure is None:
        return Block()
    structure = Structure.from_dict(report.structure)
    symbol = space_group_text(report.space_group) or DASH
    facts = [
        ("formula", formula_text(report.formula)),
        ("space group", f"{symbol} ({report.space_group_number or 'number unknown'})"),
        ("crystal system", crystal_system(report.space_group_number) or DASH),
        ("edges a, b, c", ", ".join(f"{length:.4f}" for length in structure.lattice.abc) + " Å"),
        ("angles α, β, γ", ", ".join(f"{angle:.2f}°" for angle in structure.lattice.angles)),
        ("atoms in this cell", str(len(structure))),
        ("volume", f"{structure.volume / len(structure):.3f} Å³ per atom"),
    ]
    return Block(facts=facts)


def sampling_block(sheet: Sheet) -> Block:
    """Return how configurations were drawn."""
    sampling = sheet.report.sampling
    if sampling is None:
        return Block()
    chosen, relaxations = sum(map(len, sampling.selected_steps)), len(sampling.volume_factors)
    facts = [
        ("cell", f"{sampling.cell}, {sampling.n_atoms} atoms, supercell {matrix_text(sampling.supercell_matrix)}"),
        ("volumes", ", ".join(f"{100 * (factor - 1):+g} %" for factor in sampling.volume_factors)),
        ("configurations chosen", f"{chosen}, out of {relaxations} relaxations with the foundation"),
    ]
    return Block(
        texts=[f"Warning: {warning}" for warning in sampling.warnings], facts=facts, charts=[ladder_chart(sampling)]
    )


def labels_block(sheet: Sheet) -> Block:
    """Return labels and what the audit found."""
    report, labels = sheet.report, sheet.report.labels
    words = {"pass": "passed", "pass_with_exclusions": "passed with exclusions"}
    facts = [
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
    return Block(texts=list(labels.findings), facts=facts)


def training_block(sheet: Sheet) -> Block:
    """Return training curves and why each training ended."""
    report = sheet.report
    curved = [entry for entry in report.strategies if entry.curve is not None and entry.curve.epoch]
    if not curved:
        return Block()
    columns: Columns = (
        ("potential", "", lambda entry: entry_name(entry, report)), ("best epoch", "curve.best_epoch", whole),
        ("last epoch", "curve.epoch", lambda epochs: whole(epochs[-1])),
        ("training force MAE, meV/Å", "train_force_mae", fixed(1)),
        ("validation force MAE, meV/Å", "valid_force_mae", fixed(1)), ("time", "training_seconds", duration),
        ("ended because", "curve.stop_reason", lambda why: why or DASH),
        ("better than its start", "improved", {True: "yes", False: "no", None: DASH}.__getitem__),
    )  # fmt: skip
    table = Table.of(f"Trainings of {report.material}", curved, columns)
    about_labels = labels_chart(report)
    charts = [
        training_chart(largest_trainings(curved), report.foundation),
        *([about_labels] if about_labels is not None else []),
    ]
    return Block(tables=[table], charts=charts)


def costs_block(sheet: Sheet) -> Block:
    """Return what each job of a material took."""
    if not sheet.report.costs:
        return Block()
    columns: Columns = (
        ("job", "name", str), ("stage", "stage", str), ("calculations", "n_calculations", whole),
        ("atoms each", "n_atoms", whole), ("wall time", "wall_seconds", duration), ("cores", "cores", whole),
        ("GPUs", "gpus", whole), ("core hours", "", lambda cost: number(cost.wall_seconds * cost.cores / 3600)),
    )  # fmt: skip
    caption = f"What the jobs of {sheet.report.material} took"
    table = Table.of(caption, sheet.report.costs, columns)
    return Block(tables=[table])


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


def provenance_block(sheet: Sheet) -> Block:
    """Return identities of everything that led to the verdicts."""
    report, manifest = sheet.report, sheet.report.manifest
    facts = [
        ("report made", manifest.started or DASH),
        ("settings digest", manifest.settings_digest or DASH),
        *((f"input: {role}", digest) for role, digest in manifest.inputs.items()),
        *((f"setting: {name}", value) for name, value in setting_rows(manifest.settings)),
        ("seed", str(report.seed)),
    ]
    columns: Columns = (
        ("potential", "", lambda entry: entry_name(entry, report)), ("name", "potential.name", str),
        ("architecture", "potential.architecture", str), ("precision", "potential.dtype", str),
        ("sha256", "potential.sha256", str),
        ("made from", "potential.parents", lambda parents: ", ".join(parent[:12] for parent in parents) or DASH),
    )  # fmt: skip
    table = Table.of(f"Identities of the potentials of {report.material}", all_entries(report), columns)
    texts = ["Each potential can be taken from the artefact store: phonosmith models export SHA256."]
    limits = report.foundation.verdict.thresholds
    if limits:
        words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in limits.items())
        texts.append(f"Limits of the verdict: {words}.")
    return Block(texts=texts, facts=facts, tables=[table])


BLOCKS: dict[str, Callable[[Sheet], Block]] = {
    "Phonons": phonons_block,
    "Structure": structure_block,
    "Sampling": sampling_block,
    "Labels and audit": labels_block,
    "Training": training_block,
    "Thermal properties": thermal_block,
    "Elastic properties": elastic_block,
    "Equation of state": eos_block,
    "Stability": stability_block,
    "Phase transitions": transitions_block,
    "Thermal expansion and conductivity": expansion_block,
    "Forgetting": forgetting_block,
    "Costs": costs_block,
    "Provenance": provenance_block,
}
"""The parts of a material's section in their order."""
