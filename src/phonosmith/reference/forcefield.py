"""Any ASE calculator as a reference engine: potentials of ours, classical ones, other programs."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from atomate2.forcefields.jobs import ForceFieldRelaxMaker, forcefield_job
from pydantic import Field
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, InputError, LabelError, PhonosmithError
from phonosmith.core.manifest import thread_cores
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.accept import accept
from phonosmith.reference.documents import Frame, Reason, ReferenceRecord, explained, refused
from phonosmith.reference.kept import KeepingCalculator
from phonosmith.reference.outcome import MOVING, Asked, Outcome
from phonosmith.reference.protocol import Calculation, ReferenceProtocol, moment_table
from phonosmith.reference.vasp.run import voigt_from_kbar
from phonosmith.structures.labels import Labels
from phonosmith.structures.magnetic import MagneticOrder

_STEPS_PER_VASP_STEP = 10
"""ASE's optimisers take many cheap steps where VASP's take few: allowed for each ionic step of the protocol."""
OTHER_MOMENT = 0.6
"""μB: of elements in no table, as pymatgen starts VASP."""
_ELASTIC_MARGIN = 0.1
"""Potentials relax strained cells this much further: steps are cheap, and in silicon forces of 1 meV/Å left by FIRE
shift C44 by 0.3 GPa."""


class CalculatorSpec(Document, frozen=True):
    """An ASE calculator as plain data: every worker can build it."""

    path: str = Field(description="dotted path of a callable that returns an ASE calculator")
    arguments: dict[str, Any] = Field(default_factory=dict, description="its arguments (JSON)")
    name: str = Field(description="human name")
    potential: str | None = Field(None, description="sha256 of the potential, where there is one")
    elements: list[str] = Field(default_factory=list, description="elements it covers; empty when not known")

    def build(self) -> Calculator:
        """Return a new calculator."""
        module, _, attribute = self.path.rpartition(".")
        return getattr(importlib.import_module(module), attribute)(**self.arguments)


def calculator_spec(potential: PotentialRef | CalculatorSpec | Mapping[str, Any] | str) -> CalculatorSpec:
    """Turn what a user names into a calculator.

    That is a potential reference, any name the registry resolves (own name, foundation, sha256 prefix, file), the
    dotted path of a callable that returns an ASE calculator (``ase.calculators.emt.EMT``), or a spec.
    """
    if isinstance(potential, Mapping):
        potential = (PotentialRef if "artefact" in potential else CalculatorSpec).model_validate(potential)
    if isinstance(potential, CalculatorSpec):
        return potential
    if isinstance(potential, str):
        if _is_dotted_path(potential):
            return CalculatorSpec(path=potential, name=potential.rpartition(".")[2])
        from phonosmith.potentials.registry import resolve

        potential = resolve(potential)
    return CalculatorSpec(
        path="phonosmith.potentials.calculator.PotentialCalculator",
        arguments={"potential": potential.model_dump(mode="json")},
        name=potential.name,
        potential=potential.sha256,
        elements=list(potential.elements),
    )


def _is_dotted_path(text: str) -> bool:
    parent, _, attribute = text.rpartition(".")
    if not parent or not all(part.isidentifier() for part in text.split(".")) or Path(text).exists():
        return False
    try:
        module = importlib.import_module(parent)
    except ImportError:
        return False
    if not hasattr(module, attribute):
        raise ConfigurationError(f"{text} is not there: {parent} has no {attribute}.", "Check the dotted path.")
    return True


def require_covered(spec: CalculatorSpec, symbols: set[str]) -> None:
    """Raise before anything runs when the potential does not know an element."""
    if spec.elements and (missing := sorted(symbols - set(spec.elements))):
        raise InputError(
            f"{spec.name} does not know {', '.join(missing)} (it covers {' '.join(spec.elements)}).",
            "Choose a potential that covers every element of the frames.",
        )


@dataclass
class ProtocolAseMaker(ForceFieldRelaxMaker):
    """Run one calculation of a protocol with an ASE calculator; its document leaves the job only through the gate.

    Usable wherever atomate2's flows take a force-field Maker, batches (a list of structures) included. The thresholds
    are the protocol's, which the Maker holds as JSON.
    """

    name: str = "force field"
    protocol: dict[str, Any] = field(default_factory=dict)
    calculation: Calculation = "static"
    engine: str = "forcefield"

    def __post_init__(self) -> None:
        """Take steps and thresholds from the protocol."""
        self.rules = ReferenceProtocol.model_validate(self.protocol)
        fmax = self.rules.fmax(self.calculation)
        self.relax_cell = self.calculation == "relax"
        self.steps = 1
        if fmax is not None:
            most = self.rules.relax_steps if self.relax_cell else self.rules.elastic_steps
            self.steps = _STEPS_PER_VASP_STEP * most
            # the optimiser judges by the largest force as the gate does, which asks for strictly less
            cheap = self.engine == "forcefield" and self.calculation == "elastic_relax"
            tighter = _ELASTIC_MARGIN if cheap else 0.95
            self.relax_kwargs = {"fmax": tighter * fmax}
        super().__post_init__()

    def _with_moments(self, structure: Any) -> Any:
        moments = self.started(Frame.from_atoms(AseAtomsAdaptor.get_atoms(structure, msonable=False))).magmoms
        return structure if moments is None else structure.copy(site_properties={"magmom": moments})

    def set_cell(self, cell: Any) -> None:
        """Tell a program that has k-points the cell (rows in Å) they are chosen for."""
        if self.engine == "gpaw":
            arguments: dict[str, Any] = self.calculator_kwargs
            arguments["cell"] = np.asarray(cell, dtype=float).tolist()

    def started(self, frame: Frame) -> Frame:
        """Return a configuration with the moments that a calculation with spin starts from, by element if not given."""
        if self.engine == "forcefield" or not self.rules.spin_polarized or frame.magmoms is not None:
            return frame
        table = moment_table(self.rules)
        return frame.model_copy(update={"magmoms": [float(table.get(one, OTHER_MOMENT)) for one in frame.symbols]})

    @forcefield_job
    def make(self, structure: Any, prev_dir: str | Path | None = None) -> Any:
        """Run the calculator on a structure, or on each of a list; a refused result fails the job."""
        several = isinstance(structure, list)
        structure = [self._with_moments(one) for one in structure] if several else self._with_moments(structure)
        self.set_cell((structure[0] if several else structure).lattice.matrix)
        documents = super().make.original(self, structure, prev_dir=prev_dir)
        if not several and isinstance(self.calculator, KeepingCalculator):
            # what it cost when it was calculated, not what it took to find it
            documents.output.elapsed_time = self.calculator.wall_seconds
        pairs = zip(structure, documents, strict=True) if several else [(structure, documents)]
        for number, (sent, document) in enumerate(pairs):
            asked = Frame.from_atoms(AseAtomsAdaptor.get_atoms(sent, msonable=False))
            if reasons := judge_document(document, Asked(asked, self.rules, self.calculation)):
                raise LabelError(
                    f"{self.name}{f', structure {number}' if several else ''}: {explained(reasons)}.",
                    "Look at the structure and at the limits of the calculator.",
                )
        return documents


@dataclass
class MagneticAseMaker(ProtocolAseMaker):
    """A Maker for one crystal whose magnetic order (`MagneticOrder` as JSON) every calculation starts from."""

    order: dict[str, Any] = field(default_factory=dict)

    def started(self, frame: Frame) -> Frame:
        """Return a configuration with the moment of its site on every atom."""
        known = MagneticOrder.model_validate(self.order)
        return frame.model_copy(update={"magmoms": known.moments_in(frame.symbols, frame.cell, frame.positions)})


def judge_document(document: Any, asked: Asked) -> list[Reason]:
    """Return why an atomate2 ASE or force-field document is no label (same stress convention as VASP's)."""
    output, structure = document.output, document.structure
    labels = Labels(
        None if output.energy is None else float(output.energy),
        None if output.forces is None else np.asarray(output.forces, dtype=float),
        voigt_from_kbar(output.stress),
    )
    symbols = [site.specie.symbol for site in structure]
    reasons = accept(Outcome(symbols, structure.lattice.matrix, structure.cart_coords, labels), asked)
    # in a strained cell the rule's own look at the forces decides; here the cell must have come to rest as well
    if asked.calculation == "relax" and document.is_force_converged is False:
        message = "the optimiser stopped before the forces were small enough"
        reasons.insert(0, Reason(code="not_relaxed", message=message))
    return reasons


def evaluate_frame(calculator: Calculator, atoms: Atoms, asked: Asked, **known: Any) -> ReferenceRecord:
    """Evaluate one configuration and return a record that holds both energies; nothing is judged yet."""
    copy = atoms.copy()
    copy.calc = calculator
    record = ReferenceRecord(
        calculation=asked.calculation,
        protocol_digest=asked.protocol.digest,
        symbols=copy.get_chemical_symbols(),
        pbc=asked.frame.pbc,
        cell=copy.cell.array.tolist(),
        positions=copy.positions.tolist(),
        energy=copy.get_potential_energy(force_consistent="free_energy" in calculator.implemented_properties),
        energy_sigma0=copy.get_potential_energy(),
        forces=np.asarray(copy.get_forces(apply_constraint=False), dtype=float).tolist(),
        stress=np.asarray(copy.get_stress(voigt=True, apply_constraint=False), dtype=float).tolist(),
        split=asked.frame.split,
        info=dict(asked.frame.info),
        **known,
    )
    if asked.protocol.spin_polarized and record.engine != "forcefield":
        record.spin_polarized, record.magmom = True, float(copy.get_magnetic_moment())
        record.magmoms = np.asarray(copy.get_magnetic_moments(), dtype=float).tolist()
    return record


def compute_with_ase(
    maker: ProtocolAseMaker, spec: CalculatorSpec, frame: Frame, functional: str, version: str
) -> ReferenceRecord:
    """Do one calculation in the current folder and judge it; failures become a refused record.

    A relaxation is done by the Maker; the numbers recorded are those of a fresh evaluation at its end, so that
    statics and relaxations report the same two energies.
    """
    frame = maker.started(frame)
    asked = Asked(frame, maker.rules, maker.calculation)
    known = {
        "engine_version": version, "functional": functional, "potential": spec.potential,
        "directory": Path.cwd().name, "cores": thread_cores(),
    }  # fmt: skip
    start = time.perf_counter()
    try:
        maker.set_cell(frame.cell)
        atoms = frame.to_atoms()
        if maker.calculation in MOVING:
            document = type(maker).make.original(maker, AseAtomsAdaptor.get_structure(atoms))
            atoms = AseAtomsAdaptor.get_atoms(document.structure, msonable=False)
        calculator = maker.calculator
        record = evaluate_frame(calculator, atoms, asked, engine=maker.engine, **known)
        record.reasons = accept(Outcome.of_record(record), asked)
        record.wall_seconds = time.perf_counter() - start
        if isinstance(calculator, KeepingCalculator):
            record.wall_seconds, record.kept = calculator.wall_seconds, calculator.n_calculated == 0
    except Exception as error:  # whatever a foreign program raises is one refused calculation
        if isinstance(error, PhonosmithError) and not isinstance(error, LabelError):
            raise
        reason = Reason(code="run_failed", message=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        if isinstance(error, LabelError):
            reason = Reason(code="gate", message=error.message)
        wall = time.perf_counter() - start
        record = refused(frame, maker.rules, maker.calculation, maker.engine, reason, wall_seconds=wall, **known)
    return record
