"""All tables of a job store at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phonosmith.analysis.choice import Choice
from phonosmith.analysis.comparisons import COMPARISON_TABLES
from phonosmith.analysis.published import grandel2026
from phonosmith.analysis.queries import Results, read_results
from phonosmith.analysis.table_format import Table
from phonosmith.analysis.tables import PAPER_TABLES, Sources
from phonosmith.analysis.transitions import phase_table, read_phases

if TYPE_CHECKING:
    from jobflow import JobStore


@dataclass
class CampaignTables:
    """Tables of a store, with what they are about.

    Attributes
    ----------
    tables
        Those for which there are results, published ones beside them where asked.
    choice
        Foundation, training set and cell compared; None for a store without results.
    results
        The frames they were made of.
    notes
        What was left out, and why.
    """

    tables: list[Table]
    choice: Choice | None
    results: Results
    notes: list[str] = field(default_factory=list)


def campaign_tables(
    store: JobStore,
    campaign: str | None = None,
    *,
    foundation: str | None = None,
    training_set: str | None = None,
    cell: str | None = None,
    published: bool = True,
) -> CampaignTables:
    """Return every table the reports in a job store allow.

    Parameters
    ----------
    store
        Any job store.
    campaign
        Only reports of this campaign.
    foundation, training_set, cell
        What to compare; what most results share when None.
    published
        Let published figures of another data set stand beside the tables that have a counterpart.

    Raises
    ------
    InputError
        When no result has what was asked.
    """
    results = read_results(store, campaign)
    notes = list(results.notes)
    if results.empty:
        return CampaignTables([], None, results, [*notes, "the store holds no report of a material yet"])
    figures = grandel2026() if published else None
    sources = Sources.of(results, figures, foundation=foundation, training_set=training_set, cell=cell)
    made = [build(sources) for build in (*PAPER_TABLES, *COMPARISON_TABLES)]
    truth, found, lost = read_phases(store, sources.choice, campaign)
    made.insert(4, phase_table(truth, found, sources.choice, figures, lost))
    others = sorted(set(results.potentials["foundation"]) - {sources.choice.foundation})
    if others:
        notes.append(f"results of other foundations are in table 5 only: {', '.join(others)}")
    if (results.materials["rehearsal"].fillna(value=False)).any():
        notes.append("some reference data are rehearsals: numbers of the VASP stand-in, not of DFT")
    if figures:
        notes.append(f"published figures beside the tables: {figures.citation}, another data set")
    return CampaignTables([table for table in made if table is not None], sources.choice, results, notes)
