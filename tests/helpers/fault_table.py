"""What becomes of each fault: run every one through the real path and write the tables of outcomes.

``PYTHONPATH=tests python -m helpers.fault_table docs/faults.md`` does it; the tests run the same cases and compare the
page with what comes out.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import forged_outputs, forged_sets
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


def markdown(rows: Sequence[tuple[FaultCase, ReferenceRecord]], sets: Sequence[str]) -> str:
    """Return the page."""
    lines = [
        "# Faults of labels and what becomes of them",
        "",
        "Rebuilt by `PYTHONPATH=tests python -m helpers.fault_table docs/faults.md`; tests run every case below and",
        "compare this page with what comes out.",
        "",
        "## VASP runs that go wrong",
        "",
        "Each fault is played by the VASP stand-in and passes through the real path: atomate2's inputs and parser,",
        "custodian with our handlers, our gate. `NAME:1` strikes at the first start only. No fault becomes a label; a",
        "transient one is corrected by custodian or started again, and succeeds.",
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
    lines += [
        "",
        "## Outputs altered by hand",
        "",
        "One calculation, its files changed after the run: what the rule for labels (`reference/accept.py`) says of",
        "it in a job. `import` asks the same of what it reads, but for what only a protocol can say (`incar`,",
        "`kpoints`, `potcar` variants, `pressure`, `moments`, `cell`, `positions`, `species`). *Not seen* by the rule",
        "is not lost: the last column says where it shows.",
        "",
        "| altered | base | refused for | remark |",
        "|---|---|---|---|",
        *output_rows(),
        "",
        "## Data sets altered by hand",
        "",
        "Sixteen strained and rattled cells of silicon (`tests/helpers/forged_sets.py`), 1, 4 or all of them forged,",
        "judged by the audit with a foundation to compare with (`phonosmith audit --foundation`, every campaign with",
        "DFT labels) and without. *excluded*: the forged frames and no others; *refused*: the set.",
        "",
        "| altered | 1, foundation | 1 | 4, foundation | 4 | all, foundation | all | remark |",
        "|---|---|---|---|---|---|---|---|",
        *sets,
        "",
        "## What cannot be seen",
        "",
        "- Energies off by one constant in all frames: a zero of energy. Training refits it; offsets between sources",
        "  show.",
        "- Energies, forces and stress scaled alike in all frames, or labels of another sound potential: they belong",
        "  together. Only the foundation tells, beyond a factor of 2.5.",
        "- Errors smaller than what foundations miss on real crystals: forces by a tenth where the set is rough,",
        "  stresses by 3 kbar or, where the foundation misses more, by what it misses of the other frames (within a",
        "  factor of 50), energies by 10 to 20 meV/atom; without a foundation, changes below six tenths of the",
        "  curvature part of the work between neighbouring frames, and everything where frames have no neighbours.",
        "- A run whose INCAR and protocol are both wrong in the same way, and a POTCAR altered under its own title.",
        "- Spin-polarised frames are not asked for the symmetry of the crystal: magnetic order may break it.",
    ]
    return "\n".join(lines) + "\n"


def output_rows() -> list[str]:
    """Return the rows about altered outputs; that they are true is what their own test shows."""
    named = []
    for forgery in forged_outputs.FORGERIES:
        seen = f"`{forgery.code}`" if forgery.code else "*not seen*"
        if forgery is forged_outputs.FORGERIES[0]:
            seen = "**label**"
        named.append(f"| {forgery.name.replace('|', '/')} | {forgery.base} | {seen} | {forgery.why or '-'} |")
    return named


def set_rows(kinds: Sequence[forged_sets.ForgedSet] = forged_sets.KINDS) -> list[str]:
    """Audit every forged set and return its row."""
    cells, labels, told = forged_sets.sound_set()
    named = []
    for kind in kinds:
        outcomes = []
        for count in forged_sets.AFFECTED:
            frames = forged_sets.forged(kind, count, cells, labels)
            outcomes += [forged_sets.outcome(frames, count, baseline) for baseline in (told, None)]
        named.append(f"| {kind.name} | {' | '.join(outcomes)} | {kind.why or '-'} |")
    return named


def main() -> None:
    """Run all cases and write the page named on the command line (standard output without one)."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            record = run_case(case, Path(folder))
        verdict = "as expected" if case.expected in outcome(record).split(", ") else f"EXPECTED {case.expected}"
        sys.stderr.write(f"{case.name}: {outcome(record)} ({verdict}, {record.wall_seconds:.1f} s)\n")
        rows.append((case, record))
    page = markdown(rows, set_rows())
    if len(sys.argv) > 1:
        write_atomic(Path(sys.argv[1]), page.encode())
    else:
        print(page)


if __name__ == "__main__":
    main()
