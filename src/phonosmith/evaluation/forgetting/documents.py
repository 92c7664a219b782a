"""Errors of a fine-tuned potential where it was not tuned, beside the foundation's."""

from __future__ import annotations

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.manifest import Manifest


class ForgettingSet(Document):
    """One set of structures the potential was not tuned on."""

    name: str = Field(description="e.g. 'strain 8 %', 'replay pool', 'other material Ge', 'EOS outside ±6 %'")
    kind: str = Field(description="far (same material), strain, eos, replay or other")
    n_structures: int = Field(description="structures")
    truth: str = Field(description="reference (labelled by it) or foundation (drift from the foundation)")
    foundation_force_mae: float | None = Field(None, description="foundation, meV/Å")
    tuned_force_mae: float | None = Field(None, description="fine-tuned, meV/Å")
    foundation_energy_mae: float | None = Field(None, description="foundation, meV/atom, mean offset removed")
    tuned_energy_mae: float | None = Field(None, description="fine-tuned, meV/atom, mean offset removed")
    foundation_stress_mae: float | None = Field(None, description="foundation, meV/Å³")
    tuned_stress_mae: float | None = Field(None, description="fine-tuned, meV/Å³")


class ForgettingDoc(Document):
    """What fine-tuning cost elsewhere."""

    schema_version: int = Field(1, description="version of this document's layout")
    potential_sha256: str = Field(description="the fine-tuned potential")
    foundation_sha256: str = Field(description="the potential it came from")
    sets: list[ForgettingSet] = Field(description="one entry per set")
    skipped: list[str] = Field(default_factory=list, description="sets that could not be used, with the reason")
    manifest: Manifest
