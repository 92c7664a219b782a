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

    @property
    def finite(self) -> bool:
        parts = [self.energies, *self.forces, *(stress for stress in self.stresses if stress is not None)]
        return all(bool(np.all(np.isfinite(part))) for part in parts)


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
    judged: list[ForgettingSet] = []
    skipped: list[str] = []
    identities = {"potential": potential_sha256, "foundation": foundation_sha256, **(inputs or {})}
    with recorded({k: v for k, v in identities.items() if v}, settings, seed) as manifest:
        for one in sets:
            try:
                judged.append(_judge(one, tuned, foundation, reference))
            except _UnusableError as reason:
                skipped.append(f"{one.name}: {reason.message}")
    return ForgettingDoc(
        potential_sha256=potential_sha256,
        foundation_sha256=foundation_sha256,
        sets=judged,
        skipped=skipped,
        manifest=manifest,
    )


def _judge(one: FrameSet, tuned: Potential, foundation: Potential, reference: Potential | None) -> ForgettingSet:
    """Return both potentials' errors on one set."""
    if not one.frames:
        raise _UnusableError("it is empty")
    elements = {symbol for atoms in one.frames for symbol in atoms.get_chemical_symbols()}
    _require(tuned, elements, "the fine-tuned potential")
    _require(foundation, elements, "the foundation")
    base = _evaluate(foundation, one.frames, "the foundation")
    labels = None if one.relabel else _labels(one.frames)
    if labels is not None:
        truth = labels
    elif reference is not None and elements <= set(reference.elements):
        truth = _evaluate(reference, one.frames, "the reference")
    else:
        truth = base
    mine = _evaluate(tuned, one.frames, "the fine-tuned potential")
    errors = {f"tuned_{name}": value for name, value in _errors(mine, truth, one.frames).items()}
    if truth is not base:
        errors |= {f"foundation_{name}": value for name, value in _errors(base, truth, one.frames).items()}
    return ForgettingSet(
        name=one.name,
        kind=one.kind,
        n_structures=len(one.frames),
        truth="foundation" if truth is base else "reference",
        **errors,
    )


def _require(potential: Potential, elements: set[str], who: str) -> None:
    missing = sorted(elements - set(potential.elements))
    if missing:
        raise _UnusableError(f"{who} knows only {' '.join(potential.elements)}, not {', '.join(missing)}")


def _evaluate(potential: Potential, frames: Sequence[Atoms], who: str) -> _Results:
    bare = [atoms.copy() for atoms in frames]
    try:
        evaluated = potential.evaluate(bare, stress=True)
    except PhonosmithError as error:
        raise _UnusableError(f"{who} refused it ({error.message})") from error
    results = _Results(
        np.array([item.energy for item in evaluated]),
        [np.asarray(item.forces, dtype=float) for item in evaluated],
        [np.asarray(item.stress) if bool(np.all(a.pbc)) else None for item, a in zip(evaluated, frames, strict=True)],
    )
    if not results.finite:
        raise _UnusableError(f"{who} gives numbers that are not finite")
    return results


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
