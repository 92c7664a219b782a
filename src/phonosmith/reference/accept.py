"""The one rule every calculation passes before it may be called a label: by a job, by ``import`` and by ``audit``.

Workflow libraries call NaN forces, another lattice, an SCF cycle cut short by the queue and a k-mesh changed on the way
"successful"; here each is a reason. ``accept_run`` looks at a whole VASP run; the ``CHECKS`` of one configuration are
small functions that take what came back and, where it is known, what was asked, and yield reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from phonosmith.reference.documents import Frame, Reason, ReasonCode, ReferenceRecord
from phonosmith.reference.protocol import Calculation, ReferenceProtocol, incar_tags, kpoint_mesh
from phonosmith.reference.vasp.handlers import CORRECTABLE_TAGS, PARALLEL_TAGS, RELAXATION_TAGS
from phonosmith.reference.vasp.run import VaspRun, voigt_from_kbar
from phonosmith.reference.vasp.settings import is_rehearsal
from phonosmith.structures.labels import Labels, geometry_defects, label_defects, labels_of

Array = NDArray[np.float64]

STRUCTURE_TOLERANCE = 1e-5
"""Å. vasprun.xml prints eight decimals of fractional coordinates: 2e-7 Å in a 20 Å cell; real changes are larger."""
MOVING: tuple[Calculation, ...] = ("relax", "elastic_relax", "eos_relax")
_NOT_SELF_CONSISTENT = (
    "none", "eigenval", "exact", "subrot", "chi", "gw", "gw0", "scgw", "scgw0", "acfdt", "rpa", "bse",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One configuration with its numbers, and how VASP came to them where it did.

    Attributes
    ----------
    cell, positions : rows and Cartesian, Å
    labels : as they came, whatever their shape
    energy_sigma0 : energy extrapolated to zero smearing, eV
    scf : energy after each electronic step, eV
    run : VASP's own record; None for other programs and for frames read from a dataset
    rehearsal : made by the VASP stand-in or with invented POTCARs
    """

    symbols: Sequence[str]
    cell: Array | None
    positions: Array | None
    labels: Labels
    energy_sigma0: float | None = None
    pbc: tuple[bool, bool, bool] = (True, True, True)
    scf: Sequence[float] = ()
    run: VaspRun | None = None
    rehearsal: bool = False

    @classmethod
    def of_step(cls, run: VaspRun, index: int = -1) -> Outcome:
        """Take one ionic step of a VASP run."""
        step = run.steps[index]
        positions = step.positions
        if step.cell is not None and positions is not None and positions.shape == (len(run.symbols), 3):
            positions = positions @ step.cell
        labels = Labels(step.energy, step.forces, voigt_from_kbar(step.stress))
        played = is_rehearsal(run.settings.version, run.settings.potcars)
        return cls(
            run.symbols, step.cell, positions, labels, step.energy_sigma0, scf=step.scf, run=run, rehearsal=played
        )

    @classmethod
    def of_record(cls, record: ReferenceRecord) -> Outcome:
        """Take what another program than VASP left."""
        numbers = (record.cell, record.positions, record.forces, record.stress)
        cell, positions, forces, stress = (None if n is None else np.asarray(n, dtype=float) for n in numbers)
        labels = Labels(record.energy, forces, stress)
        return cls(record.symbols, cell, positions, labels, record.energy_sigma0, record.pbc)

    @classmethod
    def of_atoms(cls, atoms: Atoms) -> Outcome:
        """Take a labelled frame of a dataset."""
        symbols, played = atoms.get_chemical_symbols(), bool(atoms.info.get("rehearsal"))
        return cls(symbols, atoms.cell.array, atoms.positions, labels_of(atoms), pbc=tuple(atoms.pbc), rehearsal=played)


@dataclass(frozen=True)
class Asked:
    """What was asked of a program; ``potcars`` are the titles in the folder's POTCAR file, where it can be read."""

    frame: Frame
    protocol: ReferenceProtocol
    calculation: Calculation
    potcars: Sequence[str] = ()


