"""Phonons as jobflow jobs: our collection of atomate2's PhononMaker, and the fast path in one job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Flow, Job, Maker, job

from phonosmith.core.errors import ConfigurationError, ConvergenceError, InputError, MismatchError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononDoc
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.harmonic.displacements import check_forces
from phonosmith.harmonic.fit import make_force_constants
from phonosmith.harmonic.model import SYMPREC, HarmonicModel, new_phonon, to_phonopy_atoms
from phonosmith.potentials.documents import PotentialRef

if TYPE_CHECKING:
    from pymatgen.core import Structure

COLLECT_FUNCTION = "generate_frequencies_eigenvectors"
"""Name of the last job of atomate2's phonon flow, which ours replaces."""
RESIDUAL_STRESS_GPA = 0.05
"""A relaxed cell under more stress than this is not relaxed: it changes the volume by about 0.1 %."""
_CALCULATOR = {"@module": "phonosmith.potentials.calculator", "@callable": "PotentialCalculator"}


def collect_model(
    structure: Structure,
    supercell_matrix: Any,
    displacement_data: dict[str, Any],
    *,
    displacement: float = 0.01,
    symprec: float = SYMPREC,
    fc_calculator: str = "symfc",
    born: Any = None,
    epsilon_static: Any = None,
    source: str = "",
) -> HarmonicModel:
    """Build a harmonic model from the forces of displaced cells that atomate2's flow computed.

    Displacements are generated again by phonopy from the same structure, which is how atomate2 made them; the
    displacement numbers put forces in order.

    Parameters
    ----------
    structure
        Relaxed cell.
    supercell_matrix
        phonopy's convention.
    displacement_data
        Output of atomate2's displacement job: ``forces`` (eV/Å) and ``displacement_number``.
    displacement, symprec
        As used for the displaced cells, Å.
    fc_calculator
        ``symfc`` or ``traditional``.
    born, epsilon_static
        Born charges of the atoms of ``structure`` and dielectric tensor, for the non-analytic term.
    source
        Name in messages.
    """
    if fc_calculator not in {"symfc", "traditional"}:
        raise InputError(f"Unknown force-constants calculator {fc_calculator!r}.", "Choose symfc or traditional.")
    phonon = new_phonon(to_phonopy_atoms(structure), supercell_matrix, "auto", symprec)
    phonon.generate_displacements(distance=displacement)
    expected = len(phonon.dataset["first_atoms"])
    forces = displacement_data["forces"]
    if len(forces) != expected:
        raise MismatchError(
            f"{source or 'The flow'} returned forces of {len(forces)} displaced cells, {expected} were planned.",
            "Structure, supercell, displacement and symprec must be those the displaced cells were made with.",
        )
    order = np.argsort(displacement_data.get("displacement_number") or range(expected), kind="stable")
    phonon.forces = check_forces([forces[i] for i in order], len(phonon.supercell), source or "the displaced cells")
    if born is not None and epsilon_static is not None:
        from phonopy.structure.symmetry import symmetrize_borns_and_epsilon

        charges, dielectric = symmetrize_borns_and_epsilon(
            np.asarray(born, dtype=float),
            np.asarray(epsilon_static, dtype=float),
            phonon.unitcell,
            primitive_matrix=phonon.primitive_matrix,
            supercell_matrix=phonon.supercell_matrix,
            symprec=symprec,
        )
        phonon.nac_params = {"born": charges, "dielectric": dielectric, "factor": 14.399652}
    used = make_force_constants(phonon, "symfc" if fc_calculator == "symfc" else "traditional", source)
    return HarmonicModel(phonon, used, source)


