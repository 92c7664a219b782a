"""The ways along imaginary modes, one table for each potential: tables 6 to 11 of the published study."""

from __future__ import annotations

from phonosmith.analysis.choice import FOUNDATION, Choice, in_order
from phonosmith.analysis.collection import Row
from phonosmith.analysis.queries import REFERENCE, Phases
from phonosmith.analysis.table import DASH, CampaignTable, Cell, Columns, Table, fixed, number, tidy

NUMBERS = {REFERENCE: 6, FOUNDATION: 7, "scratch": 8, "delta": 9, "multihead": 10, "transfer": 11}
"""Numbers of the published tables, by whose modes they list (``delta``: Equitrain)."""
COLUMNS = (
    "source", "material", "n_imaginary", "n_not_followed", "q", "label", "frequency_thz", "supercell_atoms",
    "initial_space_group", "initial_atoms", "displaced_space_group", "final_space_group", "final_atoms",
    "energy_gain_ev_per_atom", "scenario", "outcome",
)  # fmt: skip
"""Of the numbers in files."""


def pathway_tables(phases: Phases, choice: Choice, source: str) -> list[CampaignTable]:
    """Return a table for the reference, the foundation and every strategy whose modes were followed."""
    owners = [REFERENCE, *in_order(name for name in phases.pathways if name != REFERENCE)]
    return [_table(owner, phases.pathways[owner], choice, source) for owner in owners if phases.pathways.get(owner)]


def _table(owner: str, rows: list[Row], choice: Choice, source: str) -> CampaignTable:
    known = [dict.fromkeys(COLUMNS) | {"source": source} | row for row in rows]
    columns: Columns = (
        ("material", "material", str), ("imag.", "n_imaginary", str), ("q", "", _wave_vector),
        ("THz", "frequency_thz", fixed(3)), ("initial sym.", "initial_space_group", str),
        ("atoms", "initial_atoms", str), ("displ. sym.", "displaced_space_group", _text),
        ("final sym.", "final_space_group", _text), ("atoms in final", "final_atoms", _text),
        ("ΔE, meV/atom", "energy_gain_ev_per_atom", _milli), ("outcome", "outcome", str),
    )  # fmt: skip
    place = f"table{NUMBERS[owner]}_" if owner in NUMBERS else ""
    notes = [
        "imag.: imaginary modes at high-symmetry points and band minima, those too large to follow included",
        "displ. sym.: of the crystal in the minimum along the mode; final sym.: after relaxation; both within 0.1 Å",
        "ΔE: energy of the initial minus that of the final phase",
    ]
    title = f"Ways along imaginary modes by {owner}: {choice}"
    blocks = [Table.of("", known, columns)]
    return CampaignTable(f"{place}pathways_{owner.replace('+', '_')}", title, blocks, tidy(known), notes)


def _wave_vector(row: Row) -> str:
    if row["q"] is None:
        return DASH
    return f"{row['label']} {row['q']}".strip()


def _text(value: str | int | None) -> str:
    return DASH if value is None else str(value)


def _milli(value: float | None) -> Cell:
    return number(None if value is None else 1000 * value, 3)
