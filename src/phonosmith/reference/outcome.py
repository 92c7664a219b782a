"""What came back of a calculation and what was asked of it: the two things the rule of acceptance compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.reference.documents import Frame, ReferenceRecord
from phonosmith.reference.protocol import Calculation, ReferenceProtocol
from phonosmith.reference.vasp.run import IonicStep, VaspRun, voigt_from_kbar
from phonosmith.reference.vasp.settings import is_rehearsal
from phonosmith.structures.labels import SPIN, Labels, labels_of, moments_of

Array = NDArray[np.float64]

MOVING: tuple[Calculation, ...] = ("relax", "elastic_relax", "eos_relax")
"""Calculations that move atoms."""


@dataclass(frozen=True)
class Outcome:
    """One configuration with its numbers, and how VASP came to them where it did.

    Attributes
    ----------
    cell, positions : rows and Cartesian, Å
    labels : as they came, whatever their shape
    energy_sigma0 : energy extrapolated to zero smearing, eV
    scf : energy after each electronic step, eV
    run : VASP's own record; None for other programs and for frames read from a dataset
    step : the ionic step of the run
    final : that step is the run's last, the one its other files speak of
    spin : spin-polarised
    moment, site_moments : magnetic moments at the end of the run, of the cell and of each atom, μB
    program : what made the numbers, where a frame of a dataset says so
    rehearsal : made by the VASP stand-in or with invented POTCARs
    """

    symbols: Sequence[str]
    cell: Array | None
    positions: Array | None
    labels: Labels
    energy_sigma0: float | None = None
    pbc: tuple[bool, bool, bool] = (True, True, True)
    scf: Sequence[float] = ()
    run: VaspRun | None = None
    step: IonicStep | None = None
    final: bool = True
    spin: bool = False
    moment: float | None = None
    site_moments: Array | None = None
    program: str = ""
    rehearsal: bool = False

    @classmethod
    def of_step(cls, run: VaspRun, index: int = -1) -> Outcome:
        """Take one ionic step of a VASP run."""
        step = run.steps[index]
        positions = step.positions
        if step.cell is not None and positions is not None and positions.shape == (len(run.symbols), 3):
            positions = positions @ step.cell
        labels = Labels(step.energy, step.forces, voigt_from_kbar(step.stress))
        played = is_rehearsal(run.settings.version, run.settings.potcars)
        final, spin = index in (-1, len(run.steps) - 1), run.settings.spin_polarized
        total, sites = run.moments if final and spin else (None, None)
        return cls(
            run.symbols, step.cell, positions, labels, step.energy_sigma0, scf=step.scf, run=run, step=step,
            final=final, spin=spin, moment=total, site_moments=sites, program="vasp", rehearsal=played,
        )  # fmt: skip

    @classmethod
    def of_record(cls, record: ReferenceRecord) -> Outcome:
        """Take what another program than VASP left."""
        numbers = (record.cell, record.positions, record.forces, record.stress)
        cell, positions, forces, stress = (None if n is None else np.asarray(n, dtype=float) for n in numbers)
        labels = Labels(record.energy, forces, stress)
        sites = None if record.magmoms is None else np.asarray(record.magmoms, dtype=float)
        return cls(
            record.symbols, cell, positions, labels, record.energy_sigma0, record.pbc, program=record.engine,
            spin=record.spin_polarized, moment=record.magmom, site_moments=sites,
        )  # fmt: skip

    @classmethod
    def of_atoms(cls, atoms: Atoms) -> Outcome:
        """Take a labelled frame of a dataset."""
        symbols, played = atoms.get_chemical_symbols(), bool(atoms.info.get("rehearsal"))
        moments = moments_of(atoms)
        program = str(atoms.info.get("code") or atoms.info.get("engine") or "").lower()
        return cls(
            symbols, atoms.cell.array, atoms.positions, labels_of(atoms), pbc=tuple(atoms.pbc),
            spin=bool(atoms.info.get(SPIN)) or moments.known, moment=moments.total, site_moments=moments.sites,
            program=program, rehearsal=played,
        )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What was asked of a program; ``potcars`` are the titles in the folder's POTCAR file, where it can be read."""

    frame: Frame
    protocol: ReferenceProtocol
    calculation: Calculation
    potcars: Sequence[str] = ()
