"""Elastic constants and equations of state as jobflow jobs: the fast path, and what collects atomate2's flows.

Both routes end in one fit: stresses in `fit_elastic`, energies in `fit_birch_murnaghan`, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from jobflow import Flow, Job, JobConfig, Maker, OnMissing

from phonosmith.core.changing import HoldingMaker, job
from phonosmith.core.document import Missing
from phonosmith.core.errors import ConfigurationError, ConvergenceError, MismatchError
from phonosmith.core.hashing import digest_structure
from phonosmith.core.manifest import recorded
from phonosmith.core.reuse import reused
from phonosmith.evaluation.collection import replace_job
from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
from phonosmith.evaluation.mechanics.elastic import STRAIN_MAGNITUDES, SYMPREC, fit_elastic
from phonosmith.evaluation.mechanics.eos import VOLUME_FACTORS
from phonosmith.evaluation.mechanics.fastpath import (
    EOS_FMAX,
    FMAX,
    MAX_STEPS,
    elastic_document,
    eos_document,
    evaluate_elastic,
    evaluate_eos,
    require_enough_volumes,
    require_reliable,
)
from phonosmith.evaluation.relax import RESIDUAL_STRESS_GPA, relax_atoms
from phonosmith.potentials.base import require_elements
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine

Doc = TypeVar("Doc", ElasticDoc, EosDoc)

COLLECT_FUNCTION = "fit_elastic_tensor"
"""Name of the last job of atomate2's elastic flow, which ours replaces."""
GPA_PER_VASP_KBAR = -0.1
"""atomate2 keeps stresses in kbar with VASP's sign (positive = compression), those of ASE calculators too."""


def _evaluated(
    evaluate: Callable[..., Doc],
    structure: Structure,
    potential: PotentialRef | dict[str, Any],
    *,
    relax: bool,
    **options: float,
) -> Doc:
    """Return the document of a crystal (relaxed where asked) by a potential."""
    from phonosmith.potentials.registry import load

    ref = PotentialRef.model_validate(potential)
    loaded = load(ref)
    atoms = structure.to_ase_atoms(msonable=False)
    require_elements(loaded, [atoms], ref.name)
    crystal = structure.from_ase_atoms(relax_atoms(atoms, loaded).atoms) if relax else structure
    document = evaluate(crystal, loaded, method=ref.name, **options)
    document.manifest.inputs["potential"] = ref.sha256
    return document


@job(output_schema=ElasticDoc, config=JobConfig(expose_store=True))
@reused()
def run_elastic(
    structure: Structure,
    potential: PotentialRef | dict[str, Any],
    relax: bool = True,
    fmax: float = FMAX,
    max_steps: int = MAX_STEPS,
) -> ElasticDoc:
    """Relax, strain, relax atoms in one batch, fit and judge: the fast path of potentials in one job."""
    return require_reliable(
        _evaluated(evaluate_elastic, structure, potential, relax=relax, fmax=fmax, max_steps=max_steps)
    )


@job(output_schema=EosDoc, config=JobConfig(expose_store=True))
@reused()
def run_eos(
    structure: Structure,
    potential: PotentialRef | dict[str, Any],
    relax: bool = True,
    fmax: float = EOS_FMAX,
    max_steps: int = MAX_STEPS,
) -> EosDoc:
    """Relax, scale, relax atoms in one batch and fit: the fast path of potentials in one job."""
    return _evaluated(evaluate_eos, structure, potential, relax=relax, fmax=fmax, max_steps=max_steps)


@job(output_schema=ElasticDoc)
def collect_elastic(
    structure: Structure,
    deformation_data: list[dict[str, Any]] | None,
    equilibrium_stress: Any = None,
    method: str = "",
    potential_sha256: str | None = None,
) -> ElasticDoc:
    """Fit the stresses of atomate2's elastic flow as the fast path fits its own.

    The data have ``deformation`` and ``stress`` (kbar, VASP's sign) of each strained cell, a failed one without stress;
    the last stress of the relaxation in front is in the same unit. ``method`` is the name of the potential or
    functional; DFT has no identity of a potential.

    Raises
    ------
    MismatchError
        When there are no strained cells, or one has no stress: the symmetry expansion needs them all.
    ConvergenceError
        When the cell before was not relaxed, or the stresses do not follow the strains.
    """
    if deformation_data is None:
        raise MismatchError(
            f"{structure.formula}: there are no strained cells, because the relaxation before them failed.",
            "Look into the folder of that relaxation and run it again.",
        )
    failed = [number for number, item in enumerate(deformation_data, 1) if item.get("stress") is None]
    if failed:
        raise MismatchError(
            f"{structure.formula}: deformations {failed} of {len(deformation_data)} have no stress.",
            "Look into the folders of these calculations and run them again.",
        )
    base = None if equilibrium_stress is None else GPA_PER_VASP_KBAR * _matrix(equilibrium_stress)
    if base is not None and (left := float(np.abs(base).max())) > RESIDUAL_STRESS_GPA:
        raise ConvergenceError(
            f"The relaxation before the elastic constants of {structure.formula} left a stress of {left:.3f} GPa "
            f"(limit {RESIDUAL_STRESS_GPA:g}).",
            "Give the relaxation more steps or a tighter threshold.",
        )
    settings = {"strain_magnitudes": list(STRAIN_MAGNITUDES), "symprec": SYMPREC}
    with recorded(_inputs(structure, potential_sha256), settings) as manifest:
        fit, known = fit_elastic(
            structure,
            [_matrix(item["deformation"]) for item in deformation_data],
            [GPA_PER_VASP_KBAR * _matrix(item["stress"]) for item in deformation_data],
            base,
            deformation_data,
        )
    return require_reliable(elastic_document(structure, manifest, method, fit, known))


