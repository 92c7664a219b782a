"""Sampling as a jobflow job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Job, Maker, job

from phonosmith.core.artefacts import ArtefactStore, default_artefacts
from phonosmith.sampling.documents import SamplingDoc, SamplingSettings
from phonosmith.sampling.protocol import SamplingResult, frames_to_extxyz, sample_configurations

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.potentials.documents import PotentialRef


def store_frames(result: SamplingResult, store: ArtefactStore) -> SamplingDoc:
    """Keep the frames of a result in an artefact store and return its document with their references."""
    train = store.put_bytes(frames_to_extxyz(result.train), kind="frames", suffix=".extxyz")
    valid = store.put_bytes(frames_to_extxyz(result.valid), kind="frames", suffix=".extxyz")
    return result.document.model_copy(update={"train": train, "valid": valid})


@job(output_schema=SamplingDoc)
def sample_material(
    structure: Structure, potential: PotentialRef | dict[str, Any] | str, settings: dict[str, Any], seed: int
) -> SamplingDoc:
    """Draw the configurations of one material and keep the frames in the artefact store.

    Parameters
    ----------
    structure
        Relaxed crystal.
    potential
        Foundation: reference or name.
    settings
        Of ``SamplingSettings``.
    seed
        Of every draw.
    """
    from phonosmith.potentials import registry
    from phonosmith.potentials.documents import PotentialRef

    if isinstance(potential, dict):
        potential = PotentialRef.model_validate(potential)
    reference = registry.resolve(potential) if isinstance(potential, str) else potential
    result = sample_configurations(
        structure, registry.load(reference), SamplingSettings.model_validate(settings), seed, reference=reference
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
    seed
        Of every draw.
    """

    name: str = "sample"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def make(self, structure: Structure, potential: PotentialRef | str) -> Job:
        """Return a job whose output is a ``SamplingDoc``.

        Parameters
        ----------
        structure
            Relaxed crystal, or the output reference of a relaxation.
        potential
            Foundation: reference, name, or output reference.
        """
        settings = SamplingSettings.model_validate(self.settings)
        made = sample_material(structure, potential, settings.model_dump(mode="json"), self.seed)
        composition = getattr(structure, "composition", None)
        formula = getattr(composition, "reduced_formula", None)
        parts = [self.name, formula.lower() if isinstance(formula, str) else "", settings.cell]
        made.name = " ".join(part for part in parts if part)
        return made
