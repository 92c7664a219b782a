"""Faults the stand-in can play, and when."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

FAULTS = {
    "scf": "every ionic step runs NELM electronic steps without converging",
    "scf-fast": "as scf while ALGO is neither Normal nor All (custodian's ladder helps)",
    "crash": "ends with code 1 before any output",
    "segv": "dies of SIGSEGV half way, with forrtl's message",
    "truncate": "vasprun.xml ends in the middle, exit code 0",
    "empty": "vasprun.xml is empty, exit code 0",
    "nofiles": "no OSZICAR, exit code 0",
    "unknown": "an error message nobody knows, exit code 1",
    "exitcode": "complete output, exit code 1",
    "nan": "forces are NaN",
    "noforces": "no forces in the output",
    "nostress": "no stress in the output",
    "wrongcell": "CONTCAR has another lattice than vasprun.xml",
    "wrongorder": "the output lists the species in another order than POSCAR",
    "wrongmesh": "the k-point mesh that ran is coarser than asked",
    "wrongincar": "ENCUT that ran is lower than asked",
    "posenergy": "the total energy is positive",
    "brmix": "the BRMIX message, exit code 1",
    "zbrent": "the ZBRENT message, exit code 1",
    "oom": "killed for memory",
    "hang": "never writes anything and never ends",
    "walltime": "stopped by the queue: the SCF cycle or the relaxation is cut short, output complete",
}
"""Name of each fault and what it does."""

_MESSAGES = {
    "unknown": " VERY BAD NEWS! something that nobody has a handler for",
    "brmix": " BRMIX: very serious problems\n the old and the new charge density differ",
    "zbrent": " ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR to POSCAR",
}
_STARTS = Path(".standin_starts")


def active_fault(spec: str, label: str) -> str:
    """Return the fault of this start of a job.

    ``spec`` is ``NAME[:STARTS][@MATCH]``: only the first STARTS starts in this folder, only where the label, the folder
    or the first line of POSCAR contains MATCH.
    """
    if not spec:
        return ""
    left, _, match = spec.partition("@")
    name, _, limit = left.partition(":")
    if name not in FAULTS:
        print(f"The stand-in knows no fault '{name}'. Faults: {', '.join(FAULTS)}")
        sys.exit(2)
    before = int(_STARTS.read_text(encoding="ascii")) if _STARTS.exists() else 0
    _STARTS.write_text(str(before + 1), encoding="ascii")
    if limit and before >= int(limit):
        return ""
    if match:
        comment = Path("POSCAR").read_text(encoding="utf-8").split("\n", 1)[0]
        if not any(match in text for text in (label, comment, Path.cwd().name)):
            return ""
    return name


def fail_early(fault: str) -> None:
    """Play the faults that leave no output."""
    if fault == "crash":
        print("forrtl: severe (24): end-of-file during read")
        sys.exit(1)
    if fault == "hang":
        print(" running on    1 total cores", flush=True)
        while True:
            time.sleep(3600)
    if fault in _MESSAGES:
        print(f" running on    1 total cores\n{_MESSAGES[fault]}")
        sys.exit(1)
    if fault == "oom":
        _die("Error 41: Allocation would exceed memory limit", signal.SIGKILL)


def die_of_segv() -> None:
    """Leave the way a program with a bad pointer does."""
    _die("forrtl: severe (174): SIGSEGV, segmentation fault occurred", signal.SIGSEGV)


def _die(message: str, by: signal.Signals) -> None:
    print(message, file=sys.stderr, flush=True)
    os.kill(os.getpid(), by)
