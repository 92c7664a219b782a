"""Phonons as jobflow jobs: our collection of atomate2's PhononMaker, and the fast path in one job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Flow, Job, JobConfig, Maker, OnMissing, Response
from pymatgen.core import Structure

from phonosmith.core.changing import HoldingMaker, job
from phonosmith.core.document import Missing
from phonosmith.core.errors import ConfigurationError, ConvergenceError, InputError, MismatchError
from phonosmith.core.identity import identified_like_running
from phonosmith.core.manifest import recorded
from phonosmith.core.metadata import STAGE, describe, inherit
from phonosmith.core.reuse import reused
from phonosmith.evaluation.collection import replace_job
from phonosmith.evaluation.known import large_parts_apart
from phonosmith.evaluation.phonons.documents import LARGE, PhononDoc
from phonosmith.evaluation.phonons.fastpath import (
    DISPLACEMENT,
    choose_phonon_supercell,
    displaced_cells,
    evaluate_phonons,
)
from phonosmith.evaluation.phonons.mesh import DEFAULT_MESH, Mesh
from phonosmith.evaluation.phonons.summary import summarise_phonons
from phonosmith.evaluation.relax import RESIDUAL_STRESS_GPA
from phonosmith.harmonic.displacements import check_forces
from phonosmith.harmonic.fit import FcCalculator, make_force_constants, still_determined
from phonosmith.harmonic.model import NAC_FACTOR, SYMPREC, HarmonicModel, new_phonon, to_phonopy_atoms
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.documents import Frame, ReferenceRecord
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.jobs import force_frame
from phonosmith.structures.magnetic import MagneticOrder

if TYPE_CHECKING:
    from ase import Atoms

_LOST = (
    "its calculation left no forces; the others determine the force constants, but where it was one of a pair of "
    "opposite displacements the cubic part of the energy is no longer cancelled (hundredths of a THz)"
)
DISPLACE = "displace"
CALCULATIONS = ("relax", "static", DISPLACE, "dielectric")
"""Stages of a program's calculations behind phonons, first words of their names."""
COLLECT_FUNCTION = "generate_frequencies_eigenvectors"
"""Name of the last job of atomate2's phonon flow, which ours replaces."""
_COLLECTED = (
    "structure", "supercell_matrix", "displacement_data", "displacement", "symprec", "total_dft_energy", "born",
    "epsilon_static",
)  # fmt: skip
"""What our last job takes over from atomate2's."""
_BEHIND = tuple(f"{run}_run_{what}" for run in ("optimization", "static", "born") for what in ("uuid", "job_dir"))
"""Where atomate2's last job is told its data come from."""


def collect_model(
    structure: Structure,
    supercell_matrix: Any,
    displacement_data: dict[str, Any],
    *,
    displacement: float = DISPLACEMENT,
    symprec: float = SYMPREC,
    fc_calculator: FcCalculator = "symfc",
    born: Any = None,
    epsilon_static: Any = None,
    source: str = "",
    order: MagneticOrder | None = None,
) -> HarmonicModel:
    """Build a harmonic model from the forces of displaced cells that atomate2's flow computed.

    Displacements are generated again by phonopy from the same structure, which is how atomate2 made them;
    ``displacement`` and ``symprec`` (Å) must be those used then. The data are the output of atomate2's displacement
    job: ``forces`` (eV/Å) and the ``displacement_number`` that puts them in order. Cells without forces (None) are left
    out where the others determine the force constants all the same. Born charges of the atoms of
    ``structure`` and the dielectric tensor are for the non-analytic term, ``source`` is the name in messages; ``order``
    must be the one the displacements were made with.
    """
    if fc_calculator not in {"symfc", "traditional"}:
        raise InputError(f"Unknown force-constants calculator {fc_calculator!r}.", "Choose symfc or traditional.")
    phonon = new_phonon(to_phonopy_atoms(structure, order), supercell_matrix, symprec=symprec)
    phonon.generate_displacements(distance=displacement)
    expected = len(phonon.dataset["first_atoms"])
    forces = displacement_data["forces"]
    if len(forces) != expected:
        raise MismatchError(
            f"{source or 'The flow'} returned forces of {len(forces)} displaced cells, {expected} were planned.",
            "Structure, supercell, displacement and symprec must be those the displaced cells were made with.",
        )
    places = np.argsort(displacement_data.get("displacement_number") or range(expected), kind="stable")
    kept = [number for number, place in enumerate(places) if forces[place] is not None]
    if len(kept) < expected:
        lost = ", ".join(str(number + 1) for number in range(expected) if number not in kept)
        if not still_determined(phonon, kept):
            raise MismatchError(
                f"{source or 'The flow'} returned no forces of displaced cell {lost} of {expected}, and the others do "
                "not determine the force constants.",
                "Repair the cause and run that calculation again.",
            )
        cells = [phonon.dataset["first_atoms"][number] for number in kept]
        phonon.dataset = {"natom": len(phonon.supercell), "first_atoms": cells}
        fc_calculator = "symfc"
    phonon.forces = check_forces(
        [forces[places[number]] for number in kept], len(phonon.supercell), source or "the displaced cells"
    )
    if born is not None and epsilon_static is not None:
        from phonopy.structure.symmetry import symmetrize_borns_and_epsilon

        charges, dielectric = symmetrize_borns_and_epsilon(
            *(np.asarray(tensors, dtype=float) for tensors in (born, epsilon_static)),
            phonon.unitcell,
            primitive_matrix=phonon.primitive_matrix,
            supercell_matrix=phonon.supercell_matrix,
            symprec=symprec,
        )
        phonon.nac_params = {"born": charges, "dielectric": dielectric, "factor": NAC_FACTOR}
    return HarmonicModel(phonon, make_force_constants(phonon, fc_calculator, source), source)