def accept(outcome: Outcome, asked: Asked | None = None, *, allow_rehearsal: bool = False) -> list[Reason]:
    """Return every reason why a configuration must not become a label; an empty list lets it pass.

    Where nobody knows what was asked (imports, datasets) only what came back is judged. ``allow_rehearsal`` lets
    results of the stand-in pass (rehearsals and tests only).
    """
    reasons = [] if outcome.run is None else accept_run(outcome.run, asked)
    for check in CHECKS:
        reasons += check(outcome, asked)
    return [reason for reason in reasons if not (allow_rehearsal and reason.code == "rehearsal")]


def accept_run(run: VaspRun, asked: Asked | None = None) -> list[Reason]:
    """Return the reasons why nothing of a VASP run can be a label.

    It is not whole, or no self-consistent ground-state calculation (nor the linear response that was asked).
    """
    reasons = []
    damage = run.damage if run.damage is not None or run.steps else "it holds no ionic step"
    if damage is not None:
        reasons.append(Reason(code="unfinished", message=damage, transient=True))
    algorithm = str(run.settings.tags.get("ALGO", "")).strip().lower()
    charge = int(run.settings.number("ICHARG", 2))
    response = run.settings.flag("LEPSILON") or run.settings.flag("LCALCEPS")
    message = None
    if algorithm in _NOT_SELF_CONSISTENT:
        message = f"ALGO = {algorithm} is not a self-consistent ground-state calculation"
    elif charge >= 10:
        message = f"ICHARG = {charge} keeps the charge density fixed: the energy is not a label"
    elif response and (asked is None or asked.calculation != "born"):
        message = "a linear-response run (LEPSILON/LCALCEPS) mixes response steps into its SCF record"
    if message:
        reasons.append(Reason(code="not_self_consistent", message=message))
    return reasons


