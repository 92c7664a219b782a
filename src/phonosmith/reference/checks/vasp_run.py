"""Checks of a VASP run against itself: what it used and what it was given, and what its files say of one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.reference.datasets.moments import SOME_MOMENT, turned_sites
from phonosmith.reference.documents import Reason
from phonosmith.reference.outcome import Asked, Outcome
from phonosmith.reference.vasp.run import VaspRun, Witness
from phonosmith.reference.vasp.settings import exchange_of, functional_of, pseudopotential_family

Array = NDArray[np.float64]

MEAN_DRIFT = 0.01
"""eV/Å per atom that VASP had to remove: forces are no better than that."""
LARGEST_RESIDUAL = 1.0
"""Last rms(c): charge densities that still change by this much are those of the first steps of a cycle."""
_NOT_SELF_CONSISTENT = (
    "none", "eigenval", "exact", "subrot", "chi", "gw", "gw0", "scgw", "scgw0", "acfdt", "rpa", "bse",
)  # fmt: skip
_GIVEN_AS = {
    "ENMAX": "ENCUT", **{name: name for name in (
        "NELECT", "ISPIN", "ISMEAR", "SIGMA", "EDIFF", "PREC", "LREAL", "SYMPREC", "NELM", "LASPH", "GGA", "METAGGA",
        "NSW", "LHFCALC", "LDAU", "LSORBIT", "NUPDOWN", "ADDGRID", "LMAXMIX", "PSTRESS",
    )},
}  # fmt: skip
"""Tags VASP repeats after reading its input, with the name they are given by."""
_DEFAULTS = {
    "ISPIN": 1, "ISMEAR": 1, "SIGMA": 0.2, "EDIFF": 1e-4, "LREAL": False, "SYMPREC": 1e-5, "LASPH": False, "NELM": 60,
    "NSW": 0, "LHFCALC": False, "LDAU": False, "LSORBIT": False, "ADDGRID": False, "PSTRESS": 0.0,
}  # fmt: skip
"""VASP's defaults, unchanged since version 4.6, for tags that are not given."""
_PRINTED = 5.1e-9
"""VASP prints EDIFF and SYMPREC with eight decimals."""


def check_whole(run: VaspRun, _: Asked | None) -> Iterator[Reason]:
    """Ask for a run that reached its end, and for one configuration where atoms do not move."""
    damage = run.damage if run.damage is not None or run.steps else "it holds no ionic step"
    if damage is not None:
        yield Reason(code="unfinished", message=damage, transient=True)
    most = max(1, int(run.settings.number("NSW", 0)))
    if len(run.steps) > most:
        message = (
            f"it holds {len(run.steps)} ionic steps, where NSW = {int(run.settings.number('NSW', 0))} allows {most}"
        )
        yield Reason(code="steps", message=f"{message}: outputs of several calculations were joined")


def check_self_consistent(run: VaspRun, asked: Asked | None) -> Iterator[Reason]:
    """Ask for a self-consistent ground state (or for the linear response that was asked)."""
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
        yield Reason(code="not_self_consistent", message=message)


def check_used(run: VaspRun, _: Asked | None) -> Iterator[Reason]:
    """Ask that VASP worked with what it was given, or with its own default."""
    given = {key.strip().upper(): value for key, value in run.incar.items()}
    if not given:
        return
    used = {key.strip().upper(): value for key, value in run.used.items()}
    smearing = _number(used.get("ISMEAR", 0))
    wrong = []
    for name, alias in _GIVEN_AS.items():
        wanted = given.get(alias, _DEFAULTS.get(alias))
        # fixed occupations and tetrahedra have no width; non-collinear runs have one spin channel of their own
        idle = (name == "SIGMA" and smearing < -1) or (name == "ISPIN" and _true(used.get("LNONCOLLINEAR", "F")))
        if name not in used or wanted is None or idle or _same(name, used[name], wanted):
            continue
        origin = f"{alias} = {given[alias]} was given" if alias in given else f"{alias} was not given"
        wrong.append(f"{origin}, VASP used {name} = {used[name]}")
    if wrong:
        yield Reason(code="used", message="; ".join(wrong))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _true(value: Any) -> bool:
    return str(value).strip(" .").upper()[:1] not in ("F", "N", "")


