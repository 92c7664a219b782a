"""Mode following as jobflow jobs: one batched job for a potential, one job per point for DFT.

DFT answers a survey in rounds. Each round is a job that plays the survey again from the answers so far and is replaced
by the points wanted next and the following round, or, at the end, by the relaxations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Flow, Job, JobConfig, Maker, OnMissing, Response, job

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError, PhonosmithError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, Phase, TransitionDoc
from phonosmith.evaluation.modes.follow import (
    FollowOptions,
    chosen_starts,
    displaced_cells,
    follow_with_potential,
    initial_phase,
    plan_modes,
    record_survey,
    to_samples,
    transition_document,
)
from phonosmith.evaluation.modes.grid import GridOptions, Sample, Survey, advance
from phonosmith.evaluation.modes.phases import phase_of
from phonosmith.evaluation.modes.supercell import ModeSpace
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.documents import Frame, Reason, ReferenceRecord, refused
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.jobs import label_frame

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.harmonic.model import HarmonicModel


def _model(phonons: PhononDoc | dict[str, Any]) -> HarmonicModel:
    return harmonic_from_document(PhononDoc.model_validate(phonons), default_artefacts())


@job(output_schema=TransitionDoc)
def follow_potential(
    phonons: PhononDoc | dict[str, Any], potential: PotentialRef | dict[str, Any], options: dict[str, Any], relax: bool
) -> TransitionDoc:
    """Follow the modes of stored phonons on a potential's energy surface, each round of points in one batch."""
    from phonosmith.potentials.registry import load

    ref = PotentialRef.model_validate(potential)
    return follow_with_potential(_model(phonons), load(ref), ref=ref, options=FollowOptions.of(options), relax=relax)


@job
def start_following(
    phonons: PhononDoc | dict[str, Any],
    engine: ReferenceEngine,
    options: dict[str, Any],
    name: str,
    relax: bool,
    attempts: int,
) -> Response[Any] | TransitionDoc:
    """Find the modes; be replaced by a first round for each that is followed, and the job that collects them."""
    asked, how = FollowOptions.of(options), ReferenceEngine.model_validate(engine)
    settings = {**asdict(asked), "protocol": how.protocol.digest}
    with recorded(settings=settings) as manifest:
        model = _model(phonons)
        initial, planned = initial_phase(model), plan_modes(model, asked)
    if not any(space is not None for _, space in planned):
        modes = [document for document, _ in planned]
        return transition_document(model, modes, initial, how.functional, None, manifest)
    results: list[Any] = []
    rounds: list[Job] = []
    for number, (document, space) in enumerate(planned, start=1):
        if space is None:
            results.append(document)
            continue
        label = f"{name} m{number:02d}"
        first = survey_round(document, space.as_dict(), initial, how, options, label, relax, attempts, [], None)
        rounds.append(_orchestrating(first, f"mode round {label} 0"))
        results.append(first.output)
    last = collect_transitions(phonons, results, initial, how, options)
    last.name = f"follow {name} collect"
    last.config = JobConfig(on_missing_references=OnMissing.NONE)
    return Response(replace=Flow([*rounds, last], output=last.output, name=f"follow {name}"))


def _orchestrating(member: Job, name: str) -> Job:
    """Name a job that starts others: those belong to the worker of the reference program, not to its own."""
    member.name = name
    member.config = JobConfig(on_missing_references=OnMissing.NONE, pass_manager_config=False)
    return member


