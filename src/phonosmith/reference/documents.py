"""What reference calculations leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from phonosmith.core.document import Document
from phonosmith.core.errors import LabelError
from phonosmith.core.manifest import available_cores
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.protocol import Calculation, ReferenceProtocol
from phonosmith.structures.labels import FUNCTIONAL, SETTINGS, SIGMA0, SPIN

Vector = tuple[float, float, float]
Voigt = tuple[float, float, float, float, float, float]


def rows(array: NDArray[np.float64] | None) -> list[Vector] | None:
    """Return an (n, 3) array as plain rows; None where there is none or it has another shape."""
    return None if array is None or array.shape[1:] != (3,) else [(x, y, z) for x, y, z in array.tolist()]


class Frame(Document):
    """A configuration to label."""

    symbols: list[str] = Field(description="chemical symbols, in order")
    positions: list[Vector] = Field(description="Cartesian positions, Å")
    cell: list[Vector] = Field(description="lattice vectors as rows, Å")
    pbc: tuple[bool, bool, bool] = Field((True, True, True), description="periodic directions")
    split: str = Field("train", description="split the frame belongs to: train, valid, test, ...")
    info: dict[str, Any] = Field(default_factory=dict, description="what the sampler said about it (JSON values)")
    magmoms: list[float] | None = Field(None, description="initial moment of each atom, μB, where they are given")

    @model_serializer(mode="wrap")
    def _without_moments(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out moments nobody gave: a job keeps the identity it had before there were any."""
        plain: dict[str, Any] = handler(self)
        return plain if self.magmoms is not None else {k: v for k, v in plain.items() if k != "magmoms"}

    @classmethod
    def from_atoms(cls, atoms: Atoms, split: str | None = None) -> Frame:
        """Take a configuration from ASE; ``info['split']`` names the split unless given."""
        plain = bool | int | float | str | None
        moments = atoms.get_initial_magnetic_moments()
        return cls(
            symbols=atoms.get_chemical_symbols(),
            positions=atoms.positions.tolist(),
            cell=atoms.cell.array.tolist(),
            pbc=atoms.pbc.tolist(),
            split=split or str(atoms.info.get("split", "train")),
            magmoms=moments.tolist() if np.any(moments) else None,
            info={str(k): value for k, value in atoms.info.items() if k != "split" and isinstance(value, plain)},
        )

    def to_atoms(self) -> Atoms:
        """Return the configuration for ASE, its split and info in ``info``."""
        atoms = Atoms(
            symbols=self.symbols, positions=self.positions, cell=self.cell, pbc=self.pbc, magmoms=self.magmoms
        )
        atoms.info.update(self.info | {"split": self.split})
        return atoms


ReasonCode = Literal[
    "cell", "charge", "complaint", "configuration", "correction", "disagreement", "drift", "energy_missing",
    "energy_not_finite", "energy_positive", "energy_scale", "energy_scf", "energy_shape", "energy_sigma0", "fermi",
    "forces_missing", "forces_not_finite", "forces_rounded", "forces_shape", "forces_symmetry", "forces_zero", "gate",
    "incar", "incar_unknown", "kpoint_list", "kpoints", "kpoints_unknown", "moments", "net_force", "no_result",
    "not_recoverable", "not_relaxed", "not_self_consistent", "output_invalid", "positions", "potcar",
    "potcar_unknown", "pressure", "protocol", "rehearsal", "relaxation", "return_code", "run_failed", "scf",
    "scf_unknown", "species", "steps", "stress_asymmetric", "stress_missing", "stress_not_finite", "stress_shape",
    "stress_symmetry", "stress_zero", "structure_missing", "structure_not_finite", "too_many_corrections",
    "unfinished", "used", "volume", "walltime",
]  # fmt: skip
"""What a refusal is for; see ``reference.accept`` for those the rule itself gives."""


class Reason(Document):
    """One reason why a calculation is no label."""

    code: ReasonCode = Field(description="what it is refused for, e.g. scf, cell, forces_missing")
    message: str = Field(description="what was found and what was asked")
    transient: bool = Field(
        False, description="a second attempt may succeed (crash, lost file), the physics is not at fault"
    )


