"""VASP through atomate2 and custodian, with our inputs, our handlers and our gate."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shlex
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from atomate2 import SETTINGS
from atomate2.common.files import gzip_output_folder
from atomate2.utils.path import strip_hostname
from atomate2.vasp.files import write_vasp_input_set
from atomate2.vasp.jobs.base import _FILES_TO_ZIP, BaseVaspMaker, get_vasp_task_document, vasp_job
from atomate2.vasp.run import JobType, run_vasp
from atomate2.vasp.sets.base import VaspInputGenerator
from custodian import custodian as raised
from jobflow import Response
from monty.os.path import zpath
from monty.shutil import decompress_file
from pymatgen.core import SETTINGS as PYMATGEN
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp import Kpoints
from pymatgen.io.vasp.inputs import PotcarSingle

from phonosmith.core.attempts import repeated, seconds_left
from phonosmith.core.changing import changeable
from phonosmith.core.errors import ConfigurationError, LabelError, did_you_mean, lacks_room
from phonosmith.core.identity import KEEP_WAVEFUNCTIONS
from phonosmith.core.metadata import inherit, name_of_part
from phonosmith.reference.accept import accept, accept_run
from phonosmith.reference.checks.asked import compare_structure, ended_by_time
from phonosmith.reference.documents import Correction, Frame, Reason, ReferenceRecord, Stopped, refused, rows
from phonosmith.reference.outcome import MOVING, Asked, Outcome
from phonosmith.reference.protocol import Calculation, ReferenceProtocol, electronic_tags, mesh_tags, moment_table
from phonosmith.reference.vasp.folder import read_folder
from phonosmith.reference.vasp.handlers import StopInTime, fresh_handlers
from phonosmith.reference.vasp.inputs import changed_protocol, no_mesh, of_input_set, with_tags
from phonosmith.reference.vasp.rehearsal import Rehearsal, potcar_library, write_invented_potcars
from phonosmith.reference.vasp.settings import is_rehearsal
from phonosmith.reference.vasp.taskdoc import read_calculation
from phonosmith.structures.magnetic import MagneticOrder

_STRAIN = 0.05
_CLOCK = "CUSTODIAN_WALLTIME_START"
_FOLLOWED = (
    "user_incar_settings", "user_potcar_settings", "user_potcar_functional", "user_kpoints_settings", "structure",
)  # fmt: skip
"""What of an input set of a protocol may have been changed."""
ATTEMPTS = 2
"""How often a calculation inside atomate2's flows is started that crashed, as often as a label by default."""
MOST_PARTS = 20
"""Jobs that may work on one calculation, each going on where the last one was stopped."""
_LEFT_BY_A_STOP = frozenset(
    {
        "walltime", "scf", "scf_unknown", "energy_scf", "not_relaxed", "pressure", "disagreement", "unfinished",
        "forces_missing", "stress_missing", "forces_zero", "stress_zero", "forces_symmetry", "stress_symmetry",
        "net_force", "drift",
    }
)  # fmt: skip
"""Reasons to refuse a run that a stop in the middle explains; any other one would be there at the end as well."""


@dataclass
class ProtocolInputSet(VaspInputGenerator):  # type: ignore[misc]  # atomate2 has no type information
    """Writes the tags of a protocol and nothing else; the cell decides between a k-mesh and Γ alone.

    atomate2's own base set (PBEsol, +U, ISPIN 2, ENCUT 680, ISMEAR chosen by the previous folder) is not inherited:
    the generator gets a complete set of its own, see `vasp_input_set`.
    """

    protocol: dict[str, Any] = field(default_factory=dict)
    calculation: Calculation = "static"

    @property
    def _mesh(self) -> dict[str, float | bool]:
        protocol = ReferenceProtocol.model_validate(self.protocol)
        return mesh_tags(protocol, self.calculation, self.structure.lattice.matrix)

    @property
    def incar_updates(self) -> dict[str, float | bool]:
        """Tags of the k-mesh."""
        return self._mesh

    @property
    def kpoints_updates(self) -> Kpoints | dict[str, Any]:
        """A KPOINTS file with Γ alone where there are no tags of a mesh."""
        return {} if self._mesh else Kpoints()


