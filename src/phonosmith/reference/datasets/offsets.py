"""Energy offsets between sources: labels from different POTCARs or codes lie on shifted scales."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.reference.datasets.documents import OffsetFit, SourceOffset
from phonosmith.reference.datasets.geometry import near_duplicates, reduced_formula
from phonosmith.structures.labels import labels_of

Array = NDArray[np.float64]


def fit_offsets(
    sources: Mapping[str, Sequence[Atoms]],
    *,
    reference: str | None = None,
) -> OffsetFit:
    """Fit by how much each source's energies are shifted against a reference source.

    Two estimates, best first: identical configurations labelled in both; the lowest energy per atom at equal
    composition (good to the spread of the lowest configurations).

    Parameters
    ----------
    sources
        Frames by source; frames without an energy are ignored.
    reference
        Source whose energies stay; the largest by default.

    Returns
    -------
    OffsetFit
        Shifts by element in eV/atom. A single composition fixes only its total shift, which is spread evenly.
    """
    labelled = {name: [a for a in frames if labels_of(a).energy is not None] for name, frames in sources.items()}
    labelled = {name: frames for name, frames in labelled.items() if frames}
    if len(labelled) < 1:
        raise InputError("No source has energies to compare.", "Label the frames first.")
    chosen = reference or max(labelled, key=lambda name: len(labelled[name]))
    if chosen not in labelled:
        raise InputError(f"The reference source {chosen!r} has no energies.", f"Choose of {', '.join(labelled)}.")
    zero = SourceOffset(
        source=chosen, n_frames=len(labelled[chosen]), elements={}, per_atom=0.0, uncertainty=0.0, method="reference"
    )
    offsets, undetermined = [zero], []
    for name, frames in labelled.items():
        if name == chosen:
            continue
        offset = _shared(name, frames, labelled[chosen]) or _lowest(name, frames, labelled[chosen])
        if offset is None:
            undetermined.append(name)
        else:
            offsets.append(offset)
    return OffsetFit(reference=chosen, offsets=offsets, undetermined=undetermined)


def _counts(frames: Sequence[Atoms]) -> tuple[list[str], Array]:
    symbols = sorted({symbol for atoms in frames for symbol in atoms.get_chemical_symbols()})
    table = np.array([[atoms.get_chemical_symbols().count(s) for s in symbols] for atoms in frames], dtype=float)
    return symbols, table


def _offset(
    name: str, n_frames: int, frames: Sequence[Atoms], shifts: Array, spread: Array | None, method: str
) -> SourceOffset:
    """Turn total shifts of frames (eV) into shifts by element by least squares of minimum norm."""
    symbols, counts = _counts(frames)
    sizes = counts.sum(axis=1)
    solution = np.linalg.lstsq(counts / sizes[:, None], shifts / sizes, rcond=1e-8)[0]
    per_atom = float(np.mean(counts @ solution / sizes))
    residual = shifts / sizes - counts @ solution / sizes
    scatter = float(np.sqrt(np.mean(residual**2) / len(frames)))
    known = 0.0 if spread is None else float(np.sqrt(np.mean(spread**2)))
    return SourceOffset(
        source=name,
        n_frames=n_frames,
        elements=dict(zip(symbols, map(float, solution), strict=True)),
        per_atom=per_atom,
        uncertainty=float(np.hypot(scatter, known)),
        method=method,  # type: ignore[arg-type]
    )


def _shared(name: str, frames: Sequence[Atoms], others: Sequence[Atoms]) -> SourceOffset | None:
    joined = [*frames, *others]
    chosen, shifts = [], []
    for group in near_duplicates(joined):
        mine = [index for index in group if index < len(frames)]
        theirs = [index for index in group if index >= len(frames)]
        if mine and theirs:
            chosen.append(joined[mine[0]])
            shifts.append(_energy(joined[mine[0]]) - _energy(joined[theirs[0]]))
    return _offset(name, len(frames), chosen, np.array(shifts), None, "shared") if chosen else None


def _lowest(name: str, frames: Sequence[Atoms], others: Sequence[Atoms]) -> SourceOffset | None:
    mine, theirs = _by_composition(frames), _by_composition(others)
    chosen, shifts, spreads = [], [], []
    for key in sorted(mine.keys() & theirs.keys()):
        first, second = sorted(mine[key], key=_per_atom), sorted(theirs[key], key=_per_atom)
        shift = _per_atom(first[0]) - _per_atom(second[0])
        # how far the tenth of lowest energies reaches: nothing says that both sources hold the same minimum
        reach = [_per_atom(group[len(group) // 10]) - _per_atom(group[0]) for group in (first, second)]
        spread = float(np.hypot(reach[0], reach[1]))
        chosen.append(first[0])
        shifts.append(shift * len(first[0]))
        spreads.append(max(spread, 0.002))
    if not chosen:
        return None
    return _offset(name, len(frames), chosen, np.array(shifts), np.array(spreads), "composition")


def _by_composition(frames: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    groups: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in frames:
        groups[reduced_formula(atoms)].append(atoms)
    return groups


def _energy(atoms: Atoms) -> float:
    energy = labels_of(atoms).energy
    return float("nan") if energy is None else energy


def _per_atom(atoms: Atoms) -> float:
    return _energy(atoms) / len(atoms)
