"""atomate2's elastic and EOS flows with the calculations of an engine and our collecting jobs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, Maker, OnMissing

from phonosmith.core.errors import ConfigurationError
from phonosmith.evaluation.mechanics.elastic import STRAIN_MAGNITUDES, SYMPREC
from phonosmith.evaluation.mechanics.eos import VOLUME_FACTORS
from phonosmith.evaluation.mechanics.jobs import collect_elastic, collect_eos

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine

COLLECT_FUNCTION = "fit_elastic_tensor"
"""Name of the last job of atomate2's elastic flow, which ours replaces."""


def _engine(maker: ElasticFlowMaker | EosFlowMaker) -> ReferenceEngine:
    if maker.engine is None:
        raise ConfigurationError(
            f"{type(maker).__name__} has no engine.", "Pass one of phonosmith.reference.engines.make_engine."
        )
    return maker.engine


def _potential_sha256(engine: ReferenceEngine) -> str | None:
    return (engine.calculator or {}).get("potential")


@dataclass
class ElasticFlowMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """atomate2's ElasticMaker with the calculations of an engine (VASP, potential, GPAW) and our collection.

    Attributes
    ----------
    name
        Flow name; the collecting job carries it too, so make it unique.
    engine
        What computes; its gate refuses a relaxation that did not converge.
    relax
        Relax cell and atoms first.
    temperature
        Of the Slack conductivity, K.
    """

    name: str = "elastic"
    engine: ReferenceEngine | None = None
    relax: bool = True
    temperature: float = 300.0

    def make(self, structure: Structure, prev_dir: str | None = None) -> Flow:
        """Return the flow; its output is an `ElasticDoc`."""
        engine = _engine(self)
        if engine.name == "vasp":
            from atomate2.vasp.flows.elastic import ElasticMaker
        else:
            from atomate2.forcefields.flows.elastic import ElasticMaker
        flow = ElasticMaker(
            name=self.name,
            symprec=SYMPREC,
            bulk_relax_maker=engine.relax() if self.relax else None,
            elastic_relax_maker=engine.elastic_relax(),
            generate_elastic_deformations_kwargs={"strain_magnitudes": list(STRAIN_MAGNITUDES)},
        ).make(structure, prev_dir=prev_dir)
        theirs = [i for i, member in enumerate(flow.jobs) if _function(member) == COLLECT_FUNCTION]
        if len(theirs) != 1:
            raise ConfigurationError(
                f"atomate2's elastic flow has {len(theirs)} jobs named {COLLECT_FUNCTION}, one was expected.",
                "Use atomate2 0.1.x.",
            )
        replaced = flow.jobs[theirs[0]]
        known = inspect.signature(replaced.function).bind(*replaced.function_args, **replaced.function_kwargs).arguments
        ours = collect_elastic(
            known["structure"],
            known["deformation_data"],
            equilibrium_stress=known.get("equilibrium_stress"),
            temperature=self.temperature,
            method=engine.functional,
            potential_sha256=_potential_sha256(engine),
        )
        # a failed deformation reaches the collection as a missing stress, which it names
        ours.config.on_missing_references = OnMissing.NONE
        ours.name = self.name
        flow.add_jobs(ours)
        flow.output = ours.output
        flow.remove_jobs(theirs)
        return flow


def _function(member: Any) -> str:
    return str(getattr(member.function, "__name__", "")) if isinstance(member, Job) else ""


@dataclass
class EosFlowMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """atomate2's EosMaker with the calculations of an engine (VASP, potential, GPAW) and our collection.

    The cell is relaxed and scaled to ±5 % volume in steps of 1 %; atoms relax at each fixed cell with the tight
    threshold of strained cells. VASP then computes a static at each volume, so that every energy has the plane waves
    of its own cell; the energy fitted is the free energy, the one forces belong to. Of ASE calculators the
    energy of the relaxed atoms is taken.

    Attributes
    ----------
    name, engine
        See `ElasticFlowMaker`.
    smallest, largest
        Volumes relative to the relaxed one.
    n_volumes
        Scaled cells between them, evenly spaced in length; the relaxed cell comes on top.
    """

    name: str = "eos"
    engine: ReferenceEngine | None = None
    smallest: float = VOLUME_FACTORS[0]
    largest: float = VOLUME_FACTORS[-1]
    n_volumes: int = len(VOLUME_FACTORS)

    def make(self, structure: Structure, prev_dir: str | None = None) -> Flow:
        """Return the flow; its output is an `EosDoc`."""
        from atomate2.common.flows.eos import CommonEosMaker

        engine = _engine(self)
        flow = CommonEosMaker(
            name=self.name,
            initial_relax_maker=engine.relax(),
            eos_relax_maker=engine.elastic_relax("eos relax"),
            static_maker=engine.static("eos static") if engine.name == "vasp" else None,
            linear_strain=(self.smallest ** (1 / 3) - 1, self.largest ** (1 / 3) - 1),
            number_of_frames=self.n_volumes,
            postprocessor=None,
        ).make(structure, prev_dir=prev_dir)
        members = {member.uuid: member for member in flow.jobs}
        energies = flow.output["static" if engine.name == "vasp" else "relax"]["energy"]
        relaxed = flow.output["relax"]["energy"]
        points = [
            _point(members[energy.uuid], members[relaxation.uuid], vasp=engine.name == "vasp")
            for energy, relaxation in zip(energies, relaxed, strict=True)
        ]
        ours = collect_eos(
            members[relaxed[0].uuid].output.structure,
            points,
            method=engine.functional,
            potential_sha256=_potential_sha256(engine),
        )
        ours.config.on_missing_references = OnMissing.NONE
        ours.name = self.name
        flow.add_jobs(ours)
        flow.output = ours.output
        return flow


def _point(member: Job, relaxation: Job, *, vasp: bool) -> dict[str, Any]:
    """Return references to what one volume contributes."""
    energy = member.output.calcs_reversed[0].output.ionic_steps[-1].e_fr_energy if vasp else member.output.output.energy
    return {"structure": member.output.structure, "energy": energy, "forces": relaxation.output.output.forces}
