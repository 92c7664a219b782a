"""Energies over the amplitudes of a mode: which points to ask for, in rounds, until every minimum is bracketed.

The survey of one space of amplitudes asks for the samples it needs next, round by round. A potential answers a round in
one batch; DFT answers it with one job per point, and the survey is played again from the stored answers (`advance`).
Ranges are powers of two of a first guess, so that the points of all ranges lie on one fine
grid of integers and none is calculated twice, nor any that an operation of the crystal maps onto one known.

1. Scan along the directions of {-1, 0, 1}^d: widen the range while the lowest energy is at the end, narrow it while it
   is at (or next to) zero. Where nothing is ever lower than zero the first range is kept.
2. Fill the grid: all points, or every other one with the neighbourhoods of its minima (coarse to fine).
3. A minimum at the edge of the grid widens the range once more.
4. Each local minimum (no neighbour in the 3^d box lower) is placed between grid points by a polynomial through energies
   and slopes of its box, and put back onto the symmetry it has within half a grid step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError
from phonosmith.evaluation.modes.fit import interpolated_minimum, parabola_r2, symmetrised

if TYPE_CHECKING:
    from phonosmith.evaluation.modes.supercell import ModeSpace

Array = NDArray[np.float64]
Point = tuple[int, ...]

_LEVELS = 6
"""The first range may be halved this often."""


class Sample(NamedTuple):
    """What is known at one point: energy of the supercell, eV, and its derivative by the amplitudes, eV/(Å√amu).

    A point without energy could not be calculated and counts as a wall; without forces the derivative is not known.
    """

    energy: float | None
    gradient: tuple[float, ...] | None = None


class GridOptions(Document):
    """How amplitudes are surveyed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: tuple[int, ...] = Field(
        (21, 21, 9, 7),
        description="odd numbers of grid points along each axis for one to four dimensions, as published",
    )
    coarse: bool = Field(False, description="every other point first, then the neighbourhoods of the minima only")
    symmetry: bool = Field(True, description="leave out points that operations of the crystal map onto others")
    displacement: float = Field(
        0.4, description="first guess of the range: largest displacement of an atom along an axis, Å"
    )
    smallest: float = Field(0.02, description="the range is not narrowed below this displacement, Å")
    largest: float = Field(1.6, description="the range is not widened beyond this displacement, Å")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.points or any(number < 5 or number % 2 == 0 for number in self.points):
            raise InputError(f"Grid points {self.points} are not odd numbers of five or more.", "Give e.g. 21,21,9,7.")
        if not 0 < self.smallest <= self.displacement <= self.largest:
            raise InputError("The displacements of the grid are not ordered.", "smallest <= displacement <= largest.")
        if self.displacement > self.smallest * 2**_LEVELS:
            raise InputError(
                f"The smallest displacement is less than 1/{2**_LEVELS} of the first guess.", "Give a smaller guess."
            )
        return self


@dataclass(frozen=True)
class Minimum:
    """A local minimum: amplitudes in Å√amu and energy of the supercell above zero amplitude, eV."""

    amplitudes: Array
    energy: float


Sampler = Callable[[Array], Sequence[Sample]]


@dataclass
class Survey:
    """What a space of amplitudes looks like; its other fields are those of `FollowedMode`.

    Attributes
    ----------
    axis, energies
        Grid values along each axis, Å√amu; energies of the supercell above zero amplitude in eV, shape (points, ...),
        nan where not calculated.
    minima, n_plain
        Inequivalent ones away from zero, lowest first; energies that plain grids of the same ranges would have taken.
    """

    axis: Array
    energies: Array
    minima: list[Minimum]
    n_energies: int
    n_plain: int
    single_minimum: bool
    fit_r2: float | None
    notes: list[str] = field(default_factory=list)


class _UnansweredError(Exception):
    """A round that stored answers do not cover; its argument are the amplitudes."""


