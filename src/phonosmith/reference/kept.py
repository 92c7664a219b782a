"""Results of a program, kept by what was calculated: no geometry is calculated twice with the same settings.

A folder of small JSON files, `Settings.reference_cache`, each named by the digest of program, settings and geometry. A
relaxation that was killed goes on at its last step, and another campaign finds what an earlier one has paid for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from pydantic import Field, ValidationError

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.core.hashing import digest_json
from phonosmith.core.reading import MIB, Limits, check_json, read_bounded
from phonosmith.reference.documents import Vector, Voigt

DIGITS = 9
"""Decimals of lengths in Å by which geometries are told apart: a billionth moves forces by less than any program's own
convergence, and rewriting coordinates moves the last digits."""
LIMITS = Limits(member_bytes=16 * MIB)
"""Ten thousand atoms take a tenth of it."""


class Calculated(Document, extra="forbid", allow_inf_nan=False):
    """What was calculated."""

    program: str = Field(description="program and version, and those of its data")
    settings: dict[str, Any] = Field(description="every argument of the program that can change a number")
    symbols: list[str] = Field(description="chemical symbols, in order")
    cell: list[Vector] = Field(description="lattice vectors as rows, Å")
    positions: list[Vector] = Field(description="Cartesian positions, Å")
    pbc: tuple[bool, bool, bool] = Field(description="periodic directions")

    @property
    def digest(self) -> str:
        """Canonical sha256."""
        return digest_json(self.model_dump(mode="json"))


class Numbers(Document, extra="forbid", allow_inf_nan=False):
    """What came out."""

    energy: float = Field(description="force-consistent free energy, eV")
    energy_sigma0: float = Field(description="energy extrapolated to zero smearing, eV")
    forces: list[Vector] = Field(description="eV/Å")
    stress: Voigt = Field(description="xx yy zz yz xz xy, eV/Å³, ASE's sign (positive = tension)")
    wall_seconds: float = Field(ge=0, description="wall time, s")
    processor_seconds: float = Field(ge=0, description="processor time of this process and its threads, s")


class KeptResult(Document, extra="forbid"):
    """A file of the folder."""

    calculated: Calculated = Field(description="what was calculated")
    numbers: Numbers = Field(description="what came out")
    digest: str = Field(description="canonical sha256 of the numbers: an altered file counts as none")

    @classmethod
    def of(cls, calculated: Calculated, numbers: Numbers) -> KeptResult:
        """Return what is kept of a calculation."""
        return cls(calculated=calculated, numbers=numbers, digest=digest_json(numbers.model_dump(mode="json")))


def read_result(path: Path) -> KeptResult:
    """Return a file of the folder; a damaged or altered one, or one under a wrong name, is an InputError."""
    data = read_bounded(path, LIMITS)
    try:
        check_json(data, str(path))
        kept = KeptResult.model_validate_json(data)
    except ValidationError as error:
        raise InputError(f"{path} is no kept result: {error.errors()[0]['msg']}.", "Remove it.") from error
    whole = digest_json(kept.numbers.model_dump(mode="json")) == kept.digest
    if not whole or kept.calculated.digest != path.stem or len(kept.numbers.forces) != len(kept.calculated.symbols):
        raise InputError(f"{path} was altered after it was written.", "Remove it.")
    return kept


def kept_results(folder: Path) -> Iterator[KeptResult]:
    """Yield every whole result of a folder, in the order of their names."""
    for path in sorted(folder.glob("[0-9a-f][0-9a-f]/*.json")):
        try:
            yield read_result(path)
        except InputError:
            continue


class KeepingCalculator(Calculator):  # type: ignore[misc]  # ASE has no type information
    """A program as ASE calculator that looks into a folder first and leaves there what it had to calculate.

    Parameters
    ----------
    make : makes the program's own calculator, at the first configuration that is not there
    program, settings : see `Calculated`

    Attributes
    ----------
    wall_seconds : what the results asked so far took when they were calculated, s
    n_calculated, n_kept : how many were calculated now, and how many were there
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, make: Callable[[], Calculator], program: str, settings: Mapping[str, Any], folder: Path) -> None:
        super().__init__()
        self.make, self.program, self.settings, self.folder = make, program, dict(settings), folder
        self.wall_seconds, self.n_calculated, self.n_kept = 0.0, 0, 0
        self._own: Calculator | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Find or calculate everything about a configuration."""
        super().calculate(atoms, properties, system_changes)
        calculated = Calculated(
            program=self.program,
            settings=self.settings,
            symbols=self.atoms.get_chemical_symbols(),
            cell=self.atoms.cell.array.round(DIGITS).tolist(),
            positions=self.atoms.positions.round(DIGITS).tolist(),
            pbc=self.atoms.pbc.tolist(),
        )
        path = self.folder / calculated.digest[:2] / f"{calculated.digest}.json"
        try:
            numbers = read_result(path).numbers
            self.n_kept += 1
        except InputError:
            numbers = self._calculate_now(self.atoms)
            self.n_calculated += 1
            try:
                write_atomic(path, KeptResult.of(calculated, numbers).model_dump_json().encode())
            except OSError as error:
                raise ConfigurationError(
                    f"Cannot keep a result in {self.folder}: {error.strerror or error}.",
                    "Make room there, or point PHONOSMITH_REFERENCE_CACHE elsewhere.",
                ) from error
        self.wall_seconds += numbers.wall_seconds
        self.results = {
            "energy": numbers.energy_sigma0,
            "free_energy": numbers.energy,
            "forces": np.array(numbers.forces),
            "stress": np.array(numbers.stress),
        }

    def _calculate_now(self, atoms: Atoms) -> Numbers:
        wall, processor = time.perf_counter(), time.process_time()
        if self._own is None:
            self._own = self.make()
        copy = atoms.copy()
        copy.calc = self._own
        energy = copy.get_potential_energy(force_consistent=True)
        return Numbers(
            energy=energy,
            energy_sigma0=copy.get_potential_energy(),
            forces=copy.get_forces(apply_constraint=False).tolist(),
            stress=copy.get_stress(voigt=True, apply_constraint=False).tolist(),
            wall_seconds=time.perf_counter() - wall,
            processor_seconds=time.process_time() - processor,
        )
