"""Training data out of phonons that exist already: the harmonic energy E = ½ u Φ u as an exact source of labels.

Force constants of a finished calculation give the forces of any small displacement pattern without another
calculation. Cells too large to train on are brought to a smaller supercell through the dynamical matrices at the
wave vectors commensurate with it: exact where both supercells share the wave vector, phonopy's own interpolation
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.harmonic.curvature import hessian_matrix
from phonosmith.harmonic.model import LEAST_FORCE_CONSTANT, HarmonicModel, atoms_of, new_phonon, to_structure
from phonosmith.structures.labels import DERIVED, HARMONIC
from phonosmith.structures.supercell import phonon_supercell

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

Array = NDArray[np.float64]

Shapes = Literal["varied", "one"]
MEAN_DISPLACEMENT = 0.02
"""Å; a potential taught harmonic forces of larger patterns learns that there is no anharmonicity."""
N_TRAIN, N_VALID = 32, 4
"""Displaced cells: labels cost nothing, and as many small cells of other shapes are worth more than a few large ones.

Each adds the wave vectors it holds; trained for the same time on 8 cells of twice the size, phonons of GaAs were left
with 1.7 times the error (``benchmarks/studies/default_strategy``).
"""
MOST_ATOMS = 40
"""In a displaced cell of another shape, or of four primitive cells where those are larger."""
STILL = 8
"""Displaced cells to a small perfect one, which teaches the structure at rest for next to nothing."""
LARGEST_DISPLACEMENT = 0.3
"""Å; a tenth of a bond, where no potential energy is harmonic any more."""
MOST_FRAMES = 10_000


@dataclass(frozen=True)
class PhononDataset:
    """Labelled configurations and force constants to fine-tune with, and ``notes`` on what to beware of.

    Frames have harmonic energies (eV, perfect cell = 0) and forces; the perfect cell leads ``train`` and carries zero
    forces and, where asked for, zero stress (as every other displaced one does). Small perfect cells follow, one to
    `STILL` displaced ones. ``phonon`` holds the force constants of the supercell that leads, for the curvature term.
    """

    train: list[Atoms]
    valid: list[Atoms]
    phonon: Phonopy
    notes: tuple[str, ...] = ()


def small_supercell(model: HarmonicModel, min_length: float) -> list[list[int]]:
    """Return the smallest near-cubic supercell of the primitive cell with edges of at least ``min_length`` Å."""
    if not np.isfinite(min_length) or min_length <= 0:
        raise InputError(f"A minimum length of {min_length} Å is not positive.", "Give e.g. 9.")
    return phonon_supercell(to_structure(model.phonon.primitive), min_length, rule="compact").phonopy_matrix


def varied_supercells(
    primitive: PhonopyAtoms, n_atoms: int, count: int, rng: np.random.Generator, min_length: float = 4.0
) -> list[list[list[int]]]:
    """Return supercells of different shape and about the same size.

    One small supercell fixes frequencies at its own wave vectors only; a potential that sees farther than half its
    edge may then be wrong everywhere in between. Small cells of different shape cover different wave vectors, at the
    same cost. Each of the ``count`` supercells is drawn anew, with at most ``n_atoms`` atoms, at least about half of
    them, and no lattice vector shorter than ``min_length`` (Å).
    """
    largest = max(2, n_atoms // len(primitive))
    matrices: list[list[list[int]]] = []
    for _ in range(1000 * count):
        size = int(rng.integers(max(2, largest // 2), largest + 1))
        first = _divisor(size, rng)
        second = _divisor(size // first, rng)
        third = size // (first * second)
        # Hermite normal form: every sublattice of this index has exactly one
        rows = np.array([
            [first, int(rng.integers(0, second)), int(rng.integers(0, third))],
            [0, second, int(rng.integers(0, third))],
            [0, 0, third],
        ])  # fmt: skip
        matrix = _reduced(rows, primitive.cell)
        if np.linalg.norm(matrix @ primitive.cell, axis=1).min() >= min_length:
            # phonopy writes the same vectors as columns
            matrices.append(matrix.T.tolist())
            if len(matrices) == count:
                return matrices
    raise InputError(
        f"No supercells of {n_atoms} atoms have lattice vectors of {min_length} Å.", "Allow more atoms per cell."
    )


def _divisor(number: int, rng: np.random.Generator) -> int:
    return int(rng.choice([divisor for divisor in range(1, number + 1) if number % divisor == 0]))


def _reduced(rows: NDArray[np.int64], lattice: Array) -> NDArray[np.int64]:
    """Return short vectors that span the same sublattice (right-handed)."""
    from pymatgen.core import Lattice

    drawn = Lattice(rows @ lattice)
    # the reduced lattice is rotated; its mapping to the old vectors is what is wanted
    mapping = drawn.find_mapping(drawn.get_niggli_reduced_lattice(1e-3), 1e-3, 0.1)
    if mapping is None:
        return rows
    matrix: NDArray[np.int64] = np.rint(mapping[2]).astype(int) @ rows
    return matrix if np.linalg.det(matrix) > 0 else -matrix


def in_supercell(model: HarmonicModel, supercell_matrix: Sequence[Sequence[int]]) -> Phonopy:
    """Return phonopy's object with the force constants of another supercell of the same primitive cell."""
    from phonopy.harmonic.dynmat_to_fc import DynmatToForceConstants

    source = model.phonon
    small = new_phonon(source.primitive, supercell_matrix, np.eye(3))
    transform = DynmatToForceConstants(small.primitive, small.supercell, is_full_fc=True)
    source.run_qpoints(transform.commensurate_points, with_dynamical_matrices=True)
    transform.dynamical_matrices = source.get_qpoints_dict()["dynamical_matrices"]
    transform.run()
    small.force_constants = transform.force_constants
    return small