def _inputs(structure: Structure, potential: str | None) -> dict[str, str]:
    return {"structure": digest_structure(structure)} | ({} if potential is None else {"potential": potential})


def _matrix(values: Any) -> Any:
    return np.squeeze(np.asarray(values, dtype=float))


@job(output_schema=EosDoc)
def collect_eos(
    structure: Structure, points: list[dict[str, Any]], method: str = "", potential_sha256: str | None = None
) -> EosDoc:
    """Fit the energies of atomate2's EOS flow, all scaled from ``structure``, as the fast path fits its own.

    Points have ``structure``, ``energy`` (eV per cell) and ``forces`` (eV/Å, atoms relaxed) of each volume; those of a
    failed calculation are None and left out. For the other arguments see `collect_elastic`.
    """
    known = [item.get("energy") is not None and item.get("structure") is not None for item in points]
    good = [item for item, there in zip(points, known, strict=True) if there]
    require_enough_volumes(len(good), len(points), "were calculated")
    good.sort(key=lambda item: float(item["structure"].volume))
    with recorded(_inputs(structure, potential_sha256), {"volumes": len(points)}) as manifest:
        document = eos_document(
            structure,
            manifest,
            method,
            volumes=[float(item["structure"].volume) for item in good],
            energies=[float(item["energy"]) for item in good],
            max_forces=[float(np.linalg.norm(np.asarray(item["forces"]), axis=-1).max()) for item in good],
            converged=[True] * len(good),
        )
    document.missing = [
        Missing(what=f"volume {number} of {len(points)}", reason="its calculation left no energy")
        for number, there in enumerate(known, 1)
        if not there
    ]
    return document


@dataclass
class _FastMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """The fast path as a Maker: one job, the document of atomate2's flow.

    The potential is an argument of `make`, because references to earlier jobs are not resolved inside a Maker. Cell and
    atoms relax first where asked, keeping the symmetry; ``fmax`` is the largest force left in each strained cell
    (eV/Å), ``max_steps`` the steps of FIRE allowed.
    """

    function: ClassVar[Callable[..., Job]]
    name: str = "fast"
    relax: bool = True
    fmax: float = FMAX
    max_steps: int = MAX_STEPS

    def make(self, structure: Structure, potential: Any) -> Job:
        """Return the job; potential is a PotentialRef or the output reference of a job that returns one."""
        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "name"}
        member = type(self).function(structure, potential, **options)
        member.name = self.name
        return member


@dataclass
class FastElasticMaker(_FastMaker):
    """The fast path of elastic constants as one job."""

    function = staticmethod(run_elastic)
    name: str = "elastic"


@dataclass
class FastEosMaker(_FastMaker):
    """The fast path of an equation of state as one job."""

    function = staticmethod(run_eos)
    name: str = "eos"
    fmax: float = EOS_FMAX


def _engine(maker: ElasticFlowMaker | EosFlowMaker) -> ReferenceEngine:
    if maker.engine is None:
        raise ConfigurationError(
            f"{type(maker).__name__} has no engine.", "Pass one of phonosmith.reference.engines.make_engine."
        )
    return maker.engine


