"""Light reader of vasprun.xml: everything a label needs and every check it has to pass, nothing else.

Eigenvalues, densities of states and projections, which make up most of a file, are cut out before parsing. It agrees
with pymatgen's ``Vasprun`` number for number and is faster, the more so the more of these a file holds
(``benchmarks/import``); unlike it, it looks at the convergence of every ionic step.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.datasets.documents import Refusal
from phonosmith.reference.importers.archives import read_bounded
from phonosmith.reference.vasp.settings import (
    VaspSettings,
    not_self_consistent,
    provenance,
    scf_problem,
)
from phonosmith.structures.labels import label_frame, problems, voigt_stress

Array = NDArray[np.float64]
Steps = Literal["all", "last"]

_READ = frozenset({"generator", "incar", "kpoints", "parameters", "atominfo", "structure", "calculation", "modeling"})
_BULKY = re.compile(
    rb"<(eigenvalues|dos|projected|dielectricfunction|opticaltransitions|time|timing|dynmat|partialchg|orbital)\b"
    rb"[^>]*(?:/>|>.*?</\1>)",
    re.DOTALL,
)


@dataclass
class IonicStep:
    """One ionic step.

    Attributes
    ----------
    cell, positions
        Å and fractional.
    forces
        eV/Å.
    stress
        3x3, kbar in VASP's sign.
    energy, energy_sigma0
        Free energy and its extrapolation to zero smearing, eV.
    scf
        Free energy after each electronic step, eV.
    """

    cell: Array | None = None
    positions: Array | None = None
    forces: Array | None = None
    stress: Array | None = None
    energy: float | None = None
    energy_sigma0: float | None = None
    scf: list[float] = field(default_factory=list)


@dataclass
class VaspRun:
    """Content of one vasprun.xml.

    Attributes
    ----------
    damage
        Why the file is not whole, or None.
    """

    settings: VaspSettings
    symbols: list[str]
    steps: list[IonicStep]
    incar: dict[str, str]
    n_kpoints: int = 0
    damage: str | None = None


def read_vasprun(path: str | Path) -> VaspRun:
    """Read a vasprun.xml (plain or compressed)."""
    source = Path(path)
    return parse_vasprun(read_bounded(source), str(source))


def parse_vasprun(data: bytes, where: str) -> VaspRun:
    """Read the content of a vasprun.xml.

    Raises
    ------
    InputError
        When it is not a vasprun.xml at all. A file that breaks off gives its whole steps and says so in ``damage``.
    """
    if not data.strip():
        raise InputError(f"{where} is empty.", "The run left nothing; repeat it.")
    head = data[: 1 << 16]
    if b"<modeling" not in head:
        raise InputError(f"{where} is not a vasprun.xml.", "Give VASP's own file.")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError(f"{where} defines XML entities, which VASP never does.", "It was tampered with.")
    reader = _Reader()
    try:
        for _, element in ET.iterparse(io.BytesIO(_BULKY.sub(b"", data)), events=("end",)):  # noqa: S314
            if element.tag in _READ:
                reader.take(element)
    except ET.ParseError as error:
        reader.damage = f"the file breaks off or is damaged ({error}): the run did not finish"
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        reader.damage = f"a number cannot be read ({error})"
    if not reader.whole and reader.damage is None:
        reader.damage = "the closing tag is missing"
    return reader.result(where)


class _Reader:
    """Collects elements as they close; entities cannot occur here, they were refused."""

    def __init__(self) -> None:
        self.version = ""
        self.incar: dict[str, str] = {}
        self.parameters: dict[str, str] = {}
        self.symbols: list[str] = []
        self.types: list[str] = []
        self.titles: list[str] = []
        self.mesh: tuple[int, int, int] | None = None
        self.shifted = False
        self.n_kpoints = 0
        self.steps: list[IonicStep] = []
        self.initial: tuple[Array | None, Array | None] = (None, None)
        self.whole = False
        self.damage: str | None = None

    def take(self, element: ET.Element) -> None:
        """Read an element that has just closed and let it go."""
        getattr(self, f"_{element.tag}")(element)

    def _generator(self, element: ET.Element) -> None:
        self.version = " ".join(
            (element.findtext(f"i[@name='{name}']") or "").strip() for name in ("version", "subversion")
        ).strip()
        element.clear()

    def _incar(self, element: ET.Element) -> None:
        self.incar = {str(item.get("name")): " ".join((item.text or "").split()) for item in element}
        element.clear()

    def _parameters(self, element: ET.Element) -> None:
        # NELM and others occur a second time in the response section; the electronic one comes first
        for item in element.iter():
            if item.tag in ("i", "v"):
                self.parameters.setdefault(str(item.get("name")), " ".join((item.text or "").split()))
        element.clear()

    def _kpoints(self, element: ET.Element) -> None:
        points = element.find("varray[@name='kpointlist']")
        self.n_kpoints = 0 if points is None else len(points)
        divisions = element.findtext("generation/v[@name='divisions']")
        if divisions is not None:
            first, second, third = (int(value) for value in divisions.split())
            self.mesh = (first, second, third)
            kind = str(getattr(element.find("generation"), "attrib", {}).get("param", ""))
            shift = (element.findtext("generation/v[@name='shift']") or "0 0 0").split()
            even = any(division % 2 == 0 for division in self.mesh)
            self.shifted = any(float(s) != 0 for s in shift) or (kind.lower().startswith("m") and even)
        elif self.n_kpoints == 1 and points is not None:
            self.mesh = (1, 1, 1) if not np.any(_numbers(points)) else None
        element.clear()

    def _atominfo(self, element: ET.Element) -> None:
        rows = [[(cell.text or "").strip() for cell in row] for row in element.findall("array[@name='atoms']/set/rc")]
        types = [[(c.text or "").strip() for c in row] for row in element.findall("array[@name='atomtypes']/set/rc")]
        self.titles = [row[-1] for row in types]
        self.types = [_symbol(row[1], row[-1]) for row in types]
        self.symbols = [self.types[int(row[1]) - 1] if self.types else _symbol(row[0], "") for row in rows]
        element.clear()

    def _structure(self, element: ET.Element) -> None:
        if element.get("name") == "initialpos":
            self.initial = _geometry(element)

    def _calculation(self, element: ET.Element) -> None:
        step = IonicStep()
        structure = element.find("structure")
        if structure is not None:
            step.cell, step.positions = _geometry(structure)
        step.forces = _varray(element, "forces")
        step.stress = _varray(element, "stress")
        energies = [_energies(item) for item in element.findall("scstep/energy")]
        step.scf = [values["e_fr_energy"] for values in energies if "e_fr_energy" in values]
        final = element.find("energy")
        if final is not None:
            values = _energies(final)
            step.energy = values.get("e_fr_energy")
            # VASP writes a wrong e_0_energy into the summary; the difference in the last electronic step is right
            if energies and step.energy is not None and {"e_0_energy", "e_fr_energy"} <= energies[-1].keys():
                step.energy_sigma0 = step.energy + energies[-1]["e_0_energy"] - energies[-1]["e_fr_energy"]
        self.steps.append(step)
        element.clear()

    def _modeling(self, _: ET.Element) -> None:
        self.whole = True

    def result(self, where: str) -> VaspRun:
        """Return what was read."""
        if not self.symbols:
            raise InputError(f"{where} ends before it lists its atoms.", self.damage or "Repeat the run.")
        tags: dict[str, Any] = {**self.incar, **self.parameters}
        # VASP repeats PREC, GGA and METAGGA shortened or as '--'; the INCAR has what was asked
        for name in ("GGA", "METAGGA", "ALGO", "PREC"):
            if self.incar.get(name, "--") not in ("--", ""):
                tags[name] = self.incar[name]
        titles = {symbol: " ".join(title.split()) for symbol, title in zip(self.types, self.titles, strict=True)}
        settings = VaspSettings(self.version.split()[0] if self.version else "", tags, titles, self.mesh, self.shifted)
        if len(self.steps) == 1 and self.steps[0].cell is None:
            self.steps[0].cell, self.steps[0].positions = self.initial
        return VaspRun(settings, self.symbols, self.steps, self.incar, self.n_kpoints, self.damage)


def _symbol(text: str, title: str) -> str:
    """Return the chemical symbol; some versions cut it, the POTCAR title has it whole."""
    if text in atomic_numbers and text != "X":
        return text
    words = title.split()
    candidate = words[1].split("_")[0] if len(words) > 1 else ""
    if candidate in atomic_numbers:
        return candidate
    raise ValueError(f"{text!r} is not a chemical element")


def _numbers(element: ET.Element) -> Array:
    return np.array([[float(value) for value in (row.text or "").split()] for row in element], dtype=float)


def _varray(element: ET.Element, name: str) -> Array | None:
    found = element.find(f"varray[@name='{name}']")
    return None if found is None else _numbers(found)


def _geometry(structure: ET.Element) -> tuple[Array | None, Array | None]:
    basis = structure.find("crystal/varray[@name='basis']")
    positions = structure.find("varray[@name='positions']")
    return (
        None if basis is None else _numbers(basis),
        None if positions is None else _numbers(positions),
    )


def _energies(element: ET.Element) -> dict[str, float]:
    return {str(item.get("name")): float(item.text or "nan") for item in element.findall("i")}


def frames_of(run: VaspRun, where: str, *, steps: Steps = "all") -> tuple[list[Atoms], list[Refusal]]:
    """Return the labelled configurations of a run and a refusal for everything that is no label.

    Parameters
    ----------
    run
        What was read.
    where
        Name of the file, kept as the frames' source.
    steps
        "all" ionic steps that converged, or the "last" alone.
    """
    general = run.damage or not_self_consistent(run.settings)
    if general is None and not run.steps:
        general = "it holds no ionic step"
    if general is not None:
        return [], [Refusal(where=where, reason=general)]
    frames: list[Atoms] = []
    refused: list[Refusal] = []
    chosen = list(enumerate(run.steps))
    for index, step in chosen if steps == "all" else chosen[-1:]:
        name = where if len(run.steps) == 1 else f"{where}, ionic step {index}"
        reason = _step_problem(step, run)
        frame = None if reason else _frame(step, run, where)
        if frame is not None:
            wrong = problems(frame, ("energy", "forces"))
            reason = "; ".join(wrong) if wrong else None
        if reason or frame is None:
            refused.append(Refusal(where=name, reason=reason or "no frame"))
        else:
            frames.append(frame)
    return frames, refused


def _step_problem(step: IonicStep, run: VaspRun) -> str | None:
    if step.cell is None or step.positions is None or step.positions.shape != (len(run.symbols), 3):
        return "the structure is missing or has another number of atoms"
    if abs(np.linalg.det(step.cell)) < 1e-6:
        return "the cell has no volume"
    if step.energy is None:
        return "the energy is missing"
    if step.forces is None or step.forces.shape != step.positions.shape:
        return "forces are missing"
    return scf_problem(step.scf, run.settings)


def _frame(step: IonicStep, run: VaspRun, where: str) -> Atoms:
    assert step.cell is not None
    atoms = Atoms(run.symbols, cell=step.cell, scaled_positions=step.positions, pbc=True)
    stress = None
    if step.stress is not None and step.stress.shape == (3, 3):
        stress = voigt_stress(step.stress * EV_PER_A3_PER_VASP_KBAR)
    return label_frame(
        atoms,
        energy=step.energy,
        forces=step.forces,
        stress=stress,
        energy_sigma0=step.energy_sigma0,
        config_stress_weight=None if stress is not None else 0.0,
        source=where,
        **provenance(run.settings, step.cell),
    )