def check_numbers(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that energy, forces and stress are there, have the right shape and are finite, and so is the structure."""
    required = ["forces"] if asked is None and outcome.run is None else ["energy", "forces"]
    if asked is not None:
        required.append("stress")
    defects = label_defects(outcome.labels, len(outcome.symbols), required)
    for code, message in [*defects, *_structure_defects(outcome)]:
        yield Reason(code=cast("ReasonCode", code), message=message, transient=code.endswith("_missing"))
    if outcome.energy_sigma0 is not None and not np.isfinite(outcome.energy_sigma0):
        yield Reason(code="energy_not_finite", message="the energy for zero smearing is NaN or infinity")


def _structure_defects(outcome: Outcome) -> list[tuple[str, str]]:
    cell, positions = outcome.cell, outcome.positions
    if cell is None or positions is None or positions.shape != (len(outcome.symbols), 3):
        return [("structure_missing", "the structure is missing or has another number of atoms")]
    if outcome.run is None:
        return list(geometry_defects(Atoms(outcome.symbols, cell=cell, positions=positions, pbc=outcome.pbc)))
    if not (np.all(np.isfinite(cell)) and np.all(np.isfinite(positions))):
        return [("structure_not_finite", "the structure holds NaN or infinity")]
    return [("volume", "the cell has no volume")] if abs(np.linalg.det(cell)) < 1e-6 else []


def check_structure(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask for the structure that was sent, see ``compare_structure``."""
    if asked and (not _structure_defects(outcome) or list(outcome.symbols) != list(asked.frame.symbols)):
        yield from compare_structure(
            asked.frame, outcome.symbols, outcome.cell, outcome.positions, asked.calculation, "the output"
        )


def compare_structure(
    asked: Frame, symbols: Sequence[str], cell: Any, positions: Any, calculation: Calculation, where: str
) -> list[Reason]:
    """Ask for the same species in the same order, and the same cell and positions unless the calculation moves them."""
    if list(symbols) != list(asked.symbols):
        return [Reason(code="species", message=f"{where} lists other species, or in another order, than was asked")]
    ran, wanted = np.asarray(cell, dtype=float), np.asarray(asked.cell, dtype=float)
    at, sent = np.asarray(positions, dtype=float), np.asarray(asked.positions, dtype=float)
    if calculation != "relax":
        off = float(np.abs(ran - wanted).max())
        if not off <= STRUCTURE_TOLERANCE:
            return [Reason(code="cell", message=f"the cell in {where} differs from the one asked by {off:.2g} Å")]
    if calculation not in MOVING:
        fractional = (at - sent) @ np.linalg.inv(wanted)
        off = float(np.linalg.norm((fractional - np.round(fractional)) @ wanted, axis=1).max())
        if not off <= STRUCTURE_TOLERANCE:
            return [Reason(code="positions", message=f"atoms in {where} moved by up to {off:.2g} Å")]
    return []


def check_relaxed(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask for forces below the threshold where a relaxation was asked."""
    limit = None if asked is None else asked.protocol.fmax(asked.calculation)
    forces = outcome.labels.forces
    if limit is None or forces is None or forces.ndim != 2:
        return
    largest = float(np.linalg.norm(forces, axis=1).max())
    if not largest < limit:
        message = f"the largest force is {1000 * largest:.3g} meV/Å, not below {1000 * limit:g} meV/Å"
        yield Reason(code="not_relaxed", message=message, transient=True)


def check_energy_sign(outcome: Outcome, _: Asked | None) -> Iterator[Reason]:
    """Ask VASP for a negative total energy: relative to isolated atoms every crystal worth training on has one."""
    energy = outcome.labels.energy
    if outcome.run is not None and energy is not None and np.isfinite(energy) and energy >= 0:
        yield Reason(code="energy_positive", message=f"the total energy is {energy:.3f} eV")


def check_scf(outcome: Outcome, _: Asked | None) -> Iterator[Reason]:
    """Ask that the last electronic step changed the energy by less than the EDIFF VASP used.

    Converging exactly at the last allowed step (NELM) counts; stopping there does not.
    """
    if outcome.run is None:
        return
    energies, settings = outcome.scf, outcome.run.settings
    tolerance, limit = settings.number("EDIFF", 1e-4), int(settings.number("NELM", 60))
    if len(energies) < 2:
        message = f"only {len(energies)} electronic step was recorded: convergence cannot be seen"
        yield Reason(code="scf_unknown", message=message, transient=True)
        return
    change = abs(energies[-1] - energies[-2])
    # a difference of two printed energies is known to one unit of the last digit, 1e-8 eV
    if change <= tolerance + 1.01e-8:
        return
    used_up = len(energies) >= limit
    why = f"NELM = {limit} was reached" if used_up else f"it was stopped early, after {len(energies)} steps"
    message = f"SCF not converged: last change {change:.1e} eV against EDIFF {tolerance:.0e} eV ({why})"
    yield Reason(code="scf", message=message, transient=not used_up)


def check_incar(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that the INCAR that ran equals the one of the protocol, but for tags that cannot change the result."""
    if outcome.run is None or asked is None:
        return
    if not outcome.run.incar:
        yield Reason(code="incar_unknown", message="the output does not repeat its INCAR", transient=True)
        return
    wanted = incar_tags(asked.protocol, asked.calculation, np.asarray(asked.frame.cell, dtype=float))
    ran = {key.strip().upper(): value for key, value in outcome.run.incar.items()}
    free = _free_tags(asked) | PARALLEL_TAGS
    changed = [
        f"{key} was {value}, ran as {ran[key]}" if key in ran else f"{key} was {value}, is gone"
        for key, value in wanted.items()
        if key not in free and not (key in ran and _same(key, ran[key], value))
    ]
    magnetic = {"MAGMOM"} if asked.protocol.spin_polarized else set()
    changed += [f"{key} = {ran[key]} was not asked" for key in sorted(set(ran) - set(wanted) - free - magnetic)]
    if changed:
        yield Reason(code="incar", message="; ".join(changed))


def _free_tags(asked: Asked | None) -> frozenset[str]:
    """INCAR tags that custodian may change."""
    return CORRECTABLE_TAGS | (RELAXATION_TAGS if asked and asked.calculation in MOVING else frozenset())


def _same(key: str, ran: Any, wanted: Any) -> bool:
    """Tell whether a tag means what was asked, also as Fortran prints it.

    EDIFF below the one asked is what custodian sets after ZBRENT; VASP repeats PREC with six letters.
    """
    if isinstance(wanted, bool) or isinstance(ran, bool):
        return _logical(ran) == _logical(wanted)
    if isinstance(wanted, int | float):
        try:
            number = float(ran)
        except (TypeError, ValueError):
            return False
        return bool(np.isclose(number, wanted, rtol=1e-9, atol=0)) or (key == "EDIFF" and 0 < number <= wanted)
    length = 6 if key == "PREC" else None
    return str(ran).strip().lower()[:length] == str(wanted).strip().lower()[:length]


def _logical(value: Any) -> bool:
    return value.strip(" .").upper().startswith("T") if isinstance(value, str) else bool(value)


def check_kpoints(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that the k-point mesh that ran is the one of the protocol for this cell."""
    if outcome.run is None or asked is None:
        return
    mesh = outcome.run.settings.mesh
    if mesh is None:
        yield Reason(code="kpoints_unknown", message="the output names no k-point mesh", transient=True)
        return
    cells: list[Any] = [asked.frame.cell]
    if asked.calculation == "relax" and outcome.cell is not None:
        # a relaxation keeps the mesh of its start unless custodian restarted it from a later cell
        cells.append(outcome.cell)
    allowed = {kpoint_mesh(asked.protocol, asked.calculation, cell) for cell in cells}
    if mesh not in allowed:
        wanted = " or ".join("x".join(map(str, choice)) for choice in sorted(allowed))
        yield Reason(code="kpoints", message=f"the mesh was {'x'.join(map(str, mesh))}, not {wanted}")


def check_potcars(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask for one POTCAR per species block, each the one of the protocol, each the one that was written."""
    if outcome.run is None or asked is None:
        return
    symbols = asked.protocol.potcar_map(asked.frame.symbols)
    wanted = [symbols[element] for element, _ in groupby(asked.frame.symbols)]
    titles = [" ".join(title.split()) for title in outcome.run.settings.potcars]
    ran = [title.split()[1] if len(title.split()) > 1 else title for title in titles]
    if not ran:
        yield Reason(code="potcar_unknown", message="the output names no POTCAR", transient=True)
    elif ran != wanted:
        yield Reason(code="potcar", message=f"POTCARs were {' '.join(ran)}, not {' '.join(wanted)}")
    elif any(not title.startswith("PAW_PBE") for title in titles):
        yield Reason(code="potcar", message=f"POTCARs are not of the PBE library: {', '.join(titles)}")
    elif asked.potcars and [" ".join(title.split()) for title in asked.potcars] != titles:
        yield Reason(code="potcar", message=f"VASP read {titles}, the folder holds {list(asked.potcars)}")


def check_corrections(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that custodian changed only what may be changed, and that no wall time ended the run."""
    corrections = () if outcome.run is None else outcome.run.corrections
    changing = [c for c in corrections if not any("walltime" in text.lower() for text in (c.handler, *c.errors))]
    if len(changing) < len(corrections):  # the handler reports at every look
        yield Reason(code="walltime", message="the wall time ended the calculation", transient=True)
    for correction in changing:
        # going on from CONTCAR is harmless: the structure that comes back is compared with the one sent
        changes = sorted(set(correction.tags) - _free_tags(asked) - {"EDIFF"})
        changes += [name for name in correction.files if name not in {"WAVECAR", "CHGCAR", "CONTCAR"}]
        if changes:
            message = f"{correction.handler} changed {', '.join(changes)} after {', '.join(correction.errors)}"
            yield Reason(code="correction", message=message)


def check_origin(outcome: Outcome, _: Asked | None) -> Iterator[Reason]:
    """Refuse numbers of the VASP stand-in, or of invented POTCARs: they are no reference data."""
    if outcome.rehearsal:
        message = "it comes from a rehearsal with the VASP stand-in or with invented POTCARs: its numbers are no DFT"
        yield Reason(code="rehearsal", message=message)


CHECKS: tuple[Callable[[Outcome, Asked | None], Iterator[Reason]], ...] = (
    check_numbers,
    check_structure,
    check_relaxed,
    check_energy_sign,
    check_scf,
    check_incar,
    check_kpoints,
    check_potcars,
    check_corrections,
    check_origin,
)
"""What is asked of one configuration."""
