"""Mode following as jobflow jobs: one batched job for a potential, one job per point for DFT.

DFT answers a survey in rounds. Each round is a job that plays the survey again from the answers so far and is replaced
by the points wanted next and the following round, or, at the end, by the relaxations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Flow, Job, JobConfig, Maker, OnMissing, Response
from pydantic import ConfigDict, Field

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.changing import HoldingDocument, HoldingMaker, job
from phonosmith.core.document import Missing
from phonosmith.core.errors import ConfigurationError, PhonosmithError
from phonosmith.core.manifest import recorded
from phonosmith.core.reuse import reused
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, TransitionDoc
from phonosmith.evaluation.modes.follow import (
    FollowOptions,
    chosen_starts,
    displaced_cells,
    follow_with_potential,
    plan_modes,
    record_survey,
    to_sample,
    transition_document,
)
from phonosmith.evaluation.modes.grid import Sample, Survey, advance
from phonosmith.evaluation.modes.phases import displaced_phase, phase_of
from phonosmith.evaluation.modes.supercell import ModeSpace
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.documents import Frame, ReferenceRecord, Stopped
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.jobs import Answer, computed_frame, label_frame

if TYPE_CHECKING:
    from phonosmith.harmonic.model import HarmonicModel

PUBLISHED = FollowOptions()
WALL = "wall"
"""In place of the record of a point whose atoms would overlap: it is not calculated."""
NO_RESULT = "the job left no result"


class ReferenceFollowing(HoldingDocument):
    """What all jobs know that follow the modes of one crystal with a reference engine."""

    model_config = ConfigDict(frozen=True)

    engine: ReferenceEngine = Field(description="who computes")
    options: FollowOptions = Field(description="what is followed, and how")
    name: str = Field(description="part of every job's name: material, engine and number of the mode")
    relax: bool = Field(description="relax from the minima")
    attempts: int = Field(description="how often a transient failure is started again within its job")

    def settings(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {**self.options.model_dump(), "protocol": self.engine.protocol.digest}


def _model(phonons: PhononDoc | dict[str, Any]) -> HarmonicModel:
    return harmonic_from_document(PhononDoc.model_validate(phonons), default_artefacts())


@job(output_schema=TransitionDoc, config=JobConfig(expose_store=True))
@reused()
def follow_potential(
    phonons: PhononDoc | dict[str, Any], potential: PotentialRef | dict[str, Any], options: FollowOptions, relax: bool
) -> TransitionDoc:
    """Follow the modes of stored phonons on a potential's energy surface, each round of points in one batch."""
    from phonosmith.potentials.registry import load

    ref, asked = PotentialRef.model_validate(potential), FollowOptions.model_validate(options)
    return follow_with_potential(_model(phonons), load(ref), ref=ref, options=asked, relax=relax)


@job
def start_following(
    phonons: PhononDoc | dict[str, Any], following: ReferenceFollowing
) -> Response[Any] | TransitionDoc:
    """Find the modes; be replaced by a first round for each that is followed, and the job that collects them."""
    task = ReferenceFollowing.model_validate(following)
    with recorded(settings=task.settings()) as manifest:
        model = _model(phonons)
        planned = plan_modes(model, task.options)
    results: list[Any] = []
    rounds: list[Job] = []
    for number, (document, space) in enumerate(planned, start=1):
        results.append(document)
        if space is not None:
            of_mode = task.model_copy(update={"name": f"{task.name} m{number:02d}"})
            rounds.append(_round(document, space.as_dict(), of_mode, [], None))
            results[-1] = rounds[-1].output
    if not rounds:
        return transition_document(model, results, task.engine.functional, manifest)
    last = _collecting(collect_transitions(phonons, results, task), f"follow {task.name} collect")
    return Response(replace=Flow([*rounds, last], output=last.output, name=f"follow {task.name}"))


def _collecting(member: Job, name: str) -> Job:
    """Name a job that takes what others left, however many failed."""
    member.name = name
    member.config = JobConfig(on_missing_references=OnMissing.NONE)
    return member


