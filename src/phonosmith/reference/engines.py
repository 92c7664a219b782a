"""One factory for every way of computing reference numbers: VASP, any potential, GPAW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from phonosmith.core.attempts import repeated
from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.documents import Frame, ReferenceRecord, Stopped
from phonosmith.reference.outcome import MOVING
from phonosmith.reference.protocol import Calculation, ReferenceProtocol
from phonosmith.reference.vasp.rehearsal import Rehearsal
from phonosmith.structures.magnetic import MagneticOrder

if TYPE_CHECKING:
    from jobflow import Maker

EngineName = Literal["vasp", "forcefield", "gpaw"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


class ReferenceEngine(Document, frozen=True):
    """A protocol together with the program that carries it out; plain data, so it travels with a job."""

    name: EngineName | Literal["phonopy"] = Field(description="vasp, forcefield, gpaw; phonopy: calculated already")
    protocol: ReferenceProtocol = Field(description="how calculations are done")
    calculator: dict[str, Any] | None = Field(
        None, description="ASE calculator (CalculatorSpec) of forcefield and gpaw"
    )
    rehearsal: Rehearsal | None = Field(None, description="play VASP with the stand-in; results are no reference data")
    wall_time: int | None = Field(
        None, description="VASP is asked to stop after so many seconds of a job; another job goes on where it stopped"
    )
    frozen_timeout: float = Field(7200.0, gt=0, description="VASP without output for so long is started again, s")
    custodian: dict[str, Any] = Field(default_factory=dict, description="further arguments of Custodian")
    order: MagneticOrder | None = Field(
        None, description="magnetic order of the crystal it computes: every calculation starts from it"
    )

    @model_serializer(mode="wrap")
    def _without_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an order there is not: a job keeps the identity it had before there were any."""
        plain: dict[str, Any] = handler(self)
        return plain if self.order is not None else {k: v for k, v in plain.items() if k != "order"}

    def with_order(self, order: MagneticOrder) -> ReferenceEngine:
        """Return the engine for a crystal whose atoms have given moments; it must calculate with spin."""
        if self.name == "forcefield":
            raise ConfigurationError(
                "A potential knows no magnetic moments.", "Use the vasp or gpaw engine, or leave magmoms out."
            )
        if not self.protocol.spin_polarized:
            raise ConfigurationError(
                "Moments are given, and the protocol calculates without spin.",
                "Set spin_polarized: true in the protocol of the engine.",
            )
        return self.model_copy(update={"order": order})

    @property
    def functional(self) -> str:
        """What the numbers are called: functional, or name of the potential."""
        return str((self.calculator or {}).get("name", "")) if self.name == "forcefield" else self.protocol.functional

    def static(self, name: str = "static") -> Maker:
        """Return the Maker of a static calculation."""
        return self.maker("static", name)

    def relax(self, name: str = "tight relax") -> Maker:
        """Return the Maker of a tight relaxation of cell and atoms."""
        return self.maker("relax", name)

    def elastic_relax(self, name: str = "elastic relax") -> Maker:
        """Return the Maker that relaxes atoms in a strained cell."""
        return self.maker("elastic_relax", name)

    def eos_relax(self, name: str = "eos relax") -> Maker:
        """Return the Maker that relaxes atoms in a cell scaled for an equation of state."""
        return self.maker("eos_relax", name)

    def displacement(self, name: str = "phonon static") -> Maker:
        """Return the Maker of a static calculation of a displaced supercell."""
        return self.maker("displacement", name)

    def born(self, name: str = "dielectric") -> Maker | None:
        """Return the Maker of Born charges and dielectric tensor; None for engines that have none."""
        return self.maker("born", name) if self.name == "vasp" else None

    def for_modes(self) -> ReferenceEngine:
        """Return the engine of calculations along imaginary modes, see `ReferenceProtocol.for_modes`."""
        return self.model_copy(update={"protocol": self.protocol.for_modes()})

    def maker(self, calculation: Calculation, name: str) -> Maker:
        """Return the Maker of a calculation, for use in any atomate2 flow."""
        protocol = self.protocol.model_dump(mode="json")
        if self.name == "vasp":
            from phonosmith.reference.vasp.makers import MagneticVaspMaker, ProtocolVaspMaker

            return (ProtocolVaspMaker if self.order is None else partial(MagneticVaspMaker, order=self._order))(
                name=name,
                protocol=protocol,
                calculation=calculation,
                rehearsal=None if self.rehearsal is None else self.rehearsal.model_dump(mode="json"),
                wall_time=self.wall_time,
                frozen_timeout=self.frozen_timeout,
                custodian=dict(self.custodian),
            )
        if calculation == "born":
            raise ConfigurationError(
                f"The engine {self.name} computes no Born charges.", "Use the vasp engine for them."
            )
        from phonosmith.reference.forcefield import CalculatorSpec, MagneticAseMaker, ProtocolAseMaker

        spec = CalculatorSpec.model_validate(self.calculator)
        settings: dict[str, Any] = {}
        if self.name == "gpaw":
            settings = {"protocol": protocol, "calculation": calculation}
        return (ProtocolAseMaker if self.order is None else partial(MagneticAseMaker, order=self._order))(
            name=name,
            protocol=protocol,
            calculation=calculation,
            engine=self.name,
            calculator_meta=spec.path,
            calculator_kwargs=spec.arguments | settings,
        )

    @property
    def _order(self) -> dict[str, Any]:
        return {} if self.order is None else self.order.model_dump(mode="json")

    def compute(
        self,
        frame: Frame,
        calculation: Calculation = "static",
        name: str = "static",
        attempts: int = 1,
        stopped: Stopped | None = None,
    ) -> ReferenceRecord:
        """Do one calculation in the current folder and return its record, accepted or refused with reasons.

        The record has the order of atoms asked, whatever the engine prefers. A transient failure (crash, lost output,
        out of memory) is started again until there were ``attempts``; the files of failed ones are kept in
        ``attempt_N``. ``stopped``: where an earlier record says that it was stopped for the end of its time.
        """
        if attempts < 1:
            raise InputError(f"attempts is {attempts}.", "Allow at least one.")
        seconds = []
        maker = self.maker(calculation, name)
        if stopped is not None and self.name == "vasp":
            maker = replace(maker, stopped=stopped.model_dump(mode="json"))

        def once() -> ReferenceRecord:
            record = self._compute_once(maker, frame)
            seconds.append(record.wall_seconds)
            return record

        record, number = repeated(once, lambda found: found.may_succeed_again, attempts)
        record.attempts, record.wall_seconds = number, sum(seconds)
        if record.accepted and calculation not in MOVING:
            # programs print eight decimals of what they were sent; the numbers belong to what was sent
            record.cell, record.positions = list(frame.cell), list(frame.positions)
        return record

    def _compute_once(self, maker: Maker, frame: Frame) -> ReferenceRecord:
        if self.name == "vasp":
            return _compute_vasp(maker, frame, self.rehearsal)
        from importlib.metadata import version

        from phonosmith.reference.forcefield import CalculatorSpec, compute_with_ase
        from phonosmith.reference.gpaw import require_gpaw

        spec = CalculatorSpec.model_validate(self.calculator)
        program = f"gpaw {require_gpaw()}" if self.name == "gpaw" else f"ase {version('ase')}"
        return compute_with_ase(maker, spec, frame, self.functional, program)


