"""Checks on the numbers of one configuration, whoever computed them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.documents import Reason, ReasonCode
from phonosmith.reference.outcome import MOVING, Asked, Outcome
from phonosmith.structures.labels import geometry_defects, label_defects
from phonosmith.structures.reading import LEAST_VOLUME_PER_ATOM, LONGEST_EDGE, SMALLEST_HEIGHT

Array = NDArray[np.float64]

NET_FORCE_VASP = 1e-5
"""eV/Å, mean over the atoms. VASP removes the drift: 600 real frames leave 1.4e-9, the digits of an OUTCAR 5e-7."""
NET_FORCE = 0.01
"""eV/Å, mean over the atoms. Programs that do not remove the drift leave a few meV/Å."""
FORCE_SYMMETRY = (0.1, 0.25)
"""eV/Å and fraction of the largest force by which symmetry may be broken. Real forces keep it to the last digit, but
for reconstructed surfaces (0.05 eV/Å, a quarter of the largest)."""
STRESS_SYMMETRY = (0.02, 0.25)
"""eV/Å³ and fraction of the largest component; surfaces, whose k-mesh lacks symmetries, break it by up to 0.008."""
_ROUNDED = 0.01
_KBAR = abs(EV_PER_A3_PER_VASP_KBAR)
_SYMPREC = 1e-4
_MOST_OPERATIONS = 48


def check_numbers(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that energy, forces and stress are there, have the right shape and are finite, and so is the structure."""
    required = ["forces"] if asked is None and outcome.run is None else ["energy", "forces"]
    if asked is not None:
        required.append("stress")
    defects = label_defects(outcome.labels, len(outcome.symbols), required)
    for code, message in [*defects, *structure_defects(outcome)]:
        yield Reason(code=cast("ReasonCode", code), message=message, transient=code.endswith("_missing"))
    if outcome.energy_sigma0 is not None and not np.isfinite(outcome.energy_sigma0):
        yield Reason(code="energy_not_finite", message="the energy for zero smearing is NaN or infinity")


def structure_defects(outcome: Outcome) -> list[tuple[str, str]]:
    """Return code and message of whatever makes the structure that came back unusable."""
    cell, positions = outcome.cell, outcome.positions
    if cell is None or positions is None or positions.shape != (len(outcome.symbols), 3):
        return [("structure_missing", "the structure is missing or has another number of atoms")]
    if outcome.run is None:
        return list(geometry_defects(Atoms(outcome.symbols, cell=cell, positions=positions, pbc=outcome.pbc)))
    if not (np.all(np.isfinite(cell)) and np.all(np.isfinite(positions))):
        return [("structure_not_finite", "the structure holds NaN or infinity")]
    volume = abs(float(np.linalg.det(cell)))
    if volume < 1e-6:
        return [("volume", "the cell has no volume")]
    faces = np.linalg.norm(np.cross(np.roll(cell, -1, axis=0), np.roll(cell, -2, axis=0)), axis=1)
    height, longest = float(np.min(volume / faces)), float(np.linalg.norm(cell, axis=1).max())
    # whoever looks for neighbours or symmetry in such a cell takes all the memory there is
    if height < SMALLEST_HEIGHT or longest > LONGEST_EDGE or volume < LEAST_VOLUME_PER_ATOM * len(positions):
        message = f"a cell of {volume:.3g} Å³, {height:.3g} Å high, with edges up to {longest:.4g} Å is no crystal's"
        return [("volume", message)]
    return []