def _round(
    document: FollowedMode,
    space: dict[str, Any],
    task: ReferenceFollowing,
    history: list[list[Sample]],
    answers: list[tuple[str, Any]] | None,
) -> Job:
    """Return a round; it starts other jobs, which belong to the worker of the reference program, not to its own."""
    number = len(history) + (answers is not None)
    member = _collecting(survey_round(document, space, task, history, answers), f"mode round {task.name} {number}")
    member.config.pass_manager_config = False
    return member


@job
def survey_round(
    document: FollowedMode,
    space: dict[str, Any],
    following: ReferenceFollowing,
    history: list[list[Sample]],
    answers: list[tuple[str, Any]] | None,
) -> Response[Any] | FollowedMode:
    """Take the answers to the last round, and ask for the next; with the survey done, relax from its minima.

    Parameters
    ----------
    document, space
        The mode and its amplitudes.
    history
        Samples of the rounds before the last: [energy in eV or None, gradient in eV/(Å√amu) or None] each.
    answers
        Records of the last round by the names of their jobs: None where one left nothing, or `WALL`.
    """
    mode, room = FollowedMode.model_validate(document), ModeSpace.from_dict(space)
    task = ReferenceFollowing.model_validate(following)
    past = [[Sample(*one) for one in samples] for samples in history]
    if answers is not None:
        records = [None if item == WALL else _accepted(mode, title, _record(item)) for title, item in answers]
        past.append([Sample(None) if one is None else to_sample(room, one.energy, one.forces) for one in records])
        mode.seconds += sum(one.wall_seconds for one in records if one is not None)
    try:
        wanted = advance(room, task.options.grid, past)
    except PhonosmithError as error:
        mode.skipped = f"failed: {error.message}"
        return mode
    if isinstance(wanted, Survey):
        record_survey(mode, room, wanted)
        displaced, starts = chosen_starts(mode, room, task.options.max_minima)
        if not task.relax or not starts:
            return mode
        return _relaxations(mode, [Frame.from_atoms(one) for one in displaced], past[0][0].energy, task)
    points: list[Job] = []
    asked: list[tuple[str, Any]] = [("", WALL)] * len(wanted)
    for place, frame in displaced_cells(room, wanted).items():
        title = f"mode point {task.name} r{len(past)} {place:03d}"
        point = label_frame(Frame.from_atoms(frame), task.engine, title, task.attempts)
        point.name = title
        points.append(point)
        asked[place] = title, point.output
    after = _round(mode, space, task, past, asked)
    title = f"mode round {task.name} {len(past)}"
    return Response(replace=Flow([*points, after], output=after.output, name=title))


def _record(item: Any) -> ReferenceRecord | None:
    return None if item is None else ReferenceRecord.model_validate(item)


def _accepted(mode: FollowedMode, title: str, record: ReferenceRecord | None) -> ReferenceRecord | None:
    """Return an accepted record; of a job that failed or was refused, say in the mode that it is missing."""
    if record is not None and record.accepted:
        return record
    mode.missing.append(Missing(what=title, reason=NO_RESULT if record is None else record.explain()))
    return None


def _relaxations(
    mode: FollowedMode, frames: list[Frame], zero: float | None, task: ReferenceFollowing
) -> Response[Any]:
    jobs = []
    for number, frame in enumerate(frames):
        title = f"mode relax {task.name} {number:02d}"
        jobs.append(relax_frame(frame, task.engine, title, task.attempts))
        jobs[-1].name = title
    outputs = [(one.name, one.output) for one in jobs]
    last = _collecting(collect_pathways(mode, frames, zero, outputs), f"mode collect {task.name}")
    return Response(replace=Flow([*jobs, last], output=last.output, name=f"mode relax {task.name}"))


@job(output_schema=ReferenceRecord, config=JobConfig(expose_store=True))
@reused("name", "attempts", "stopped")
def relax_frame(
    frame: Frame, engine: ReferenceEngine, name: str, attempts: int, stopped: Stopped | None = None
) -> Answer:
    """Relax cell and atoms of one displaced crystal; a refused result is left to be read, and the job fails."""
    return computed_frame(frame, engine, "relax", name, attempts, stopped, relax_frame)


