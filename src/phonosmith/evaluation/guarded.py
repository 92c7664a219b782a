"""A potential that keeps each crystal's symmetry while it relaxes, and gives up the ones that run away.

Batched FIRE takes forces as they come. Between the two stands this wrapper: it projects forces and stress onto the
symmetry a crystal had when it started, so that rounding cannot lower it, and it takes a crystal that collapses, flies
apart or meets numbers that are not finite out of the batch with a note instead of ending every other relaxation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.potentials.base import Evaluation
from phonosmith.sampling.ladder import shortest_distance

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.potentials.base import Potential

Array = NDArray[np.float64]
SpglibCell = tuple[Any, Any, Any]

CONSTRAINT_SYMPREC = 1e-3
"""Å. Symmetry that is kept. The tolerance that names phases (0.1 Å) would see most displaced crystals as undisplaced,
and keeping that symmetry would only lead back."""
LARGEST_VOLUME_FACTOR = 1.5
"""Displacive transitions change volumes by a few percent; half again as much (or two thirds) is another crystal."""
SHORTEST_DISTANCE_FRACTION = 0.5
"""Of the shortest distance at the start: below it potentials are extrapolating into overlapping atoms."""
LARGEST_ENERGY_CHANGE = 1.0
"""eV/atom. Displacive transitions gain meV per atom; an eV is a hole of the potential."""
_TAG = "phonosmith_relaxation"


def ask_spglib(question: Callable[..., Any], cell: SpglibCell, **options: Any) -> Any:
    """Return spglib's answer, None where it finds none; its warnings say the same at length."""
    import spglib

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return question(cell, **options)
    except spglib.SpglibError:
        return None


def cell_of(crystal: Structure | Atoms) -> SpglibCell:
    """Return lattice (rows, Å), positions (fractions) and atomic numbers of a crystal."""
    from ase import Atoms

    from phonosmith.structures.standard import spglib_cell

    if isinstance(crystal, Atoms):
        return crystal.cell.array, crystal.get_scaled_positions(), crystal.numbers
    return spglib_cell(crystal)


def divides(primitive: SpglibCell, cell: SpglibCell, tolerance: float) -> bool:
    """Return whether a whole number of primitive cells has the atoms and, within a share, the volume of the cell."""
    ratio, rest = divmod(len(cell[2]), len(primitive[2]))
    whole = sorted(np.tile(primitive[2], ratio)) == sorted(cell[2])
    volumes = abs(np.linalg.det(primitive[0])) * ratio / abs(np.linalg.det(cell[0]))
    return rest == 0 and whole and abs(volumes - 1) < tolerance


@dataclass(frozen=True)
class Symmetry:
    """Operations of one crystal in fractions of its cell: rotations, and where they take each atom.

    Shapes are (n, 3, 3) and (n, n_atoms): atom i goes to atom maps[k, i].
    """

    rotations: NDArray[np.int_]
    maps: NDArray[np.int_]

    @classmethod
    def of(cls, atoms: Atoms) -> Symmetry:
        """Return the operations spglib finds, the identity alone where it finds none."""
        import spglib
        from ase.spacegroup.symmetrize import prep_symmetry

        if ask_spglib(spglib.get_symmetry, cell_of(atoms), symprec=CONSTRAINT_SYMPREC) is None:
            return cls(np.eye(3, dtype=int)[None], np.arange(len(atoms))[None])
        rotations, _, maps = prep_symmetry(atoms, CONSTRAINT_SYMPREC)
        return cls(rotations, np.array(maps))

    def project(self, cell: Array, forces: Array, stress: Array) -> tuple[Array, Array]:
        """Return the invariant parts of forces (eV/Å) and Voigt stress (eV/Å³) in a cell (rows, Å)."""
        if len(self.rotations) == 1:
            return forces, stress
        from ase.spacegroup.symmetrize import symmetrize_rank1, symmetrize_rank2
        from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

        inverse = np.linalg.inv(cell)
        # ASE's function asks for translations as well and does not use them
        kept = symmetrize_rank1(cell, inverse, forces, self.rotations, self.rotations, self.maps)
        tension = symmetrize_rank2(cell, inverse, voigt_6_to_full_3x3_stress(stress), self.rotations)
        return kept, full_3x3_to_voigt_6_stress(tension)


