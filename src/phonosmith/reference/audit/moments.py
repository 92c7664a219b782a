"""Checks on magnetism: one set holds labels of one magnetic state, or of none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from phonosmith.reference.audit.settings import minority, split_by_majority
from phonosmith.reference.datasets.documents import AuditOptions, Finding, Severity
from phonosmith.reference.datasets.geometry import displacement_and_strain, grouped, reduced_formula
from phonosmith.reference.datasets.moments import (
    SOME_MOMENT,
    changed_sites,
    is_magnetic,
    magnetic_note,
    mean_moments,
    net_moment,
    turned_sites,
)
from phonosmith.structures.labels import SPIN, moments_of

_SAME_CELL = (1.0, 0.3)
"""Å and strain within which two frames are the same supercell, atom by atom."""
_SOME_NET = 0.1
"""μB per atom: smaller total moments are not compared."""
_SCATTER = 0.2
"""Of the mean size of the moments: the same for antiferromagnets, whose moments differ by as much from atom to atom."""


def moment_findings(frames: Sequence[Atoms], limits: AuditOptions) -> Iterator[Finding]:
    """Find labels of a magnetic state that is not the others': none, another one, or atoms that turned."""
    kinds = grouped(frames, lambda a: {True: "magnetic", False: "non-magnetic"}.get(is_magnetic(a)))  # type: ignore[arg-type]
    if len(kinds) > 1:
        yield split_by_majority(kinds, "magnetism", "magnetism", limits.majority)
    plain = set(kinds.get("non-magnetic", []))
    spins = [
        i for i, atoms in enumerate(frames) if i not in plain and (atoms.info.get(SPIN) or moments_of(atoms).known)
    ]
    known = [index for index in spins if moments_of(frames[index]).sites is not None]
    yield from _odd("moment_flip", "atoms whose moments turned", _turned(frames, known), len(known), limits)
    size_words = "moments of another size (another spin state, or another order of their signs)"
    yield from _odd("moment_size", size_words, _sizes(frames, spins), len(spins), limits)
    if silent := sorted(set(spins) - set(known)):
        message = f"{len(silent)} spin-polarised frames do not tell the moments of their atoms (VASP does with LORBIT ="
        message = f"{message} 11): whether some turned or vanished cannot be seen"
        yield Finding(check="moments_unknown", severity="warn", message=message, frames=silent)
    if note := magnetic_note(frames):
        yield Finding(check="magnetic_labels", severity="warn", message=note, frames=kinds["magnetic"])


def _odd(check: str, what: str, odd: Sequence[int], compared: int, limits: AuditOptions) -> Iterator[Finding]:
    if odd:
        severity: Severity = "exclude" if compared - len(odd) >= limits.majority * compared else "refuse"
        message = f"{len(odd)} of {compared} magnetic frames have {what}: they do not lie on one energy surface"
        yield Finding(check=check, severity=severity, message=message, frames=sorted(odd))


def _turned(frames: Sequence[Atoms], known: Sequence[int]) -> list[int]:
    """Return the frames whose pattern of moments is not the one most frames of the same supercell have."""
    cells: list[list[list[int]]] = []
    for index in known:
        cell = next((c for c in cells if _same_cell(frames[c[0][0]], frames[index])), None)
        if cell is None:
            cells.append([[index]])
            continue
        state = next((s for s in cell if _same_state(frames[s[0]], frames[index])), None)
        if state is None:
            cell.append([index])
        else:
            state.append(index)
    return [index for cell in cells for index in minority({str(number): state for number, state in enumerate(cell)})]


def _same_cell(one: Atoms, other: Atoms) -> bool:
    if len(one) != len(other) or np.any(one.numbers != other.numbers) or min(one.cell.rank, other.cell.rank) < 3:
        return False
    shift, strain = displacement_and_strain(one, other)
    shift = shift - shift.mean(axis=0)
    farthest, largest = _SAME_CELL
    return bool(np.linalg.norm(shift, axis=1).max() < farthest and np.abs(strain).max() < largest)


def _same_state(one: Atoms, other: Atoms) -> bool:
    first, second = moments_of(one).sites, moments_of(other).sites
    assert first is not None
    assert second is not None
    return not (len(turned_sites(first, second)) or len(changed_sites(first, second)))


def _sizes(frames: Sequence[Atoms], spins: Sequence[int]) -> list[int]:
    """Return the frames whose moments by element, or in total, are less than half or more than twice the usual."""
    odd: set[int] = set()
    for members in grouped([frames[i] for i in spins], reduced_formula).values():
        told = {spins[k]: mean_moments(frames[spins[k]]) for k in members}
        for element in sorted({symbol for sizes in told.values() for symbol in sizes}):
            odd |= _unusual({i: sizes[element] for i, sizes in told.items() if element in sizes}, SOME_MOMENT)
        sites = [np.abs(of_atoms).mean() for i in told if (of_atoms := moments_of(frames[i]).sites) is not None]
        # moments that cancel leave what they scatter by
        least = max(_SOME_NET, _SCATTER * float(np.median(sites))) if sites else _SOME_NET
        odd |= _unusual({i: net for i in told if (net := net_moment(frames[i])) is not None}, least)
    return sorted(odd)


def _unusual(sizes: dict[int, float], least: float) -> set[int]:
    usual = float(np.median(list(sizes.values()))) if sizes else 0.0
    largest = {index: max(size, usual) for index, size in sizes.items()}
    return {i for i, size in sizes.items() if largest[i] >= least and abs(size - usual) > 0.5 * largest[i]}