def _same(name: str, used: Any, wanted: Any) -> bool:
    text, asking = str(used).strip().lower(), str(wanted).strip().lower()
    if name in ("GGA", "METAGGA"):  # '--' stands for what the INCAR says
        return text in ("--", "", "none") or asking in ("--", "none") or text[:2] == asking[:2]
    if name == "PREC":
        return text[:3] == asking[:3]
    if name == "LREAL" or isinstance(wanted, bool) or asking.strip(".") in ("t", "f", "true", "false"):
        return _true(used) == _true(wanted)
    first, second = _number(used), _number(wanted)
    return bool(np.isclose(first, second, rtol=1e-6, atol=_PRINTED))


def check_charge(run: VaspRun, asked: Asked | None) -> Iterator[Reason]:
    """Ask for a neutral cell, unless the protocol asks for another number of electrons."""
    charge = run.settings.charge
    if abs(charge) < 1e-3:
        return
    wanted = None if asked is None else dict(asked.protocol.extra_incar).get("NELECT")
    if wanted is None or abs(float(wanted) - run.settings.number("NELECT", 0.0)) > 1e-3:
        message = f"the cell carries a charge of {charge:+.3g} e (NELECT against the valences of its POTCARs)"
        yield Reason(code="charge", message=message)


def check_pseudopotentials(run: VaspRun, _: Asked | None) -> Iterator[Reason]:
    """Ask for POTCARs of one functional, and none of LDA or PW91 under another one."""
    families = {pseudopotential_family(title) for title in run.settings.potcars} - {None}
    said = {exchange_of(code) for end in run.witnesses for code in end.exchange} - {None}
    functional = functional_of(run.settings)
    if len(families | said) > 1:
        names = " and ".join(sorted(str(name) for name in families | said))
        yield Reason(code="potcar", message=f"its POTCARs were made with {names}")
    elif functional is not None and (family := next(iter(families | said), None)) is not None:
        # PBE data sets serve every gradient-corrected functional; LDA and PW91 ones serve their own
        base = functional.partition("+")[0]
        if (base == "LDA") != (family == "LDA") or (family == "PW91" and base != "PW91"):
            yield Reason(code="potcar", message=f"its POTCARs were made with {family}, the functional is {functional}")


def check_points(run: VaspRun, _: Asked | None) -> Iterator[Reason]:
    """Ask that the k-points listed are those of the mesh that was generated, every one of it up to symmetry."""
    mesh, points = run.settings.mesh, run.kpoints
    cell = next((step.cell for step in run.steps if step is not None and step.cell is not None), None)
    if mesh is None or points is None or points.ndim != 2 or cell is None or not np.all(np.isfinite(cell)):
        return
    if run.weights is not None and abs(float(np.sum(run.weights)) - 1) > 1e-3:
        yield Reason(code="kpoint_list", message=f"the weights of the k-points sum to {np.sum(run.weights):.4f}, not 1")
    if run.weights is not None and len(run.weights) != len(points):
        yield Reason(code="kpoint_list", message=f"it lists {len(points)} k-points and {len(run.weights)} weights")
    divisions = np.array(mesh)
    shift = points[0] * divisions
    away = points * divisions - shift
    name = "x".join(map(str, mesh))
    if np.abs(away - np.round(away)).max() > 1e-3:
        yield Reason(code="kpoint_list", message=f"the k-points listed do not lie on the mesh {name}")
        return
    total, covered = int(np.prod(divisions)), _covered(points, divisions, shift, cell)
    if covered < total:
        message = f"the {len(points)} k-points listed make only {covered} of the {total} points of the mesh {name}"
        yield Reason(code="kpoint_list", message=message)