def smallest_cell(atoms: Atoms) -> Atoms:
    """Return the primitive cell of a crystal with rounding noise taken out; the cell as it is where that fails.

    Only a primitive cell has room for the whole symmetry: a doubled cell of a cubic crystal may relax to a tetragonal
    one although each of its own operations is kept. It also has the fewest atoms.
    """
    import spglib
    from ase import Atoms

    cell = cell_of(atoms)
    primitive = ask_spglib(spglib.standardize_cell, cell, to_primitive=True, symprec=CONSTRAINT_SYMPREC)
    if primitive is not None and divides(primitive, cell, 0.01):
        return Atoms(cell=primitive[0], scaled_positions=primitive[1], numbers=primitive[2], pbc=True)
    copy = atoms.copy()
    copy.set_constraint()
    return copy


class GuardedPotential:
    """Evaluates crystals that relax together, each with its own symmetry and limits.

    Attributes
    ----------
    frames
        Primitive cells of the starting configurations, to be relaxed; they carry their place in the list.
    notes
        Why a crystal was given up, by its place.
    """

    def __init__(self, potential: Potential, starts: Sequence[Atoms]) -> None:
        self._potential = potential
        self.frames = [smallest_cell(atoms) for atoms in starts]
        for place, atoms in enumerate(self.frames):
            atoms.info = {_TAG: place}
        self._symmetries = [Symmetry.of(atoms) for atoms in self.frames]
        self._volumes = [float(atoms.get_volume()) for atoms in self.frames]
        self._distances = [shortest_distance(atoms) for atoms in self.frames]
        self._energies: dict[int, float] = {}  # of the first step
        self.notes: dict[int, str] = {}

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return projected results; a crystal that is given up gets no forces, which ends its relaxation."""
        places = [int(atoms.info[_TAG]) for atoms in frames]
        for place, atoms in zip(places, frames, strict=True):
            if problem := self._geometry_problem(place, atoms):
                self.notes[place] = problem
        good = [k for k, place in enumerate(places) if place not in self.notes]
        results = [Evaluation(0.0, np.zeros((len(atoms), 3)), np.zeros(6)) for atoms in frames]
        if not good:
            return results
        evaluated = self._potential.evaluate([frames[k] for k in good], stress=stress, progress=progress)
        for k, item in zip(good, evaluated, strict=True):
            place, atoms = places[k], frames[k]
            if problem := self._number_problem(place, item, len(atoms)):
                self.notes[place] = problem
            else:
                projected = self._symmetries[place].project(atoms.cell.array, item.forces, item.stress)
                results[k] = Evaluation(item.energy, *projected)
        return results

    def _geometry_problem(self, place: int, atoms: Atoms) -> str:
        """Return what makes a configuration not worth evaluating."""
        if not (np.all(np.isfinite(atoms.positions)) and np.all(np.isfinite(atoms.cell.array))):
            return "diverged: positions or cell are not finite"
        factor = float(atoms.get_volume()) / self._volumes[place]
        if not 1 / LARGEST_VOLUME_FACTOR <= factor <= LARGEST_VOLUME_FACTOR:
            return f"diverged: the volume became {factor:.2f} times that of the start"
        limit = SHORTEST_DISTANCE_FRACTION * self._distances[place]
        if closer_than(atoms, limit):
            return f"diverged: two atoms came closer than {limit:.2f} Å"
        return ""

    def _number_problem(self, place: int, result: Evaluation, n_atoms: int) -> str:
        """Return what is wrong with the results for a configuration."""
        if not all(np.isfinite(values).all() for values in (result.energy, result.forces, result.stress)):
            return "diverged: the potential gave no finite energy, forces and stress"
        change = (result.energy - self._energies.setdefault(place, result.energy)) / n_atoms
        if abs(change) > LARGEST_ENERGY_CHANGE:
            return f"diverged: the energy changed by {change:+.2f} eV/atom"
        return ""


def closer_than(atoms: Atoms, limit: float) -> bool:
    """Return whether any two atoms, periodic images included, are closer than a limit in Å."""
    from matscipy.neighbours import neighbour_list

    return bool(len(neighbour_list("i", atoms, limit)))