@job(output_schema=PhononDoc)
@large_parts_apart(*LARGE)
def collect_phonons(
    structure: Structure,
    supercell_matrix: Any,
    displacement_data: dict[str, Any],
    displacement: float = DISPLACEMENT,
    symprec: float = SYMPREC,
    fc_calculator: FcCalculator = "symfc",
    mesh: Mesh = DEFAULT_MESH,
    temperatures: Sequence[float] = (300.0,),
    total_dft_energy: float | None = None,
    born: Any = None,
    epsilon_static: Any = None,
    relaxed: bool | None = None,
    residual_stress: Any = None,
    potential: PotentialRef | dict[str, Any] | None = None,
    source: str = "",
    with_born: bool = False,
    order: MagneticOrder | dict[str, Any] | None = None,
    behind: dict[str, str | None] | None = None,
) -> PhononDoc:
    """Collect displaced-cell forces into a `PhononDoc`: symfc, mesh thermodynamics, compact storage.

    ``relaxed`` is the convergence flag of the relaxation before and ``residual_stress`` its last stress (kbar, as
    atomate2 keeps it): atomate2 goes on when a relaxation fails, and its flag sees forces only. Here the flow stops
    instead of reporting phonons of a cell that is under load. ``total_dft_energy`` is in eV per cell. ``with_born``:
    Born charges were asked for, so that there are no phonons without them. ``behind``: uuids and folders of the
    calculations before, by atomate2's names; no part of the job's identity.
    """
    needed = {"structure": structure, "supercell": supercell_matrix, "displaced cells": displacement_data}
    needed |= {"Born charges": born, "dielectric tensor": epsilon_static} if with_born else {}
    if lost := [name for name, value in needed.items() if value is None]:
        raise MismatchError(
            f"{source or 'The flow'} left no {' and no '.join(lost)} to collect phonons from.",
            "Look at the calculation before that failed and run it again.",
        )
    stress = 0.0 if residual_stress is None else float(np.abs(np.asarray(residual_stress, dtype=float)).max()) / 10
    if relaxed is False or stress > RESIDUAL_STRESS_GPA:
        raise ConvergenceError(
            f"The relaxation before the phonons of {structure.formula} did not converge (stress {stress:.3f} GPa).",
            "Give the relaxation more steps or start closer to the minimum.",
        )
    ref = None if potential is None else PotentialRef.model_validate(potential)
    settings = {"displacement": displacement, "fc_calculator": fc_calculator, "symprec": symprec}
    with recorded(inputs={} if ref is None else {"potential": ref.sha256}, settings=settings) as manifest:
        model = collect_model(
            structure,
            supercell_matrix,
            displacement_data,
            displacement=displacement,
            symprec=symprec,
            fc_calculator=fc_calculator,
            born=born,
            epsilon_static=epsilon_static,
            source=source or ("" if ref is None else ref.name),
            order=None if order is None else MagneticOrder.model_validate(order),
        )
        document = summarise_phonons(
            model, manifest, mesh=mesh, temperatures=temperatures, potential=ref, energy=total_dft_energy
        )
    document.missing = _without_forces(displacement_data)
    document.uuids, document.jobdirs = (
        {name: where for name, where in (behind or {}).items() if name.endswith(kind)}
        | {f"displacements_{plural}": moved}
        for kind, plural, moved in (
            ("uuid", "uuids", displacement_data.get("uuids")),
            ("job_dir", "job_dirs", displacement_data.get("dirs")),
        )
    )
    document.jobdirs["taskdoc_run_job_dir"] = str(Path.cwd())
    return document