@job
def survey_round(
    document: FollowedMode,
    space: dict[str, Any],
    initial: Phase,
    engine: ReferenceEngine,
    options: dict[str, Any],
    name: str,
    relax: bool,
    attempts: int,
    history: list[list[Any]],
    answers: dict[str, Any] | None,
) -> Response[Any] | FollowedMode:
    """Take the answers to the last round, and ask for the next; with the survey done, relax from its minima.

    Parameters
    ----------
    document, space
        The mode and its amplitudes.
    history
        Samples of the rounds before the last: [energy in eV or None, gradient in eV/(Å√amu) or None] each.
    answers
        Of the last round: ``size``, ``places`` and ``records``.
    """
    mode, room = FollowedMode.model_validate(document), ModeSpace.from_dict(space)
    asked, how = FollowOptions.of(options), ReferenceEngine.model_validate(engine)
    past = [[Sample(energy, None if slope is None else tuple(slope)) for energy, slope in one] for one in history]
    if answers is not None:
        records = [_record(item) for item in answers["records"]]
        results = [(None, None) if item is None else (item.energy, item.forces) for item in records]
        past.append(to_samples(room, int(answers["size"]), answers["places"], results))
        mode.seconds += sum(item.wall_seconds for item in records if item is not None)
    try:
        wanted = advance(room, asked.grid, past)
    except PhonosmithError as error:
        mode.skipped = f"failed: {error.message}"
        return mode
    if isinstance(wanted, Survey):
        record_survey(mode, room, wanted)
        frames, starts = chosen_starts(mode, room, asked.max_minima)
        if not relax or not starts:
            return mode
        zero = past[0][0].energy
        return _relaxations(mode, frames, zero, how, name, attempts)
    places, cells = displaced_cells(room, wanted)
    points = []
    for place, frame in zip(places, cells, strict=True):
        title = f"mode point {name} r{len(past)} {place:03d}"
        point = label_frame(Frame.from_atoms(frame), how, title, attempts)
        point.name, point.config = title, JobConfig(expose_store=True)
        points.append(point)
    kept = [[[item.energy, item.gradient] for item in one] for one in past]
    given = {"size": len(wanted), "places": places, "records": [point.output for point in points]}
    following = survey_round(mode, space, initial, how, options, name, relax, attempts, kept, given)
    _orchestrating(following, f"mode round {name} {len(past) + 1}")
    return Response(replace=Flow([*points, following], output=following.output, name=f"mode round {name} {len(past)}"))


def _record(item: Any) -> ReferenceRecord | None:
    """Return an accepted record, None for what failed or was refused."""
    if item is None:
        return None
    record = ReferenceRecord.model_validate(item)
    return record if record.accepted else None


def _relaxations(
    mode: FollowedMode,
    frames: list[Atoms],
    zero: float | None,
    engine: ReferenceEngine,
    name: str,
    attempts: int,
) -> Response[Any]:
    jobs = []
    for number, frame in enumerate(frames):
        title = f"mode relax {name} {number:02d}"
        one = relax_frame(Frame.from_atoms(frame), engine, title, attempts)
        one.name = title
        jobs.append(one)
    last = collect_pathways(mode, [Frame.from_atoms(frame) for frame in frames], zero, [one.output for one in jobs])
    last.name = f"mode collect {name}"
    last.config = JobConfig(on_missing_references=OnMissing.NONE)
    return Response(replace=Flow([*jobs, last], output=last.output, name=f"mode relax {name}"))


@job(output_schema=ReferenceRecord)
def relax_frame(frame: Frame, engine: ReferenceEngine, name: str, attempts: int) -> ReferenceRecord:
    """Relax cell and atoms of one displaced crystal; a refused result is kept with its reasons, not raised."""
    how, asked = ReferenceEngine.model_validate(engine), Frame.model_validate(frame)
    try:
        return how.compute(asked, "relax", name, attempts)
    except PhonosmithError as error:
        return refused(asked, how.protocol, "relax", how.name, Reason(code="relaxation", message=str(error)))


@job(output_schema=FollowedMode)
def collect_pathways(
    document: FollowedMode, frames: list[Frame], zero: float | None, records: list[Any]
) -> FollowedMode:
    """Name the phases that relaxations ended in; ``zero`` is the energy of the undisplaced supercell, eV."""
    mode = FollowedMode.model_validate(document)
    for start, frame, item in zip(mode.minima, frames, records, strict=False):
        atoms = Frame.model_validate(frame).to_atoms()
        record = None if item is None else ReferenceRecord.model_validate(item)
        mode.pathways.append(pathway_of(start, atoms, zero, record))
        mode.seconds += 0.0 if record is None else record.wall_seconds
    return mode


