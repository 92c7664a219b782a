"""Forgetting as a jobflow job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobflow import Job, JobConfig, Maker

from phonosmith.core.changing import job
from phonosmith.core.hashing import digest_structure
from phonosmith.core.reuse import reused
from phonosmith.evaluation.forgetting.documents import ForgettingDoc
from phonosmith.evaluation.forgetting.errors import evaluate_forgetting
from phonosmith.evaluation.forgetting.sets import default_sets
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.dataset import get_dataset
from phonosmith.reference.datasets.documents import DatasetRef

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


@job(output_schema=ForgettingDoc, config=JobConfig(expose_store=True))
@reused()
def measure_forgetting(
    structure: Structure,
    tuned: PotentialRef | dict[str, Any],
    foundation: PotentialRef | dict[str, Any],
    reference: PotentialRef | dict[str, Any] | None = None,
    replay: DatasetRef | dict[str, Any] | None = None,
    count: int = 4,
    seed: int = 0,
) -> ForgettingDoc:
    """Judge a fine-tuned potential where it was not tuned; see ``evaluate_forgetting`` and ``default_sets``."""
    from phonosmith.potentials.registry import load

    potentials = {"potential": tuned, "foundation": foundation, "reference": reference}
    known = {role: PotentialRef.model_validate(ref) for role, ref in potentials.items() if ref is not None}
    inputs = {"structure": digest_structure(structure)} | {role: ref.sha256 for role, ref in known.items()}
    pool: list[Atoms] = []
    if replay is not None:
        dataset = DatasetRef.model_validate(replay)
        pool, inputs["replay"] = get_dataset(dataset), dataset.sha256
    sets = default_sets(structure, seed, count=count, replay=pool)
    return evaluate_forgetting(
        load(known["potential"]),
        load(known["foundation"]),
        sets,
        load(known["reference"]) if "reference" in known else None,
        potential_sha256=known["potential"].sha256,
        foundation_sha256=known["foundation"].sha256,
        inputs=inputs,
        settings={"count": count, "sets": [one.name for one in sets]},
        seed=seed,
    )


@dataclass
class ForgettingMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """Make the job that measures what fine-tuning cost elsewhere, e.g. ``forgetting si delta``.

    Potentials are arguments of `make`, because references to earlier jobs are not resolved inside a Maker. For ``seed``
    and ``count`` see ``default_sets``.
    """

    name: str = "forgetting"
    seed: int = 0
    count: int = 4

    def make(
        self,
        structure: Structure,
        tuned: PotentialRef,
        foundation: PotentialRef,
        reference: PotentialRef | None = None,
        replay: DatasetRef | None = None,
    ) -> Job:
        """Return a job whose output is a ``ForgettingDoc``.

        Potentials are references, or outputs of jobs that return them. ``reference`` is what labels are made with,
        where it is a potential: it then labels these structures too. Without it the document says how far the potential
        drifted from the foundation. ``replay`` is the pool of ``default_sets``.
        """
        member = measure_forgetting(structure, tuned, foundation, reference, replay, self.count, self.seed)
        member.name = self.name
        return member