def _without_forces(displacement_data: dict[str, Any]) -> list[Missing]:
    forces = displacement_data["forces"]
    numbers = displacement_data.get("displacement_number") or range(len(forces))
    lost = sorted(number for number, block in zip(numbers, forces, strict=True) if block is None)
    return [Missing(what=f"displaced cell {number + 1} of {len(forces)}", reason=_LOST) for number in lost]


@job(output_schema=PhononDoc, config=JobConfig(expose_store=True))
@large_parts_apart(*LARGE)
@reused()
def run_phonons(
    structure: Structure,
    potential: PotentialRef | dict[str, Any],
    supercell_matrix: list[list[int]] | None = None,
    relax: bool = True,
    mesh: Mesh = DEFAULT_MESH,
    temperatures: Sequence[float] = (300.0,),
    displacement: float = DISPLACEMENT,
    fc_calculator: FcCalculator = "symfc",
    order: MagneticOrder | dict[str, Any] | None = None,
) -> PhononDoc:
    """Relax, displace, evaluate in one batch, fit and judge: the fast path of potentials in one job."""
    from phonosmith.potentials.registry import load

    ref = PotentialRef.model_validate(potential)
    return evaluate_phonons(
        structure,
        load(ref),
        supercell_matrix=supercell_matrix,
        relax=relax,
        mesh=mesh,
        temperatures=temperatures,
        displacement=displacement,
        fc_calculator=fc_calculator,
        ref=ref,
        order=None if order is None else MagneticOrder.model_validate(order),
    ).document


@dataclass
class FastPhononMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """The fast path as a Maker: one job, the document of `PhononFlowMaker`.

    The potential is an argument of `make`, because references to earlier jobs are not resolved inside a Maker. For
    ``order`` see `evaluate_phonons`.
    """

    name: str = "phonon"
    relax: bool = True
    mesh: int = DEFAULT_MESH
    temperatures: list[float] = field(default_factory=lambda: [300.0])
    displacement: float = DISPLACEMENT
    fc_calculator: FcCalculator = "symfc"
    order: MagneticOrder | None = None

    def make(self, structure: Structure, potential: Any, supercell_matrix: list[list[int]] | None = None) -> Job:
        """Return the job; potential is a PotentialRef or the output reference of a job that returns one."""
        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("name", "order")}
        # jobs without an order stay the jobs they were before there were any
        options |= {} if self.order is None else {"order": self.order}
        member = run_phonons(structure, potential, supercell_matrix=supercell_matrix, **options)
        member.name = self.name
        return member


