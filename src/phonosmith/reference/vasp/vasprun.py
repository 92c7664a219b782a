"""Light reader of vasprun.xml: everything a label needs and every check it has to pass, nothing else.

Eigenvalues, densities of states and projections, which make up most of a file, are cut out before parsing. It agrees
with pymatgen's ``Vasprun`` number for number and is faster, the more so the more of these a file holds
(``benchmarks/import``); unlike it, it looks at the convergence of every ionic step.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from phonosmith.core.errors import InputError
from phonosmith.reference.vasp.run import IonicStep, VaspRun, Witness, regular_mesh
from phonosmith.reference.vasp.settings import VaspSettings, charge_of, element_of

Array = NDArray[np.float64]

_READ = frozenset({"generator", "incar", "kpoints", "parameters", "atominfo", "structure", "calculation"})
_BULKY = re.compile(
    rb"<(eigenvalues|dos|projected|dielectricfunction|opticaltransitions|time|timing|dynmat|partialchg|orbital)\b"
    rb"[^>]*(?:/>|>.*?</\1>)",
    re.DOTALL,
)
_FERMI = re.compile(rb'<i name="efermi">([^<]*)</i>')


def parse_vasprun(data: bytes, where: str) -> VaspRun:
    """Read the content of a vasprun.xml; a file that breaks off gives its whole steps and says so in ``damage``."""
    if not data.strip():
        raise InputError(f"{where} is empty.", "The run left nothing; repeat it.")
    head = data[: 1 << 16]
    if b"<modeling" not in head:
        raise InputError(f"{where} is not a vasprun.xml.", "Give VASP's own file.")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError(f"{where} defines XML entities, which VASP never does.", "It was tampered with.")
    reader = _Reader()
    try:
        # it lies in the density of states, which is cut out
        reader.fermi = next((float(value) for value in reversed(_FERMI.findall(data))), None)
        for _, element in ET.iterparse(io.BytesIO(_BULKY.sub(b"", data)), events=("end",)):  # noqa: S314
            if element.tag in _READ:
                reader.take(element)
    except ET.ParseError as error:
        reader.damage = f"the file breaks off or is damaged ({error}): the run did not finish"
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        reader.damage = f"a number cannot be read ({error})"
    return reader.result(where)


class _Reader:
    """Collects elements as they close; entities cannot occur here, they were refused."""

    def __init__(self) -> None:
        self.version = ""
        self.incar: dict[str, str] = {}
        self.parameters: dict[str, str] = {}
        self.symbols: list[str] = []
        self.titles: list[str] = []
        self.mesh: tuple[int, int, int] | None = None
        self.shifted = False
        self.points: Array | None = None
        self.weights: Array | None = None
        self.valence: float | None = None
        self.fermi: float | None = None
        self.steps: list[IonicStep] = []
        self.initial: tuple[Array | None, Array | None] = (None, None)
        self.damage: str | None = None

    def take(self, element: ET.Element) -> None:
        """Read an element that has just closed and let it go (a structure may belong to one that is still open)."""
        getattr(self, f"_{element.tag}")(element)
        if element.tag != "structure":
            element.clear()

    def _generator(self, element: ET.Element) -> None:
        words = " ".join(element.findtext(f"i[@name='{name}']") or "" for name in ("version", "subversion")).split()
        self.version = words[0] if words else ""

    def _incar(self, element: ET.Element) -> None:
        self.incar = {str(item.get("name")): _text(item) for item in element}

    def _parameters(self, element: ET.Element) -> None:
        # NELM and others occur a second time in the response section; the electronic one comes first
        for item in element.iter():
            if item.tag in ("i", "v"):
                self.parameters.setdefault(str(item.get("name")), _text(item))

    def _kpoints(self, element: ET.Element) -> None:
        self.points, weights = _varray(element, "kpointlist"), _varray(element, "weights")
        self.weights = None if weights is None else weights.ravel()
        generation = element.find("generation")
        divisions = None if generation is None else generation.findtext("v[@name='divisions']")
        if generation is not None and divisions is not None:
            shift = (generation.findtext("v[@name='shift']") or "0 0 0").split()
            numbers = [int(value) for value in divisions.split()]
            style = generation.get("param", "")
            self.mesh, self.shifted = regular_mesh(style, numbers, [float(value) for value in shift], self.points)
        elif self.points is not None and len(self.points) == 1:
            self.mesh = None if np.any(self.points) else (1, 1, 1)

    def _atominfo(self, element: ET.Element) -> None:
        rows, types = (
            [[_text(cell) for cell in row] for row in element.findall(f"array[@name='{name}']/set/rc")]
            for name in ("atoms", "atomtypes")
        )
        self.titles = [row[-1] for row in types]
        if types and all(len(row) > 4 for row in types):
            self.valence = sum(int(row[0]) * float(row[3]) for row in types)
        elements = [element_symbol(row[1], row[-1]) for row in types]
        self.symbols = [elements[int(row[1]) - 1] if elements else element_symbol(row[0], "") for row in rows]

    def _structure(self, element: ET.Element) -> None:
        if element.get("name") == "initialpos":
            self.initial = _geometry(element)

    def _calculation(self, element: ET.Element) -> None:
        structure = element.find("structure")
        cell, positions = (None, None) if structure is None else _geometry(structure)
        step = IonicStep(cell, positions, _varray(element, "forces"), _varray(element, "stress"))
        energies = [_energies(item) for item in element.findall("scstep/energy")]
        step.scf = [values["e_fr_energy"] for values in energies if "e_fr_energy" in values]
        final = element.find("energy")
        step.energy = None if final is None else _energies(final).get("e_fr_energy")
        # VASP writes a wrong e_0_energy into the summary; the difference in the last electronic step is right
        if energies and step.energy is not None and {"e_0_energy", "e_fr_energy"} <= energies[-1].keys():
            step.energy_sigma0 = step.energy + energies[-1]["e_0_energy"] - energies[-1]["e_fr_energy"]
            if "e_wo_entrp" in energies[-1]:
                step.entropy = energies[-1]["e_wo_entrp"] - energies[-1]["e_fr_energy"]
        self.steps.append(step)

    def result(self, where: str) -> VaspRun:
        """Return what was read."""
        if not self.symbols:
            raise InputError(f"{where} ends before it lists its atoms.", self.damage or "Repeat the run.")
        # VASP repeats PREC, GGA and METAGGA shortened or as '--'; the INCAR has what was asked
        repeated = ("GGA", "METAGGA", "ALGO", "PREC")
        asked = {name: self.incar[name] for name in repeated if self.incar.get(name, "--") not in ("--", "")}
        tags = self.incar | self.parameters | asked
        charge = charge_of(tags, self.valence)
        settings = VaspSettings(self.version, tags, self.titles, self.mesh, self.shifted, charge)
        if len(self.steps) == 1 and self.steps[0].cell is None:
            self.steps[0].cell, self.steps[0].positions = self.initial
        return VaspRun(
            settings,
            self.symbols,
            self.steps,
            self.incar,
            self.damage,
            used=self.parameters,
            kpoints=self.points,
            weights=self.weights,
            witnesses=[Witness("vasprun.xml", fermi=self.fermi)],
        )


def element_symbol(text: str, title: str) -> str:
    """Return the chemical symbol; some versions cut it, the POTCAR title has it whole."""
    for candidate in (text, element_of(title)):
        if candidate in atomic_numbers and candidate != "X":
            return candidate
    raise ValueError(f"{text!r} is not a chemical element")


def _text(element: ET.Element) -> str:
    return " ".join((element.text or "").split())


def _numbers(element: ET.Element) -> Array:
    return np.array([(row.text or "").split() for row in element], dtype=float)


def _varray(element: ET.Element, name: str, parent: str = "") -> Array | None:
    rows = element.find(f"{parent}varray[@name='{name}']")
    return None if rows is None else _numbers(rows)


def _geometry(structure: ET.Element) -> tuple[Array | None, Array | None]:
    return _varray(structure, "basis", "crystal/"), _varray(structure, "positions")


def _energies(element: ET.Element) -> dict[str, float]:
    return {str(item.get("name")): float(item.text or "nan") for item in element.findall("i")}