def vasp_input_set(
    protocol: ReferenceProtocol, calculation: Calculation, machine: Mapping[str, Any] | None = None
) -> ProtocolInputSet:
    """Return the generator of a calculation's inputs; ``machine``: tags of the parallel layout."""
    tags = electronic_tags(protocol, calculation)
    moments = {"MAGMOM": moment_table(protocol)} if protocol.spin_polarized else {}
    return ProtocolInputSet(
        config_dict={
            "PARENT": "phonosmith",
            "INCAR": tags | moments,
            "KPOINTS": {},
            "POTCAR_FUNCTIONAL": protocol.potcar_functional,
            "POTCAR": protocol.potcar_map(),
        },
        # named a second time: pymatgen drops tags it thinks unused (IBRION of a static) unless the user asked for them
        user_incar_settings=tags | dict(machine or {}),
        user_potcar_functional=protocol.potcar_functional,
        auto_ismear=False,
        auto_ispin=False,
        auto_lreal=False,
        auto_metal_kpoints=False,
        inherit_incar=False,
        sort_structure=False,
        validate_magmom=False,
        sym_prec=1e-4,
        protocol=protocol.model_dump(mode="json"),
        calculation=calculation,
    )


def followed(
    protocol: ReferenceProtocol, generator: VaspInputGenerator | None
) -> tuple[ReferenceProtocol, dict[str, Any]]:
    """Return the protocol that follows an input set, and its tags of the parallel layout.

    Of one made for a protocol (`vasp_input_set`) the changes count, of another one everything it says.
    """
    if generator is None:
        return protocol, {}
    if not isinstance(generator, ProtocolInputSet):
        return of_input_set(protocol, generator)
    own = vasp_input_set(ReferenceProtocol.model_validate(generator.protocol), generator.calculation)
    before, now = own.user_incar_settings, generator.user_incar_settings
    tags = {key: now.get(key) for key in {*before, *now} if before.get(key) != now.get(key)}
    update: dict[str, Any] = {}
    if generator.user_potcar_functional != own.user_potcar_functional:
        update["potcar_functional"] = generator.user_potcar_functional
    if generator.user_potcar_settings:
        update["potcar_overrides"] = dict(protocol.potcar_overrides) | generator.user_potcar_settings
    if generator.user_kpoints_settings:
        raise no_mesh("user_kpoints_settings")
    for one in fields(generator):
        if one.name not in _FOLLOWED and getattr(generator, one.name) != getattr(own, one.name):
            raise ConfigurationError(
                f"The input set of a {generator.calculation} cannot have "
                f"{one.name} = {getattr(generator, one.name)!r}.",
                "Its inputs are those of the protocol: change user_incar_settings, user_potcar_settings or "
                "user_potcar_functional, or the protocol.",
            )
    changed, machine = with_tags(protocol, tags)
    return (changed_protocol(changed, update) if update else changed), machine


