"""The one rule every calculation passes before it may be called a label: by a job, by ``import`` and by ``audit``.

Workflow libraries call NaN forces, another lattice, an SCF cycle cut short by the queue and a k-mesh changed on the way
"successful"; here each is a reason. ``RUN_CHECKS`` look at a whole VASP run, ``CHECKS`` at one configuration: small
functions that take what came back and, where it is known, what was asked, and yield reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from phonosmith.reference.checks.asked import (
    check_corrections,
    check_incar,
    check_kpoints,
    check_potcars,
    check_relaxed,
    check_structure,
)
from phonosmith.reference.checks.numbers import check_energy_scale, check_forces, check_numbers, check_stress
from phonosmith.reference.checks.vasp_run import (
    check_charge,
    check_cycle,
    check_energy,
    check_files,
    check_moments,
    check_points,
    check_pseudopotentials,
    check_self_consistent,
    check_used,
    check_whole,
)
from phonosmith.reference.documents import Reason
from phonosmith.reference.outcome import Asked, Outcome
from phonosmith.reference.vasp.run import VaspRun


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
    """Return the reasons why nothing of a VASP run can be a label."""
    return [reason for check in RUN_CHECKS for reason in check(run, asked)]


def check_origin(outcome: Outcome, _: Asked | None) -> Iterator[Reason]:
    """Refuse numbers of the VASP stand-in, or of invented POTCARs: they are no reference data."""
    if outcome.rehearsal:
        message = "it comes from a rehearsal with the VASP stand-in or with invented POTCARs: its numbers are no DFT"
        yield Reason(code="rehearsal", message=message)


RUN_CHECKS: tuple[Callable[[VaspRun, Asked | None], Iterator[Reason]], ...] = (
    check_whole,
    check_self_consistent,
    check_used,
    check_charge,
    check_pseudopotentials,
    check_points,
    check_files,
)
"""What is asked of a VASP run."""
CHECKS: tuple[Callable[[Outcome, Asked | None], Iterator[Reason]], ...] = (
    check_numbers,
    check_structure,
    check_relaxed,
    check_energy_scale,
    check_energy,
    check_forces,
    check_stress,
    check_cycle,
    check_moments,
    check_incar,
    check_kpoints,
    check_potcars,
    check_corrections,
    check_origin,
)
"""What is asked of one configuration."""