def explained(reasons: Sequence[Reason]) -> str:
    """Return reasons with their codes in one line."""
    return "; ".join(f"{reason.code}: {reason.message}" for reason in reasons)


class Correction(Document):
    """Something custodian did."""

    handler: str = Field(description="custodian handler")
    errors: list[str] = Field(default_factory=list, description="errors it saw")
    tags: list[str] = Field(default_factory=list, description="INCAR tags it changed")
    files: list[str] = Field(default_factory=list, description="files or inputs other than INCAR it changed")


class Stopped(Document):
    """A calculation that was stopped before its time was over: what a following job goes on from."""

    cell: list[Vector] = Field(description="lattice vectors it got to, as rows, Å")
    positions: list[Vector] = Field(description="Cartesian positions it got to, in the order of its POSCAR, Å")
    folder: str = Field(description="folder with its WAVECAR, on the worker it ran on")
    parts: int = Field(1, description="jobs that have worked on it so far")
    ionic_steps: int = Field(0, description="ionic steps of all parts")
    corrections: list[Correction] = Field(default_factory=list, description="what custodian did in all parts")
    wall_seconds: float = Field(0.0, description="wall time of all parts, s")


class ReferenceRecord(Document):
    """One reference calculation, whichever engine did it."""

    engine: str = Field(description="vasp, forcefield or gpaw")
    engine_version: str = Field("", description="version the program printed")
    calculation: Calculation = Field(description="kind of calculation")
    protocol_digest: str = Field(description="sha256 of the protocol; empty settings of an engine still belong to it")
    functional: str = Field("", description="functional, or the name of the potential")
    potential: str | None = Field(None, description="sha256 of the potential (forcefield engine and rehearsals)")
    rehearsal: bool = Field(
        False, description="made by the VASP stand-in or with invented POTCARs: never training data"
    )
    symbols: list[str] = Field(description="chemical symbols, in the order asked")
    pbc: tuple[bool, bool, bool] = Field((True, True, True), description="periodic directions")
    cell: list[Vector] | None = Field(None, description="final lattice vectors as rows, Å")
    positions: list[Vector] | None = Field(None, description="final Cartesian positions, Å")
    energy: float | None = Field(None, description="force-consistent free energy, eV: what potentials are trained on")
    energy_sigma0: float | None = Field(None, description="energy extrapolated to zero smearing, eV")
    forces: list[Vector] | None = Field(None, description="eV/Å")
    stress: Voigt | None = Field(None, description="xx yy zz yz xz xy, eV/Å³, ASE's sign (positive = tension)")
    spin_polarized: bool = Field(False, description="computed with spin (ISPIN = 2)")
    magmom: float | None = Field(None, description="total magnetic moment of the cell, μB")
    magmoms: list[float] | None = Field(None, description="moment of each atom in its sphere, μB")
    electronic_steps: int | None = Field(None, description="electronic steps of the last ionic step")
    last_de: float | None = Field(None, description="|energy change| of the last electronic step, eV")
    ionic_steps: int | None = Field(None, description="ionic steps")
    incar: dict[str, Any] = Field(default_factory=dict, description="INCAR that ran, as VASP repeated it")
    kpoints: tuple[int, int, int] | None = Field(None, description="k-point subdivisions that ran")
    potcar_titles: list[str] = Field(default_factory=list, description="POTCAR titles that ran")
    corrections: list[Correction] = Field(default_factory=list, description="what custodian did")
    reasons: list[Reason] = Field(default_factory=list, description="why it is refused; empty when it is a label")
    attempts: int = Field(1, description="how often it was started")
    parts: int = Field(1, description="jobs it took, where one went on with what another was stopped in")
    wall_seconds: float = Field(
        0.0, description="wall time of all attempts and parts, s; of a kept result, what it took then"
    )
    stopped: Stopped | None = Field(None, description="where a following job goes on, of a run stopped in time")
    kept: bool = Field(False, description="found among the results kept earlier, not calculated now")
    cores: int = Field(default_factory=available_cores, description="processor cores the calculation could use")
    directory: str = Field("", description="last part of the folder it ran in")
    split: str = Field("train", description="split the frame belongs to")
    info: dict[str, Any] = Field(default_factory=dict, description="what the sampler said about the frame")

    @property
    def accepted(self) -> bool:
        """Whether the gate let it through."""
        return not self.reasons

    @property
    def may_succeed_again(self) -> bool:
        """Whether it is refused for nothing but what a second start here may mend."""
        return self.stopped is None and bool(self.reasons) and all(reason.transient for reason in self.reasons)

    def explain(self) -> str:
        """Return all reasons in one line."""
        return explained(self.reasons)

    def to_atoms(self) -> Atoms:
        """Return a labelled configuration: ASE's keys ``energy``, ``forces``, ``stress`` through its calculator."""
        if not self.accepted:
            raise LabelError(f"A refused calculation is no label: {self.explain()}.", "Repeat it alone.")
        atoms = Atoms(symbols=self.symbols, positions=self.positions, cell=self.cell, pbc=self.pbc)
        atoms.calc = SinglePointCalculator(
            atoms, energy=self.energy, free_energy=self.energy, forces=self.forces, stress=self.stress,
            magmom=self.magmom, magmoms=self.magmoms,
        )  # fmt: skip
        surface = self.potential or self.functional if self.engine == "forcefield" else self.protocol_digest
        atoms.info |= self.info | {"split": self.split, FUNCTIONAL: self.functional, SETTINGS: surface}
        atoms.info["engine"] = f"{self.engine} {self.engine_version}".strip()
        if self.energy_sigma0 is not None:
            atoms.info[SIGMA0] = self.energy_sigma0
        if self.engine != "forcefield":  # a potential knows none
            atoms.info[SPIN] = self.spin_polarized
        if self.rehearsal:
            atoms.info["rehearsal"] = True
        return atoms


