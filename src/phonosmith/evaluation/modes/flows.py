"""Makers of mode following, for a potential and for any reference engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from jobflow import Job, JobConfig, Maker

from phonosmith.core.errors import ConfigurationError
from phonosmith.evaluation.modes.follow import FollowOptions
from phonosmith.evaluation.modes.grid import GridOptions
from phonosmith.evaluation.modes.jobs import follow_potential, start_following
from phonosmith.reference.engines import ReferenceEngine


def _for_dft() -> FollowOptions:
    return FollowOptions(grid=GridOptions(coarse=True))


@dataclass
class ModeFollowingMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """Follow imaginary modes with a potential: one job, every round of points in one batch.

    Phonons and potential are arguments of `make`, because references to earlier jobs are not resolved inside a Maker.

    Attributes
    ----------
    name
        Job name, e.g. ``follow gete delta``.
    options
        What is followed, and how.
    relax
        Relax from the minima.
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
