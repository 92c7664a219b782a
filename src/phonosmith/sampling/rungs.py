"""Configurations on the rungs of the energy ladder: steps of a relaxation, or between two of them.

The first steps of FIRE cross much of the energy drop at once, so that no step lies near some rungs. There the straight
line between the two steps around a rung is followed to the energy wanted, with new evaluations of the potential.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.sampling.fire import Trajectory
from phonosmith.sampling.selection import Selection

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.potentials.base import Potential

ACCURACY = 0.2
"""A configuration between steps is as near to its rung as this part of the tolerance that asked for it."""
MOST_ROUNDS = 20
"""Evaluations after which the nearest is taken (bisection alone would need about seven)."""


@dataclass(frozen=True)
class Configuration:
    """A configuration of a relaxation.

    Attributes
    ----------
    frame
        Without calculator.
    step, between
        Step of the relaxation, and the part of the way from there to the next step; 0 at the step itself.
    energy, max_force
        By the potential, eV; largest force on an atom, eV/Å.
    """

    frame: Atoms
    step: int
    between: float
    energy: float
    max_force: float


@dataclass
class _Gap:
    """The search for one rung between two steps."""

    trajectory: Trajectory
    step: int
    target: float
    accuracy: float
    low: float = 0.0
    high: float = 1.0
    best: Configuration | None = None

    def __post_init__(self) -> None:
        self.before, self.after = self.trajectory.energies[self.step : self.step + 2]

    @property
    def missed(self) -> float:
        """Distance of the best one so far from the rung, eV."""
        return np.inf if self.best is None else abs(self.best.energy - self.target)

    @property
    def trial(self) -> float:
        """Where to look next: by the line through both ends, at least a tenth of the interval inside."""
        width = self.high - self.low
        part = (self.before - self.target) / (self.before - self.after) if self.before != self.after else 0.5
        return self.low + width * float(np.clip(part, 0.1, 0.9))

    def frame(self, between: float) -> Atoms:
        """Return the configuration at a part of the way, cell and positions on straight lines."""
        first, second = self.trajectory.frames[self.step : self.step + 2]
        moved = first.copy()
        moved.set_cell((1 - between) * first.cell.array + between * second.cell.array)
        moved.positions = (1 - between) * first.positions + between * second.positions
        return moved

    def learn(self, found: Configuration) -> None:
        """Narrow the interval by one evaluation."""
        if abs(found.energy - self.target) < self.missed:
            self.best = found
        if found.energy >= self.target:
            self.low, self.before = found.between, found.energy
        else:
            self.high, self.after = found.between, found.energy


def place_on_rungs(
    trajectories: Sequence[Trajectory],
    selections: Sequence[Selection],
    usable: Sequence[Sequence[bool]],
    potential: Potential,
    tolerance: float,
) -> list[list[Configuration]]:
    """Return the configurations of each selection, moved between steps where rungs were missed.

    Parameters
    ----------
    usable
        Steps of each trajectory that are physical: only between two of those is looked.
    tolerance
        Part of the energy drop by which a step may miss its rung.
    """
    chosen = [stored_steps(*pair) for pair in zip(trajectories, selections, strict=True)]
    gaps: dict[tuple[int, int], _Gap] = {}
    for index, (trajectory, selection, physical) in enumerate(zip(trajectories, selections, usable, strict=True)):
        for rung in range(1, len(selection.steps)):
            if abs(selection.fractions[rung] - selection.parts[rung]) <= tolerance:
                continue
            step = _around(trajectory, physical, selection, rung)
            if step is not None:
                accuracy = ACCURACY * tolerance * selection.drop
                gaps[index, rung] = _Gap(trajectory, step, selection.targets[rung], accuracy)
    for _ in range(MOST_ROUNDS):
        open_gaps = [gap for gap in gaps.values() if gap.missed > gap.accuracy]
        if not open_gaps:
            break
        places = [gap.trial for gap in open_gaps]
        frames = [gap.frame(place) for gap, place in zip(open_gaps, places, strict=True)]
        evaluated = potential.evaluate(frames, stress=False)
        for gap, place, frame, result in zip(open_gaps, places, frames, evaluated, strict=True):
            force = float(np.linalg.norm(result.forces, axis=1).max())
            gap.learn(Configuration(frame, gap.step, place, float(result.energy), force))
    for (index, rung), gap in gaps.items():
        if gap.best is not None and gap.missed < abs(chosen[index][rung].energy - gap.target):
            chosen[index][rung] = gap.best
    return chosen


def stored_steps(trajectory: Trajectory, selection: Selection) -> list[Configuration]:
    """Return the steps of a selection."""
    energies, forces = trajectory.energies, trajectory.max_forces
    return [
        Configuration(trajectory.frames[step], step, 0.0, energies[step], float(forces[step]))
        for step in selection.steps
    ]


def _around(trajectory: Trajectory, usable: Sequence[bool], selection: Selection, rung: int) -> int | None:
    """Return the step after which the energy first falls through a rung, None where no two usable steps do."""
    target = selection.targets[rung]
    for step in range(selection.steps[0], len(trajectory.energies) - 1):
        falls = trajectory.energies[step] >= target >= trajectory.energies[step + 1]
        if falls and usable[step] and usable[step + 1]:
            return step
    return None