def harmonic_label(phonon: Phonopy, displacements: Array, source: str, *, stress_free: bool = False) -> Atoms:
    """Return the supercell displaced by (atoms, 3) Å, with harmonic energy (eV), forces (eV/Å) and perhaps no stress.

    ``phonon`` holds full force constants.
    """
    frame = atoms_of(phonon.supercell)
    forces = -np.einsum("ijab,jb->ia", phonon.force_constants, displacements)
    frame.positions += displacements
    frame.info[DERIVED] = f"{HARMONIC}{source}"
    energy = -0.5 * float(np.sum(forces * displacements))
    stress = np.zeros(6) if stress_free else None
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces, stress=stress)
    return frame


def without_optical_shift(phonon: Phonopy, displacements: Array) -> Array:
    """Return (atoms, 3) displacements less their mean over each sublattice: less all that is at the zone centre.

    What is left strains the crystal in second order only: a relaxed crystal stays free of stress.
    """
    _, sublattice = np.unique(phonon.primitive.s2p_map, return_inverse=True)
    means = np.array([displacements[sublattice == one].mean(axis=0) for one in range(sublattice.max() + 1)])
    rest: Array = displacements - means[sublattice]
    return rest


def stability_notes(phonon: Phonopy, source: str) -> tuple[str, ...]:
    """Say that harmonic labels lead away from an unstable crystal; refuse force constants that are mostly negative.

    ``phonon`` holds full force constants (eV/Å²). Forces of the wrong sign make every mode imaginary, a real soft
    crystal has a few such modes among many.
    """
    energies = np.linalg.eigvalsh(hessian_matrix(np.asarray(phonon.force_constants, dtype=float)))
    n_negative = int((energies < -LEAST_FORCE_CONSTANT).sum())
    words = f"{source}: {n_negative} of {len(energies)} modes of the supercell lower the energy"
    if n_negative > len(energies) / 2:
        raise InputError(f"{words}: these are no force constants of a crystal.", "Check the sign of the forces.")
    return (f"{words}: the labels lead away from this structure",) if n_negative else ()