def refused(
    asked: Frame, protocol: ReferenceProtocol, calculation: Calculation, engine: str, reason: Reason, **known: Any
) -> ReferenceRecord:
    """Return the record of a calculation that left nothing to read."""
    return ReferenceRecord(
        engine=engine,
        calculation=calculation,
        protocol_digest=protocol.digest,
        symbols=list(asked.symbols),
        reasons=[reason],
        split=asked.split,
        info=dict(asked.info),
        **known,
    )


class LabelFailure(Document):
    """A frame without a label."""

    index: int = Field(description="number of the frame, from 0")
    job: str = Field(description="name of its job")
    split: str = Field(description="split it belongs to")
    reasons: list[Reason] = Field(description="why")
    frame: Frame = Field(description="what was asked, so that it can be repeated alone")


class LabelReport(Document):
    """All labels of one material."""

    material: str = Field(description="material")
    engine: str = Field(description="engine")
    protocol_digest: str = Field(description="sha256 of the protocol")
    rehearsal: bool = Field(False, description="made by the stand-in: no reference data")
    n_frames: int = Field(description="frames asked")
    labelled: list[int] = Field(default_factory=list, description="frame numbers with a label, ascending")
    counts: dict[str, int] = Field(default_factory=dict, description="labels per split")
    datasets: dict[str, DatasetRef] = Field(
        default_factory=dict, description="labels per split, in the order of the frames"
    )
    failures: list[LabelFailure] = Field(default_factory=list, description="frames without a label")
    corrected: dict[str, list[str]] = Field(default_factory=dict, description="errors custodian corrected, by job name")
    wall_seconds: float = Field(0.0, description="wall time of all calculations together, s")
    cores: int = Field(1, description="processor cores of one calculation (largest over all)")

    @property
    def n_labelled(self) -> int:
        """Number of labels."""
        return len(self.labelled)

    def explain(self) -> str:
        """Return one line per frame without a label."""
        return "\n".join(f"{failure.job}: {explained(failure.reasons)}" for failure in self.failures)
