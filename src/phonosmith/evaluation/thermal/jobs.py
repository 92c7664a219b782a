"""Thermal expansion and conductivity as jobflow jobs: potentials in one job each, programs one job per calculation.

Both routes meet where volumes have phonons and energies (`qha_document`), and where displaced cells have forces
(`kappa_document`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Flow, JobConfig, OnMissing, Response
from pydantic import ConfigDict, Field
from pymatgen.core import Structure

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.changing import HoldingDocument, HoldingMaker, job
from phonosmith.core.document import Missing
from phonosmith.core.errors import ConfigurationError, MismatchError
from phonosmith.core.hashing import digest_structure
from phonosmith.core.identity import identified_like_running
from phonosmith.core.manifest import recorded
from phonosmith.core.metadata import inherit
from phonosmith.core.reuse import reused
from phonosmith.evaluation.mechanics.jobs import relaxed_volumes
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.jobs import PhononFlowMaker, force_jobs
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.evaluation.thermal.kappa import (
    KappaDoc,
    ThirdOrderCells,
    displaced_frames,
    evaluate_kappa,
    kappa_document,
    set_forces,
    third_order_cells,
    with_charges,
)
from phonosmith.evaluation.thermal.qha import (
    FACTORS,
    MESH,
    QhaDoc,
    VolumePhonons,
    evaluate_qha,
    ordered_factors,
    qha_document,
)
from phonosmith.harmonic.model import HarmonicModel
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.documents import ReferenceRecord
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.structures.magnetic import MagneticOrder

if TYPE_CHECKING:
    from jobflow import OutputReference
    from phono3py import Phono3py


_LOST = "its calculation left no forces; symfc fitted the force constants to the others (about a per cent in kappa)"


def _model(phonons: Any) -> HarmonicModel | None:
    """Return the harmonic model of a document, None where there is none."""
    if phonons is None:
        return None
    return harmonic_from_document(PhononDoc.model_validate(phonons), default_artefacts())


def _charged(charges: Any) -> HarmonicModel | None:
    """Return phonons with Born charges, where they have some."""
    model = _model(charges)
    return model if model is not None and model.phonon.nac_params is not None else None


def _crystal(phonons: Any) -> Structure:
    return Structure.from_dict(PhononDoc.model_validate(phonons).structure)


@job(output_schema=QhaDoc, config=JobConfig(expose_store=True))
@reused()
def run_qha(
    phonons: Any,
    potential: PotentialRef | dict[str, Any],
    mesh: int = MESH,
    charges: Any = None,
    order: MagneticOrder | dict[str, Any] | None = None,
) -> QhaDoc:
    """Return quasi-harmonic properties of a potential about the cell and in the supercell of its phonons.

    ``charges``: phonons of the reference, whose Born charges (where they have some) serve at every volume; ``order``:
    its magnetic order.
    """
    from phonosmith.potentials.registry import load

    ref, start = PotentialRef.model_validate(potential), PhononDoc.model_validate(phonons)
    return evaluate_qha(
        _crystal(start),
        load(ref),
        start.supercell_matrix,
        method=ref.name,
        mesh=mesh,
        charges=_charged(charges),
        order=None if order is None else MagneticOrder.model_validate(order),
    )


@job(output_schema=KappaDoc, config=JobConfig(expose_store=True))
@reused()
def run_kappa(
    phonons: Any,
    potential: PotentialRef | dict[str, Any],
    supercell_matrix: list[list[int]],
    mesh: int = 11,
    temperature: float = 300.0,
    cells: ThirdOrderCells = "pairs",
    charges: Any = None,
) -> KappaDoc:
    """Return the conductivity of a potential (at a temperature, K) in the cell its phonons were calculated for.

    ``charges`` as in `run_qha`; ``cells`` see `third_order_cells`.
    """
    from phonosmith.potentials.registry import load

    ref = PotentialRef.model_validate(potential)
    return evaluate_kappa(
        _crystal(phonons),
        load(ref),
        supercell_matrix,
        method=ref.name,
        mesh=mesh,
        temperature=temperature,
        cells=cells,
        charges=_charged(charges),
    )


@dataclass
class QhaFlowMaker(HoldingMaker):
    """Quasi-harmonic properties with the calculations of an engine (VASP, potential, GPAW).

    At each volume atoms relax in the fixed cell (VASP then computes a static), and displaced cells give phonons; those
    of the relaxed cell itself are there already. A volume without a result is left out and named.

    Attributes
    ----------
    name
        Of the flow and its collecting job, so make it unique, e.g. ``qha si reference``. What follows ``qha`` is in
        the names of the calculations: ``relax``, ``static`` and ``displace si reference qha 0.96``.
    factors, mesh
        See `evaluate_qha`.
    """

    name: str = "qha"
    engine: ReferenceEngine | None = None
    factors: Sequence[float] = FACTORS
    mesh: int = MESH

    def make(
        self,
        phonons: OutputReference,
        supercell_matrix: list[list[int]],
        charges: OutputReference | None = None,
        known: Mapping[float, dict[str, Any]] | None = None,
    ) -> Flow:
        """Return the flow; its output is a `QhaDoc`.

        ``phonons`` is the output of the job that made the `PhononDoc` of the relaxed crystal in this supercell;
        ``charges`` see `run_qha`; ``known``: volumes that an equation of state relaxes anyhow (`eos_volumes`).
        """
        engine, factors = _engine(self), ordered_factors(self.factors)
        labels = {factor: f"{self.name.removeprefix('qha ')} qha {factor:g}" for factor in factors}
        left = {label: factor for factor, label in labels.items() if factor not in (known or {})}
        members, points = relaxed_volumes(phonons.structure, engine, left, ("relax", "static"))
        at = dict(known or {}) | dict(zip(left.values(), points, strict=True))
        sampled: list[OutputReference] = []
        for factor, label in labels.items():
            if factor == 1.0:
                sampled.append(phonons)
                continue
            maker = PhononFlowMaker(name=f"phonon {label}", engine=engine, relax=False)
            members.append(maker.make(at[factor]["structure"], supercell_matrix))
            sampled.append(members[-1].output)
        last = collect_qha(
            phonons, factors, [at[one] for one in factors], sampled, engine.functional, self.mesh, charges
        )
        last.config.on_missing_references = OnMissing.NONE
        last.name = self.name
        return Flow([*members, last], output=last.output, name=self.name)


@job(output_schema=QhaDoc)
def collect_qha(
    phonons: Any,
    factors: list[float],
    points: list[dict[str, Any]],
    sampled: list[Any],
    method: str = "",
    mesh: int = MESH,
    charges: Any = None,
) -> QhaDoc:
    """Put volumes together whose phonons and energies other jobs left (None where they failed); see `qha_document`."""
    if phonons is None:
        raise MismatchError("There are no phonons of the relaxed cell.", "Look into their jobs and run them again.")
    crystal = _crystal(phonons)
    with recorded({"structure": digest_structure(crystal)}, {"factors": factors, "mesh": mesh}) as manifest:
        known = []
        for factor, point, one in zip(factors, points, sampled, strict=True):
            energy, model = point.get("energy"), _model(one)
            if energy is None or model is None:
                known.append(VolumePhonons(factor, None, lost="a calculation failed"))
            else:
                known.append(VolumePhonons(factor, model, float(energy)))
        return qha_document(
            crystal.composition.reduced_formula, known, manifest, method=method, mesh=mesh, charges=_charged(charges)
        )


class ThirdOrder(HoldingDocument):
    """What all jobs know that compute the conductivity of one crystal with a reference engine."""

    model_config = ConfigDict(frozen=True)

    engine: ReferenceEngine = Field(description="who computes")
    name: str = Field(description="of the flow")
    supercell_matrix: list[list[int]] = Field(description="supercell of second and third order")
    mesh: int = Field(description="q-points along each axis")
    temperature: float = Field(description="K")
    cells: ThirdOrderCells = Field(description="pairs of displacements, or random ones")
    attempts: int = Field(description="how often a transient failure is started within its job")


@dataclass
class KappaFlowMaker(HoldingMaker):
    """Thermal conductivity with the third-order forces of an engine, one job per displaced cell.

    Attributes
    ----------
    name
        Of the flow, so make it unique, e.g. ``kappa si reference``; the calculations are called
        ``displace si reference kappa 007/111``.
    mesh, temperature, cells
        See `evaluate_kappa`.
    attempts
        How often a transient failure is started within its job, the first time included.
    """

    name: str = "kappa"
    engine: ReferenceEngine | None = None
    mesh: int = 11
    temperature: float = 300.0
    cells: ThirdOrderCells = "pairs"
    attempts: int = 2

    def make(self, phonons: Any, supercell_matrix: list[list[int]], charges: Any = None) -> Flow:
        """Return the flow; its output is a `KappaDoc`. The arguments are those of `QhaFlowMaker.make`."""
        settings = {name: getattr(self, name) for name in ("name", "mesh", "temperature", "cells", "attempts")}
        task = ThirdOrder(engine=_engine(self), supercell_matrix=supercell_matrix, **settings)
        start = start_third_order(phonons, task, charges)
        start.name = f"{self.name} start"
        return Flow([start], output=start.output, name=self.name)


# the displaced cells belong to the worker of the reference program, not to the one that starts them
@job(config=JobConfig(pass_manager_config=False))
def start_third_order(phonons: Any, task: ThirdOrder, charges: Any = None) -> Response[Any]:
    """Replace this job by one for each displaced cell and one that collects their forces."""
    task, crystal = ThirdOrder.model_validate(task), _crystal(phonons)
    frames = displaced_frames(_cells(crystal, task))
    jobs = force_jobs(frames, task.engine, f"{task.name.removeprefix('kappa ')} kappa", task.attempts)
    last = collect_kappa(crystal, task, [one.output for one in jobs], charges)
    last.config.on_missing_references = OnMissing.NONE
    last.name = task.name
    return Response(replace=inherit(identified_like_running(Flow([*jobs, last], output=last.output, name=task.name))))


@job(output_schema=KappaDoc)
def collect_kappa(structure: Structure, task: ThirdOrder, records: list[Any], charges: Any = None) -> KappaDoc:
    """Make force constants of the forces that other jobs left, and the conductivity of these; see `set_forces`."""
    task = ThirdOrder.model_validate(task)
    read = [None if item is None else ReferenceRecord.model_validate(item) for item in records]
    forces = [None if one is None or not one.accepted else np.asarray(one.forces) for one in read]
    settings = task.model_dump(include={"supercell_matrix", "mesh", "temperature", "cells"})
    with recorded({"structure": digest_structure(structure)}, settings) as manifest:
        phonon = _cells(structure, task)
        lost = set_forces(phonon, forces, task.name)
        with_charges(phonon, _charged(charges))
        document = kappa_document(
            phonon, manifest, method=task.engine.functional, mesh=task.mesh, temperature=task.temperature
        )
    document.missing = [Missing(what=f"displaced cell {one} of {len(read)}", reason=_LOST) for one in lost]
    return document


def _cells(structure: Structure, task: ThirdOrder) -> Phono3py:
    return third_order_cells(structure.to_ase_atoms(msonable=False), task.supercell_matrix, cells=task.cells)


def _engine(maker: QhaFlowMaker | KappaFlowMaker) -> ReferenceEngine:
    if maker.engine is None:
        raise ConfigurationError(f"{type(maker).__name__} has no engine.", "Pass one of reference.engines.make_engine.")
    return maker.engine