@job(output_schema=PhononDoc)
def collect_phonons(
    structure: Structure,
    supercell_matrix: Any,
    displacement_data: dict[str, Any],
    displacement: float = 0.01,
    symprec: float = SYMPREC,
    fc_calculator: str = "symfc",
    mesh: int | list[int] = 20,
    temperatures: list[float] | None = None,
    total_dft_energy: float | None = None,
    born: Any = None,
    epsilon_static: Any = None,
    relaxed: bool | None = None,
    residual_stress: Any = None,
    potential: PotentialRef | dict[str, Any] | None = None,
    source: str = "",
) -> PhononDoc:
    """Collect displaced-cell forces into a `PhononDoc`: symfc, mesh thermodynamics, compact storage.

    ``relaxed`` is the convergence flag of the relaxation before and ``residual_stress`` its last stress (kbar, as
    atomate2 keeps it): atomate2 goes on when a relaxation fails, and its flag sees forces only. Here the flow stops
    instead of reporting phonons of a cell that is under load. ``total_dft_energy`` is in eV per cell.
    """
    from phonosmith.evaluation.phonons.summary import summarise_phonons

    stress = 0.0 if residual_stress is None else float(np.abs(np.asarray(residual_stress, dtype=float)).max()) / 10
    if relaxed is False or stress > RESIDUAL_STRESS_GPA:
        raise ConvergenceError(
            f"The relaxation before the phonons of {structure.formula} did not converge (stress {stress:.3f} GPa).",
            "Give the relaxation more steps or start closer to the minimum.",
        )
    ref = PotentialRef.model_validate(potential) if isinstance(potential, dict) else potential
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
        )
        document = summarise_phonons(
            model,
            manifest,
            mesh=mesh,
            temperatures=temperatures or [300.0],
            potential=ref,
            energy=total_dft_energy,
        )
    document.manifest = manifest
    return document


@job(output_schema=PhononDoc)
def run_phonons(
    structure: Structure,
    potential: PotentialRef | dict[str, Any],
    supercell_matrix: list[list[int]] | None = None,
    min_length: float | None = None,
    relax: bool = True,
    mesh: int | list[int] = 20,
    temperatures: list[float] | None = None,
    displacement: float = 0.01,
    fc_calculator: str = "symfc",
    symprec: float = SYMPREC,
    fmax: float = 1e-5,
    steps: int = 500,
) -> PhononDoc:
    """Relax, displace, evaluate in one batch, fit and judge: the fast path of potentials in one job."""
    from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
    from phonosmith.potentials.registry import load

    ref = PotentialRef.model_validate(potential) if isinstance(potential, dict) else potential
    return evaluate_phonons(
        structure,
        load(ref),
        supercell_matrix=supercell_matrix,
        min_length=min_length,
        relax=relax,
        mesh=mesh,
        temperatures=temperatures or [300.0],
        displacement=displacement,
        fc_calculator="symfc" if fc_calculator == "symfc" else "traditional",
        symprec=symprec,
        fmax=fmax,
        steps=steps,
        ref=ref,
    ).document


@job(output_schema=PhononComparison)
def compare_phonon_documents(
    reference: PhononDoc | dict[str, Any], candidate: PhononDoc | dict[str, Any], mesh: int | list[int] = 20
) -> PhononComparison:
    """Compare two stored phonon documents on one mesh."""
    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.evaluation.phonons.comparison import compare_phonons

    documents = [
        PhononDoc.model_validate({key: value for key, value in side.items() if not key.startswith("@")})
        if isinstance(side, dict)
        else side
        for side in (reference, candidate)
    ]
    sides = [harmonic_from_document(side, default_artefacts()) for side in documents]
    return compare_phonons(sides[0], sides[1], mesh)


def replace_collection(flow: Flow, **options: Any) -> Flow:
    """Let our job collect an atomate2 phonon flow instead of atomate2's, in place.

    Parameters
    ----------
    flow
        What a PhononMaker returned.
    options
        Further arguments of `collect_phonons`.
    """
    found = [
        i for i, member in enumerate(flow.jobs) if isinstance(member, Job) and _function(member) == COLLECT_FUNCTION
    ]
    if len(found) != 1:
        raise ConfigurationError(
            f"The flow {flow.name!r} has {len(found)} jobs named {COLLECT_FUNCTION}, one was expected.",
            "Pass the flow of an atomate2 PhononMaker (0.1.x).",
        )
    theirs = flow.jobs[found[0]].function_kwargs
    wanted = ("structure", "supercell_matrix", "displacement_data", "displacement", "symprec", "total_dft_energy")
    arguments = {name: theirs[name] for name in wanted}
    ours = collect_phonons(**arguments, born=theirs.get("born"), epsilon_static=theirs.get("epsilon_static"), **options)
    flow.add_jobs(ours)
    flow.output = ours.output
    flow.remove_jobs([found[0]])
    return flow


def _function(member: Job) -> str:
    return str(getattr(member.function, "__name__", ""))


