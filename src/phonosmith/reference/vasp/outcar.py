"""Reader of OUTCAR, for runs whose vasprun.xml is gone and as a second witness of those where both are there.

An OUTCAR rounds positions to 1e-5 Å and forces to 1e-6 eV/Å, so vasprun.xml is taken wherever both lie together.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.reference.vasp.run import IonicStep, VaspRun, Witness
from phonosmith.reference.vasp.settings import STANDIN_MARK, VaspSettings, charge_of
from phonosmith.reference.vasp.vasprun import element_symbol

Array = NDArray[np.float64]

_TAGS = re.compile(
    r"^\s*(PREC|ENCUT|NELM|EDIFF|ISMEAR|SIGMA|ISPIN|LREAL|GGA|METAGGA|LHFCALC|HFSCREEN|AEXX|LDAU|LUSE_VDW|IVDW|LVDW|LASPH|"
    r"LSORBIT|LEPSILON|LCALCEPS|ICHARG|NSW|LDAUTYPE)\s*=\s*(\S+)"
)
_INLINE = re.compile(r";\s*(SIGMA|NELMIN|ISMEAR)\s*=\s*(\S+)")
_SPECIES = re.compile(r"for each species (LDAU[LUJ]) =\s*(.*)")
_ENERGY = re.compile(r"free\s+energy\s+TOTEN\s*=\s*(\S+)\s*eV")
_SIGMA0 = re.compile(r"energy\(sigma->0\)\s*=\s*(\S+)")
_ENTROPY = re.compile(r"energy\s+without\s+entropy\s*=\s*(\S+)")
_MOMENT = re.compile(r"number of electron\s+\S+\s+magnetization\s+(\S+)")
_VALENCE = re.compile(r"\bZVAL\s*=\s*([\d.]+)\s+mass and valenz")
_ELECTRONS = re.compile(r"^\s*NELECT\s*=\s*(\S+)")
_ELECTRONIC = re.compile(r"\s*[A-Z]{3}:\s*\d+\s+\S+\s+(\S+)\s+\S+\s+\d+\s+\S+(?:\s+(\S+))?")
_IONIC = re.compile(r"\s*\d+ F=\s*(\S+)")
COMPLAINTS = ("VERY BAD NEWS", "internal error", "very serious problems", "ZPOTRF failed", "charge density is NaN")
"""Messages after which VASP may go on, with numbers that mean nothing."""
_MESH = re.compile(r"generate k-points for:\s*(\d+)\s+(\d+)\s+(\d+)")


class _Reader:
    """Line by line; every block starts at a heading VASP has printed unchanged since version 4.6."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.tags: dict[str, Any] = {}
        self.titles: list[str] = []
        self.counts: list[int] = []
        self.mesh: tuple[int, int, int] | None = None
        self.version = ""
        self.cell: Array | None = None
        self.current = IonicStep()
        self.steps: list[IonicStep] = []
        self.finished = False
        self.valences: list[float] = []
        self.end = Witness("OUTCAR")

    def run(self) -> None:
        for number, line in enumerate(self.lines):
            if number < 5 and not self.version and (version := re.match(r"\s*vasp\.(\S+)", line)):
                self.version = version[1]
            elif "TITEL" in line and "=" in line:
                self.titles.append(" ".join(line.split("=", 1)[1].split()))
            elif "ions per type" in line:
                self.counts = [int(value) for value in line.split("=", 1)[1].split()]
            elif "TOTEN" in line or "energy(sigma->0)" in line:
                self._energies(line)
            elif "in kB" in line:
                xx, yy, zz, xy, yz, zx = (float(value) for value in line.split()[2:8])
                self.current.stress = np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
            elif "direct lattice vectors" in line:
                self.cell = self._table(number + 1, 3)[:, :3]
            elif "TOTAL-FORCE (eV/Angst)" in line:
                self._forces(number)
            elif mesh := _MESH.search(line):
                self.mesh = (int(mesh[1]), int(mesh[2]), int(mesh[3]))
            elif "total drift:" in line:
                self.end = replace(self.end, drift=_floats(line.split(":", 1)[1]))
            elif "magnetization (x)" in line:
                self._site_moments(number)
            elif "General timing and accounting" in line:
                self.finished = True
            else:
                self._settings(line)
                self._state(line)

    def _settings(self, line: str) -> None:
        if tag := _TAGS.match(line):
            self.tags.setdefault(tag[1], tag[2].rstrip(";"))
            if inline := _INLINE.search(line):
                self.tags.setdefault(inline[1], inline[2])
        elif "LDA+U is selected" in line:
            self.tags["LDAU"] = "T"
            self.tags["LDAUTYPE"] = line.rsplit("=", maxsplit=1)[-1].strip()
        elif species := _SPECIES.search(line):
            self.tags[species[1]] = " ".join(species[2].split())

    def _state(self, line: str) -> None:
        """Note what the file says about how the run ended; a new electronic cycle starts afresh."""
        if " Iteration " in line and "(   1)" in line:
            self.end = replace(self.end, unconverged=False)
        elif "EDIFF was not reached" in line:
            self.end = replace(self.end, unconverged=True)
        elif line.startswith(" E-fermi"):
            self.end = replace(self.end, fermi=_float(line.split(":", 1)[1].split(maxsplit=1)[0]))
        elif moment := _MOMENT.search(line):
            self.end = replace(self.end, moment=_float(moment[1]))
        elif valence := _VALENCE.search(line):
            self.valences.append(float(valence[1]))
        elif electrons := _ELECTRONS.match(line):
            self.tags.setdefault("NELECT", electrons[1])
        elif line.strip().startswith("LEXCH  ="):
            self.end = replace(self.end, exchange=(*self.end.exchange, line.split("=")[1].split(maxsplit=1)[0]))
        elif any(text in line for text in COMPLAINTS):
            self.end = replace(self.end, complaints=(*self.end.complaints, " ".join(line.split())))

    def _site_moments(self, heading: int) -> None:
        """Take the last column of the table of moments by atom."""
        first = heading + 4
        rows = [line.split() for line in self.lines[first : first + sum(self.counts)]]
        self.end = replace(self.end, site_moments=np.array([_float(row[-1]) for row in rows if row]))

    def _energies(self, line: str) -> None:
        if total := _ENERGY.search(line):
            # two blanks mark the summary after the electronic loop
            if "free  energy" in line:
                self.current.energy = float(total[1])
            else:
                self.current.scf.append(float(total[1]))
        if sigma0 := _SIGMA0.search(line):
            self.current.energy_sigma0 = float(sigma0[1])
            free = self.current.energy if self.current.energy is not None else next(reversed(self.current.scf), None)
            if free is not None and (without := _ENTROPY.search(line)):
                self.current.entropy = float(without[1]) - free
            self._close_if_whole()

    def _table(self, first: int, rows: int) -> Array:
        text = self.lines[first : first + rows]
        if len(text) < rows:
            raise ValueError("a table is cut off")
        # VASP may run numbers together when they are negative and wide
        return np.array([re.sub(r"(?<=\d)-(?=\d)", " -", line).split() for line in text], dtype=float)

    def _forces(self, heading: int) -> None:
        table = self._table(heading + 2, sum(self.counts))
        if self.cell is None or table.shape[1] < 6:
            raise ValueError("forces come before the cell")
        self.current.cell = self.cell
        self.current.positions = np.asarray(np.linalg.solve(self.cell.T, table[:, :3].T).T, dtype=float)
        self.current.forces = table[:, 3:6]
        self._close_if_whole()

    def _close_if_whole(self) -> None:
        """End the ionic step when its energy and forces are both there, in whichever order this version prints them."""
        if self.current.energy is not None and self.current.forces is not None:
            self.steps.append(self.current)
            self.current = IonicStep()


