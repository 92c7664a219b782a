"""Energies over the amplitudes of a mode: which points to ask for, in rounds, until every minimum is bracketed.

The survey of one space of amplitudes is a generator: it yields the amplitudes it needs next and is sent their samples.
A potential answers a round in one batch; DFT answers it with one job per point, and the survey is played again from the
stored answers (`advance`). Ranges are powers of two of a first guess, so that the points of all ranges lie on one fine
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
from collections.abc import Callable, Generator, Sequence
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

    model_config = ConfigDict(frozen=True)

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


@dataclass
class Survey:
    """What a space of amplitudes looks like.

    Attributes
    ----------
    axis, energies
        Grid values along each axis, Å√amu; energies of the supercell above zero amplitude in eV, shape (points, ...),
        nan where not calculated.
    minima, single_minimum
        Inequivalent ones away from zero, lowest first; whether there is none.
    n_energies, n_plain
        Calculated; and what plain grids of the same ranges would have taken.
    fit_r2
        Of a parabola (general quadratic form) through the known points.
    notes
        What a reader should know.
    """

    axis: Array
    energies: Array
    minima: list[Minimum]
    n_energies: int
    n_plain: int
    single_minimum: bool
    fit_r2: float | None
    notes: list[str] = field(default_factory=list)


class _Table:
    """Samples on the fine integer grid, one for each set of equivalent points."""

    def __init__(self, space: ModeSpace, options: GridOptions) -> None:
        self.half = options.points[space.dimension - 1] // 2
        first = options.displacement / space.reach
        self.unit = first / (self.half * 2**_LEVELS)
        actions = space.operations if options.symmetry else np.eye(space.dimension)[None]
        whole = np.rint(actions)
        on_grid = (np.abs(actions - whole).max(axis=(1, 2)) < 0.02) & (
            np.abs(whole).sum(axis=(1, 2)) == space.dimension
        )
        self.actions = whole[on_grid].astype(int)
        self.samples: dict[Point, Sample] = {}
        self.zero = 0.0
        self._representatives: dict[Point, Point] = {}

    def representative(self, point: Point) -> Point:
        first = self._representatives.get(point)
        if first is None:
            images = [tuple(image) for image in (self.actions @ np.array(point)).tolist()]
            first = max(images)
            self._representatives |= dict.fromkeys(images, first)
        return first

    def missing(self, points: Sequence[Point]) -> list[Point]:
        """Return one of each set of equivalent points that is not known yet, in a fixed order."""
        return sorted({self.representative(point) for point in points} - set(self.samples))

    def energy(self, point: Point) -> float:
        """Energy above zero amplitude in eV; infinite at a wall."""
        value = self.samples[self.representative(point)].energy
        return np.inf if value is None else value - self.zero

    def known(self, point: Point) -> bool:
        return self.representative(point) in self.samples

    def gradient(self, point: Point) -> Array | None:
        target = self.representative(point)
        slope = self.samples[target].gradient
        if slope is None:
            return None
        images = self.actions @ np.array(point)
        action = self.actions[int(np.flatnonzero((images == target).all(axis=1))[0])]
        return np.asarray(action.T @ np.array(slope), dtype=float)


Rounds = Generator[list[Point], None, None]


def survey(space: ModeSpace, options: GridOptions) -> Generator[Array, Sequence[Sample], Survey]:
    """Survey a space of amplitudes: yields amplitudes (n, dimension), is sent their samples, returns the survey."""
    if space.dimension > len(options.points):
        raise InputError(
            f"{space.dimension} degenerate modes: grids are defined for up to {len(options.points)} dimensions.",
            "Leave this subspace out.",
        )
    table = _Table(space, options)
    rounds = _rounds(table, space, options)
    while True:
        try:
            wanted = table.missing(next(rounds))
        except StopIteration as stop:
            return _result(table, space, *stop.value)
        if wanted:
            answers = yield np.array(wanted, dtype=float) * table.unit
            table.samples.update(zip(wanted, answers, strict=True))
            zero = table.samples[(0,) * space.dimension].energy
            if zero is None:
                raise InputError("The undisplaced crystal has no energy.", "Look at that calculation first.")
            table.zero = zero


def _rounds(
    table: _Table, space: ModeSpace, options: GridOptions
) -> Generator[list[Point], None, tuple[int, list[int], list[Point], list[str]]]:
    """Yield points wanted round by round; return the final level, all levels filled, minima and notes."""
    dimension, half = space.dimension, table.half
    yield [(0,) * dimension]
    level, visited, notes = (yield from _bracket(table, dimension, options)), [], []
    while True:
        visited.append(level)
        minima = yield from _fill(table, dimension, level, coarse=options.coarse)
        edge = half * 2**level
        at_edge = [point for point in minima if max(abs(value) for value in point) == edge]
        if not at_edge:
            break
        if level + 1 in visited or options.displacement * 2.0 ** (level + 1 - _LEVELS) > options.largest:
            notes.append(f"{len(at_edge)} minima at the edge of the range are not bracketed and were left out")
            minima = [point for point in minima if point not in at_edge]
            break
        level += 1
    return level, visited, minima, notes


def _bracket(table: _Table, dimension: int, options: GridOptions) -> Generator[list[Point], None, int]:
    """Find the range: the outermost of the lowest points along all directions should lie well inside it."""
    half = table.half
    offsets = [j for j in range(1, half + 1) if half < 6 or j % 2 == 0]
    directions = {
        table.representative(point) for point in itertools.product((-1, 0, 1), repeat=dimension) if any(point)
    }
    level, visited, seen_lower = _LEVELS, set(), False
    while level not in visited:
        visited.add(level)
        lines = [[tuple(j * 2**level * v for v in way) for j in offsets] for way in sorted(directions)]
        yield [point for line in lines for point in line]
        lowest = []
        for line in lines:
            energies = [0.0, *(table.energy(point) for point in line)]
            lowest.append((0, *offsets)[int(np.argmin(energies))])
        outer = max(lowest)
        seen_lower = seen_lower or outer > 0
        displacement = options.displacement * 2.0 ** (level - _LEVELS)
        if outer == half and 2 * displacement <= options.largest:
            level += 1
        elif outer == 0 and not seen_lower and displacement / 4 >= options.smallest:
            level -= 2
        elif 0 < outer <= 0.2 * half and displacement / 2 >= options.smallest:
            level -= 1
        elif outer == 0 and not seen_lower:
            return _LEVELS
        else:
            break
    return level


def _fill(table: _Table, dimension: int, level: int, *, coarse: bool) -> Generator[list[Point], None, list[Point]]:
    """Calculate the grid of one range and return its local minima, one of each equivalent set."""
    half, step = table.half, 2**level
    fine = range(-half, half + 1)
    if not coarse:
        points = [tuple(j * step for j in place) for place in itertools.product(fine, repeat=dimension)]
        yield points
        return _distinct(table, [p for p in points if any(p) and _is_minimum(table, p, _box(p, step, half))])
    thin = sorted({0, half, -half} | {j for j in fine if j % 2 == 0})
    places = list(itertools.product(thin, repeat=dimension))
    yield [tuple(j * step for j in place) for place in places]
    near = {j: [k for k in thin if abs(thin.index(k) - thin.index(j)) <= 1] for j in thin}
    centres = []
    for place in places:
        around = [tuple(k * step for k in other) for other in itertools.product(*(near[j] for j in place))]
        point = tuple(j * step for j in place)
        if any(place) and _is_minimum(table, point, around):
            centres.append(point)
    zero = (0,) * dimension
    # wells closer than the coarse step show beside zero only: lower than zero and than the next coarse point that way
    beside = _box(zero, step, half)
    yield beside
    further = {point: table.energy(tuple(2 * value for value in point)) for point in beside}
    centres += [point for point in beside if table.energy(point) < min(0.0, further[point])]
    centres, done = _distinct(table, centres), set()
    while centres:
        yield [other for centre in centres for other in _box(centre, step, half)]
        following = []
        for centre in centres:
            best = min(_box(centre, step, half), key=table.energy)
            if table.energy(best) < table.energy(centre):
                following.append(best)
            else:
                done.add(table.representative(centre))
        centres = [point for point in _distinct(table, following) if point not in done and point != zero]
    return sorted(done)


def _box(point: Point, step: int, half: int, reach: int = 1) -> list[Point]:
    """Return the neighbourhood of a point inside the grid, itself included: 3^d points for a reach of one step."""
    moves = itertools.product([k * step for k in range(-reach, reach + 1)], repeat=len(point))
    near = (tuple(p + m for p, m in zip(point, move, strict=True)) for move in moves)
    return [other for other in near if max(abs(value) for value in other) <= half * step]


def _is_minimum(table: _Table, point: Point, around: Sequence[Point]) -> bool:
    here = table.energy(point)
    return bool(np.isfinite(here) and all(here <= table.energy(other) for other in around))


def _distinct(table: _Table, points: Sequence[Point]) -> list[Point]:
    return sorted({table.representative(point) for point in points})


def _result(
    table: _Table, space: ModeSpace, level: int, visited: list[int], points: list[Point], notes: list[str]
) -> Survey:
    dimension, half, step = space.dimension, table.half, 2**level
    fine = range(-half, half + 1)
    values = [
        table.energy(point) if table.known(point) else np.nan
        for point in (tuple(j * step for j in place) for place in itertools.product(fine, repeat=dimension))
    ]
    energies = np.array(values).reshape([2 * half + 1] * dimension)
    energies[np.isinf(energies)] = np.nan
    axis = np.arange(-half, half + 1) * step * table.unit
    width = float(step * table.unit)
    minima: list[Minimum] = []
    for point in sorted(points, key=table.energy):
        reach = 2 if dimension == 1 and table.gradient(point) is None else 1
        near = _box(point, step, half, reach)
        box = [other for other in near if table.known(other) and np.isfinite(table.energy(other))]
        samples = [(np.array(other) * table.unit, table.energy(other), table.gradient(other)) for other in box]
        lowest = interpolated_minimum(np.array(point) * table.unit, table.energy(point), samples, width)
        place = symmetrised(lowest[0], space.operations, 0.5 * width)
        same = (np.linalg.norm(space.operations @ place - other.amplitudes, axis=1).min() for other in minima)
        if not any(distance < 0.75 * width for distance in same):
            minima.append(Minimum(place, lowest[1]))
    return Survey(
        axis=axis,
        energies=energies,
        minima=sorted(minima, key=lambda one: one.energy),
        n_energies=len(table.samples),
        n_plain=len(visited) * (2 * half + 1) ** dimension,
        single_minimum=not minima,
        fit_r2=parabola_r2(axis, energies),
        notes=notes,
    )


def run_survey(space: ModeSpace, options: GridOptions, sample: Callable[[Array], Sequence[Sample]]) -> Survey:
    """Survey with a function that answers each round at once."""
    rounds = survey(space, options)
    wanted = next(rounds)
    while True:
        try:
            wanted = rounds.send(sample(wanted))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def advance(space: ModeSpace, options: GridOptions, history: Sequence[Sequence[Sample]]) -> Array | Survey:
    """Play a survey again with the answers so far; return the amplitudes wanted next, or the finished survey."""
    rounds = survey(space, options)
    wanted = next(rounds)
    try:
        for answers in history:
            wanted = rounds.send(answers)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    return wanted