@dataclass
class ProtocolVaspMaker(BaseVaspMaker):
    """Run one VASP calculation of a protocol; its document leaves the job only through the gate.

    Usable wherever atomate2's flows take a VASP Maker, and changed by its powerups: another ``input_set_generator``, or
    other settings of it, become another protocol (`followed`), which the gate asks for; ``run_vasp_kwargs`` say how
    VASP is run. Of a previous folder nothing is read but wave functions to start from, where calculations keep them
    (LWAVE, see `take_wavefunctions`). Only what was ``stopped`` for the end of its time (`Stopped` as JSON) is gone on
    with, in a job that replaces it. ``write_additional_data`` is not honoured: what atomate2's elastic flow puts
    there describes another deformation. The other fields are those of ``ReferenceEngine``, protocol and rehearsal as
    JSON: queues spell other objects inside Makers as text.
    """

    name: str = "vasp"
    input_set_generator: VaspInputGenerator | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    calculation: Calculation = "static"
    rehearsal: dict[str, Any] | None = None
    wall_time: int | None = None
    frozen_timeout: float = 7200.0
    custodian: dict[str, Any] = field(default_factory=dict)
    stopped: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Let the protocol follow the input set, and build the set anew from it."""
        require_run_options(self.run_vasp_kwargs)
        asked = ReferenceProtocol.model_validate(self.protocol)
        self._protocol, machine = followed(asked, self.input_set_generator)
        if self._protocol != asked:
            self.protocol = self._protocol.model_dump(mode="json")
        self._rehearsal = None if self.rehearsal is None else Rehearsal.model_validate(self.rehearsal)
        self._earlier = None if self.stopped is None else Stopped.model_validate(self.stopped)
        self._begin = time.monotonic()
        self.input_set_generator = vasp_input_set(self._protocol, self.calculation, machine)

    @changeable
    @vasp_job
    def make(self, structure: Any, prev_dir: str | Path | None = None) -> Response[Any]:
        """Run VASP on a structure in the current folder; a refused result fails the job, so that nothing uses it."""
        if prev_dir is not None and self._keeps_waves:
            take_wavefunctions(prev_dir, structure)
        frame = Frame.from_atoms(AseAtomsAdaptor.get_atoms(structure, msonable=False))
        (task, record), _ = repeated(
            lambda: self.calculate(structure, frame), lambda found: found[1].may_succeed_again, ATTEMPTS
        )
        if record.stopped is not None:
            following = replace(self, stopped=record.stopped.model_dump(mode="json"))
            return Response(replace=next_part(following.make(structure), record.stopped))
        if not record.accepted:
            raise LabelError(
                f"{self.name}: {record.explain()}.",
                f"Look into {Path.cwd().name}, repair the cause, run this job again.",
            )
        gzip_output_folder(directory=Path.cwd(), setting=SETTINGS.VASP_ZIP_FILES, files_list=_FILES_TO_ZIP)
        return Response(stored_data={"custodian": task.custodian}, output=task)

    @property
    def _keeps_waves(self) -> bool:
        assert self.input_set_generator is not None
        return bool(self.input_set_generator.user_incar_settings.get(KEEP_WAVEFUNCTIONS))

    def calculate(self, structure: Any, frame: Frame) -> tuple[Any, ReferenceRecord]:
        """Run in the current folder; return the task document (None when there is none) and the judged record.

        The record is of all parts, and says where to go on when this one was stopped.
        """
        start, earlier = time.perf_counter(), self._earlier
        if earlier is not None:
            structure = Structure(
                earlier.cell,
                structure.species,
                earlier.positions,
                coords_are_cartesian=True,
                site_properties=structure.site_properties,
            )
        try:
            with warnings.catch_warnings():
                if self.rehearsal:  # invented POTCARs are unknown to pymatgen, which says so many times
                    warnings.simplefilter("ignore", UserWarning)
                task = self._run(structure)
        except ConfigurationError:
            raise
        except Exception as error:  # whatever custodian and the parsers raise is one refused calculation
            if lacks_room(error):  # no fault of the calculation, and the next one would fare no better
                raise
            task = None
            failure, folder = run_failure(error), Path.cwd().name
            record = refused(frame, self._protocol, self.calculation, "vasp", failure, directory=folder)
        else:
            asked = Asked(frame, self._protocol, self.calculation, read_titles(Path("POTCAR")))
            record = record_from_task(
                task,
                asked,
                folder=Path.cwd(),
                allow_rehearsal=self.rehearsal is not None,
                earlier=() if earlier is None else earlier.corrections,
            )
            if Path("STOPCAR").exists() and all(reason.code != "walltime" for reason in record.reasons):
                stopped = Reason(code="walltime", message="a STOPCAR ended the calculation", transient=True)
                record.reasons.append(stopped)
        record.wall_seconds = time.perf_counter() - start
        if earlier is not None:
            record.parts = earlier.parts + 1
            record.ionic_steps = earlier.ionic_steps + (record.ionic_steps or 0)
            record.wall_seconds += earlier.wall_seconds
        record.stopped = self._where_to_go_on(task, record)
        # gigabytes for each label, unless they were asked for; earlier ones may lie on another machine
        served = [] if record.stopped is not None or self._keeps_waves else [Path.cwd()]
        if earlier is not None and (record.accepted or record.stopped is not None):
            served.append(Path(earlier.folder))
        for place in served:
            with contextlib.suppress(OSError):
                (place / "WAVECAR").unlink()
        return task, record

    def _where_to_go_on(self, task: Any, record: ReferenceRecord) -> Stopped | None:
        """Return where a run that was stopped in time got to; None where going on would not help."""
        codes = {reason.code for reason in record.reasons}
        if "walltime" not in codes or not codes <= _LEFT_BY_A_STOP or not record.electronic_steps:
            return None
        if record.parts >= MOST_PARTS:
            message = f"{record.parts} jobs were not enough for it: give each more time"
            record.reasons.append(Reason(code="walltime", message=message))
            return None
        end = task.structure
        return Stopped(
            cell=end.lattice.matrix.tolist(),
            positions=end.cart_coords.tolist(),
            folder=str(Path.cwd()),
            parts=record.parts,
            ionic_steps=record.ionic_steps or 0,
            corrections=record.corrections,
            wall_seconds=record.wall_seconds,
        )

    def _seconds(self) -> float | None:
        """Return how long VASP may run, s: until the wall time since this Maker began, or the SLURM job, is over."""
        own = None if self.wall_time is None else self._begin + self.wall_time - time.monotonic()
        return min((limit for limit in (own, seconds_left()) if limit is not None), default=None)

    def _run(self, structure: Any) -> Any:
        with contextlib.ExitStack() as stack:
            if self.rehearsal:  # its POTCARs exist for the moment they are copied from
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="invented-potcars-"))
                symbols = self._protocol.potcar_map({site.specie.symbol for site in structure})
                root = write_invented_potcars(Path(folder), symbols, self._protocol.potcar_functional)
                stack.enter_context(potcar_library(root))
            seconds, generator = self._seconds(), copy(self.input_set_generator)
            if seconds is not None and generator is not None:
                generator.user_incar_settings = {**generator.user_incar_settings, "LWAVE": True}
            write_inputs(structure, generator)
        if self._earlier is not None:
            with contextlib.suppress(OSError):  # on another machine it begins with waves of its own
                shutil.copyfile(Path(self._earlier.folder) / "WAVECAR", "WAVECAR")
        command: dict[str, Any] = deepcopy(self.run_vasp_kwargs)
        polling: dict[str, Any] = {"polling_time_step": 2, "monitor_freq": 30}
        if self._rehearsal:
            self._rehearsal.write(Path.cwd(), self.name)
            command |= dict.fromkeys(("vasp_cmd", "vasp_gamma_cmd"), self._rehearsal.command())
            polling = {"polling_time_step": 0.05, "monitor_freq": 2}
        custodian = polling | command.pop("custodian_kwargs", {}) | self.custodian
        clock = os.environ.get(_CLOCK)
        given = command.pop("handlers", None)
        handlers = fresh_handlers(self.frozen_timeout) if given is None else list(given)
        if seconds is not None:
            handlers.append(StopInTime(max(seconds, 0.0), electronic=self.calculation not in MOVING))
        try:
            run_vasp(handlers=handlers, custodian_kwargs=custodian, **command)
        finally:
            if clock is None:  # custodian would count the wall time of the next job from the start of this one
                os.environ.pop(_CLOCK, None)
        task = get_vasp_task_document(Path.cwd(), **self.task_document_kwargs)
        task.task_label = self.name
        return task


@dataclass
class MagneticVaspMaker(ProtocolVaspMaker):
    """A Maker for one crystal whose magnetic order (`MagneticOrder` as JSON) every calculation starts from.

    Moments follow from where atoms sit: flows may displace, sort and forget them on the way.
    """

    order: dict[str, Any] = field(default_factory=dict)

    def calculate(self, structure: Any, frame: Frame) -> tuple[Any, ReferenceRecord]:
        """Give every atom its moment, then run."""
        known = MagneticOrder.model_validate(self.order)
        moments = known.moments_in(frame.symbols, frame.cell, frame.positions)
        started = structure.copy(site_properties={"magmom": moments})
        return super().calculate(started, frame.model_copy(update={"magmoms": moments}))


def next_part(job: Any, stopped: Stopped) -> Any:
    """Name and describe the job that goes on for the running one."""
    job.name = name_of_part(stopped.parts + 1, job.name)
    return inherit(job)


def record_from_task(
    task: Any,
    asked: Asked,
    *,
    folder: Path | None = None,
    allow_rehearsal: bool = False,
    earlier: Sequence[Correction] = (),
) -> ReferenceRecord:
    """Build a record from an emmet ``TaskDoc``, and from the files in its ``folder`` where they are there; judge it.

    The files say more than the document: every k-point, what VASP used beside what it was given, and whether
    vasprun.xml, OUTCAR and OSZICAR agree. The final structure is taken from the last ionic step of vasprun.xml, beside
    the energy and forces that belong to it; a CONTCAR that tells another story is a reason to refuse. ``earlier``: what
    custodian did in parts of the calculation before this one, which count like its own.
    """
    run = read_calculation(task.calcs_reversed[0], task.custodian)
    if folder is not None and (whole := read_folder(folder)) is not None:
        run = replace(whole, corrections=run.corrections, damage=whole.damage or run.damage)
    run = replace(run, corrections=[*(one for one in earlier if not ended_by_time(one)), *run.corrections])
    record = ReferenceRecord(
        engine="vasp",
        engine_version=run.settings.version,
        calculation=asked.calculation,
        protocol_digest=asked.protocol.digest,
        functional=asked.protocol.functional,
        rehearsal=is_rehearsal(run.settings.version, run.settings.potcars),
        symbols=run.symbols,
        energy_sigma0=None if task.output.energy is None else float(task.output.energy),
        ionic_steps=len(run.steps),
        incar=dict(run.incar),
        kpoints=run.settings.mesh,
        potcar_titles=list(run.settings.potcars),
        corrections=list(run.corrections),
        directory=Path(str(task.dir_name or "").split(":")[-1]).name,
        split=asked.frame.split,
        info=dict(asked.frame.info),
        spin_polarized=run.settings.spin_polarized,
    )
    if not run.steps:
        record.reasons = accept_run(run, asked)
        return record
    outcome = Outcome.of_step(run)
    labels, scf = outcome.labels, outcome.scf
    record.cell, record.positions, record.forces = map(rows, (outcome.cell, outcome.positions, labels.forces))
    record.energy, record.stress = labels.energy, None if labels.stress is None else tuple(labels.stress.tolist())
    record.magmom, record.magmoms = outcome.moment, None if (sites := outcome.site_moments) is None else sites.tolist()
    record.electronic_steps = len(scf) or None
    record.last_de = abs(scf[-1] - scf[-2]) if len(scf) > 1 else None
    if (contcar := task.structure) is not None:
        final = Frame(
            symbols=run.symbols or asked.frame.symbols,
            cell=record.cell or asked.frame.cell,
            positions=record.positions or asked.frame.positions,
        )
        symbols = [site.specie.symbol for site in contcar]
        record.reasons = compare_structure(
            final, symbols, contcar.lattice.matrix, contcar.cart_coords, "static", "CONTCAR"
        )
    record.reasons += accept(outcome, asked, allow_rehearsal=allow_rehearsal)
    return record


def take_wavefunctions(prev_dir: str | Path, structure: Any) -> None:
    """Copy the WAVECAR of a calculation of the same cell, strained by 5 % at most, into the current folder.

    Flows hand the folder of a primitive cell to its supercells too, whose plane waves are others.
    """
    before = Path(strip_hostname(str(prev_dir)))
    start, waves = (zpath(str(before / name)) for name in ("CONTCAR", "WAVECAR"))
    if not (Path(start).is_file() and Path(waves).is_file()):
        return
    earlier = Structure.from_file(start)
    same = [site.specie.symbol for site in earlier] == [site.specie.symbol for site in structure]
    if same and np.allclose(earlier.lattice.abc, structure.lattice.abc, rtol=_STRAIN):
        shutil.copyfile(waves, Path.cwd() / Path(waves).name)
        if waves.endswith(".gz"):
            decompress_file(Path.cwd() / Path(waves).name)


def require_run_options(options: Mapping[str, Any]) -> None:
    """Refuse what atomate2's ``run_vasp`` does not know, and the way to run that hides a crash."""
    known = [name for name in inspect.signature(run_vasp).parameters if name != "job_type"]
    for name in options:
        if name == "job_type":
            if str(getattr(options[name], "value", options[name])) != JobType.NORMAL.value:
                raise ConfigurationError(
                    f"run_vasp_kwargs: job_type {options[name]} cannot be.",
                    "Leave it out: every calculation is one run through custodian, so that a crash shows.",
                )
        elif name not in known:
            raise ConfigurationError(
                f"run_vasp_kwargs: atomate2's run_vasp has no {name!r}.",
                f"{did_you_mean(name, known)}Known: {', '.join(known)}.",
            )