class _Grid:
    """The rounds of a survey, with samples on the fine integer grid: one for each set of equivalent points."""

    def __init__(self, space: ModeSpace, options: GridOptions, sample: Sampler) -> None:
        self.space, self.options, self.sample = space, options, sample
        self.dimension = space.dimension
        self.half = options.points[self.dimension - 1] // 2
        self.unit = options.displacement / space.reach / (self.half * 2**_LEVELS)
        actions = space.operations if options.symmetry else np.eye(self.dimension)[None]
        integers = np.rint(actions)
        near = np.abs(actions - integers).max(axis=(1, 2)) < 0.02
        self.actions = integers[near & (np.abs(integers).sum(axis=(1, 2)) == self.dimension)].astype(int)
        self.samples: dict[Point, Sample] = {}
        self.zero = 0.0
        self._representatives: dict[Point, Point] = {}

    def representative(self, point: Point) -> Point:
        """Return the one of a set of equivalent points that stands for all."""
        if point not in self._representatives:
            images = [tuple(image) for image in (self.actions @ np.array(point)).tolist()]
            self._representatives |= dict.fromkeys(images, max(images))
        return self._representatives[point]

    def distinct(self, points: Iterable[Point]) -> list[Point]:
        """Return one of each set of equivalent points, in a fixed order."""
        return sorted({self.representative(point) for point in points})

    def ask(self, points: Iterable[Point]) -> None:
        """Get samples of the points that are not known yet."""
        wanted = [point for point in self.distinct(points) if point not in self.samples]
        if wanted:
            answers = self.sample(np.array(wanted, dtype=float) * self.unit)
            self.samples.update(zip(wanted, answers, strict=True))

    def energy(self, point: Point) -> float:
        """Return the energy above zero amplitude in eV: infinite at a wall, nan where it was not asked for."""
        sample = self.samples.get(self.representative(point), Sample(np.nan))
        return np.inf if sample.energy is None else sample.energy - self.zero

    def gradient(self, point: Point) -> Array | None:
        """Return the slope of the energy at a known point, in the axes of amplitudes."""
        target = self.representative(point)
        slope = self.samples[target].gradient
        if slope is None:
            return None
        images = self.actions @ np.array(point)
        action = self.actions[int(np.flatnonzero((images == target).all(axis=1))[0])]
        return np.asarray(action.T @ np.array(slope), dtype=float)

    def survey(self) -> Survey:
        """Ask round by round until every minimum is bracketed."""
        origin = (0,) * self.dimension
        self.ask([origin])
        zero = self.samples[origin].energy
        if zero is None:
            raise InputError("The undisplaced crystal has no energy.", "Look at that calculation first.")
        self.zero = zero
        level, filled, notes = self._bracket(), [], []
        while True:
            filled.append(level)
            minima = self._fill_coarse(2**level) if self.options.coarse else self._fill(2**level)
            edge = self.half * 2**level
            at_edge = [point for point in minima if max(map(abs, point)) == edge]
            if not at_edge:
                break
            if level + 1 in filled or self._displacement(level + 1) > self.options.largest:
                notes.append(f"{len(at_edge)} minima at the edge of the range are not bracketed and were left out")
                minima = [point for point in minima if point not in at_edge]
                break
            level += 1
        return self._result(2**level, minima, len(filled), notes)

    def _displacement(self, level: int) -> float:
        return self.options.displacement * 2.0 ** (level - _LEVELS)

    def _bracket(self) -> int:
        """Find the range: the outermost of the lowest points along all directions should lie well inside it."""
        half, smallest, largest = self.half, self.options.smallest, self.options.largest
        offsets = [0] + [j for j in range(1, half + 1) if half < 6 or j % 2 == 0]
        ways = self.distinct(way for way in itertools.product((-1, 0, 1), repeat=self.dimension) if any(way))
        level, visited, seen_lower = _LEVELS, set(), False
        while level not in visited:
            visited.add(level)
            lines = [[tuple(j * 2**level * v for v in way) for j in offsets] for way in ways]
            self.ask(itertools.chain(*lines))
            outer = max(offsets[int(np.argmin([self.energy(point) for point in line]))] for line in lines)
            seen_lower = seen_lower or outer > 0
            displacement = self._displacement(level)
            if outer == half and 2 * displacement <= largest:
                level += 1
            elif outer == 0 and not seen_lower and displacement / 4 >= smallest:
                level -= 2
            elif 0 < outer <= 0.2 * half and displacement / 2 >= smallest:
                level -= 1
            elif outer == 0 and not seen_lower:
                return _LEVELS
            else:
                break
        return level

    def _points(self, step: int) -> list[Point]:
        values = range(-self.half * step, self.half * step + 1, step)
        return list(itertools.product(values, repeat=self.dimension))

    def _fill(self, step: int) -> list[Point]:
        """Ask for the grid of one range and return its local minima, one of each equivalent set."""
        points = self._points(step)
        self.ask(points)
        return self.distinct(p for p in points if any(p) and self._is_minimum(p, self._box(p, step)))

    def _fill_coarse(self, step: int) -> list[Point]:
        """Do so with every other point, and then the neighbourhoods of the minima only."""
        origin, edge = (0,) * self.dimension, self.half * step
        thin = sorted({-edge, edge, *range(0, edge + 1, 2 * step), *range(0, -edge - 1, -2 * step)})
        near = {value: thin[max(i - 1, 0) : i + 2] for i, value in enumerate(thin)}
        points = list(itertools.product(thin, repeat=self.dimension))
        self.ask(points)
        lowest = [p for p in points if any(p) and self._is_minimum(p, itertools.product(*(near[v] for v in p)))]
        # closer wells than the coarse step show beside zero only: lower than zero and the next coarse point that way
        beside = self._box(origin, step)
        self.ask(beside)
        further = {point: self.energy(tuple(2 * value for value in point)) for point in beside}
        lowest += [point for point in beside if self.energy(point) < min(0.0, further[point])]
        centres, done = self.distinct(lowest), set()
        while centres:
            boxes = [self._box(centre, step) for centre in centres]
            self.ask(itertools.chain(*boxes))
            following = []
            for centre, box in zip(centres, boxes, strict=True):
                best = min(box, key=self.energy)
                if self.energy(best) < self.energy(centre):
                    following.append(best)
                else:
                    done.add(centre)
            centres = [point for point in self.distinct(following) if point not in done and point != origin]
        return sorted(done)

    def _box(self, point: Point, step: int, reach: int = 1) -> list[Point]:
        """Return the neighbourhood of a point inside the grid, itself included: 3^d points for a reach of one step."""
        edge, moves = self.half * step, range(-reach * step, reach * step + 1, step)
        return list(itertools.product(*([v + move for move in moves if abs(v + move) <= edge] for v in point)))

    def _is_minimum(self, point: Point, around: Iterable[Point]) -> bool:
        here = self.energy(point)
        return bool(np.isfinite(here)) and all(here <= self.energy(other) for other in around)

    def _result(self, step: int, points: list[Point], n_filled: int, notes: list[str]) -> Survey:
        count, width = 2 * self.half + 1, float(step * self.unit)
        values = np.array([self.energy(point) for point in self._points(step)])
        energies = np.where(np.isfinite(values), values, np.nan).reshape([count] * self.dimension)
        axis = np.arange(-self.half, self.half + 1) * step * self.unit
        operations = self.space.operations
        minima: list[Minimum] = []
        for point in sorted(points, key=self.energy):
            reach = 2 if self.dimension == 1 and self.gradient(point) is None else 1
            box = [other for other in self._box(point, step, reach) if np.isfinite(self.energy(other))]
            samples = [(np.array(other) * self.unit, self.energy(other), self.gradient(other)) for other in box]
            lowest, energy = interpolated_minimum(np.array(point) * self.unit, self.energy(point), samples, width)
            place = symmetrised(lowest, operations, 0.5 * width)
            apart = [np.linalg.norm(operations @ place - other.amplitudes, axis=1).min() for other in minima]
            if min(apart, default=np.inf) >= 0.75 * width:
                minima.append(Minimum(place, energy))
        return Survey(
            axis=axis,
            energies=energies,
            minima=sorted(minima, key=lambda one: one.energy),
            n_energies=len(self.samples),
            n_plain=n_filled * count**self.dimension,
            single_minimum=not minima,
            fit_r2=parabola_r2(axis, energies),
            notes=notes,
        )


def run_survey(space: ModeSpace, options: GridOptions, sample: Sampler) -> Survey:
    """Survey a space of amplitudes with a function that answers each round: amplitudes (n, dimension) to samples."""
    if space.dimension > len(options.points):
        raise InputError(
            f"{space.dimension} degenerate modes: grids are defined for up to {len(options.points)} dimensions.",
            "Leave this subspace out.",
        )
    return _Grid(space, options, sample).survey()


def advance(space: ModeSpace, options: GridOptions, history: Sequence[Sequence[Sample]]) -> Array | Survey:
    """Play a survey again with the answers so far; return the amplitudes wanted next, or the finished survey."""
    answers = iter(history)

    def sample(amplitudes: Array) -> Sequence[Sample]:
        for samples in answers:
            return samples
        raise _UnansweredError(amplitudes)

    try:
        return run_survey(space, options, sample)
    except _UnansweredError as error:
        return np.asarray(error.args[0])
