"""Blocks of a material's section about what lies beyond its harmonic phonons: phase transitions, forgetting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phonosmith.report.figures.forgetting import forgetting_figure
from phonosmith.report.figures.modes import mode_energies_figure, pathways_figure
from phonosmith.report.page.content import NOTHING, Block, Cell, Table, number, space_group_text, whole
from phonosmith.report.page.potential_tables import entry_name, one_per_strategy

if TYPE_CHECKING:
    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.evaluation.modes.documents import TransitionDoc
    from phonosmith.report.figures.pictures import Gallery

MOST_PATHWAYS = 3
_KINDS = {
    "far": "same material, far from equilibrium",
    "strain": "strained",
    "eos": "other volumes",
    "replay": "replay pool",
    "other": "another material",
}


def transition_sides(report: MaterialReport) -> dict[str, TransitionDoc]:
    """Return what following imaginary modes found: reference, potentials with the best first, foundation."""
    sides = {}
    if report.reference_result.transitions is not None:
        sides["reference"] = report.reference_result.transitions
    base, *tuned = one_per_strategy(report)
    for name, entry in [*tuned, base]:
        if entry.transitions is not None:
            sides[name] = entry.transitions
    return sides


def transitions_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return imaginary modes, energies along them and the phases they lead to."""
    block = Block("Phase transitions")
    sides = transition_sides(report)
    modes, phases = [], []
    for name, document in sides.items():
        for mode in document.modes:
            block.texts += [f"{name}, {mode.label or mode.q}: {note}" for note in mode.notes]
            deepest = min((minimum.energy_ev_per_atom for minimum in mode.minima), default=None)
            ends = sorted(
                {space_group_text(path.final.space_group) for path in mode.pathways if path.final is not None}
            )
            q = ", ".join(f"{value:.3g}" for value in mode.q)
            modes.append(
                [
                    Cell(name),
                    Cell(f"{mode.label} ({q})" if mode.label else f"({q})"),
                    number(mode.frequency_thz, 3),
                    whole(mode.multiplicity),
                    Cell("exact" if mode.exact else "interpolated", tone="plain" if mode.exact else "warn"),
                    number(None if deepest is None else 1000 * deepest, 2),
                    Cell(mode.skipped or ", ".join(ends) or "no other phase"),
                ]
            )
        phases += [
            [
                Cell(name),
                Cell(f"{space_group_text(phase.space_group)} ({phase.space_group_number})"),
                whole(phase.n_atoms_primitive),
                number(1000 * phase.energy_difference_ev_per_atom, 2, signed=True),
            ]
            for phase in document.phases
        ]
        if not document.modes:
            block.texts.append(f"{name}: no imaginary mode to follow.")
    if modes:
        columns = (
            "potential", "wave vector", "frequency, THz", "multiplicity", "at its wave vector", "deepest, meV/atom",
            "leads to",
        )  # fmt: skip
        block.tables.append(Table(f"Imaginary modes of {report.material}", columns, modes))
    if phases:
        names = ("potential", "phase", "atoms in the primitive cell", "energy above the start, meV/atom")
        block.tables.append(Table(f"Phases the modes of {report.material} lead to", names, phases))
    if sides:
        _draw_transitions(block, report, sides, gallery)
    return block


def _draw_transitions(block: Block, report: MaterialReport, sides: dict[str, TransitionDoc], gallery: Gallery) -> None:
    names = ", ".join(sides)
    if any(mode.energies for document in sides.values() for mode in document.modes):
        block.pictures += gallery.draw(
            "modes",
            lambda: mode_energies_figure(sides),
            f"Energy along the imaginary modes of {report.material} by {names}; depths are in the table.",
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


def forgetting_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return errors where potentials were not tuned, beside the foundation's."""
    block = Block("Forgetting")
    rows = []
    sides = {}
    for name, entry in one_per_strategy(report):
        document = entry.forgetting
        if document is None:
            continue
        sides[name] = document
        for item in document.sets:
            ours, base = item.tuned_force_mae, item.foundation_force_mae
            rows.append(
                [
                    Cell(entry_name(entry, report)),
                    Cell(item.name),
                    Cell(_KINDS.get(item.kind, item.kind)),
                    whole(item.n_structures),
                    Cell("the reference" if item.truth == "reference" else "the foundation (drift)"),
                    number(base, 1),
                    number(ours, 1),
                    number(ours / base if ours is not None and base else None, 2),
                ]
            )
        block.texts += [f"{name}: not used: {why}" for why in document.skipped]
    if not sides:
        return block
    columns = (
        "potential", "structures", "kind", "number", "compared with", "foundation, meV/Å", "tuned, meV/Å", "ratio",
    )  # fmt: skip
    caption = f"Force MAE of the potentials of {report.material} where they were not tuned"
    block.tables = [
        Table(caption, columns, rows or [[Cell(NOTHING)] * 8], sortable=True, numeric=frozenset({3, 5, 6, 7}))
    ]
    if rows:
        block.pictures = gallery.draw(
            "forgetting",
            lambda: forgetting_figure(list(sides.values()), list(sides)),
            f"Force errors of {', '.join(sides)} on structures they were not tuned on, beside the foundation's; "
            "the values are in the table.",
            "Errors where the potentials were not tuned",
        )
    return block
