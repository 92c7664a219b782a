# ruff: noqa: E501 - the cases are a table, one a line
"""Data sets altered by hand, and what the audit says of each, with and without a foundation to compare with.

The sound set is sixteen cells of eight silicon atoms, rattled by 0.05 Å and strained by 2 %, as a campaign samples them,
labelled by Tersoff's potential. The foundation is the same potential made 15 % too soft, its lattice 0.5 % too long, on
another zero of energy: the errors real ones have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.build import bulk

from phonosmith.reference.audit.audit import audit
from phonosmith.structures.labels import Labels, label_frame
from phonosmith.testing.standin_calculators import tersoff_silicon

SIZE = 16
AFFECTED = {1: [5], 4: [2, 5, 9, 12], SIZE: list(range(SIZE))}
"""Frames that are forged, by their number."""
Change = Callable[[Labels, Atoms, Labels], Labels]
"""From the labels of a frame, the frame and the labels of the next one to what is written instead."""
_SOFT, _SHORT, _ZERO = 0.85, 0.995, 0.21


@dataclass(frozen=True)
class ForgedSet:
    """One way to spoil labels; ``why``: what cannot be seen, and why not."""

    name: str
    change: Change
    why: str = ""


def computed(atoms: Atoms) -> Labels:
    """Label a cell with Tersoff's potential; what the gate sees is nothing but such numbers."""
    copy = atoms.copy()
    copy.calc = tersoff_silicon()
    return Labels(float(copy.get_potential_energy()), copy.get_forces(), copy.get_stress())


def foundation(atoms: Atoms) -> Labels:
    """Predict a cell with the softened potential: E(x) = 0.85 E(0.995 x) + 0.21 eV/atom, and its derivatives."""
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array * _SHORT, scale_atoms=True)
    told = computed(scaled)
    assert told.energy is not None
    assert told.forces is not None
    assert told.stress is not None
    return Labels(
        _SOFT * told.energy + _ZERO * len(atoms), _SOFT * _SHORT * told.forces, _SOFT * _SHORT**3 * told.stress
    )


