"""From the record of a VASP run to labelled frames, or to the reasons why there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from ase import Atoms

from phonosmith.core.units import EV_PER_A3_PER_VASP_KBAR
from phonosmith.reference.accept import accept, accept_run
from phonosmith.reference.checks.vasp_run import check_files
from phonosmith.reference.datasets.documents import Refusal
from phonosmith.reference.documents import Reason
from phonosmith.reference.outcome import Outcome
from phonosmith.reference.vasp.run import IonicStep, VaspRun
from phonosmith.reference.vasp.settings import provenance
from phonosmith.structures.labels import Moments, label_frame, labels_of

Steps = Literal["all", "last"]
Read = tuple[list[Atoms], list[Refusal]]
"""Labelled frames of a file, and a refusal for everything in it that is no label."""


def joined(reads: Iterable[Read]) -> Read:
    """Return what several reads gave together."""
    frames: list[Atoms] = []
    refused: list[Refusal] = []
    for taken, left in reads:
        frames += taken
        refused += left
    return frames, refused


def attempted(where: str, read: Callable[[], Read]) -> Read:
    """Return what a read gives; something that does not have the expected layout is refused."""
    try:
        return read()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return [], [Refusal(where=where, reason=f"it cannot be read: {type(error).__name__} {error}")]


def refusal(where: str, reasons: Sequence[Reason]) -> Refusal:
    """Return a refusal with the reasons of the rule."""
    return Refusal(where=where, reason="; ".join(reason.message for reason in reasons))


def judged(frame: Atoms, where: str, *, allow_rehearsal: bool = False) -> Read:
    """Return a labelled frame if the rule lets it pass, else its refusal."""
    reasons = accept(Outcome.of_atoms(frame), allow_rehearsal=allow_rehearsal)
    return ([], [refusal(where, reasons)]) if reasons else ([frame], [])


def frames_of(run: VaspRun, where: str, *, steps: Steps = "all", allow_rehearsal: bool = True) -> Read:
    """Return the labelled configurations of a run and a refusal for everything that is no label.

    ``where``, the name of the file, is kept as the frames' source. Taken are "all" ionic steps that converged or the
    "last" alone and, where allowed, what the VASP stand-in made; it is marked. Numbers that fit nowhere refuse the run.
    """
    return attempted(where, lambda: _frames_of(run, where, steps, allow_rehearsal=allow_rehearsal))


def _frames_of(run: VaspRun, where: str, steps: Steps, *, allow_rehearsal: bool) -> Read:
    if general := accept_run(run):
        return [], [refusal(where, general)]
    frames: list[Atoms] = []
    refused: list[Refusal] = []
    for index in range(len(run.steps)) if steps == "all" else [len(run.steps) - 1]:
        outcome = Outcome.of_step(run, index)
        reasons = accept(outcome, allow_rehearsal=allow_rehearsal)
        if [reason.code for reason in reasons] == ["rehearsal"]:
            return [], [refusal(where, reasons)]  # one calculation, one refusal
        if reasons:
            refused.append(refusal(where if len(run.steps) == 1 else f"{where}, ionic step {index}", reasons))
        else:
            frames.append(_frame(outcome, run, where))
    return frames, refused


def contradictions(last: Atoms, run: VaspRun) -> list[Reason]:
    """Return what an OUTCAR says against the last labelled frame of the vasprun.xml beside it.

    An OUTCAR that ends early is no contradiction: the other file is whole by its own account.
    """
    labels = labels_of(last)
    if not run.steps or run.damage is not None or run.symbols != last.get_chemical_symbols():
        return []
    stress = run.steps[-1].stress
    ours = IonicStep(energy=labels.energy, forces=labels.forces)
    if labels.stress is not None and stress is not None:
        ours.stress = labels.stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3) / EV_PER_A3_PER_VASP_KBAR
    return list(check_files(replace(run, steps=[ours]), None))


def add_moments(last: Atoms, run: VaspRun) -> None:
    """Write the moments of an OUTCAR on the last labelled frame of the vasprun.xml beside it, which has none."""
    told = run.damage is None and run.symbols == last.get_chemical_symbols() and run.settings.spin_polarized
    if told and last.calc is not None:
        known = {"magmom": run.moments.total, "magmoms": run.moments.sites}
        last.calc.results.update({name: value for name, value in known.items() if value is not None})


def _frame(outcome: Outcome, run: VaspRun, where: str) -> Atoms:
    assert outcome.cell is not None
    labels = outcome.labels
    return label_frame(
        Atoms(run.symbols, cell=outcome.cell, positions=outcome.positions, pbc=True),
        energy=labels.energy,
        forces=labels.forces,
        stress=labels.stress,
        moments=Moments(outcome.moment, outcome.site_moments),
        energy_sigma0=outcome.energy_sigma0,
        config_stress_weight=None if labels.stress is not None else 0.0,
        source=where,
        **provenance(run.settings, outcome.cell),
    )