def write_inputs(structure: Any, generator: VaspInputGenerator) -> None:
    """Write INCAR, POSCAR, KPOINTS and POTCAR, with a clear error where POTCARs are missing."""
    try:
        write_vasp_input_set(structure, generator)
    except (ValueError, OSError) as error:
        if "PSP" not in str(error) and "POTCAR" not in str(error):
            raise
        raise ConfigurationError(
            f"POTCARs cannot be found: {error}.",
            "Set PMG_VASP_PSP_DIR in the worker's environment or in .pmgrc.yaml (see pymatgen's 'pmg config').",
        ) from error


def require_vasp(protocol: ReferenceProtocol, elements: Iterable[str]) -> None:
    """Check, on the machine that is to run it and before anything is computed, that VASP and every POTCAR are there."""
    symbols = sorted(protocol.potcar_map(elements).values())
    command = shlex.split(SETTINGS.VASP_CMD)
    if not command or shutil.which(command[0]) is None:
        raise ConfigurationError(
            f"The VASP command '{SETTINGS.VASP_CMD}' is not on this machine.",
            "Set VASP_CMD in atomate2.yaml or ATOMATE2_VASP_CMD; use --rehearsal to try the campaign without VASP.",
        )
    root = PYMATGEN.get("PMG_VASP_PSP_DIR")
    if not root:
        raise ConfigurationError(
            "PMG_VASP_PSP_DIR is not set.", "Point it at the POTCAR library (see pymatgen's 'pmg config')."
        )
    folder = Path(root) / PotcarSingle.functional_dir.get(protocol.potcar_functional, protocol.potcar_functional)
    names = ("POTCAR.{}", "POTCAR.{}.gz", "{}/POTCAR", "{}/POTCAR.gz")
    missing = [symbol for symbol in symbols if not any((folder / n.format(symbol)).is_file() for n in names)]
    if missing:
        raise ConfigurationError(
            f"{folder} holds no POTCAR for {', '.join(missing)}.", "Add them, or name others in potcar_overrides."
        )


def read_titles(potcar: Path) -> list[str]:
    """Return the TITEL of each data set in a POTCAR file; empty when there is none."""
    text = potcar.read_text(encoding="utf-8", errors="replace") if potcar.is_file() else ""
    return [title.strip() for title in re.findall(r"TITEL\s*=\s*(.+)", text)]


def run_failure(error: Exception) -> Reason:
    """Say in one line what custodian or a parser raised."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    text = re.sub(r"<[\w.]*?(\w+) object at 0x[0-9a-f]+>", r"\1", text)
    match error:
        case raised.MaxCorrectionsError() | raised.MaxCorrectionsPerJobError() | raised.MaxCorrectionsPerHandlerError():
            return Reason(code="too_many_corrections", message=f"custodian gave up after its corrections: {text}")
        case raised.NonRecoverableError():
            return Reason(code="not_recoverable", message=text, transient=True)
        case raised.ReturnCodeError():
            return Reason(code="return_code", message=f"VASP ended with an error code: {text}", transient=True)
        case raised.ValidationError():
            return Reason(code="output_invalid", message=f"the output is incomplete: {text}", transient=True)
    return Reason(code="run_failed", message=f"{type(error).__name__}: {text}", transient=True)
