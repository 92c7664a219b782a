"""Replay structures where nobody gives any: rattled, strained crystals of elements the foundation knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.errors import InputError
from phonosmith.potentials.base import Potential
from phonosmith.structures.labels import label_frame
from phonosmith.training.replay import POOL_OF

if TYPE_CHECKING:
    from ase import Atoms

N_ELEMENTS = 8
"""Elements in a pool: every further one makes the model that is trained larger."""
MAX_FORCE = 30.0
"""Structures with a larger force (eV/Å) are left out: the foundation was not trained there."""
_SIMPLE = ("fcc", "bcc", "hcp", "diamond")


def simple_elements(known: Sequence[str]) -> list[str]:
    """Return the elements of a list whose crystal at room temperature is fcc, bcc, hcp or diamond."""
    from ase.data import atomic_numbers, reference_states

    states = {symbol: reference_states[atomic_numbers[symbol]] or {} for symbol in known}
    return [symbol for symbol, state in states.items() if state.get("symmetry") in _SIMPLE]


def elemental_pool(known: Sequence[str], first: Sequence[str], size: int, seed: int) -> list[Atoms]:
    """Return crystals of simple elements in small cells, rattled by 0.1 Å, strained by up to 3 %, volumes ±10 %.

    Elements that are ``known`` to the foundation are used, the ``first`` (those of the material) before others.
    """
    from ase.build import bulk

    simple = simple_elements(known)
    if not simple:
        raise InputError(
            f"None of {', '.join(known)} is a simple crystal to make replay structures of.", "Give a replay dataset."
        )
    generator = np.random.default_rng([seed, 11])
    others = [symbol for symbol in simple if symbol not in first]
    chosen = [symbol for symbol in first if symbol in simple]
    chosen += [str(symbol) for symbol in generator.permutation(others)][: max(0, N_ELEMENTS - len(chosen))]
    frames = []
    for index in range(size):
        symbol = chosen[index % len(chosen)]
        atoms = bulk(symbol).repeat((2, 2, 2))
        strain = np.eye(3) * (1 + generator.uniform(-0.1, 0.1)) ** (1 / 3) + generator.uniform(-0.03, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ ((strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += generator.normal(scale=0.1 / np.sqrt(3), size=(len(atoms), 3))
        frames.append(atoms)
    return frames


def label_pool(potential: Potential, frames: Sequence[Atoms], name: str) -> list[Atoms]:
    """Return the frames with energy, forces and stress of a potential; absurd ones are left out."""
    labelled = []
    for atoms, found in zip(frames, potential.evaluate(frames), strict=True):
        if np.isfinite(found.energy) and float(np.abs(found.forces).max()) <= MAX_FORCE:
            labelled.append(
                label_frame(
                    atoms, energy=found.energy, forces=found.forces, stress=found.stress, source=f"{POOL_OF}{name}"
                )
            )
    if not labelled:
        raise InputError(f"{name} gives no sensible forces for any replay structure.", "Give a replay dataset.")
    return labelled
