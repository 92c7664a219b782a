"""Phonons of the reference in one supercell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phonosmith.evaluation.phonons.jobs import PhononFlowMaker, engine_potential

if TYPE_CHECKING:
    from jobflow import Flow, Job
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine

__all__ = ["engine_potential", "reference_phonons"]


def reference_phonons(
    structure: Structure, engine: ReferenceEngine, matrix: list[list[int]], name: str, mesh: int
) -> Job | Flow:
    """Return the job or flow whose output is the reference's ``PhononDoc`` in one supercell; see `PhononFlowMaker`."""
    return PhononFlowMaker(name=name, engine=engine, mesh=mesh).make(structure, matrix)