@dataclass
class PhononFlowMaker(HoldingMaker):
    """Phonons by whoever plays the reference: a potential in one batch, VASP and GPAW through atomate2's flow.

    Attributes
    ----------
    name
        Of the flow and its collecting job, so make it unique, e.g. ``phonon si reference``. What follows ``phonon`` is
        in the names of the calculations: ``relax``, ``static`` and ``displace``, stages of the reference's worker.
    engine, maker
        Who computes, see `make_engine`; or a configured atomate2 PhononMaker (VASP, force field or any other). Both: a
        PhononMaker of VASP whose calculations the engine does.
    relax
        With an engine: relax the cell and compute its energy first, or take it as it is.
    min_length
        With an engine: shortest edge of the supercell when none is given, Å.
    nac
        With an engine: calculate Born charges and dielectric tensor too (VASP), for the non-analytic term.
    potential, source
        With a maker: identity of the potential, None for DFT; code or potential in messages.
    """

    name: str = "phonon"
    engine: ReferenceEngine | None = None
    maker: Any = None
    relax: bool = True
    min_length: float = 20.0
    nac: bool = False
    fc_calculator: FcCalculator = "symfc"
    mesh: int = DEFAULT_MESH
    temperatures: list[float] = field(default_factory=lambda: [300.0])
    potential: PotentialRef | None = None
    source: str = ""

    def make(
        self, structure: Structure, supercell_matrix: list[list[int]] | None = None, prev_dir: str | None = None
    ) -> Flow | Job:
        """Return the flow, or the one job of a potential; its output is a `PhononDoc`."""
        maker, source, owner = self.maker, self.source, self.name.removeprefix("phonon ")
        settings = {name: getattr(self, name) for name in ("mesh", "temperatures", "fc_calculator")}
        if self.engine is not None:
            supercell_matrix = supercell_matrix or choose_phonon_supercell(structure, self.min_length)
            if (potential := engine_potential(self.engine)) is not None and not self.nac:
                fast = FastPhononMaker(name=self.name, relax=self.relax, **settings)
                return fast.make(structure, potential, supercell_matrix)
            if self.engine.order is not None:
                if maker is not None:
                    raise ConfigurationError(
                        "An own phonon_maker knows no magnetic moments, and some are given.",
                        "Leave phonon_maker or the moments out.",
                    )
                return self._with_moments(self.engine, structure, supercell_matrix, owner)
            maker = atomate2_phonon_maker(self.engine, owner, relax=self.relax, nac=self.nac, own=maker)
            source = self.engine.name
        if maker is None:
            raise ConfigurationError(
                "PhononFlowMaker has no engine and no maker.", "Pass one of make_engine, or an atomate2 PhononMaker."
            )
        from atomate2.forcefields.jobs import ForceFieldRelaxMaker

        flow = maker.make(structure, prev_dir=prev_dir, supercell_matrix=supercell_matrix)
        flow.name = self.name
        relaxation = next(
            (one for one in flow.jobs if isinstance(getattr(one, "maker", 0), ForceFieldRelaxMaker)), None
        )
        ours = replace_job(
            flow,
            COLLECT_FUNCTION,
            lambda theirs: collect_phonons(
                **{name: theirs[name] for name in _COLLECTED if name in theirs},
                **settings,
                potential=self.potential,
                source=source,
                relaxed=None if relaxation is None else relaxation.output.is_force_converged,
                residual_stress=None if relaxation is None else relaxation.output.output.stress,
                with_born=theirs.get("born") is not None,
                behind={name: theirs.get("kwargs", {}).get(name) for name in _BEHIND},
            ),
        )
        # a displaced cell that failed arrives as None; whether the others suffice is seen there
        ours.config.on_missing_references = OnMissing.NONE
        ours.name = self.name
        for stage in CALCULATIONS if self.engine is not None else ():
            flow.update_metadata({STAGE: stage}, name_filter=f"{stage} {owner}")
        return flow

    def _with_moments(
        self, engine: ReferenceEngine, structure: Any, supercell_matrix: list[list[int]], owner: str
    ) -> Flow:
        """Return the flow where atoms have moments: atomate2's leaves them out of symmetry and displaced cells."""
        members: list[Job | Flow] = []
        stress = energy = None
        behind: dict[str, Any] = {}
        if self.relax:
            relaxed = engine.relax(f"relax {owner}").make(structure)
            structure, stress = relaxed.output.structure, relaxed.output.output.stress
            static = engine.static(f"static {owner}").make(structure)
            behind = _calculated(optimization=relaxed, static=static)
            energy = static.output.output.energy
            members = [describe(relaxed, stage="relax"), describe(static, stage="static")]
        settings = {name: getattr(self, name) for name in ("mesh", "temperatures", "fc_calculator")}
        charges = {}
        if self.nac:
            if (maker := engine.born(f"dielectric {owner}")) is None:
                raise no_charges(engine)
            members.append(describe(maker.make(structure), stage="dielectric"))
            behind |= _calculated(born=members[-1])
            found = members[-1].output.calcs_reversed[0].output
            charges = {"born": found.outcar["born"], "epsilon_static": found.epsilon_static, "with_born": True}
        moved = displaced_forces(structure, supercell_matrix, engine, owner)
        moved.name = f"phonon {owner} start"
        last = collect_phonons(
            structure,
            supercell_matrix,
            moved.output,
            **settings,
            **charges,
            total_dft_energy=energy,
            residual_stress=stress,
            source=engine.name,
            order=engine.order,
            behind=behind,
        )
        last.config.on_missing_references = OnMissing.NONE
        last.name = self.name
        return Flow([*members, moved, last], output=last.output, name=self.name)


def _calculated(**runs: Job) -> dict[str, Any]:
    """Return references to the uuids and folders of calculations, by atomate2's names."""
    return {f"{run}_run_uuid": one.output.uuid for run, one in runs.items()} | {
        f"{run}_run_job_dir": one.output.dir_name for run, one in runs.items()
    }