def parse_outcar(data: bytes, where: str) -> VaspRun:
    """Read the content of an OUTCAR; a run that broke off says so in ``damage``."""
    text = data.decode(errors="replace")
    if not text.strip():
        raise InputError(f"{where} is empty.", "The run left nothing; repeat it.")
    if STANDIN_MARK in text[:200]:
        raise InputError(
            f"{where} comes from a rehearsal with the VASP stand-in: its numbers are no DFT.",
            "Import the vasprun.xml beside it with --allow-rehearsal if that is what you want.",
        )
    if "vasp." not in text[:2000]:
        raise InputError(f"{where} is not an OUTCAR.", "Give VASP's own file.")
    reader = _Reader(text.splitlines())
    try:
        reader.run()
        damage = None if reader.finished else "the timing summary at the end is missing: the run did not finish"
    except (ValueError, IndexError, np.linalg.LinAlgError) as error:
        damage = f"a number cannot be read ({error})"
    titles = reader.titles[: len(reader.counts)]
    if not reader.counts or len(titles) < len(reader.counts):
        raise InputError(f"{where} ends before it lists its atoms.", "Repeat the run.")
    try:
        elements = [element_symbol("", title) for title in titles]
    except ValueError as error:
        raise InputError(f"{where}: POTCAR titles {titles} name no elements.", "Give vasprun.xml instead.") from error
    symbols = [element for element, count in zip(elements, reader.counts, strict=True) for _ in range(count)]
    tags = reader.tags | {"ENMAX": reader.tags.get("ENCUT", 0.0)}
    valence = None
    if len(reader.valences) >= len(reader.counts):  # the header may repeat each POTCAR
        valence = sum(count * electrons for count, electrons in zip(reader.counts, reader.valences, strict=False))
    settings = VaspSettings(reader.version, tags, titles, reader.mesh, charge=charge_of(tags, valence))
    return VaspRun(settings, symbols, reader.steps, reader.tags, damage, witnesses=[_end_of(reader)])


def outcar_witness(text: str) -> Witness:
    """Return what an OUTCAR says about the end of its run, the stand-in's too; what cannot be read is left out."""
    reader = _Reader(text.splitlines())
    with contextlib.suppress(ValueError, IndexError, np.linalg.LinAlgError):
        reader.run()
    return _end_of(reader)


def _end_of(reader: _Reader) -> Witness:
    if not reader.steps:
        return reader.end
    last = reader.steps[-1]
    return replace(reader.end, energy=last.energy, forces=last.forces, stress=last.stress)


def oszicar_witness(text: str) -> Witness:
    """Return what an OSZICAR says about the end of its run."""
    end = Witness("OSZICAR")
    for line in text.splitlines():
        if step := _ELECTRONIC.match(line):
            # the last step of a cycle mixes no charge and prints no rms(c): the one before it counts
            residual = end.density_residual if step[2] is None else _float(step[2])
            end = replace(end, last_change=_float(step[1]), density_residual=residual)
        elif ionic := _IONIC.match(line):
            moment = re.search(r"mag=\s*(\S+)", line)
            end = replace(end, energy=_float(ionic[1]), moment=_float(moment[1]) if moment else None)
    return end


def _float(text: str) -> float:
    """Read a Fortran number; what overflowed its format is NaN."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _floats(text: str) -> Array:
    return np.array([_float(value) for value in text.split()], dtype=float)
