"""What fine-tuning cost elsewhere: errors on structures the potential was not tuned on, beside the foundation's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import PhonosmithError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.forgetting.documents import ForgettingDoc, ForgettingSet
from phonosmith.evaluation.forgetting.sets import FrameSet
from phonosmith.structures.labels import labels_of

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.potentials.base import Potential

Array = NDArray[np.float64]

_MEV = 1000.0
NO_FORCE = 1e-4
"""eV/Å. Where every force is smaller, symmetry forbids them and there is nothing to compare."""


@dataclass(frozen=True)
class _Results:
    """Energies (eV), forces (eV/Å) and stresses (eV/Å³, None where unknown) of the frames of a set."""

    energies: Array
    forces: list[Array]
    stresses: list[Array | None]


class _UnusableError(PhonosmithError):
    """A set cannot be used; the message says why."""


def evaluate_forgetting(
    tuned: Potential,
    foundation: Potential,
    sets: Sequence[FrameSet],
    reference: Potential | None = None,
    *,
    potential_sha256: str = "",
    foundation_sha256: str = "",
    inputs: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int | None = None,
) -> ForgettingDoc:
    """Return the errors of a fine-tuned potential and of its foundation on every set.

    The truth of a set are the labels its frames carry; else the reference, where one is given (because labels are made
    with it and it is cheap) and knows the elements; else the foundation, and what is measured is how far fine-tuning
    drifted from it. Energies are compared after a least-squares shift per element is removed (the mean, for a set of
    one composition), because sources differ in their zero. A fine-tuned potential often knows only the elements it was
    tuned on: other sets are skipped. Identities, ``inputs``, ``settings`` and ``seed`` are for the document.
    """
    judged, skipped = [], []
    identities = {"potential": potential_sha256, "foundation": foundation_sha256, **(inputs or {})}
    with recorded({k: v for k, v in identities.items() if v}, settings, seed) as manifest:
        for one in sets:
            try:
                judged.append(_judge(one, tuned, foundation, reference))
            except _UnusableError as reason:
                skipped.append(f"{one.name}: {reason.message}")
    ids = {"potential_sha256": potential_sha256, "foundation_sha256": foundation_sha256}
    return ForgettingDoc(**ids, sets=judged, skipped=skipped, manifest=manifest)


def _judge(one: FrameSet, tuned: Potential, foundation: Potential, reference: Potential | None) -> ForgettingSet:
    """Return both potentials' errors on one set."""
    if not one.frames:
        raise _UnusableError("it is empty")
    mine = _evaluate(tuned, one.frames, "the fine-tuned potential")
    base = _evaluate(foundation, one.frames, "the foundation")
    truth = _labels(one.frames)
    if truth is None and reference is not None and not _unknown(reference, one.frames):
        truth = _evaluate(reference, one.frames, "the reference")
    errors = {f"tuned_{name}": value for name, value in _errors(mine, truth or base, one.frames).items()}
    if truth is not None:
        errors |= {f"foundation_{name}": value for name, value in _errors(base, truth, one.frames).items()}
    return ForgettingSet(
        name=one.name,
        kind=one.kind,
        n_structures=len(one.frames),
        truth="foundation" if truth is None else "reference",
        **errors,
    )


def _unknown(potential: Potential, frames: Sequence[Atoms]) -> list[str]:
    return sorted({symbol for atoms in frames for symbol in atoms.symbols} - set(potential.elements))


def _evaluate(potential: Potential, frames: Sequence[Atoms], who: str) -> _Results:
    if missing := _unknown(potential, frames):
        raise _UnusableError(f"{who} knows only {' '.join(potential.elements)}, not {', '.join(missing)}")
    try:
        evaluated = potential.evaluate([atoms.copy() for atoms in frames], stress=True)
    except PhonosmithError as error:
        raise _UnusableError(f"{who} refused it ({error.message})") from error
    energies, forces = np.array([item.energy for item in evaluated]), [item.forces for item in evaluated]
    stresses = [item.stress if atoms.pbc.all() else None for item, atoms in zip(evaluated, frames, strict=True)]
    parts = [energies, *forces, *(stress for stress in stresses if stress is not None)]
    if not all(np.isfinite(part).all() for part in parts):
        raise _UnusableError(f"{who} gives numbers that are not finite")
    return _Results(energies, forces, stresses)


def _labels(frames: Sequence[Atoms]) -> _Results | None:
    """Return the labels of frames that all carry energy and forces, else None."""
    labels = [labels_of(atoms) for atoms in frames]
    energies = [one.energy for one in labels if one.energy is not None]
    forces = [one.forces for one in labels if one.forces is not None]
    if len(energies) < len(frames) or len(forces) < len(frames):
        return None
    return _Results(np.array(energies), forces, [one.stress for one in labels])


def _errors(mine: _Results, truth: _Results, frames: Sequence[Atoms]) -> dict[str, float | None]:
    """Return mean absolute errors: forces (meV/Å), energies (meV/atom), stresses (meV/Å³)."""
    ours, theirs = np.concatenate(mine.forces), np.concatenate(truth.forces)
    silent = max(float(np.abs(ours).max()), float(np.abs(theirs).max())) < NO_FORCE
    pairs = zip(mine.stresses, truth.stresses, strict=True)
    stress = [np.abs(left - right) for left, right in pairs if left is not None and right is not None]
    return {
        "force_mae": None if silent else _MEV * float(np.abs(ours - theirs).mean()),
        "energy_mae": _energy_mae(mine.energies - truth.energies, frames),
        "stress_mae": _MEV * float(np.mean(stress)) if stress else None,
    }


def _energy_mae(differences: Array, frames: Sequence[Atoms]) -> float | None:
    """Return the mean absolute energy error in meV/atom without the shift per element that fits best.

    None where the shift alone can make every error vanish.
    """
    numbers = sorted({int(number) for atoms in frames for number in atoms.numbers})
    shares = np.array([[np.mean(atoms.numbers == number) for number in numbers] for atoms in frames])
    per_atom = differences / np.array([len(atoms) for atoms in frames])
    shift, _, rank, _ = np.linalg.lstsq(shares, per_atom, rcond=1e-8)
    if rank >= len(frames):
        return None
    return _MEV * float(np.abs(per_atom - shares @ shift).mean())