def _covered(points: Array, divisions: NDArray[np.int_], shift: Array, cell: Array) -> int:
    """Count the points of a mesh that the symmetry of the lattice makes from some."""
    import spglib

    try:
        lattice = spglib.get_symmetry_dataset((cell, np.zeros((1, 3)), [1]), symprec=1e-3)
    except spglib.SpglibError:
        lattice = None
    rotations = [np.eye(3)] if lattice is None else [*lattice.rotations.astype(float), np.eye(3)]
    reached: set[tuple[int, int, int]] = set()
    for rotation in rotations:
        for sign in (1, -1):
            on = sign * (points @ rotation) * divisions - shift
            whole = np.all(np.abs(on - np.round(on)) < 1e-3, axis=1)
            reached |= {tuple(row) for row in np.mod(np.round(on[whole]).astype(int), divisions).tolist()}
    return len(reached)


def check_files(run: VaspRun, _: Asked | None) -> Iterator[Reason]:
    """Ask that every file of the run tells of a sound end, and of the same one."""
    for end in run.witnesses:
        yield from _sound_end(run, end)
        if run.steps and run.steps[-1] is not None:
            disagreements = list(_disagreements(run, end))
            if disagreements:
                message = f"{end.name} tells of another end of the run: {'; '.join(disagreements)}"
                yield Reason(code="disagreement", message=message, transient=True)


def _sound_end(run: VaspRun, end: Witness) -> Iterator[Reason]:
    if end.complaints:
        yield Reason(code="complaint", message=f"{end.name} says: {end.complaints[0]}")
    # stopped early, by a queue, it may converge when it is started again
    cycle = 0 if not run.steps or run.steps[-1] is None else len(run.steps[-1].scf)
    again = cycle < int(run.settings.number("NELM", 60))
    if end.unconverged:
        message = f"{end.name} says that EDIFF was not reached"
        yield Reason(code="scf", message=message, transient=again)
    tolerance = run.settings.number("EDIFF", 1e-4)
    if end.last_change is not None and not abs(end.last_change) <= tolerance + 1.01e-8:
        message = f"{end.name}: the last change was {abs(end.last_change):.1e} eV against EDIFF {tolerance:.0e} eV"
        yield Reason(code="scf", message=message, transient=again)
    if end.density_residual is not None and not end.density_residual < LARGEST_RESIDUAL:
        message = f"{end.name}: the charge density still changed by rms(c) = {end.density_residual:.2g}"
        yield Reason(code="scf", message=message, transient=again)
    if end.fermi is not None and not np.isfinite(end.fermi):
        yield Reason(code="fermi", message=f"the Fermi energy in {end.name} is no number")
    if end.drift is not None and run.symbols:
        drift = float(np.abs(end.drift).max()) / len(run.symbols)
        if not drift <= MEAN_DRIFT:
            message = f"{end.name}: VASP removed a drift of {drift:.2g} eV/Å per atom, more than {MEAN_DRIFT:g} eV/Å"
            yield Reason(code="drift", message=f"{message}: grids or cutoff are too coarse for these forces")


def _disagreements(run: VaspRun, end: Witness) -> Iterator[str]:
    last = run.steps[-1]
    # OSZICAR prints eight digits of the energy, OUTCAR six decimals of forces and five of the stress
    energy, said = last.energy, end.energy
    compared = said is not None and energy is not None and np.isfinite(energy)
    if compared and not np.isclose(said or 0.0, energy or 0.0, rtol=2e-7, atol=1e-6):
        yield f"an energy of {said:.6f} eV, not {energy:.6f} eV"
    for name, unit, digits in (("forces", "eV/Å", 2e-6), ("stress", "kbar", 2e-4)):
        one, other = getattr(end, name), getattr(last, name)
        if one is None or other is None or one.shape != other.shape or not np.all(np.isfinite(other)):
            continue
        off, size = float(np.abs(one - other).max()), float(np.abs(other).max())
        if not off <= digits + 1e-6 * size:
            yield f"{name} that differ by {off:.2g} {unit}"


