"""Phonons of the reference, whoever plays it: fast path for a potential, atomate2's flow for VASP and GPAW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phonosmith.evaluation.phonons.jobs import FastPhononMaker, PhononFlowMaker
from phonosmith.harmonic.model import SYMPREC
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    from jobflow import Flow, Job
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine


def engine_potential(engine: ReferenceEngine) -> PotentialRef | None:
    """Return the potential a force-field engine computes with; None for any other calculator."""
    held = ((engine.calculator or {}).get("arguments") or {}).get("potential")
    return PotentialRef.model_validate(held) if engine.name == "forcefield" and held is not None else None


def atomate2_phonon_maker(engine: ReferenceEngine, owner: str = "") -> Any:
    """Return atomate2's PhononMaker with every calculation done by the engine, behind its gate.

    Parameters
    ----------
    engine
        Who computes.
    owner
        What follows the stage in the names of its calculations: ``relax``, ``static`` and ``displace``, stages of the
        reference program's worker.
    """
    common = {
        "bulk_relax_maker": engine.relax(f"relax {owner}".strip()),
        "static_energy_maker": engine.static(f"static {owner}".strip()),
        "phonon_displacement_maker": engine.displacement(f"displace {owner}".strip()),
        "symprec": SYMPREC,
        "create_thermal_displacements": False,
        "store_force_constants": False,
    }
    if engine.name == "vasp":
        from atomate2.vasp.flows.phonons import PhononMaker

        return PhononMaker(born_maker=None, **common)
    from atomate2.forcefields.flows.phonons import PhononMaker as ForceFieldPhononMaker

    return ForceFieldPhononMaker(**common)


def reference_phonons(
    structure: Structure, engine: ReferenceEngine, matrix: list[list[int]], name: str, mesh: int
) -> Job | Flow:
    """Return the job or flow whose output is the reference's ``PhononDoc`` in one supercell.

    Parameters
    ----------
    structure
        Starting cell; it is relaxed first.
    engine
        Who computes.
    matrix
        Supercell, phonopy's convention.
    name
        Of the job or flow, e.g. ``phonon si reference``.
    mesh
        q-mesh of the summary.
    """
    potential = engine_potential(engine)
    if potential is not None:
        return FastPhononMaker(name=name, mesh=mesh).make(structure, potential, matrix)
    maker = PhononFlowMaker(
        name=name, maker=atomate2_phonon_maker(engine, name.removeprefix("phonon ")), mesh=mesh, source=engine.name
    )
    return maker.make(structure, matrix)