def pathway_of(start: GridMinimum, atoms: Atoms, zero: float | None, record: ReferenceRecord | None) -> Pathway:
    """Return what became of one displaced crystal whose undisplaced energy was ``zero`` eV."""
    displaced = phase_of(atoms).model_copy(
        update={"energy_difference_ev_per_atom": start.energy_ev_per_atom, "structure": None}
    )
    if record is None or not record.accepted or zero is None or record.positions is None:
        note = "the job left no result" if record is None else record.explain()
        return Pathway(start=start, displaced=displaced, final=None, converged=False, n_steps=0, note=note)
    ended = record.to_atoms()
    forces = np.array(record.forces if record.forces is not None else np.zeros((len(ended), 3)))
    return Pathway(
        start=start,
        displaced=displaced,
        final=phase_of(ended, record.energy, zero / len(ended)),
        converged=True,
        n_steps=record.ionic_steps or 0,
        max_force=float(np.linalg.norm(forces, axis=1).max()),
    )


@job(output_schema=TransitionDoc)
def collect_transitions(
    phonons: PhononDoc | dict[str, Any],
    modes: list[Any],
    initial: Phase,
    engine: ReferenceEngine,
    options: dict[str, Any],
) -> TransitionDoc:
    """Put the followed modes of one crystal together; one whose jobs failed is left out with a word."""
    how = ReferenceEngine.model_validate(engine)
    settings = {**asdict(FollowOptions.of(options)), "protocol": how.protocol.digest}
    with recorded(settings=settings) as manifest:
        followed = [FollowedMode.model_validate(item) for item in modes if item is not None]
        document = transition_document(
            _model(phonons), followed, Phase.model_validate(initial), how.functional, None, manifest
        )
    document.manifest = manifest
    document.seconds = sum(mode.seconds for mode in followed)
    return document


def _for_dft() -> FollowOptions:
    return FollowOptions(grid=GridOptions(coarse=True))


@dataclass
class ModeFollowingMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """Follow imaginary modes with a potential: one job, every round of points in one batch.

    Phonons and potential are arguments of `make`, because references to earlier jobs are not resolved inside a Maker.
    Without ``relax`` the energies along the modes are all.
    """

    name: str = "follow"
    options: FollowOptions = field(default_factory=FollowOptions)
    relax: bool = True

    def make(self, phonons: Any, potential: Any) -> Job:
        """Return the job; its output is a `TransitionDoc`.

        Parameters
        ----------
        phonons
            `PhononDoc` of the crystal (best: relaxed with the same potential), or the output of the job that makes it.
        potential
            `PotentialRef`, or the output of a job that returns one.
        """
        member = follow_potential(phonons, potential, asdict(FollowOptions.of(self.options)), self.relax)
        member.name = self.name
        return member


@dataclass
class TransitionMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """Follow imaginary modes with a reference engine: one job per point, in rounds, then one per relaxation.

    Attributes
    ----------
    name
        Stage in job names: ``follow gete vasp start``, ``mode point gete vasp m01 r1 004``, ``mode relax ...``.
    engine
        Who computes; its rehearsal plays VASP with the stand-in.
    options
        What is followed, and how; coarse to fine by default, since every point is a calculation.
    relax
        Relax from the minima.
    attempts
        How often a transient failure is started again within its job.
    """

    name: str = "follow"
    engine: ReferenceEngine | None = None
    options: FollowOptions = field(default_factory=_for_dft)
    relax: bool = True
    attempts: int = 2

    def make(self, phonons: Any, material: str) -> Job:
        """Return the job that starts everything; its output is a `TransitionDoc`.

        Parameters
        ----------
        phonons
            `PhononDoc` of the reference, or the output of the job that makes it.
        material
            Part of every job's name.
        """
        if self.engine is None:
            raise ConfigurationError("TransitionMaker has no engine.", "Pass one of reference.engines.make_engine.")
        label = f"{material.lower()} {self.engine.name}"
        options = asdict(FollowOptions.of(self.options))
        start = start_following(phonons, self.engine, options, label, self.relax, self.attempts)
        start.name = f"{self.name} {label} start"
        start.config = JobConfig(pass_manager_config=False)
        return start
