"""``phonosmith-vasp-standin``: an executable that behaves like VASP towards everything around it.

It reads INCAR, POSCAR, KPOINTS and POTCAR in the current folder and writes vasprun.xml, OUTCAR, OSZICAR, CONTCAR and
XDATCAR with energies, forces and stress of an ASE calculator, so that custodian, pymatgen, emmet and atomate2 run
without a licence. It is no electronic-structure code, says so in every file, and has a version of its own; the gate of
the reference layer refuses its numbers outside rehearsals.

Settings come from ``standin.json`` in the folder, else from the environment:

PHONOSMITH_STANDIN_CALCULATOR         emt | tersoff-si | morse | dotted path of a callable returning a calculator
PHONOSMITH_STANDIN_CALCULATOR_KWARGS  its arguments, JSON
PHONOSMITH_STANDIN_FAULT              NAME[:STARTS][@MATCH], see below
PHONOSMITH_STANDIN_GAP                band gap it reports, eV (1.0; 0 is a metal)
PHONOSMITH_STANDIN_SCF_STEPS          electronic steps it pretends (8)
PHONOSMITH_STANDIN_STEP_SECONDS       time it sleeps per electronic step, s (0)
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from phonosmith.testing.standin_faults import FAULTS, active_fault, die_of_segv, fail_early


def _stopcar() -> str:
    """Return what a STOPCAR asks for: 'electronic', 'ionic' or nothing."""
    path = Path("STOPCAR")
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace").upper()
    if re.search(r"LABORT\s*=\s*\.?T", text):
        return "electronic"
    return "ionic" if re.search(r"LSTOP\s*=\s*\.?T", text) else ""


_WAVES = b"stand-in"


def _waves() -> int:
    """Return how many electronic steps the WAVECAR in the folder stands for."""
    path = Path("WAVECAR")
    known = path.read_bytes() if path.is_file() else b""
    return int(known.removeprefix(_WAVES)) if known.startswith(_WAVES) else 0


class Run:
    """One calculation from the first to the last line."""

    def __init__(self, task: Any) -> None:
        from phonosmith.testing.standin_calculators import make_calculator
        from phonosmith.testing.standin_writers import Writers

        self.task = task
        self.writers = Writers(task)
        self.waves = _waves() if task.tag("ISTART", 1) else 0
        task.atoms.calc = make_calculator(task.settings["calculator"], task.settings["calculator_kwargs"])

    def _electronic_energies(self, energy: float) -> list[float]:
        """Energies of the SCF cycle: a geometric approach that ends below EDIFF, or one that never ends."""
        task = self.task
        nelm = int(task.tag("NELM", 60))
        algo = str(task.tag("ALGO", "Normal")).lower()
        if task.fault == "scf" or (task.fault == "scf-fast" and algo not in ("normal", "all")):
            return [energy + 1e-3 * (-1) ** step for step in range(nelm)]
        steps = int(task.settings["scf_steps"])
        if steps >= nelm:
            return [energy + 10.0**-step for step in range(nelm)]
        ratio = (0.3 * float(task.tag("EDIFF", 1e-4))) ** (1 / (steps - 1))
        cycle = [energy + ratio ** (step + 1) for step in range(steps - 1)] + [energy]
        # waves that are there already leave the end of the cycle to do
        return cycle[min(self.waves, max(0, steps - 3)) :]

    def ionic_step(self, *, final: bool) -> None:
        """Evaluate and write one ionic step."""
        task, writers = self.task, self.writers
        energy = float(task.atoms.get_potential_energy())
        forces = task.atoms.get_forces()
        stress = task.atoms.get_stress()
        if task.fault == "nan":
            forces = forces * float("nan")
        if task.fault == "posenergy":
            energy = abs(energy) + 1.0
        writers.begin_ionic()
        cycle = self._electronic_energies(energy)
        reached = len(cycle) < int(task.tag("NELM", 60))
        before = 0.0
        for number, value in enumerate(cycle, 1):
            writers.electronic_step(number, value, value - before, last=number == len(cycle))
            before = value
            if task.settings["step_seconds"]:
                time.sleep(float(task.settings["step_seconds"]))
            if task.fault == "segv" and number == 3:
                die_of_segv()
            if _stopcar() == "electronic" or (task.fault == "walltime" and number == 3):
                energy, reached = value, False
                break
        self.waves += number
        writers.end_ionic(energy, forces, stress, converged=reached, final=final)

    def relax(self) -> None:
        """Move the atoms, and the cell with ISIF 3, until forces are below -EDIFFG or NSW is used up."""
        import numpy as np
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS

        task = self.task
        threshold = float(task.tag("EDIFFG", -0.01))
        fmax = -threshold if threshold < 0 else 0.01
        target = FrechetCellFilter(task.atoms) if task.tag("ISIF", 2) == 3 else task.atoms
        optimiser = BFGS(target, logfile=None, maxstep=0.05)
        steps = int(task.tag("NSW", 0))
        for number in range(1, steps + 1):
            done = float(np.linalg.norm(target.get_forces(), axis=1).max()) < fmax
            stopped = bool(_stopcar()) or task.fault == "walltime"
            last = done or stopped or number == steps
            self.ionic_step(final=last)
            if last:
                break
            optimiser.step()
        if done:
            self.writers.outcar.write(" reached required accuracy - stopping structural energy minimisation\n")
        elif stopped:
            self.writers.outcar.write(" soft stop encountered!  aborting job ...\n")

    def run(self) -> None:
        """Do what INCAR asks."""
        task = self.task
        born = bool(task.tag("LEPSILON", default=False))
        self.writers.head()
        if task.tag("NSW", 0) > 1 and task.tag("IBRION", -1) in (1, 2, 3) and not born:
            self.relax()
        else:
            self.ionic_step(final=True)
        if born:
            self.writers.born_charges()


def main() -> None:
    """Run in the current folder."""
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        print(__doc__)
        print("Faults:\n" + "\n".join(f"  {name:12s}{text}" for name, text in FAULTS.items()))
        return
    missing = [name for name in ("INCAR", "POSCAR", "POTCAR") if not Path(name).is_file()]
    if missing:
        print(f" The stand-in needs {', '.join(missing)} in the current folder.")
        sys.exit(2)
    start = time.perf_counter()
    from phonosmith.testing.standin_inputs import read_settings, read_task

    settings = read_settings()
    fault = active_fault(str(settings["fault"]), str(settings["label"]))
    fail_early(fault)
    task = read_task()
    task.fault = fault
    kinds, ions = len(task.groups), len(task.atoms)
    print(" running    1 mpi-ranks, with    1 threads/rank\n phonosmith stand-in, not VASP")
    print(f" POSCAR found : {kinds} types, {ions} ions")
    run = Run(task)
    run.run()
    run.writers.tail(time.perf_counter() - start)
    run.writers.close()
    run.writers.contcar(scale=1.02 if fault == "wrongcell" else 1.0)
    if task.tag("LWAVE", default=True):
        Path("WAVECAR").write_bytes(_WAVES + str(run.waves).encode())
    if fault in ("truncate", "empty"):
        vasprun = Path("vasprun.xml")
        os.truncate(vasprun, int(vasprun.stat().st_size * (0.7 if fault == "truncate" else 0)))
    elif fault == "nofiles":
        Path("OSZICAR").unlink()
    elif fault == "exitcode":
        sys.exit(1)


if __name__ == "__main__":
    main()
