"""FIRE for many configurations at once.

The steps are those of ASE's ``FIRE`` with its defaults (Bitzek et al. 2006, no downhill check), taken by every
configuration with its own time step and mixing; the forces of all configurations that still move come from one batched
evaluation per step. A converged configuration leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError, PotentialError

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.potentials.base import Evaluation, Potential

Array = NDArray[np.float64]
CellMode = Literal["fixed", "shape", "full"]

TIME_STEP, LARGEST_TIME_STEP, LARGEST_MOVE = 0.1, 1.0, 0.2
PATIENCE, GROWTH, CUT, MIXING, MIXING_DECAY = 5, 1.1, 0.5, 0.1, 0.99


@dataclass
class Trajectory:
    """A relaxation, first to last step.

    Attributes
    ----------
    energies
        eV.
    fmax
        Largest force on an atom, eV/Å (with a moving cell also the generalised cell force, as ASE counts it).
    max_forces
        Largest force on an atom, eV/Å.
    converged
        Whether the last ``fmax`` is below the asked one.
    """

    frames: list[Atoms] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    fmax: list[float] = field(default_factory=list)
    max_forces: list[float] = field(default_factory=list)
    converged: bool = False

    @property
    def n_steps(self) -> int:
        """Moves made."""
        return max(0, len(self.frames) - 1)


@dataclass
class _Walker:
    """State of FIRE for one configuration."""

    atoms: Atoms
    target: Any
    trajectory: Trajectory
    velocity: Array | None = None
    time_step: float = TIME_STEP
    mixing: float = MIXING
    downhill: int = 0

    def move(self, force: Array) -> None:
        """Make one step of FIRE."""
        if self.velocity is None:
            self.velocity = np.zeros_like(force)
        elif np.vdot(force, self.velocity) > 0.0:
            direction = force / np.sqrt(np.vdot(force, force))
            speed = np.sqrt(np.vdot(self.velocity, self.velocity))
            self.velocity = (1.0 - self.mixing) * self.velocity + self.mixing * direction * speed
            if self.downhill > PATIENCE:
                self.time_step = min(self.time_step * GROWTH, LARGEST_TIME_STEP)
                self.mixing *= MIXING_DECAY
            self.downhill += 1
        else:
            self.velocity, self.mixing, self.downhill = np.zeros_like(force), MIXING, 0
            self.time_step *= CUT
        self.velocity = self.velocity + self.time_step * force
        move = self.time_step * self.velocity
        length = float(np.sqrt(np.vdot(move, move)))
        if length > LARGEST_MOVE:
            move = LARGEST_MOVE * move / length
        self.target.set_positions(self.target.get_positions() + move)

    def record(self, evaluated: Evaluation, fmax: float) -> Array:
        """Keep this step and return the (generalised) forces on what moves."""
        if not np.isfinite(evaluated.energy) or not np.all(np.isfinite(evaluated.forces)):
            raise PotentialError(
                f"The potential gives no finite energy and forces for {self.atoms.get_chemical_formula()} at step "
                f"{len(self.trajectory.frames)}.",
                "Use another foundation, or less displacement and strain.",
            )
        if self.target is self.atoms:
            force = np.array(evaluated.forces, dtype=float)
        else:
            from ase.calculators.singlepoint import SinglePointCalculator

            self.atoms.calc = SinglePointCalculator(
                self.atoms, energy=evaluated.energy, forces=evaluated.forces, stress=evaluated.stress
            )
            force = np.array(self.target.get_forces(), dtype=float)
        kept = self.trajectory
        kept.frames.append(self.atoms.copy())
        kept.energies.append(float(evaluated.energy))
        kept.fmax.append(float(np.linalg.norm(force, axis=1).max()))
        kept.max_forces.append(float(np.linalg.norm(evaluated.forces, axis=1).max()))
        kept.converged = kept.fmax[-1] < fmax
        return force


def relax_batch(
    frames: Sequence[Atoms],
    potential: Potential,
    *,
    fmax: float = 1e-4,
    max_steps: int = 1000,
    cell: CellMode = "fixed",
    on_step: Callable[[int, int], None] | None = None,
) -> list[Trajectory]:
    """Relax configurations together with FIRE and return every step of each.

    Parameters
    ----------
    frames
        Starting configurations; left untouched.
    fmax
        Converged when the largest force is below this, eV/Å.
    max_steps
        Step cap for each configuration.
    cell
        ``fixed``: only atoms move (the protocol: a moving cell would undo the asked volume and distortion, and every
        trajectory would end in the same place). ``shape``: the cell moves at constant volume. ``full``: the cell
        moves freely (both with ASE's ``FrechetCellFilter``).
    on_step
        Called after every step with its number and how many configurations still move.
    """
    if fmax <= 0 or max_steps < 0:
        raise InputError(f"fmax {fmax} eV/Å and {max_steps} steps are no criterion.", "Give fmax > 0 and steps >= 0.")
    walkers = [_walker(atoms, cell) for atoms in frames]
    moving = list(walkers)
    for step in range(max_steps + 1):
        if not moving:
            break
        evaluated = potential.evaluate([walker.atoms for walker in moving], stress=cell != "fixed")
        forces = [walker.record(item, fmax) for walker, item in zip(moving, evaluated, strict=True)]
        pairs = [pair for pair in zip(moving, forces, strict=True) if not pair[0].trajectory.converged]
        moving = [walker for walker, _ in pairs]
        if on_step is not None:
            on_step(step, len(moving))
        if step < max_steps:
            for walker, force in pairs:
                walker.move(force)
    return [walker.trajectory for walker in walkers]


def _walker(frame: Atoms, cell: CellMode) -> _Walker:
    atoms = frame.copy()
    # constraints would be applied silently by ASE's setters but not by a batched evaluation
    atoms.set_constraint()
    if cell == "fixed":
        return _Walker(atoms, atoms, Trajectory())
    if cell not in ("shape", "full"):
        raise InputError(f"Cell mode {cell!r} is not known.", "Choose fixed, shape or full.")
    from ase.filters import FrechetCellFilter

    return _Walker(atoms, FrechetCellFilter(atoms, constant_volume=cell == "shape"), Trajectory())