def check_cycle(outcome: Outcome, _: Asked | None) -> Iterator[Reason]:
    """Ask that the electronic cycle converged to the energy of the configuration, without a jump just before.

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
    changes = np.abs(np.diff(energies))
    # a difference of two printed energies is known to one unit of the last digit, 1e-8 eV
    if not changes[-1] <= tolerance + 1.01e-8:
        used_up = len(energies) >= limit
        why = f"NELM = {limit} was reached" if used_up else f"it was stopped early, after {len(energies)} steps"
        message = f"SCF not converged: last change {changes[-1]:.1e} eV against EDIFF {tolerance:.0e} eV ({why})"
        yield Reason(code="scf", message=message, transient=not used_up)
    elif len(changes) > 1 and changes[-2] > max(0.05, 1e3 * tolerance):
        message = f"SCF not converged: it jumped by {changes[-2]:.2g} eV in the last step but one"
        yield Reason(code="scf", message=message)


def check_energy(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that the energy is the one the electronic cycle ended with, and the smearing's energies fit together."""
    run, step, energy = outcome.run, outcome.step, outcome.labels.energy
    if run is None or step is None or energy is None or not np.isfinite(energy):
        return
    settings = run.settings
    # dispersion is added after the cycle; the last steps of a linear response are not of the ground state
    added = settings.flag("LVDW") or settings.number("IVDW", 0) > 0 or settings.number("PSTRESS", 0.0) != 0
    response = asked is not None and asked.calculation == "born"
    if outcome.scf and not added and not response and abs(energy - outcome.scf[-1]) > 1e-5:
        message = f"the energy is {energy:.6f} eV, the electronic cycle ended at {outcome.scf[-1]:.6f} eV"
        yield Reason(code="energy_scf", message=message)
    if step.entropy is None or step.energy_sigma0 is None or response:
        return
    # Methfessel-Paxton of order N: E0 = F + TS / (N + 2); Gauss and Fermi are N = 0
    order = max(0, int(settings.number("ISMEAR", 1)))
    expected = step.entropy / (order + 2)
    if not abs(step.energy_sigma0 - energy - expected) <= 1e-5:
        message = f"the energy for zero smearing lies {step.energy_sigma0 - energy:+.6f} eV from the free energy"
        yield Reason(code="energy_sigma0", message=f"{message}; its entropy says {expected:+.6f} eV")


def check_moments(outcome: Outcome, asked: Asked | None) -> Iterator[Reason]:
    """Ask that the moments a calculation was told to start from neither vanished nor turned on the way.

    Those of pymatgen's table are a guess: what becomes of them is no fault, the audit compares frames.
    """
    if asked is None or not outcome.final or not asked.protocol.spin_polarized:
        return
    said = [(outcome.program, outcome.moment, outcome.site_moments)]
    if outcome.run is not None:
        said = [(end.name, end.moment, end.site_moments) for end in outcome.run.witnesses]
    table = dict(asked.protocol.magmoms)
    started = np.array(asked.frame.magmoms or [table.get(symbol, 0.0) for symbol in outcome.symbols])
    total, absolute = abs(float(started.sum())), float(np.abs(started).sum())
    advice = "another magnetic state, or none; start near the one expected, or without spin"
    for name, moment, site_moments in said:
        sites = None if site_moments is None else float(np.abs(site_moments).sum())
        for ended, begun in ((sites, absolute), (moment, total)):
            if ended is not None and begun >= SOME_MOMENT and not abs(ended) >= 0.1 * begun:
                message = f"moments of {begun:.3g} μB became {abs(ended):.2g} μB ({name}): {advice}"
                yield Reason(code="moments", message=message)
                return
        turned = [] if site_moments is None else turned_sites(started, site_moments).tolist()
        if turned:
            message = f"the moments of {len(turned)} atoms turned against the others ({name}; the first is atom"
            yield Reason(code="moments", message=f"{message} {turned[0]}): {advice}")
            return
