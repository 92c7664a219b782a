"""Energy offsets between sources: labels from different POTCARs or codes lie on shifted scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from ase import Atoms

from phonosmith.core.errors import InputError
from phonosmith.reference.datasets.documents import OffsetFit, SourceOffset
from phonosmith.reference.datasets.geometry import grouped, near_duplicates, reduced_formula
from phonosmith.structures.labels import labels_of


def fit_offsets(sources: Mapping[str, Sequence[Atoms]], *, reference: str | None = None) -> OffsetFit:
    """Fit by how much each source's energies are shifted against a reference source.

    Two estimates, best first: identical configurations labelled in both; the lowest energy per atom at equal
    composition (good to the spread of the lowest configurations). Shifts are by element in eV/atom; a single
    composition fixes only its total shift, which is spread evenly.

    Frames without an energy are ignored. The ``reference`` is the largest source by default.
    """
    labelled = {name: [a for a in frames if labels_of(a).energy is not None] for name, frames in sources.items()}
    labelled = {name: frames for name, frames in labelled.items() if frames}
    if not labelled:
        raise InputError("No source has energies to compare.", "Label the frames first.")
    zero = reference or max(labelled, key=lambda name: len(labelled[name]))
    if zero not in labelled:
        raise InputError(f"The reference source {zero!r} has no energies.", f"Choose of {', '.join(labelled)}.")
    fitted = {
        name: _shared(name, frames, labelled[zero]) or _lowest(name, frames, labelled[zero])
        for name, frames in labelled.items()
        if name != zero
    }
    none = SourceOffset(
        source=zero, n_frames=len(labelled[zero]), elements={}, per_atom=0.0, uncertainty=0.0, method="reference"
    )
    return OffsetFit(
        reference=zero,
        offsets=[none, *(offset for offset in fitted.values() if offset)],
        undetermined=[name for name, offset in fitted.items() if offset is None],
    )


def _shared(name: str, frames: Sequence[Atoms], others: Sequence[Atoms]) -> SourceOffset | None:
    """Compare the energies of configurations that both sources hold."""
    joined = [*frames, *others]
    # indices ascend: a group's first is the source's own where it has one
    pairs = [(group[0], next((i for i in group if i >= len(frames)), 0)) for group in near_duplicates(joined)]
    pairs = [(mine, theirs) for mine, theirs in pairs if mine < len(frames) <= theirs]
    shifts = [_energy(joined[mine]) - _energy(joined[theirs]) for mine, theirs in pairs]
    return _offset(name, len(frames), [joined[mine] for mine, _ in pairs], shifts, [0.0], "shared") if pairs else None


def _lowest(name: str, frames: Sequence[Atoms], others: Sequence[Atoms]) -> SourceOffset | None:
    """Compare the lowest energies at equal composition."""
    mine, theirs = grouped(frames, reduced_formula), grouped(others, reduced_formula)
    lowest, shifts, spreads = [], [], []
    for key in sorted(mine.keys() & theirs.keys()):
        first = sorted((frames[i] for i in mine[key]), key=_per_atom)
        second = sorted((others[i] for i in theirs[key]), key=_per_atom)
        # how far the tenth of lowest energies reaches: nothing says that both sources hold the same minimum
        reach = [_per_atom(group[len(group) // 10]) - _per_atom(group[0]) for group in (first, second)]
        lowest.append(first[0])
        shifts.append((_per_atom(first[0]) - _per_atom(second[0])) * len(first[0]))
        spreads.append(max(float(np.hypot(reach[0], reach[1])), 0.002))
    return _offset(name, len(frames), lowest, shifts, spreads, "composition") if lowest else None


def _offset(
    name: str,
    n_frames: int,
    frames: Sequence[Atoms],
    shifts: Sequence[float],
    spreads: Sequence[float],
    method: Literal["shared", "composition"],
) -> SourceOffset:
    """Turn total shifts of frames (eV) into shifts by element by least squares of minimum norm."""
    symbols = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    counts = np.array([[atoms.symbols.count(symbol) for symbol in symbols] for atoms in frames], dtype=float)
    sizes = counts.sum(axis=1)
    wanted = np.asarray(shifts) / sizes
    solution = np.linalg.lstsq(counts / sizes[:, None], wanted, rcond=1e-8)[0]
    fitted = counts @ solution / sizes
    scatter, known = np.sqrt(np.mean((wanted - fitted) ** 2) / len(frames)), np.sqrt(np.mean(np.square(spreads)))
    return SourceOffset(
        source=name,
        n_frames=n_frames,
        elements=dict(zip(symbols, map(float, solution), strict=True)),
        per_atom=float(np.mean(fitted)),
        uncertainty=float(np.hypot(scatter, known)),
        method=method,
    )


def _energy(atoms: Atoms) -> float:
    return labels_of(atoms).energy or 0.0


def _per_atom(atoms: Atoms) -> float:
    return _energy(atoms) / len(atoms)
