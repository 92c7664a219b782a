"""The gate every reference calculation passes before it may be called a label.

Pure functions: each takes what was asked and what came back and returns reasons; no reason means it may pass. Workflow
libraries call NaN forces, another lattice, an SCF cycle cut short by the queue and a k-mesh changed on the way
"successful"; here each is a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.reference.documents import Correction, Frame, Reason, ReferenceRecord
from phonosmith.reference.protocol import Calculation, ReferenceProtocol, incar_tags, kpoint_mesh
from phonosmith.reference.vasp.handlers import CORRECTABLE_TAGS, PARALLEL_TAGS, RELAXATION_TAGS

STRUCTURE_TOLERANCE = 1e-5
"""Å. vasprun.xml prints eight decimals of fractional coordinates: 2e-7 Å in a 20 Å cell; real changes are larger."""
ENERGY_PRINT = 1e-8
"""eV. The last digit of energies in vasprun.xml."""
MOVING: tuple[Calculation, ...] = ("relax", "elastic_relax")
STANDIN_MARK = "standin"
"""Part of the version the stand-in prints."""
INVENTED_MARK = "INVENTED"
"""Part of the title of every invented POTCAR."""


def check_results(record: ReferenceRecord) -> list[Reason]:
    """Energy, forces and stress are there, have the right shape and are finite numbers."""
    reasons = []
    n_atoms = len(record.symbols)
    for name, value, shape in (
        ("energy", record.energy, ()),
        ("forces", record.forces, (n_atoms, 3)),
        ("stress", record.stress, (6,)),
    ):
        if value is None:
            reasons.append(Reason(code=f"{name}_missing", message=f"no {name} in the output", transient=True))
            continue
        array = np.asarray(value, dtype=float)
        if array.shape != shape:
            reasons.append(Reason(code=f"{name}_shape", message=f"{name} has shape {array.shape}, not {shape}"))
        elif not np.all(np.isfinite(array)):
            reasons.append(Reason(code=f"{name}_not_finite", message=f"{name} holds NaN or infinity"))
    if record.energy_sigma0 is not None and not np.isfinite(record.energy_sigma0):
        reasons.append(Reason(code="energy_not_finite", message="the energy for zero smearing is NaN or infinity"))
    return reasons


def check_energy_sign(record: ReferenceRecord) -> list[Reason]:
    """Ask for a negative total energy: relative to isolated atoms every crystal worth training on has one."""
    if record.energy is None or not np.isfinite(record.energy) or record.energy < 0:
        return []
    return [Reason(code="energy_positive", message=f"the total energy is {record.energy:.3f} eV")]


def check_structure(
    asked: Frame,
    symbols: Sequence[str],
    cell: Sequence[Sequence[float]] | None,
    positions: Sequence[Sequence[float]] | None,
    calculation: Calculation,
    where: str = "the output",
) -> list[Reason]:
    """Ask for the same species in the same order, and the same cell and positions unless the calculation moves them."""
    if list(symbols) != list(asked.symbols):
        return [Reason(code="species", message=f"{where} lists other species, or in another order, than was asked")]
    if cell is None or positions is None:
        return [Reason(code="structure_missing", message=f"no structure in {where}", transient=True)]
    reasons = []
    found, wanted = np.asarray(cell, dtype=float), np.asarray(asked.cell, dtype=float)
    at, sent = np.asarray(positions, dtype=float), np.asarray(asked.positions, dtype=float)
    if not (np.all(np.isfinite(found)) and np.all(np.isfinite(at))):
        return [Reason(code="structure_not_finite", message=f"the structure in {where} holds NaN or infinity")]
    if calculation != "relax":
        off = float(np.abs(found - wanted).max())
        if off > STRUCTURE_TOLERANCE:
            reasons.append(
                Reason(code="cell", message=f"the cell in {where} differs from the one asked by {off:.2g} Å")
            )
    if calculation not in MOVING and not reasons:
        off = _largest_move(at, sent, wanted)
        if off > STRUCTURE_TOLERANCE:
            reasons.append(Reason(code="positions", message=f"atoms in {where} moved by up to {off:.2g} Å"))
    return reasons


def _largest_move(positions: NDArray[np.float64], wanted: NDArray[np.float64], cell: NDArray[np.float64]) -> float:
    """Largest displacement in Å, modulo lattice vectors."""
    fractional = (positions - wanted) @ np.linalg.inv(cell)
    fractional -= np.round(fractional)
    return float(np.linalg.norm(fractional @ cell, axis=1).max())


def check_scf(record: ReferenceRecord, protocol: ReferenceProtocol) -> list[Reason]:
    """Ask that the last electronic step changed the energy by less than EDIFF, before NELM was used up."""
    if record.electronic_steps is None or record.last_de is None:
        return [Reason(code="scf_unknown", message="the output holds no electronic steps", transient=True)]
    if record.electronic_steps >= protocol.nelm:
        return [Reason(code="scf", message=f"all {protocol.nelm} electronic steps (NELM) were used")]
    # a difference of two printed energies is known to one unit of the last digit
    if not record.last_de < protocol.ediff + 1.01 * ENERGY_PRINT:
        return [
            Reason(
                code="scf",
                message=f"the last electronic step changed the energy by {record.last_de:.2g} eV, more than EDIFF "
                f"{protocol.ediff:g}: the cycle was cut short after {record.electronic_steps} steps",
                transient=True,
            )
        ]
    return []


def check_relaxed(record: ReferenceRecord, protocol: ReferenceProtocol) -> list[Reason]:
    """Ask for forces below the threshold where a relaxation was asked."""
    limit = protocol.fmax(record.calculation)
    if limit is None or record.forces is None:
        return []
    largest = float(np.linalg.norm(np.asarray(record.forces, dtype=float), axis=1).max())
    if largest < limit:
        return []
    return [
        Reason(
            code="not_relaxed",
            message=f"the largest force is {1000 * largest:.3g} meV/Å, not below {1000 * limit:g} meV/Å",
            transient=True,
        )
    ]


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return bool(found) == bool(wanted)
    if isinstance(wanted, int | float):
        try:
            return bool(np.isclose(float(found), float(wanted), rtol=1e-9, atol=0))
        except (TypeError, ValueError):
            return False
    return str(found).strip().lower() == str(wanted).strip().lower()


def check_incar(run: Mapping[str, Any], protocol: ReferenceProtocol, calculation: Calculation) -> list[Reason]:
    """Ask that the INCAR that ran equals the one of the protocol, but for tags that cannot change the result."""
    if not run:
        return [Reason(code="incar_unknown", message="the output does not repeat its INCAR", transient=True)]
    wanted = incar_tags(protocol, calculation)
    free = CORRECTABLE_TAGS | PARALLEL_TAGS | (RELAXATION_TAGS if calculation in MOVING else frozenset())
    found = {key.strip().upper(): value for key, value in run.items()}
    changed = []
    for key, value in wanted.items():
        if key in free:
            continue
        if key not in found:
            changed.append(f"{key} was {value}, is gone")
        elif not (_same(found[key], value) or _harmless(key, found[key], value)):
            changed.append(f"{key} was {value}, ran as {found[key]}")
    magnetic = {"MAGMOM"} if protocol.spin_polarized else set()
    changed += [f"{key} = {found[key]} was not asked" for key in sorted(set(found) - set(wanted) - free - magnetic)]
    return [Reason(code="incar", message="; ".join(changed))] if changed else []


def _harmless(key: str, found: Any, wanted: Any) -> bool:
    """Tell whether a difference is harmless.

    EDIFF below the one asked is what custodian sets after ZBRENT; VASP repeats PREC with six letters.
    """
    if key == "PREC":
        return str(found).strip().lower()[:6] == str(wanted).lower()[:6]
    try:
        return key == "EDIFF" and 0 < float(found) <= float(wanted)
    except (TypeError, ValueError):
        return False


def check_kpoints(record: ReferenceRecord, asked: Frame, protocol: ReferenceProtocol) -> list[Reason]:
    """Ask that the k-point mesh that ran is the one of the protocol for this cell."""
    if record.kpoints is None:
        return [Reason(code="kpoints_unknown", message="the output names no k-point mesh", transient=True)]
    cell = record.cell if record.calculation == "relax" and record.cell is not None else asked.cell
    allowed = {
        kpoint_mesh(protocol, record.calculation, np.asarray(rows, dtype=float)) for rows in (asked.cell, cell)
    }  # a relaxation keeps the mesh of its start unless custodian restarted it from a later cell
    if tuple(record.kpoints) in allowed:
        return []
    wanted = " or ".join("x".join(map(str, mesh)) for mesh in sorted(allowed))
    return [Reason(code="kpoints", message=f"the mesh was {'x'.join(map(str, record.kpoints))}, not {wanted}")]


def check_potcars(
    record: ReferenceRecord, asked: Frame, protocol: ReferenceProtocol, written: Sequence[str] = ()
) -> list[Reason]:
    """One POTCAR per species block, each the one of the protocol, each the one that was written.

    Parameters
    ----------
    written
        Titles of the POTCAR file in the folder; empty when it is not known.
    """
    symbols = protocol.potcar_map(asked.symbols)
    wanted = [symbols[element] for element, _ in groupby(asked.symbols)]
    ran = [title.split()[1] if len(title.split()) > 1 else title for title in record.potcar_titles]
    if not ran:
        return [Reason(code="potcar_unknown", message="the output names no POTCAR", transient=True)]
    if ran != wanted:
        return [Reason(code="potcar", message=f"POTCARs were {' '.join(ran)}, not {' '.join(wanted)}")]
    if any(not title.startswith("PAW_PBE") for title in record.potcar_titles):
        return [Reason(code="potcar", message=f"POTCARs are not of the PBE library: {', '.join(record.potcar_titles)}")]
    if written and [" ".join(title.split()) for title in written] != [
        " ".join(title.split()) for title in record.potcar_titles
    ]:
        return [Reason(code="potcar", message=f"VASP read {record.potcar_titles}, the folder holds {list(written)}")]
    return []


def check_corrections(corrections: Sequence[Correction], calculation: Calculation) -> list[Reason]:
    """Custodian changed only what may be changed, and no wall time ended the run."""
    reasons = []
    free = CORRECTABLE_TAGS | {"EDIFF"} | (RELAXATION_TAGS if calculation in MOVING else frozenset())
    for correction in corrections:
        if "walltime" in correction.handler.lower() or any("walltime" in text.lower() for text in correction.errors):
            ended = Reason(code="walltime", message="the wall time ended the calculation", transient=True)
            reasons += [] if ended in reasons else [ended]  # the handler reports at every look
            continue
        tags = sorted(set(correction.tags) - free)
        # going on from CONTCAR is harmless: the structure that comes back is compared with the one sent
        files = [name for name in correction.files if name not in {"WAVECAR", "CHGCAR", "CONTCAR"}]
        if tags or files:
            reasons.append(
                Reason(
                    code="correction",
                    message=f"{correction.handler} changed {', '.join(tags + files)} "
                    f"after {', '.join(correction.errors)}",
                )
            )
    return reasons


def check_origin(record: ReferenceRecord, *, allow_rehearsal: bool) -> list[Reason]:
    """Numbers of the VASP stand-in, or of invented POTCARs, are no reference data."""
    if allow_rehearsal or not record.rehearsal:
        return []
    return [
        Reason(
            code="rehearsal",
            message=f"made by the VASP stand-in ({record.engine_version}) or with invented POTCARs, not by VASP",
        )
    ]


def is_rehearsal(version: str, titles: Sequence[str]) -> bool:
    """Tell whether an output was made by the stand-in or with invented POTCARs."""
    return STANDIN_MARK in version.lower() or any(INVENTED_MARK in title for title in titles)


def check_label(
    record: ReferenceRecord,
    asked: Frame,
    protocol: ReferenceProtocol,
    *,
    written_potcars: Sequence[str] = (),
    allow_rehearsal: bool = False,
) -> list[Reason]:
    """Return every reason why a calculation must not become a label; an empty list lets it pass.

    Parameters
    ----------
    record
        What came back.
    asked
        What was sent.
    protocol
        How it was to be done.
    written_potcars
        Titles in the POTCAR file of the folder, where it can be read.
    allow_rehearsal
        Let results of the stand-in pass (rehearsals and tests only).
    """
    reasons = check_results(record)
    reasons += check_structure(asked, record.symbols, record.cell, record.positions, record.calculation)
    reasons += check_relaxed(record, protocol)
    if record.protocol_digest != protocol.digest:
        reasons.append(Reason(code="protocol", message="the record belongs to another protocol"))
    if record.engine == "vasp":
        reasons += check_energy_sign(record)
        reasons += check_scf(record, protocol)
        reasons += check_incar(record.incar, protocol, record.calculation)
        reasons += check_kpoints(record, asked, protocol)
        reasons += check_potcars(record, asked, protocol, written_potcars)
        reasons += check_corrections(record.corrections, record.calculation)
        reasons += check_origin(record, allow_rehearsal=allow_rehearsal)
    return reasons