def sound_set() -> tuple[list[Atoms], list[Labels], list[Labels]]:
    """Return cells, their labels and the foundation's predictions."""
    rng = np.random.default_rng(7)
    cells = []
    for _ in range(SIZE):
        atoms = bulk("Si", cubic=True, a=5.432)
        strain = rng.normal(0, 0.01, (3, 3)) + rng.normal(0, 0.015) * np.eye(3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        cells.append(atoms)
    return cells, [computed(atoms) for atoms in cells], [foundation(atoms) for atoms in cells]


def forged(kind: ForgedSet, count: int, cells: Sequence[Atoms], labels: Sequence[Labels], **info: str) -> list[Atoms]:
    """Return the set with so many frames forged."""
    given = list(labels)
    for index in AFFECTED[count]:
        given[index] = kind.change(labels[index], cells[index], labels[(index + 1) % SIZE])
    provenance = {"functional": "PBE", "settings": "a" * 12, **info}
    return [
        label_frame(atoms, energy=one.energy, forces=one.forces, stress=one.stress, **provenance)
        for atoms, one in zip(cells, given, strict=True)
    ]


def outcome(frames: Sequence[Atoms], count: int, baseline: Sequence[Labels] | None) -> str:
    """Return ``refused``, ``passed``, or which of the forged frames were excluded, and how many others."""
    document = audit(frames, baseline=baseline)
    if document.verdict == "refuse":
        return "refused"
    wrong, out = set(AFFECTED[count]), set(document.excluded)
    if not out:
        return "passed"
    found = "excluded" if wrong <= out else f"{len(out & wrong)} of {count} excluded"
    return found + (f", with {len(out - wrong)} others" if out - wrong else "")


def _forces(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda labels, _, __: replace(labels, forces=change(np.array(labels.forces)))


def _stress(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda labels, _, __: replace(labels, stress=change(np.array(labels.stress)))


def _energy(change: Callable[[float, int], float]) -> Change:
    return lambda labels, atoms, _: replace(labels, energy=change(float(labels.energy or 0.0), len(atoms)))


def _centred(forces: np.ndarray) -> np.ndarray:
    return forces - forces.mean(axis=0)


def _noise(size: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda forces: forces + _centred(size * np.sin(3.7 * np.arange(forces.size) ** 1.5).reshape(forces.shape))


ZERO = "a constant is a zero of energy; offsets between sources and POTCARs are fitted apart"
TENTH = (
    "without a foundation a tenth is within what hot crystals do: real sets have slopes of energy over work up to 1.14"
)
FEW_WORK = "without a foundation, single stresses weigh too little in the work between neighbours: their change is below its error (0.6 of the curvature part)"
NOISE = "in all frames: the work is off by 0.115 of its curvature part in the median, real labels (DFT silicon against Nequix) by 0.111"
AXES = "xx and yy of frame 5, and of one of the four, differ by 0.3 meV/Å³ (0.4 kbar), less than the scatter about the foundation; without one the work changes by a hundredth of its curvature part"
LUCKY = "of the four, one is right within 0.4 meV/atom by chance and one within 15: foundations miss 17 meV/atom in real sets"
NEXT = "whose labels two frames share nobody can tell: both go"

KINDS: tuple[ForgedSet, ...] = (
    ForgedSet("nothing (control)", lambda labels, _, __: labels, "sound labels"),
    ForgedSet("forces of other atoms (rolled by one)", _forces(lambda f: np.roll(f, 1, axis=0))),
    ForgedSet("forces of other atoms (order reversed)", _forces(lambda f: f[::-1])),
    ForgedSet("forces of the next frame", lambda labels, _, other: replace(labels, forces=other.forces), NEXT),
    ForgedSet("all labels of the next frame", lambda _, __, other: other, NEXT),
    ForgedSet("x and y of the forces exchanged", _forces(lambda f: f[:, [1, 0, 2]])),
    ForgedSet("x y z of the forces turned in a circle", _forces(lambda f: f[:, [1, 2, 0]])),
    ForgedSet("y of the forces with the sign turned", _forces(lambda f: f * [1, -1, 1])),
    ForgedSet("forces with the sign turned (gradients)", _forces(lambda f: -f)),
    ForgedSet("forces rounded to 0.1 eV/Å", _forces(lambda f: np.round(f, 1))),
    ForgedSet("forces rounded to 0.01 eV/Å", _forces(lambda f: np.round(f, 2))),
    ForgedSet("forces times 0.9", _forces(lambda f: 0.9 * f), TENTH),
    ForgedSet("forces times 1.5", _forces(lambda f: 1.5 * f)),
    ForgedSet("forces times 2", _forces(lambda f: 2 * f)),
    ForgedSet("forces divided by 25.7 (Ry/bohr)", _forces(lambda f: f / 25.71)),
    ForgedSet("forces divided by 51.4 (Ha/bohr)", _forces(lambda f: f / 51.42)),
    ForgedSet("forces times 1e5", _forces(lambda f: 1e5 * f)),
    ForgedSet("forces zero", _forces(np.zeros_like)),
    ForgedSet("net force of 0.05 eV/Å on every atom", _forces(lambda f: f + np.array([0.05, 0, 0]))),
    ForgedSet("noise of 0.3 eV/Å on the forces", _forces(_noise(0.3)), NOISE),
    ForgedSet("one force turned round", _forces(lambda f: f * np.where(np.arange(len(f)) == 0, -1, 1)[:, None])),
    ForgedSet("stress zero", _stress(np.zeros_like)),
    ForgedSet("stress constant", _stress(lambda s: np.full(6, 0.013))),
    ForgedSet("stress with the sign turned", _stress(lambda s: -s), FEW_WORK),
    ForgedSet("stress divided by 10 (kbar for GPa)", _stress(lambda s: s / 10), FEW_WORK),
    ForgedSet("stress times 10", _stress(lambda s: 10 * s)),
    ForgedSet("stress in GPa", _stress(lambda s: 160.2 * s)),
    ForgedSet("stress in kbar, VASP's sign", _stress(lambda s: -1602 * s)),
    ForgedSet("virial instead of stress", lambda labels, atoms, _: replace(labels, stress=-np.array(labels.stress) * atoms.get_volume())),
    ForgedSet("yz and xy of the stress exchanged (VASP's order)", _stress(lambda s: s[[0, 1, 2, 5, 4, 3]]), FEW_WORK),
    ForgedSet("xx and yy of the stress exchanged", _stress(lambda s: s[[1, 0, 2, 3, 4, 5]]), AXES),
    ForgedSet("stress 0.05 eV/Å³ too high", _stress(lambda s: s + np.repeat([0.05, 0.0], 3)), ""),
    ForgedSet("stress of the next frame", lambda labels, _, other: replace(labels, stress=other.stress), NEXT),
    ForgedSet("energy 19 meV/atom higher", _energy(lambda e, n: e + 0.019 * n), ZERO),
    ForgedSet("energy 150 meV/atom lower (another POTCAR)", _energy(lambda e, n: e - 0.15 * n), ZERO),
    ForgedSet("energy in Ry", _energy(lambda e, _: e / 13.605693)),
    ForgedSet("energy in Ha", _energy(lambda e, _: e / 27.211386)),
    ForgedSet("energy per atom instead of the cell's", _energy(lambda e, n: e / n)),
    ForgedSet("energy of a doubled cell", _energy(lambda e, _: 2 * e)),
    ForgedSet("energy of the next frame", lambda labels, _, other: replace(labels, energy=other.energy), LUCKY),
    ForgedSet("energy -1e6 eV", _energy(lambda e, _: e - 1e6), ZERO),
    ForgedSet("energy and forces times 0.8 (another potential)", lambda labels, _, __: replace(labels, energy=0.8 * float(labels.energy or 0), forces=0.8 * np.array(labels.forces)), "stress stays, which shows where forces and stress do not always work together; all three scaled alike is another surface, as sound as the first"),
)  # fmt: skip