def _compute_vasp(maker: Any, frame: Frame, rehearsal: Rehearsal | None) -> ReferenceRecord:
    """Run VASP on atoms grouped by species, and give the record back in the order asked."""
    from pymatgen.io.ase import AseAtomsAdaptor

    order = np.argsort(np.asarray(frame.symbols), kind="stable")
    symbols, positions = [frame.symbols[i] for i in order], [frame.positions[i] for i in order]
    moments = None if frame.magmoms is None else [frame.magmoms[i] for i in order]
    grouped = frame.model_copy(update={"symbols": symbols, "positions": positions, "magmoms": moments})
    _, record = maker.calculate(AseAtomsAdaptor.get_structure(grouped.to_atoms()), grouped)
    record.potential = None if rehearsal is None else (rehearsal.calculator_kwargs.get("potential") or {}).get("sha256")
    back = np.argsort(order)
    for name in ("symbols", "positions", "forces", "magmoms"):
        values = getattr(record, name)
        if values is not None and len(values) == len(order):
            setattr(record, name, [values[i] for i in back])
    return record


def make_engine(
    name: str,
    protocol: ReferenceProtocol | Mapping[str, Any] | None = None,
    potential: PotentialRef | Mapping[str, Any] | str | None = None,
    *,
    rehearsal: Rehearsal | bool | None = None,
    wall_time: int | None = None,
    **options: Any,
) -> ReferenceEngine:
    """Return the engine that carries out a protocol.

    Parameters
    ----------
    protocol : settings, or those that differ from the published work's
    potential : for ``forcefield``, see ``calculator_spec``; for a rehearsal, what the stand-in computes with
    rehearsal : True, or its settings: play VASP with the stand-in
    options : ``frozen_timeout`` and ``custodian`` for ``vasp``; ``overrides`` of GPAW's arguments for ``gpaw``
    """
    protocol = ReferenceProtocol.model_validate(protocol or {})
    if name not in ENGINES:
        raise ConfigurationError(f"There is no engine '{name}'.", f"Choose {', '.join(ENGINES)}.")
    if rehearsal and name != "vasp":
        raise ConfigurationError(f"A rehearsal plays VASP, not {name}.", "Use --engine vasp with --rehearsal.")
    if name == "vasp":
        if potential is not None and not rehearsal:
            raise ConfigurationError(
                "The vasp engine takes no potential.", "Use --engine forcefield, or --rehearsal to play VASP with it."
            )
        return ReferenceEngine(
            name="vasp", protocol=protocol, rehearsal=_rehearsal(rehearsal, potential), wall_time=wall_time, **options
        )
    from phonosmith.reference.forcefield import CalculatorSpec, calculator_spec

    if name == "forcefield":
        if potential is None:
            raise ConfigurationError("The forcefield engine needs a potential.", "Name one with --potential.")
        spec = calculator_spec(potential)
    else:
        from phonosmith.reference.gpaw import GPAW_CALCULATOR, gpaw_parameters

        if potential is not None:
            raise ConfigurationError("The gpaw engine takes no potential.", "Use --engine forcefield.")
        gpaw_parameters(protocol, "static")
        arguments = {"overrides": dict(options.get("overrides") or {})}
        spec = CalculatorSpec(path=GPAW_CALCULATOR, name=protocol.functional, arguments=arguments)
    return ReferenceEngine(name=name, protocol=protocol, calculator=spec.model_dump(mode="json"))


def _rehearsal(
    rehearsal: Rehearsal | bool | None, potential: PotentialRef | Mapping[str, Any] | str | None
) -> Rehearsal | None:
    if not rehearsal:
        return None
    settings = Rehearsal() if rehearsal is True else rehearsal
    if potential is None:
        return settings
    if potential in ("morse", "emt", "tersoff-si"):
        return settings.model_copy(update={"calculator": potential})
    from phonosmith.reference.forcefield import calculator_spec

    spec = calculator_spec(potential)
    return settings.model_copy(update={"calculator": spec.path, "calculator_kwargs": dict(spec.arguments)})
