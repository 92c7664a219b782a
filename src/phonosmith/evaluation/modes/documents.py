"""Imaginary modes, energies along them and the phases they lead to."""

from __future__ import annotations

from pydantic import Field

from phonosmith.core.document import Document, Missing
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.known import PymatgenDict
from phonosmith.potentials.documents import PotentialRef


class Phase(Document):
    """A crystal a pathway starts from or ends in."""

    space_group: str = Field(description="international symbol")
    space_group_number: int = Field(description="international number")
    n_atoms_primitive: int = Field(description="atoms in the primitive cell")
    energy_difference_ev_per_atom: float = Field(description="energy minus that of the initial phase, eV/atom")
    structure: PymatgenDict | None = Field(None, description="pymatgen Structure as a dictionary")


class GridMinimum(Document):
    """A local minimum of the energy over mode amplitudes."""

    amplitudes: list[float] = Field(description="amplitude of each mode of the subspace, Å√amu")
    energy_ev_per_atom: float = Field(description="energy minus that of the undisplaced crystal, eV/atom")


class Pathway(Document):
    """Relaxation from one grid minimum."""

    start: GridMinimum = Field(description="where the relaxation started")
    displaced: Phase = Field(description="the displaced crystal before relaxation")
    final: Phase | None = Field(None, description="where it ended; null when the relaxation failed")
    converged: bool = Field(description="largest force below the criterion")
    n_steps: int = Field(description="steps taken")
    max_force: float | None = Field(None, description="largest force left, eV/Å")
    scenario: str | None = Field(
        None, description="against the reference: same, artefact, displaced, different (see docs/numbers.md)"
    )
    note: str = Field("", description="why it failed or was dropped")

    @property
    def end(self) -> Phase | None:
        """The phase of a relaxation that converged."""
        return self.final if self.converged else None


class FollowedMode(Document):
    """One imaginary mode, or one subspace of degenerate ones, and what was found along it."""

    q: list[float] = Field(description="wave vector, fractions of the primitive reciprocal vectors")
    label: str = Field("", description="name of the high-symmetry point, where it is one")
    frequency_thz: float = Field(description="mean over the subspace, THz (imaginary negative)")
    multiplicity: int = Field(description="number of real modes in the subspace: dimension of the grid")
    band_indices: list[int] = Field(description="bands of the subspace, lowest first")
    exact: bool = Field(description="q is commensurate with the phonon supercell: not an interpolated frequency")
    q_refined: list[float] | None = Field(
        None, description="band minimum that q stands for: q is the commensurate point next to it"
    )
    skipped: str | None = Field(None, description="why it was not followed")
    supercell_matrix: list[list[int]] | None = Field(
        None, description="smallest supercell commensurate with q: integer rows, supercell = matrix @ primitive vectors"
    )
    n_atoms: int | None = Field(None, description="atoms in it")
    grid_shape: list[int] = Field(default_factory=list, description="points along each amplitude")
    amplitudes: list[float] = Field(default_factory=list, description="grid values along each axis, Å√amu")
    energies: list[float | None] = Field(
        default_factory=list, description="energies above the undisplaced crystal, row-major, eV per atom"
    )
    max_displacement: float | None = Field(
        None, description="largest displacement of an atom at the end of the axes, Å"
    )
    n_symmetry: int = Field(1, description="operations of the crystal that act differently on the amplitudes")
    n_energies: int = Field(0, description="energies calculated, all attempts at the range together")
    n_energies_plain: int = Field(0, description="energies plain grids of the same ranges would have taken")
    single_minimum: bool | None = Field(None, description="no minimum away from zero: harmonic or stable along it")
    fit_r2: float | None = Field(None, description="R² of a parabola through the curve")
    minima: list[GridMinimum] = Field(default_factory=list, description="inequivalent minima away from zero")
    pathways: list[Pathway] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list, description="what a reader should know about this mode")
    missing: list[Missing] = Field(default_factory=list, description="points and relaxations without a result")
    seconds: float = Field(0.0, description="wall time, s")


class TransitionDoc(Document):
    """Everything found by following the imaginary modes of one crystal with one method."""

    schema_version: int = Field(1, description="version of this document's layout")
    formula: str = Field(description="reduced formula")
    method: str = Field(description="name of the potential or DFT protocol")
    potential: PotentialRef | None = Field(None, description="the potential, absent for DFT")
    initial: Phase = Field(description="the crystal whose modes were followed")
    modes: list[FollowedMode] = Field(description="one entry per imaginary mode or subspace; empty when stable")
    phases: list[Phase] = Field(description="distinct final phases, the initial one left out, lowest energy first")
    n_energies: int = Field(0, description="energies calculated in all")
    missing: list[Missing] = Field(
        default_factory=list, description="modes, points of their grids and relaxations without a result"
    )
    seconds: float = Field(0.0, description="wall time, s")
    manifest: Manifest
