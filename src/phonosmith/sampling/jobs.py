"""Sampling as a jobflow job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Job, JobConfig, Maker

from phonosmith.core.artefacts import ArtefactStore, default_artefacts
from phonosmith.core.changing import job
from phonosmith.core.reuse import reused
from phonosmith.sampling.documents import SamplingDoc, SamplingSettings
from phonosmith.sampling.protocol import SamplingResult, sample_configurations
from phonosmith.structures.extxyz import format_frames

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.potentials.documents import PotentialRef


def store_frames(result: SamplingResult, store: ArtefactStore) -> SamplingDoc:
    """Keep the frames of a result in an artefact store and return its document with their references."""
    kept = {
        split: store.put_bytes(format_frames(frames).encode(), kind="frames", suffix=".extxyz")
        for split, frames in (("train", result.train), ("valid", result.valid))
    }
    return result.document.model_copy(update=kept)


@job(output_schema=SamplingDoc, config=JobConfig(expose_store=True))
@reused()
def sample_material(
    structure: Structure,
    potential: PotentialRef | dict[str, Any] | str,
    settings: dict[str, Any],
    seed: int,
    standardise: bool = True,
) -> SamplingDoc:
    """Draw the configurations of one material (a relaxed crystal) and keep the frames in the artefact store."""
    from phonosmith.potentials import registry
    from phonosmith.potentials.documents import PotentialRef

    if isinstance(potential, dict):
        potential = PotentialRef.model_validate(potential)
    reference = registry.resolve(potential) if isinstance(potential, str) else potential
    asked = SamplingSettings.model_validate(settings)
    result = sample_configurations(
        structure, registry.load(reference), asked, seed, reference=reference, standardise=standardise
    )
    return store_frames(result, default_artefacts())


@dataclass
class SamplingMaker(Maker):
    """Make the job that samples one material in one cell size.

    Parameters
    ----------
    name
        First part of the job's name; formula and cell size follow.
    settings
        Of ``SamplingSettings``; only what differs from the protocol.
    standardise
        See `sample_configurations`.
    """

    name: str = "sample"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    standardise: bool = True

    def make(self, structure: Structure, potential: PotentialRef | str) -> Job:
        """Return a job whose output is a ``SamplingDoc``; structure and potential may be output references."""
        settings = SamplingSettings.model_validate(self.settings)
        kept = {} if self.standardise else {"standardise": False}
        made = sample_material(structure, potential, settings.model_dump(mode="json"), self.seed, **kept)
        formula = getattr(getattr(structure, "composition", None), "reduced_formula", None)
        parts = [self.name, formula.lower() if isinstance(formula, str) else "", settings.cell]
        made.name = " ".join(part for part in parts if part)
        return made
