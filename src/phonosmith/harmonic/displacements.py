"""Displacements and forces inside a Phonopy object: read them, fill them from calculations, check that they fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.harmonic.model import atoms_of

if TYPE_CHECKING:
    from phonopy import Phonopy

Array = NDArray[np.float64]
STRANGERS = "The files do not belong together."
SAME_CELL = 1e-3
"""Å, for every component of a cell vector."""
SAME_DISPLACEMENT = 1e-3
"""Å; positions in VASP's files are rounded to 1e-8 of a cell vector, displacements are 0.01 Å."""
LARGEST_DISPLACEMENT = 0.5
"""Å; what is displaced farther is taken for another structure."""


def check_forces(forces: Iterable[Any], n_atoms: int, where: str) -> Array:
    """Return forces of displaced cells, one (n_atoms, 3) block each, after checking shape and finiteness.

    ``where`` is what an error calls their source.
    """
    blocks = [np.asarray(block, dtype=float) for block in forces]
    if not blocks:
        raise InputError(f"{where} holds no forces.", "Run the displaced cells first.")
    for number, block in enumerate(blocks, start=1):
        if block.shape != (n_atoms, 3):
            raise InputError(
                f"{where}: displaced cell {number} has forces of shape {block.shape}, "
                f"but the supercell has {n_atoms} atoms.",
                "The forces belong to another supercell; give the one they were computed for.",
            )
        if not np.isfinite(block).all():
            raise InputError(
                f"{where}: forces of displaced cell {number} are not finite.", "Repeat that calculation; it failed."
            )
    return np.array(blocks)


def displacements_and_forces(
    dataset: Any, n_atoms: int, where: str = "The data set"
) -> tuple[Array, Array | None, Array | None]:
    """Return displacements in Å, forces in eV/Å (n, atoms, 3) and energies in eV of either kind of phonopy data set.

    Forces and energies are None unless every displaced cell has them. Data that do not fit a supercell of ``n_atoms``
    atoms are refused.
    """
    if "first_atoms" in dataset:
        cells = dataset["first_atoms"]
        moved = np.zeros((len(cells), n_atoms, 3))
        for index, cell in enumerate(cells):
            if not 0 <= cell["number"] < n_atoms:
                raise MismatchError(f"{where} moves atom {cell['number'] + 1} of {n_atoms}.", STRANGERS)
            moved[index, cell["number"]] = cell["displacement"]
        forces = [cell.get("forces") for cell in cells]
        energies = [cell.get("supercell_energy") for cell in cells]
    else:
        moved = np.asarray(dataset["displacements"], dtype=float)
        forces, energies = dataset.get("forces"), dataset.get("supercell_energies")
    if moved.shape[1:] != (n_atoms, 3) or not np.isfinite(moved).all():
        raise MismatchError(
            f"{where} holds displacements of shape {moved.shape[1:]} or not finite; the supercell has {n_atoms} atoms.",
            STRANGERS,
        )
    known = None if _incomplete(forces) else check_forces(forces, n_atoms, where)
    if known is not None and len(known) != len(moved):
        raise MismatchError(
            f"{where} has forces of {len(known)} and displacements of {len(moved)} cells.",
            STRANGERS,
        )
    return moved, known, None if _incomplete(energies) else np.asarray(energies, dtype=float)


def _incomplete(values: Any) -> bool:
    return values is None or len(values) == 0 or any(value is None for value in values)


def has_forces(phonon: Phonopy, where: str = "The data set") -> bool:
    """Tell whether there are displacements and every one has its forces."""
    dataset = phonon.dataset
    return bool(dataset) and displacements_and_forces(dataset, len(phonon.supercell), where)[1] is not None


def require_same_cell(ours: Atoms, theirs: Atoms, what: str, *, largest: float = 1e-3) -> Array:
    """Return the shifts from our to their positions (Å); MismatchError unless both are one crystal in one atom order.

    Positions may differ by ``largest`` (Å) in a component, up to lattice vectors; ``what`` is named in the message.
    """
    if len(ours) != len(theirs) or np.any(ours.numbers != theirs.numbers):
        formulas = theirs.get_chemical_formula(), ours.get_chemical_formula()
        raise MismatchError(f"{what}: {formulas[0]} is not {formulas[1]} in the same atom order.", STRANGERS)
    if np.abs(ours.cell.array - theirs.cell.array).max() > SAME_CELL:
        raise MismatchError(f"{what}: the cells differ by more than {SAME_CELL} Å.", STRANGERS)
    fractions = theirs.get_scaled_positions(wrap=False) - ours.get_scaled_positions(wrap=False)
    shifts: Array = (fractions - np.round(fractions)) @ ours.cell.array
    if np.abs(shifts).max(initial=0) > largest:
        raise MismatchError(f"{what}: atoms sit elsewhere.", STRANGERS)
    return shifts


def attach_forces(phonon: Phonopy, frames: Sequence[Atoms]) -> None:
    """Give a Phonopy object the forces of calculated displaced cells, matched by geometry, not by file order.

    Displacements are read from the positions of the labelled supercells, which are in phonopy's atom order; those that
    are planned in the object, if any, must all be found.
    """
    if not frames:
        raise InputError("There are no displaced cells.", "Give labelled displacements of the supercell.")
    perfect = atoms_of(phonon.supercell)
    shifts, labels = [], []
    for index, frame in enumerate(frames):
        where = f"frame {index} against phonopy's supercell"
        shifts.append(require_same_cell(perfect, frame, where, largest=LARGEST_DISPLACEMENT))
        try:
            labels.append(frame.get_forces(apply_constraint=False))
        except (RuntimeError, NotImplementedError) as error:
            raise InputError(f"Frame {index} has no forces.", "Label it first.") from error
    moved, forces = np.array(shifts), np.array(labels)
    if not phonon.dataset:
        phonon.dataset = {"displacements": moved, "forces": forces}
        return
    planned = displacements_and_forces(phonon.dataset, len(perfect))[0]
    nearest = []
    for index, displacement in enumerate(planned):
        distances = np.abs(moved - displacement).max(axis=(1, 2))
        nearest.append(int(np.argmin(distances)))
        if distances.min() > SAME_DISPLACEMENT:
            raise MismatchError(
                f"Displacement {index + 1} of {len(planned)} was not calculated (nearest cell differs by"
                f" {distances.min():.3f} Å).",
                "Import every displaced cell.",
            )
    phonon.forces = forces[nearest]


def displaced_frames(phonon: Phonopy) -> list[Atoms]:
    """Return every displaced supercell with its forces, and its energy where the files give one.

    Frames without an energy carry ``config_energy_weight=0`` and ``config_stress_weight=0``: they teach forces only.
    """
    perfect = atoms_of(phonon.supercell)
    moved, forces, energies = displacements_and_forces(phonon.dataset, len(perfect))
    if forces is None:
        raise InputError("The displaced cells have no forces.", "Load a file with forces.")
    frames = []
    for index, displacement in enumerate(moved):
        frame = perfect.copy()
        frame.positions += displacement
        energy = None if energies is None else float(energies[index])
        unknown = {} if energy is not None else {"config_energy_weight": 0.0}
        frame.info.update(config_type="phonon", **unknown, config_stress_weight=0.0)
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces[index])
        frames.append(frame)
    return frames
