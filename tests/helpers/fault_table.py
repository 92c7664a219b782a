"""What becomes of each fault: run every one through the real path and write the table of outcomes.

``PYTHONPATH=tests python -m helpers.fault_table docs/faults.md`` does it; the tests run the same cases.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.artefacts import write_atomic
from phonosmith.testing.standin_faults import FAULTS

if TYPE_CHECKING:
    from phonosmith.reference.documents import ReferenceRecord
    from phonosmith.reference.protocol import Calculation

LABEL = "label"


@dataclass(frozen=True)
class FaultCase:
    """One fault, where it strikes, and what must come of it.

    Attributes
    ----------
    fault
        ``NAME`` (at every start) or ``NAME:1`` (at the first start only: transient).
    expected
        Code of the reason it is refused for, or ``label``.
    calculation
        Kind of calculation.
    attempts
        Starts allowed for transient failures.
    wall_time
        Seconds after which custodian asks VASP to stop; None for no limit.
    frozen
        Seconds without output after which custodian takes VASP for dead.
    """

    fault: str
    expected: str
    calculation: Calculation = "static"
    attempts: int = 1
    wall_time: int | None = None
    frozen: float = 600.0

    @property
    def name(self) -> str:
        """Short name for tests."""
        limit = " wall time" if self.wall_time else ""
        return f"{self.fault or 'none'} {self.calculation}{limit}{f' x{self.attempts}' if self.attempts > 1 else ''}"


CASES: tuple[FaultCase, ...] = (
    FaultCase("", LABEL),
    FaultCase("scf", "too_many_corrections"),
    FaultCase("scf:1", LABEL),
    FaultCase("crash", "output_invalid"),
    FaultCase("crash:1", LABEL, attempts=2),
    FaultCase("segv", "output_invalid"),
    FaultCase("segv:1", LABEL, attempts=2),
    FaultCase("truncate", "output_invalid"),
    FaultCase("truncate:1", LABEL, attempts=2),
    FaultCase("empty", "output_invalid"),
    FaultCase("nofiles", "output_invalid"),
    FaultCase("unknown", "output_invalid"),
    FaultCase("exitcode", "return_code"),
    FaultCase("exitcode:1", LABEL, attempts=2),
    FaultCase("nan", "forces_not_finite"),
    FaultCase("noforces", "forces_missing"),
    FaultCase("nostress", "stress_missing"),
    FaultCase("wrongcell", "cell"),
    FaultCase("wrongorder", "species"),
    FaultCase("wrongmesh", "kpoints"),
    FaultCase("wrongincar", "incar"),
    FaultCase("posenergy", "energy_positive"),
    FaultCase("brmix", "too_many_corrections"),
    FaultCase("brmix:1", LABEL),
    FaultCase("zbrent", "not_recoverable"),
    FaultCase("zbrent:1", LABEL, "relax"),
    FaultCase("oom", "not_recoverable"),
    FaultCase("oom:1", LABEL, attempts=2),
    FaultCase("hang", "not_recoverable", frozen=3.0),
    FaultCase("hang:1", LABEL, attempts=2, frozen=8.0),
    FaultCase("walltime", "scf"),
    FaultCase("walltime:1", LABEL, attempts=2),
    FaultCase("walltime", "not_relaxed", "relax"),
    FaultCase("", "walltime", "relax", wall_time=1),
)
"""Every fault, permanent and, where a second start helps, transient."""


def run_case(case: FaultCase, folder: Path) -> ReferenceRecord:
    """Run one case on a rattled NaCl cell in a folder: stand-in, custodian, emmet and gate, nothing replaced."""
    from ase.build import bulk

    from phonosmith.reference.documents import Frame
    from phonosmith.reference.engines import make_engine
    from phonosmith.reference.protocol import ReferenceProtocol
    from phonosmith.reference.vasp.rehearsal import Rehearsal

    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.05, seed=3)
    slow = 0.2 if case.wall_time else 0.0
    engine = make_engine(
        "vasp",
        ReferenceProtocol(kspacing=0.6, nelm=40),
        rehearsal=Rehearsal(fault=case.fault, step_seconds=slow),
        wall_time=case.wall_time,
        frozen_timeout=case.frozen,
    )
    with contextlib.chdir(folder):
        return engine.compute(Frame.from_atoms(atoms), case.calculation, "fault case", case.attempts)


def outcome(record: ReferenceRecord) -> str:
    """Return ``label`` or the codes of the reasons."""
    return LABEL if record.accepted else ", ".join(sorted({reason.code for reason in record.reasons}))


def markdown(rows: Sequence[tuple[FaultCase, ReferenceRecord]]) -> str:
    """Return the page."""
    lines = [
        "# Faults of VASP runs and what becomes of them",
        "",
        "Each fault is played by the VASP stand-in and passes through the real path: atomate2's inputs and parser,",
        "custodian with our handlers, our gate. `NAME:1` strikes at the first start only. No fault becomes a label; a",
        "transient one is corrected by custodian or started again, and succeeds.",
        "",
        "Rebuilt by `PYTHONPATH=tests python -m helpers.fault_table docs/faults.md`.",
        "",
        "| fault | what happens | calculation | starts | corrected by custodian | outcome | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, record in rows:
        name = case.fault.partition(":")[0]
        what = FAULTS.get(name, "custodian's wall-time handler stops the run" if case.wall_time else "nothing")
        done = [f"{' '.join(item.errors)} ({' '.join(item.tags) or 'STOPCAR'})" for item in record.corrections]
        fixed = ", ".join(dict.fromkeys(done))
        why = record.explain().replace("|", "/")
        result = "**label**" if record.accepted else "refused"
        cells = (case.fault or "none", what, case.calculation, record.attempts, fixed or "-", result, why or "-")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all cases and write the page named on the command line (standard output without one)."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            record = run_case(case, Path(folder))
        verdict = "as expected" if case.expected in outcome(record).split(", ") else f"EXPECTED {case.expected}"
        sys.stderr.write(f"{case.name}: {outcome(record)} ({verdict}, {record.wall_seconds:.1f} s)\n")
        rows.append((case, record))
    page = markdown(rows)
    if len(sys.argv) > 1:
        write_atomic(Path(sys.argv[1]), page.encode())
    else:
        print(page)


if __name__ == "__main__":
    main()
