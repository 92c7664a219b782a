"""One factory for every way of computing reference numbers: VASP, any potential, GPAW."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from phonosmith.core.attempts import repeated
from phonosmith.core.changing import HoldingDocument, class_of
from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, InputError, did_you_mean
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.documents import Frame, ReferenceRecord, Stopped
from phonosmith.reference.outcome import MOVING
from phonosmith.reference.protocol import Calculation, ReferenceProtocol
from phonosmith.reference.vasp.rehearsal import Rehearsal
from phonosmith.structures.magnetic import MagneticOrder

if TYPE_CHECKING:
    from atomate2.vasp.sets.base import VaspInputGenerator
    from jobflow import Maker

EngineName = Literal["vasp", "forcefield", "gpaw"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


class Running(Document, frozen=True, extra="forbid"):
    """How VASP is started. It changes no result: no part of the protocol, nor of what a job is (`core.identity`)."""

    incar: dict[str, Any] = Field(
        default_factory=dict, description="INCAR tags of the parallel layout: NCORE, KPAR, ..."
    )
    run_vasp_kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of atomate2's run_vasp")


class ReferenceEngine(HoldingDocument, frozen=True, extra="forbid"):
    """A protocol together with the program that carries it out; plain data, so it travels with a job.

    Jobs that compute with it are changed as Makers are: atomate2's powerups end in `update_kwargs`.
    """

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

    running: Running | None = Field(None, description="how VASP is started")

    @model_serializer(mode="wrap")
    def _without_what_is_not(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an order there is not: a job keeps the identity it had before there were any."""
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value is not None or name not in ("order", "running")}

    def update_kwargs(
        self,
        update: dict[str, Any],
        name_filter: str | None = None,
        class_filter: type[Maker] | None = None,
        nested: bool = True,  # noqa: ARG002  # nothing is inside
        dict_mod: bool = False,
    ) -> ReferenceEngine:
        """Return the engine whose every VASP calculation is changed as jobflow changes a Maker.

        atomate2's powerups end here wherever a job computes with an engine, labels first of all. What they may change
        are inputs, which change the protocol (`reference.vasp.inputs`), and ``run_vasp_kwargs``. ``name_filter`` is
        compared with the engine's name.
        """
        if self.name != "vasp" or (name_filter is not None and name_filter not in self.name):
            return self
        maker = self.static(self.name)
        if (kind := class_of(class_filter)) is not None and not isinstance(maker, kind):
            return self
        changed = maker.update_kwargs(update, dict_mod=dict_mod)
        carried = {"protocol", "run_vasp_kwargs", "wall_time", "frozen_timeout", "custodian", "input_set_generator"}
        before, now = maker.as_dict(), changed.as_dict()
        if lost := sorted(name for name in now if name not in carried and now[name] != before[name]):
            raise ConfigurationError(
                f"{', '.join(lost)} of labels and displaced cells cannot be changed: they are no tasks of atomate2.",
                "Change input_set_generator or run_vasp_kwargs, or filter by the name of a Maker (name_filter).",
            )
        return self.model_copy(update=_of_maker(self.protocol, changed))

    def following(self, maker: Any) -> ReferenceEngine:
        """Return the engine that calculates with the inputs of a VASP Maker of atomate2, and runs VASP as it does."""
        from phonosmith.reference.vasp.makers import require_run_options

        require_run_options(maker.run_vasp_kwargs)
        return self.model_copy(update=_of_maker(self.protocol, maker))

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
            from phonosmith.reference.vasp.makers import MagneticVaspMaker, ProtocolVaspMaker, vasp_input_set

            running = self.running or Running()
            return (ProtocolVaspMaker if self.order is None else partial(MagneticVaspMaker, order=self._order))(
                name=name,
                protocol=protocol,
                calculation=calculation,
                rehearsal=None if self.rehearsal is None else self.rehearsal.model_dump(mode="json"),
                wall_time=self.wall_time,
                frozen_timeout=self.frozen_timeout,
                custodian=dict(self.custodian),
                run_vasp_kwargs=decoded(running.run_vasp_kwargs),
                input_set_generator=vasp_input_set(self.protocol, calculation, running.incar)
                if running.incar
                else None,
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


def _of_maker(protocol: ReferenceProtocol, maker: Any) -> dict[str, Any]:
    """Return the fields of an engine that a Maker of VASP has, ours or another of atomate2."""
    from phonosmith.reference.vasp.makers import ProtocolVaspMaker, followed

    ours = isinstance(maker, ProtocolVaspMaker)
    started = ReferenceProtocol.model_validate(maker.protocol) if ours else protocol
    followed_protocol, machine = followed(started, maker.input_set_generator)
    update = {"protocol": followed_protocol, "running": _running(machine, maker.run_vasp_kwargs)}
    return update | (
        {name: getattr(maker, name) for name in ("wall_time", "frozen_timeout", "custodian")} if ours else {}
    )


def _running(incar: Mapping[str, Any], run_vasp_kwargs: Mapping[str, Any]) -> Running | None:
    from monty.json import jsanitize

    plain = jsanitize(dict(run_vasp_kwargs), strict=True, enum_values=True)
    return Running(incar=dict(incar), run_vasp_kwargs=plain) if incar or plain else None


def decoded(plain: Any) -> Any:
    """Return what JSON stands for: handlers of custodian, Makers, input sets."""
    from monty.json import MontyDecoder

    return MontyDecoder().process_decoded(plain)


def make_engine(
    name: str,
    protocol: ReferenceProtocol | Mapping[str, Any] | None = None,
    potential: PotentialRef | Mapping[str, Any] | str | None = None,
    *,
    rehearsal: Rehearsal | bool | None = None,
    **options: Any,
) -> ReferenceEngine:
    """Return the engine that carries out a protocol.

    Parameters
    ----------
    protocol : settings, or those that differ from the published work's
    potential : for ``forcefield``, see ``calculator_spec``; for a rehearsal, what the stand-in computes with
    rehearsal : True, or its settings: play VASP with the stand-in
    options : those of `vasp_engine` for ``vasp``; ``overrides`` of GPAW's arguments for ``gpaw``
    """
    if name not in ENGINES:
        raise ConfigurationError(f"There is no engine '{name}'.", f"Choose {', '.join(ENGINES)}.")
    makers: dict[str, Callable[..., ReferenceEngine]] = {
        "vasp": vasp_engine, "forcefield": _forcefield_engine, "gpaw": _gpaw_engine
    }  # fmt: skip
    known = [one for one in inspect.signature(makers[name]).parameters if one not in _GIVEN]
    for option in options:
        if option not in known:
            raise ConfigurationError(
                f"The {name} engine has no option {option!r}.",
                did_you_mean(option, known) + (f"Known: {', '.join(known)}." if known else "It has none."),
            )
    if rehearsal and name != "vasp":
        raise ConfigurationError(f"A rehearsal plays VASP, not {name}.", "Use --engine vasp with --rehearsal.")
    given = {"rehearsal": rehearsal} if name == "vasp" else {}
    return makers[name](ReferenceProtocol.model_validate(protocol or {}), potential, **given, **options)


_GIVEN = ("protocol", "potential", "rehearsal")


def vasp_engine(
    protocol: ReferenceProtocol,
    potential: PotentialRef | Mapping[str, Any] | str | None = None,
    *,
    rehearsal: Rehearsal | bool | None = None,
    wall_time: int | None = None,
    frozen_timeout: float = 7200.0,
    custodian: Mapping[str, Any] | None = None,
    user_incar_settings: Mapping[str, Any] | None = None,
    run_vasp_kwargs: Mapping[str, Any] | None = None,
    input_set_generator: VaspInputGenerator | None = None,
) -> ReferenceEngine:
    """Return the engine of VASP.

    Parameters
    ----------
    wall_time, frozen_timeout, custodian : fields of `ReferenceEngine`
    user_incar_settings : INCAR tags; NCORE, KPAR and the like are free, all others change the protocol
    run_vasp_kwargs : arguments of atomate2's ``run_vasp``: commands, handlers, validators, scratch folder, ...
    input_set_generator : own input set, which the protocol then follows (`reference.vasp.inputs`)
    """
    from phonosmith.reference.vasp.inputs import of_input_set, with_tags

    if potential is not None and not rehearsal:
        raise ConfigurationError(
            "The vasp engine takes no potential.", "Use --engine forcefield, or --rehearsal to play VASP with it."
        )
    machine: dict[str, Any] = {}
    if input_set_generator is not None:
        protocol, machine = of_input_set(protocol, decoded(input_set_generator))
    protocol, tags = with_tags(protocol, user_incar_settings or {})
    if run_vasp_kwargs:
        from phonosmith.reference.vasp.makers import require_run_options

        require_run_options(run_vasp_kwargs)
    return ReferenceEngine(
        name="vasp",
        protocol=protocol,
        rehearsal=_rehearsal(rehearsal, potential),
        wall_time=wall_time,
        frozen_timeout=frozen_timeout,
        custodian=dict(custodian or {}),
        running=_running(machine | tags, run_vasp_kwargs or {}),
    )


def _forcefield_engine(
    protocol: ReferenceProtocol, potential: PotentialRef | Mapping[str, Any] | str | None = None
) -> ReferenceEngine:
    from phonosmith.reference.forcefield import calculator_spec

    if potential is None:
        raise ConfigurationError("The forcefield engine needs a potential.", "Name one with --potential.")
    spec = calculator_spec(potential)
    return ReferenceEngine(name="forcefield", protocol=protocol, calculator=spec.model_dump(mode="json"))


def _gpaw_engine(
    protocol: ReferenceProtocol,
    potential: PotentialRef | Mapping[str, Any] | str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> ReferenceEngine:
    from phonosmith.reference.forcefield import CalculatorSpec
    from phonosmith.reference.gpaw import GPAW_CALCULATOR, gpaw_parameters

    if potential is not None:
        raise ConfigurationError("The gpaw engine takes no potential.", "Use --engine forcefield.")
    gpaw_parameters(protocol, "static")
    arguments = {"overrides": dict(overrides or {})}
    spec = CalculatorSpec(path=GPAW_CALCULATOR, name=protocol.functional, arguments=arguments)
    return ReferenceEngine(name="gpaw", protocol=protocol, calculator=spec.model_dump(mode="json"))


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