# the displaced cells belong to the worker of the reference program, not to the one that starts them
@job(config=JobConfig(pass_manager_config=False))
def displaced_forces(
    structure: Structure, supercell_matrix: list[list[int]], engine: ReferenceEngine, owner: str
) -> Response[Any]:
    """Replace this job by one for each displaced cell that the magnetic symmetry leaves; output: their forces."""
    computing = ReferenceEngine.model_validate(engine)
    phonon = new_phonon(to_phonopy_atoms(structure, computing.order), supercell_matrix)
    jobs = force_jobs(displaced_cells(phonon), computing, owner)
    last = displacement_forces([one.output for one in jobs])
    last.config.on_missing_references = OnMissing.NONE
    last.name = f"phonon {owner} forces"
    made = Flow([*jobs, last], output=last.output, name=f"displace {owner}")
    return Response(replace=inherit(identified_like_running(made)))


@job
def displacement_forces(records: list[Any]) -> dict[str, Any]:
    """Return forces as atomate2's flow has them: None for cells without."""
    known = [None if item is None else ReferenceRecord.model_validate(item) for item in records]
    return {"forces": [record.forces if record is not None and record.accepted else None for record in known]}


def force_jobs(cells: Sequence[Atoms], engine: ReferenceEngine, owner: str, attempts: int = 2) -> list[Job]:
    """Return one job of the reference's worker for each displaced cell: ``displace si reference kappa 007/111``."""
    jobs = []
    for number, cell in enumerate(cells, 1):
        name = f"{DISPLACE} {owner} {number:0{len(str(len(cells)))}d}/{len(cells)}"
        jobs.append(describe(force_frame(Frame.from_atoms(cell), engine, name, attempts), stage=DISPLACE))
        jobs[-1].name = name
    return jobs


def no_charges(engine: ReferenceEngine) -> ConfigurationError:
    """Return the error of an engine that is asked for Born charges and computes none."""
    return ConfigurationError(
        f"The engine {engine.name} computes no Born charges.", "Use the vasp engine, or leave nac out."
    )


def engine_potential(engine: ReferenceEngine) -> PotentialRef | None:
    """Return the potential a force-field engine computes with; None for any other calculator."""
    held = ((engine.calculator or {}).get("arguments") or {}).get("potential")
    return PotentialRef.model_validate(held) if engine.name == "forcefield" and held is not None else None


def atomate2_phonon_maker(
    engine: ReferenceEngine, owner: str = "", *, relax: bool = True, nac: bool = False, own: Any = None
) -> Any:
    """Return atomate2's PhononMaker with every calculation done by the engine, behind its gate.

    Without ``relax`` the displaced cells are all. With ``nac`` it calculates Born charges and the dielectric tensor
    too; ConfigurationError for an engine that cannot. ``own``: a configured PhononMaker to start from; calculations
    that it leaves out (None) are left out.
    """
    if nac and engine.born() is None:
        raise no_charges(engine)
    names = {
        "bulk_relax_maker": f"relax {owner}".strip(),
        "static_energy_maker": f"static {owner}".strip(),
        "phonon_displacement_maker": f"displace {owner}".strip(),
        "born_maker": f"dielectric {owner}".strip(),
    }
    quiet = {"create_thermal_displacements": False, "store_force_constants": False}
    if own is not None:
        from phonosmith.reference.vasp.own_makers import with_engine

        left_out = {} if relax else dict.fromkeys(("bulk_relax_maker", "static_energy_maker"))
        born = engine.born(names["born_maker"]) if nac else None
        return replace(with_engine(own, engine, names), born_maker=born, **left_out, **quiet)
    settings = {
        "bulk_relax_maker": engine.relax(names["bulk_relax_maker"]) if relax else None,
        "static_energy_maker": engine.static(names["static_energy_maker"]) if relax else None,
        "phonon_displacement_maker": engine.displacement(names["phonon_displacement_maker"]),
        "symprec": SYMPREC,
        **quiet,
    }
    if engine.name == "vasp":
        from atomate2.vasp.flows.phonons import PhononMaker

        return PhononMaker(born_maker=engine.born(names["born_maker"]) if nac else None, **settings)
    from atomate2.forcefields.flows.phonons import PhononMaker as ForceFieldPhononMaker

    return ForceFieldPhononMaker(**settings)