@job(output_schema=FollowedMode)
def collect_pathways(
    document: FollowedMode, frames: list[Frame], zero: float | None, records: list[tuple[str, Any]]
) -> FollowedMode:
    """Name the phases that relaxations ended in; ``zero`` is the energy of the undisplaced supercell, eV."""
    mode = FollowedMode.model_validate(document)
    for start, frame, (title, item) in zip(mode.minima, frames, records, strict=False):
        record = _record(item)
        _accepted(mode, title, record)
        mode.pathways.append(_pathway(start, Frame.model_validate(frame), zero, record))
        mode.seconds += 0.0 if record is None else record.wall_seconds
    return mode


def _pathway(start: GridMinimum, frame: Frame, zero: float | None, record: ReferenceRecord | None) -> Pathway:
    """Return what became of one displaced crystal whose undisplaced energy was ``zero`` eV."""
    pathway = Pathway(start=start, displaced=displaced_phase(frame.to_atoms(), start), converged=False, n_steps=0)
    if record is None or not record.accepted or zero is None or record.energy is None or record.positions is None:
        pathway.note = NO_RESULT if record is None else record.explain()
        return pathway
    ended = record.to_atoms()
    forces = np.zeros((len(ended), 3)) if record.forces is None else np.array(record.forces)
    pathway.final = phase_of(ended, record.energy / len(ended) - zero / len(ended))
    pathway.converged, pathway.n_steps = True, record.ionic_steps or 0
    pathway.max_force = float(np.linalg.norm(forces, axis=1).max())
    return pathway


@job(output_schema=TransitionDoc)
def collect_transitions(
    phonons: PhononDoc | dict[str, Any], modes: list[Any], following: ReferenceFollowing
) -> TransitionDoc:
    """Put the followed modes of one crystal together; one whose jobs failed is left out and named."""
    task = ReferenceFollowing.model_validate(following)
    with recorded(settings=task.settings()) as manifest:
        followed = [FollowedMode.model_validate(item) for item in modes if item is not None]
        document = transition_document(_model(phonons), followed, task.engine.functional, manifest)
    lost = [number for number, item in enumerate(modes, start=1) if item is None]
    document.missing[:0] = [Missing(what=f"mode {number} of {len(modes)}", reason=NO_RESULT) for number in lost]
    document.seconds = sum(mode.seconds for mode in followed)
    return document


@dataclass
class ModeFollowingMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """Follow imaginary modes with a potential: one job, every round of points in one batch.

    Phonons and potential are arguments of `make`, because references to earlier jobs are not resolved inside a Maker.
    Without ``relax`` the energies along the modes are all.
    """

    name: str = "follow"
    options: FollowOptions = PUBLISHED
    relax: bool = True

    def make(self, phonons: Any, potential: Any) -> Job:
        """Return the job; its output is a `TransitionDoc`.

        It takes the `PhononDoc` of the crystal (best: relaxed with the same potential) and a `PotentialRef`, or outputs
        of the jobs that make them.
        """
        member = follow_potential(phonons, potential, self.options, self.relax)
        member.name = self.name
        return member


@dataclass
class TransitionMaker(HoldingMaker):
    """Follow imaginary modes with a reference engine: one job per point, in rounds, then one per relaxation.

    Attributes
    ----------
    name
        Stage in job names: ``follow gete vasp start``, ``mode point gete vasp m01 r1 004``, ``mode relax ...``.
    engine, options, relax, attempts
        See `ReferenceFollowing`. The engine is used with the cheaper settings its protocol has for modes. Full grids,
        as published; ``grid.coarse`` saves most of the calculations, each point being one.
    """

    name: str = "follow"
    engine: ReferenceEngine | None = None
    options: FollowOptions = PUBLISHED
    relax: bool = True
    attempts: int = 2

    def make(self, phonons: Any, material: str) -> Job:
        """Return the job that starts everything; its output is a `TransitionDoc`.

        ``phonons`` are the `PhononDoc` of the reference, or the output of the job that makes it; ``material`` is part
        of every job's name.
        """
        if self.engine is None:
            raise ConfigurationError("TransitionMaker has no engine.", "Pass one of reference.engines.make_engine.")
        label = f"{material.lower()} {self.engine.name}"
        task = ReferenceFollowing(
            engine=self.engine.for_modes(), options=self.options, name=label, relax=self.relax, attempts=self.attempts
        )
        start = start_following(phonons, task)
        start.name = f"{self.name} {label} start"
        start.config = JobConfig(pass_manager_config=False)
        return start