@dataclass
class ElasticFlowMaker(HoldingMaker):
    """atomate2's ElasticMaker with the calculations of an engine (VASP, potential, GPAW) and our collection.

    The engine's gate refuses a relaxation that did not converge. The collecting job carries the flow's name too, so
    make it unique. Without ``relax`` the cell is taken as it is. ``maker``: a configured ElasticMaker of VASP to start
    from (strains, steps), whose calculations the engine does.
    """

    name: str = "elastic"
    engine: ReferenceEngine | None = None
    relax: bool = True
    maker: Any = None

    def make(self, structure: Structure, prev_dir: str | None = None) -> Flow:
        """Return the flow; its output is an `ElasticDoc`."""
        engine = _engine(self)
        if engine.name == "vasp":
            from atomate2.vasp.flows.elastic import ElasticMaker
        else:
            from atomate2.forcefields.flows.elastic import ElasticMaker
        if self.maker is None:
            maker = ElasticMaker(
                bulk_relax_maker=engine.relax(),
                elastic_relax_maker=engine.elastic_relax(),
                generate_elastic_deformations_kwargs={"strain_magnitudes": list(STRAIN_MAGNITUDES)},
            )
        else:
            from phonosmith.reference.vasp.own_makers import with_engine

            maker = with_engine(self.maker, engine, {})
        left_out = {} if self.relax else {"bulk_relax_maker": None}
        maker = replace(maker, name=self.name, symprec=SYMPREC, **left_out)
        flow = maker.make(structure, prev_dir=prev_dir)
        ours = replace_job(
            flow,
            COLLECT_FUNCTION,
            lambda theirs: collect_elastic(
                theirs["structure"],
                theirs["deformation_data"],
                equilibrium_stress=theirs.get("equilibrium_stress"),
                method=engine.functional,
                potential_sha256=(engine.calculator or {}).get("potential"),
            ),
        )
        # a failed deformation reaches the collection as a missing stress, which it names
        ours.config.on_missing_references = OnMissing.NONE
        ours.name = self.name
        return flow


def relaxed_volumes(
    structure: Any, engine: ReferenceEngine, factors: Mapping[str, float], stages: tuple[str, str]
) -> tuple[list[Job | Flow], list[dict[str, Any]]]:
    """Return the jobs that relax the atoms of a cell scaled to some volumes, and what is known of each afterwards.

    What is known are references to ``structure``, ``energy`` (eV per cell) and ``forces`` (eV/Å). Factors by label;
    calculations are called by their stage (of relaxation and static) and the label. VASP computes a static at each
    volume, so that every energy has the plane waves of its own cell: the free energy, the one forces belong to. Of ASE
    calculators the energy of the relaxed atoms is taken.
    """
    from atomate2.common.jobs.eos import apply_strain_to_structure

    gradients = [(np.eye(3) * factor ** (1 / 3)).tolist() for factor in factors.values()]
    scaled = apply_strain_to_structure(structure, gradients)
    members, points = [scaled], []
    for number, label in enumerate(factors):
        relaxed = engine.eos_relax(f"{stages[0]} {label}").make(scaled.output[number].final_structure)
        members.append(relaxed)
        last, energy = relaxed.output, relaxed.output.output.energy
        if engine.name == "vasp":
            members.append(engine.static(f"{stages[1]} {label}").make(last.structure))
            last = members[-1].output
            energy = last.calcs_reversed[0].output.ionic_steps[-1].e_fr_energy
        points.append({"structure": last.structure, "energy": energy, "forces": relaxed.output.output.forces})
    return members, points


@dataclass
class EosFlowMaker(HoldingMaker):
    """An equation of state with the calculations of an engine (VASP, potential, GPAW) and our collection.

    The cell is relaxed and scaled to ±5 % volume in steps of 1 %, the volumes of the fast path; atoms relax at each
    fixed cell with the threshold of relaxations (`relaxed_volumes`). (atomate2's own flow spaces its cells evenly in
    length.)
    """

    name: str = "eos"
    engine: ReferenceEngine | None = None

    def make(self, structure: Structure, prev_dir: str | None = None) -> Flow:
        """Return the flow; its output is an `EosDoc`."""
        engine = _engine(self)
        equilibrium = engine.relax("eos equilibrium relax").make(structure, prev_dir=prev_dir)
        volumes = {str(number): factor for number, factor in enumerate(VOLUME_FACTORS)}
        members, points = relaxed_volumes(equilibrium.output.structure, engine, volumes, ("eos relax", "eos static"))
        identity = (engine.calculator or {}).get("potential")
        ours = collect_eos(equilibrium.output.structure, points, method=engine.functional, potential_sha256=identity)
        ours.config.on_missing_references = OnMissing.NONE
        ours.name = self.name
        return Flow([equilibrium, *members, ours], output=ours.output, name=self.name)


def eos_volumes(flow: Flow) -> dict[float, dict[str, Any]]:
    """Return what is known after an `EosFlowMaker`'s flow of each volume, by its factor; see `relaxed_volumes`."""
    points: list[dict[str, Any]] = flow.jobs[-1].function_args[1]
    return dict(zip(VOLUME_FACTORS, points, strict=True))