def dataset_from_phonons(
    model: HarmonicModel,
    *,
    min_length: float = 9.0,
    n_train: int = N_TRAIN,
    n_valid: int = N_VALID,
    shapes: Shapes = "varied",
    displacement: float = MEAN_DISPLACEMENT,
    most_atoms: int = MOST_ATOMS,
    relaxed_cell: bool = True,
    seed: int = 0,
) -> PhononDataset:
    """Make a training set from a finished phonon calculation, e.g. of ``load_harmonic("phonopy.yaml")``.

    Parameters
    ----------
    min_length
        The perfect cell is the smallest near-cubic supercell with edges of at least this, Å.
    n_train, n_valid
        Displaced frames; perfect cells are added to the training set.
    shapes
        ``varied``: every frame in a supercell of another shape (see `varied_supercells`); ``one``: all in the supercell
        of the perfect cell.
    displacement
        Mean length of the random displacements, Å.
    most_atoms
        Of a cell of another shape, or four primitive cells where those are larger; none is larger than the perfect one.
    relaxed_cell
        The cell of the calculation was relaxed: perfect cells are labelled with zero stress, and so is every other
        displaced one, after its displacements at the zone centre were taken out (`without_optical_shift`). Without
        many labels of stress a crystal that is soft to strain, e.g. a layered one, relaxes into another shape, with
        other phonons, however good the forces are.
    """
    if not (1 <= n_train <= MOST_FRAMES and 1 <= n_valid <= MOST_FRAMES and 0 < displacement <= LARGEST_DISPLACEMENT):
        raise InputError(
            f"{n_train} training and {n_valid} validation frames displaced by {displacement} Å make no training set.",
            f"Ask for 1 to {MOST_FRAMES} of each and a displacement of at most {LARGEST_DISPLACEMENT} Å.",
        )
    if most_atoms < 1:
        raise InputError(f"Cells of at most {most_atoms} atoms are none.", f"Give e.g. {MOST_ATOMS}.")
    if seed < 0:
        raise InputError(f"The seed {seed} is negative.", "Give 0 or more.")
    phonon = in_supercell(model, small_supercell(model, min_length))
    notes = stability_notes(phonon, model.source)
    rng = np.random.default_rng(seed)
    # the mean length of a vector with independent normal components of width s is s √(8/π)
    width = displacement / np.sqrt(8 / np.pi)
    sources = [phonon] * (n_train + n_valid)
    if shapes == "varied":
        primitive = model.phonon.primitive
        n_atoms = min(len(phonon.supercell), max(most_atoms, 4 * len(primitive)))
        sources = [in_supercell(model, cell) for cell in varied_supercells(primitive, n_atoms, n_train + n_valid, rng)]
    frames = []
    for index, source in enumerate(sources):
        moves = rng.normal(0.0, width, (len(source.supercell), 3))
        moves -= moves.mean(axis=0)
        stress_free = relaxed_cell and index % 2 == 1 and len(source.supercell) > len(source.primitive)
        if stress_free:
            moves = without_optical_shift(source, moves)
        frames.append(harmonic_label(source, moves, model.source, stress_free=stress_free))
    still = perfect_cells(phonon, n_train // STILL, model.source, stress_free=relaxed_cell)
    return PhononDataset([*still, *frames[:n_train]], frames[n_train:], phonon, notes)


def perfect_cells(phonon: Phonopy, n_small: int, source: str, *, stress_free: bool) -> list[Atoms]:
    """Return the labelled supercell at rest, and the primitive cell ``n_small`` times, once, twice, … repeated."""
    cells = [phonon.supercell]
    for index in range(n_small):
        # along another axis each time: no two cells are the same
        repeats = np.ones(3, dtype=int)
        repeats[index % 3] += (index + 2) // 3
        cells.append(new_phonon(phonon.primitive, np.diag(repeats).tolist(), np.eye(3)).supercell)
    frames = []
    for cell in cells:
        frame = atoms_of(cell)
        frame.info[DERIVED] = f"{HARMONIC}{source}"
        stress = np.zeros(6) if stress_free else None
        frame.calc = SinglePointCalculator(frame, energy=0.0, forces=np.zeros((len(cell), 3)), stress=stress)
        frames.append(frame)
    return frames
