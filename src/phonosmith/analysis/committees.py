"""Committees of a campaign: what the potentials of several seeds say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import Field

from phonosmith.analysis.choice import largest_trainings
from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.core.document import Document
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.phonons.committee import Committee, Interval

ANY = "any"
"""Strategy of the committee of all strategies."""

Expected = Mapping[tuple[str, str], Interval]
"""Phonon MAE that committees leave open, THz, by material and sha256 of the potential."""


class SeedCommittee(Document):
    """Trainings of one material that differ in their seed (or, for the strategy ``any``, in their strategy too)."""

    strategy: str = Field(description="strategy, or any: the largest training of every strategy")
    n_train: int | None = Field(description="training structures; null for any")
    seeds: list[int] = Field(description="seed of each member")
    potentials: list[str] = Field(description="sha256 of each member")
    committee: Committee = Field(description="their phonons")
    force_std: list[float] = Field(
        description="root mean square over atoms of the standard deviation of a force between members, in each "
        "labelled configuration, training set first, eV/Å"
    )


class CommitteeReport(Document):
    """How sure the potentials of one material, foundation and cell are, from trainings with several seeds."""

    schema_version: int = Field(1, description="version of this document's layout")
    material: str = Field(description="name given to the material")
    formula: str = Field(description="reduced formula")
    campaign: str = Field(description="campaign it belongs to")
    cell: str = Field(description="size of the sampling cell")
    foundation: str = Field(description="name of the foundation")
    committees: list[SeedCommittee] = Field(description="by strategy and training structures")
    notes: list[str] = Field(default_factory=list, description="committees that could not be made, and why")
    manifest: Manifest = Field(description="provenance")


def groups_of(reports: Sequence[MaterialReport]) -> dict[tuple[str, int | None], list[tuple[int, PotentialReport]]]:
    """Return the committees there are among reports that differ in their seed: strategy and size; seeds and members.

    Members have phonons, and learned something: what handed back the foundation agrees with itself, and proves nothing.
    """
    found: defaultdict[tuple[str, int | None], list[tuple[int, PotentialReport]]] = defaultdict(list)
    for report in reports:
        usable = [one for one in report.strategies if one.summary is not None and one.improved is not False]
        for entry in usable:
            found[entry.strategy, entry.n_train].append((report.seed, entry))
        for entry in largest_trainings(usable):
            found[ANY, None].append((report.seed, entry))
    if len({entry.strategy for _, entry in found[ANY, None]}) < 2:
        del found[ANY, None]
    return {key: members for key, members in found.items() if len(members) > 1}


def with_expected(report: MaterialReport, expected: Expected) -> MaterialReport:
    """Return a report whose potentials carry what their committees leave open."""
    entries = [
        entry.model_copy(update={"expected_mae_thz": expected.get((report.material, entry.potential.sha256))})
        for entry in report.strategies
    ]
    return report.model_copy(update={"strategies": entries})