def check_energy_scale(outcome: Outcome, _: Asked | None) -> Iterator[Reason]:
    """Ask for energies that a crystal can have, and for a smearing that contributes little."""
    energy, zero, size = outcome.labels.energy, outcome.energy_sigma0, len(outcome.symbols)
    if energy is None or not np.isfinite(energy) or size == 0:
        return
    if outcome.run is not None and energy >= 0:
        yield Reason(code="energy_positive", message=f"the total energy is {energy:.3f} eV")
    if outcome.run is not None and energy / size < -100:
        # relative to its atoms no element binds more than about 12 eV; without the reference of the POTCARs more
        yield Reason(code="energy_scale", message=f"the energy is {energy / size:.1f} eV/atom: no crystal has it")
    if zero is not None and abs(zero - energy) > 0.1 * size:
        message = f"the energy for zero smearing lies {zero - energy:+.3f} eV from the free energy"
        yield Reason(code="energy_sigma0", message=f"{message}, more than smearing does")


def check_forces(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask for forces that sum to zero, are no rounded or missing ones, and have the symmetry of the crystal."""
    forces = outcome.labels.forces
    if forces is None or forces.shape != (len(outcome.symbols), 3) or not np.all(np.isfinite(forces)):
        return
    net = float(np.abs(forces.mean(axis=0)).max())
    limit = NET_FORCE_VASP if outcome.program.startswith("vasp") else NET_FORCE
    if net > limit:
        message = f"the forces do not sum to zero: their mean is {net:.2g} eV/Å, not below {limit:g} eV/Å"
        yield Reason(code="net_force", message=message)
    steps = forces / _ROUNDED
    if np.count_nonzero(np.round(steps)) > 5 and np.abs(steps - np.round(steps)).max() < 1e-6:
        yield Reason(code="forces_rounded", message=f"all forces are multiples of {_ROUNDED} eV/Å: they were rounded")
    if structure_defects(outcome) or not all(outcome.pbc) or outcome.spin:
        return
    if not np.any(forces):
        if _forces_allowed(outcome) and not _played_to_rest(outcome, asked):
            message = "every force is exactly zero, though no symmetry of the structure asks for it"
            yield Reason(code="forces_zero", message=message)
        return
    absolute, relative = FORCE_SYMMETRY
    off, allowed = _force_asymmetry(outcome, forces), max(absolute, relative * float(np.abs(forces).max()))
    if off > allowed:
        message = f"atoms that symmetry makes equal have forces {off:.3g} eV/Å apart (tolerated: {allowed:.2g})"
        yield Reason(code="forces_symmetry", message=f"{message}: forces of other atoms, or of another structure")


_AT_REST = 1e-3, 1e-5
"""Forces (eV/Å) and stress (eV/Å³) of a relaxed crystal are below."""


def _played_to_rest(outcome: Outcome, asked: Asked | None) -> bool:
    """Tell whether a potential in VASP's place may have relaxed a crystal to the last digit that is printed."""
    if not outcome.rehearsal:
        return False
    rest = (outcome.labels.forces, outcome.labels.stress)
    still = all(
        values is None or np.abs(values).max(initial=0.0) < most for values, most in zip(rest, _AT_REST, strict=True)
    )
    return still or (asked is not None and asked.calculation in MOVING)


def check_stress(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask for a stress that was computed, is symmetric and has the symmetry of the crystal."""
    stress, step = outcome.labels.stress, outcome.step
    if stress is None or stress.shape != (6,) or not np.all(np.isfinite(stress)):
        return
    if not np.any(stress):
        if not all(outcome.pbc):  # without a period there is none
            return
        if _played_to_rest(outcome, asked):
            return
        yield Reason(code="stress_zero", message="every component of the stress is exactly zero: it was not computed")
        return
    full = None if step is None else step.stress
    if full is not None and full.shape == (3, 3):
        off = float(np.abs(full - full.T).max())
        # real ones differ by up to 2e-4 kbar
        if off > max(0.05, 1e-3 * float(np.abs(full).max())):
            yield Reason(code="stress_asymmetric", message=f"the stress is not symmetric, by {off:.3g} kbar")
    if structure_defects(outcome) or not all(outcome.pbc) or outcome.spin:
        return
    assert outcome.cell is not None
    matrix = stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    cell = np.asarray(outcome.cell, dtype=float)
    turned = [_cartesian(cell, rotation) for rotation, _ in _operations(outcome)]
    off = max((float(np.abs(turn @ matrix @ turn.T - matrix).max()) for turn in turned), default=0.0)
    absolute, relative = STRESS_SYMMETRY
    if off > max(absolute, relative * float(np.abs(stress).max())):
        message = f"the stress breaks the symmetry of the crystal by {off / _KBAR:.3g} kbar"
        yield Reason(code="stress_symmetry", message=f"{message}: components exchanged, or of another structure")


def _spglib_cell(outcome: Outcome) -> tuple[Array, Array, list[int]]:
    assert outcome.cell is not None
    assert outcome.positions is not None
    cell = np.asarray(outcome.cell, dtype=float)
    fractional = np.asarray(np.linalg.solve(cell.T, np.asarray(outcome.positions, dtype=float).T).T, dtype=float)
    kinds = {symbol: number for number, symbol in enumerate(sorted(set(outcome.symbols)), 1)}
    return cell, fractional, [kinds[symbol] for symbol in outcome.symbols]


def _operations(outcome: Outcome, most: int = _MOST_OPERATIONS) -> list[tuple[Array, Array]]:
    """Return rotations and translations (fractional) of the crystal, an even selection where there are many."""
    return _symmetry(_spglib_cell(outcome), most)


def _symmetry(cell: tuple[Array, Array, list[int]], most: int) -> list[tuple[Array, Array]]:
    import spglib

    try:
        found = spglib.get_symmetry_dataset(cell, symprec=_SYMPREC)
    except spglib.SpglibError:  # atoms on top of each other: no crystal, no symmetry
        found = None
    if found is None:
        return []
    pairs = list(zip(found.rotations.astype(float), found.translations, strict=True))
    return pairs[:: -(-len(pairs) // most)]


def _cartesian(cell: Array, rotation: Array) -> Array:
    """Return a fractional rotation in Cartesian axes (cell vectors are rows)."""
    turned: Array = cell.T @ rotation @ np.linalg.inv(cell.T)
    return turned


def _images(fractional: Array, rotation: Array, shift: Array) -> NDArray[np.intp]:
    """Return the atom onto which an operation maps each atom."""

    def inside(places: Array) -> Array:
        wrapped = np.mod(places, 1.0)
        return np.where(wrapped >= 1.0, 0.0, wrapped)

    tree = cKDTree(inside(fractional), boxsize=1.0)
    nearest: NDArray[np.intp] = tree.query(inside(fractional @ rotation.T + shift))[1]
    return nearest


def _force_asymmetry(outcome: Outcome, forces: Array) -> float:
    """Return the largest difference between a turned force and that of the atom it should be the force of, eV/Å."""
    cell, fractional, _ = _spglib_cell(outcome)
    worst = 0.0
    for rotation, shift in _operations(outcome):
        images = _images(fractional, rotation, shift)
        worst = max(worst, float(np.abs(forces @ _cartesian(cell, rotation).T - forces[images]).max()))
    return worst


def _forces_allowed(outcome: Outcome) -> bool:
    """Tell whether the symmetry of a structure allows forces other than zero."""
    import spglib

    smallest = spglib.find_primitive(_spglib_cell(outcome), symprec=_SYMPREC)
    if smallest is None:
        return False
    cell, fractional, _ = smallest
    # a field nobody could guess: what symmetry leaves of it is not zero by chance
    field = np.sin(1.0 + 2.7 * np.arange(3 * len(fractional))).reshape(-1, 3)
    left = np.zeros_like(field)
    operations = _symmetry(smallest, 10**6)
    for rotation, shift in operations:
        left[_images(fractional, rotation, shift)] += field @ _cartesian(cell, rotation).T
    left /= max(1, len(operations))
    return bool(np.abs(left - left.mean(axis=0)).max() > 1e-3)