@dataclass
class PhononFlowMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """atomate2's PhononMaker (VASP, force field or any other) with our collection.

    Attributes
    ----------
    name
        Flow name; the collecting job carries it too, so make it unique, e.g. ``phonon si reference``.
    maker
        A configured atomate2 PhononMaker.
    fc_calculator, mesh, temperatures
        See `collect_phonons`.
    potential
        Identity of the potential, None for DFT.
    source
        Code or potential in messages.
    """

    name: str = "phonon"
    maker: Any = None
    fc_calculator: str = "symfc"
    mesh: int = 20
    temperatures: list[float] = field(default_factory=lambda: [300.0])
    potential: PotentialRef | None = None
    source: str = ""

    def make(
        self, structure: Structure, supercell_matrix: list[list[int]] | None = None, prev_dir: str | None = None
    ) -> Flow:
        """Return the flow; its output is a `PhononDoc`."""
        if self.maker is None:
            raise ConfigurationError("PhononFlowMaker has no maker.", "Pass an atomate2 PhononMaker.")
        flow = self.maker.make(structure, prev_dir=prev_dir, supercell_matrix=supercell_matrix)
        flow.name = self.name
        relaxation = next((member for member in flow.jobs if _is_forcefield_relaxation(member)), None)
        replace_collection(
            flow,
            fc_calculator=self.fc_calculator,
            mesh=self.mesh,
            temperatures=self.temperatures,
            potential=self.potential,
            source=self.source,
            relaxed=None if relaxation is None else relaxation.output.is_force_converged,
            residual_stress=None if relaxation is None else relaxation.output.output.stress,
        )
        flow.jobs[-1].name = self.name
        return flow


def _is_forcefield_relaxation(member: Any) -> bool:
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    return isinstance(member, Job) and isinstance(getattr(member, "maker", None), ForceFieldRelaxMaker)


def forcefield_phonon_maker(ref: PotentialRef, *, fmax: float = 1e-5, steps: int = 500, **options: Any) -> Any:
    """Return atomate2's force-field PhononMaker for one of our potentials, tight and symmetry-preserving.

    Parameters
    ----------
    ref
        The potential; workers fetch it by its sha256.
    fmax
        eV/Å.
    steps
        Relaxation steps allowed.
    options
        Further fields of the PhononMaker (``min_length``, ``displacement``, ...).
    """
    from atomate2.forcefields.flows.phonons import PhononMaker
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker

    calculator = {"force_field_name": dict(_CALCULATOR), "calculator_kwargs": {"potential": ref.model_dump()}}
    chosen = {"symprec": SYMPREC, "create_thermal_displacements": False, "store_force_constants": False, **options}
    return PhononMaker(
        bulk_relax_maker=ForceFieldRelaxMaker(
            **calculator, fix_symmetry=True, symprec=1e-3, steps=steps, relax_kwargs={"fmax": fmax}
        ),
        static_energy_maker=ForceFieldStaticMaker(**calculator),
        phonon_displacement_maker=ForceFieldStaticMaker(**calculator),
        **chosen,
    )


@dataclass
class FastPhononMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """The fast path as a Maker: one job, the document of `PhononFlowMaker`.

    The potential is an argument of `make`, because references to earlier jobs are not resolved inside a Maker.
    """

    name: str = "phonon"
    min_length: float | None = None
    relax: bool = True
    mesh: int = 20
    temperatures: list[float] = field(default_factory=lambda: [300.0])
    displacement: float = 0.01
    fc_calculator: str = "symfc"
    symprec: float = SYMPREC
    fmax: float = 1e-5
    steps: int = 500

    def make(self, structure: Structure, potential: Any, supercell_matrix: list[list[int]] | None = None) -> Job:
        """Return the job; potential is a PotentialRef or the output reference of a job that returns one."""
        member = run_phonons(
            structure,
            potential,
            supercell_matrix=supercell_matrix,
            min_length=None if supercell_matrix is not None else self.min_length,
            relax=self.relax,
            mesh=self.mesh,
            temperatures=self.temperatures,
            displacement=self.displacement,
            fc_calculator=self.fc_calculator,
            symprec=self.symprec,
            fmax=self.fmax,
            steps=self.steps,
        )
        member.name = self.name
        return member
