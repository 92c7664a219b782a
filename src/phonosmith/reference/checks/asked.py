"""Checks of what came back against what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from phonosmith.core.identity import MACHINE_TAGS
from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.checks.numbers import structure_defects
from phonosmith.reference.documents import Correction, Frame, Reason
from phonosmith.reference.outcome import MOVING, Asked, Outcome
from phonosmith.reference.protocol import Calculation, incar_tags, kpoint_mesh
from phonosmith.reference.vasp.settings import CORRECTABLE_TAGS, RELAXATION_TAGS

STRUCTURE_TOLERANCE = 1e-5
"""Å. vasprun.xml prints eight decimals of fractional coordinates: 2e-7 Å in a 20 Å cell; real changes are larger."""
RELAXED_STRESS = 1.0
"""kbar left in any component after a relaxation of the cell; what 0.5 meV/Å asks of the cell leaves below 0.1."""


def check_structure(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask for the structure that was sent, see ``compare_structure``."""
    if asked and (not structure_defects(outcome) or list(outcome.symbols) != list(asked.frame.symbols)):
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
    forces = outcome.labels.forces
    if asked is None or (limit := asked.protocol.fmax(asked.calculation)) is None or forces is None or forces.ndim != 2:
        return
    largest = float(np.linalg.norm(forces, axis=1).max())
    if not largest < limit:
        message = f"the largest force is {1000 * largest:.3g} meV/Å, not below {1000 * limit:g} meV/Å"
        yield Reason(code="not_relaxed", message=message, transient=True)
        return
    stress = outcome.labels.stress
    if asked.calculation != "relax" or stress is None or stress.shape != (6,):
        return
    pressure = dict(asked.protocol.extra_incar).get("PSTRESS", 0.0)
    left = float(np.abs(stress / EV_PER_A3_PER_VASP_KBAR - float(pressure) * np.array([1, 1, 1, 0, 0, 0])).max())
    if not left < RELAXED_STRESS:
        message = f"a stress of {left:.3g} kbar is left, not below {RELAXED_STRESS:g} kbar"
        yield Reason(code="pressure", message=message)


def check_incar(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that the INCAR that ran equals the one of the protocol, but for tags that cannot change the result."""
    if outcome.run is None or asked is None:
        return
    if not outcome.run.incar:
        yield Reason(code="incar_unknown", message="the output does not repeat its INCAR", transient=True)
        return
    wanted = incar_tags(asked.protocol, asked.calculation, np.asarray(asked.frame.cell, dtype=float))
    ran = {key.strip().upper(): value for key, value in outcome.run.incar.items()}
    free = _free_tags(asked) | MACHINE_TAGS
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
    elif outcome.run.settings.shifted:
        yield Reason(code="kpoints", message=f"the mesh {'x'.join(map(str, mesh))} does not hold Γ: it was shifted")


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


def ended_by_time(correction: Correction) -> bool:
    """Tell whether what custodian did was to stop the run because its time was over."""
    return any("walltime" in text.lower() for text in (correction.handler, *correction.errors))


def check_corrections(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that custodian changed only what may be changed, and that no wall time ended the run."""
    corrections = () if outcome.run is None else outcome.run.corrections
    changing = [correction for correction in corrections if not ended_by_time(correction)]
    if len(changing) < len(corrections):  # the handler reports at every look
        yield Reason(code="walltime", message="the wall time ended the calculation", transient=True)
    for correction in changing:
        # going on from CONTCAR is harmless: the structure that comes back is compared with the one sent
        changes = sorted(set(correction.tags) - _free_tags(asked) - {"EDIFF"})
        changes += [name for name in correction.files if name not in {"WAVECAR", "CHGCAR", "CONTCAR"}]
        if changes:
            message = f"{correction.handler} changed {', '.join(changes)} after {', '.join(correction.errors)}"
            yield Reason(code="correction", message=message)
