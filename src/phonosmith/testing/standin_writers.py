"""What the stand-in writes: vasprun.xml, OUTCAR, OSZICAR, CONTCAR and XDATCAR in VASP's layout."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phonosmith.testing.standin_inputs import Task

VERSION = "0.1.standin"
"""Own version: begins with an integer for the parsers, can be no version of VASP."""
FERMI = 5.0
"""Fermi energy written everywhere, eV."""
_KBAR = -1602.1766208
_PARTS = ("alphaZ", "ewald", "hartreedc", "XCdc", "pawpsdc", "pawaedc", "eentropy", "bandstr", "atom")


def varray(name: str, rows: Any, fmt: str = "%16.8f") -> str:
    """Return a vector array element."""
    lines = "".join("   <v>" + " ".join(fmt % value for value in np.atleast_1d(row)) + " </v>\n" for row in rows)
    return f'  <varray name="{name}" >\n{lines}  </varray>\n'


def item(name: str, value: Any) -> str:
    """Return one typed tag."""
    if isinstance(value, bool):
        return f'  <i type="logical" name="{name}"> {"T" if value else "F"}  </i>\n'
    if isinstance(value, int):
        return f'  <i type="int" name="{name}">{value:6d}</i>\n'
    if isinstance(value, float):
        return f'  <i name="{name}">{value:16.8E}</i>\n'
    if isinstance(value, list | tuple):
        return f'  <v name="{name}">' + " ".join(f"{number:.6f}" for number in value) + "</v>\n"
    return f'  <i type="string" name="{name}">{value}</i>\n'


def structure_xml(atoms: Any, name: str = "") -> str:
    """Return a structure element."""
    opening = f' <structure name="{name}" >\n' if name else " <structure>\n"
    return (
        opening
        + "  <crystal>\n"
        + varray("basis", atoms.cell.array, "%16.10f")
        + f'   <i name="volume">{atoms.get_volume():16.8f} </i>\n'
        + varray("rec_basis", np.linalg.inv(atoms.cell.array).T)
        + "  </crystal>\n"
        + varray("positions", atoms.get_scaled_positions(wrap=False), "%16.10f")
        + " </structure>\n"
    )


def energies(value: float, extra: bool = False) -> str:
    """Return an energy element; the last electronic step of VASP carries more terms than the others."""
    terms = dict.fromkeys(("e_fr_energy", "e_wo_entrp", "e_0_energy"), value)
    if extra:
        terms |= dict.fromkeys(_PARTS, 0.0)
    lines = "".join(f'    <i name="{name}">{term:20.8f} </i>\n' for name, term in terms.items())
    return f"   <energy>\n{lines}   </energy>\n"


class Writers:
    """The four growing files of one run."""

    def __init__(self, task: Task) -> None:
        self.task = task
        names = ("vasprun.xml", "OUTCAR", "OSZICAR", "XDATCAR")
        self.streams = [Path(name).open("w", encoding="latin-1" if "xml" in name else "utf-8") for name in names]  # noqa: SIM115 - open for the whole run
        self.xml, self.outcar, self.oszicar, self.xdatcar = self.streams
        self.n_bands = int(task.n_electrons / 2 + max(4, len(task.atoms) / 2)) + 1
        self.ionic = 0

    def flush(self) -> None:
        """Let monitors see what was written."""
        for stream in self.streams:
            stream.flush()

    def close(self) -> None:
        """Close all files."""
        for stream in self.streams:
            stream.close()

    def head(self) -> None:
        """Write everything before the first ionic step."""
        task = self.task
        self._head_outcar()
        groups = task.groups[::-1] if task.fault == "wrongorder" else task.groups
        potcars = task.potcars[::-1] if task.fault == "wrongorder" else task.potcars
        write = self.xml.write
        write('<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n')
        write('  <i name="program" type="string">vasp-standin </i>\n')
        write(f'  <i name="version" type="string">{VERSION}  </i>\n')
        write('  <i name="subversion" type="string">(phonosmith stand-in, not VASP) </i>\n')
        write(time.strftime('  <i name="date" type="string">%Y %m %d </i>\n'))
        write(time.strftime('  <i name="time" type="string">%H:%M:%S </i>\n </generator>\n'))
        incar = dict(task.incar)
        if task.fault == "wrongincar" and "ENCUT" in incar:
            incar["ENCUT"] = 0.8 * incar["ENCUT"]
        write(" <incar>\n" + "".join(item(key, value) for key, value in incar.items()) + " </incar>\n")
        self._kpoints()
        write(" <parameters>\n" + "".join(item(k, v) for k, v in self._parameters().items()) + " </parameters>\n")
        write(f" <atominfo>\n  <atoms>{len(task.atoms):8d} </atoms>\n  <types>{len(groups):8d} </types>\n")
        write(
            '  <array name="atoms" >\n   <dimension dim="1">ion</dimension>\n   <field type="string">element</field>\n'
        )
        write('   <field type="int">atomtype</field>\n   <set>\n')
        for number, (symbol, count) in enumerate(groups, 1):
            write(f"    <rc><c>{symbol:2s}</c><c>{number:4d}</c></rc>\n" * count)
        write('   </set>\n  </array>\n  <array name="atomtypes" >\n   <dimension dim="1">type</dimension>\n   <set>\n')
        for header, (symbol, count) in zip(potcars, groups, strict=True):
            write(f"    <rc><c>{count:4d}</c><c>{symbol:2s}</c><c>{header.mass:16.8f}</c>")
            write(f"<c>{header.valence:16.8f}</c><c>  {header.title:40s}</c></rc>\n")
        write("   </set>\n  </array>\n </atominfo>\n" + structure_xml(task.atoms, "initialpos"))
        cell = "\n".join(" ".join(f"{value:13.8f}" for value in row) for row in task.atoms.cell.array)
        names, counts = zip(*task.groups, strict=True)
        self.xdatcar.write(f"{task.comment}\n 1\n{cell}\n {' '.join(names)}\n {' '.join(map(str, counts))}\n")
        self.flush()

    def _head_outcar(self) -> None:
        task = self.task
        write = self.outcar.write
        write(f" vasp-standin.{VERSION} (phonosmith stand-in, not VASP) complex\n\n")
        write(" running    1 mpi-ranks, with    1 threads/rank, on    1 nodes\n")
        for header in task.potcars:
            write(f"   LEXCH  = PE\n   TITEL  = {header.title}\n")
            write(f"   POMASS = {header.mass:8.3f}; ZVAL   = {header.valence:8.3f}    mass and valenz\n")
        write(f"   ions per type =     {' '.join(f'{count:4d}' for _, count in task.groups)}\n")
        write(f"   ISPIN  = {task.tag('ISPIN', 1):6d}    spin polarized calculation?\n")
        write(f"   IBRION = {task.tag('IBRION', -1):6d}    ionic relax\n   NSW    = {task.tag('NSW', 0)}\n")
        write(
            f"   k-points           NKPTS = {len(task.kpoints):6d}   k-points in BZ     NKDIM = {len(task.kpoints):6d}"
        )
        write(f"   number of bands    NBANDS= {self.n_bands:6d}\n")
        write(f"   NELECT = {task.n_electrons:12.4f}    total number of electrons\n")
        write("   total plane-waves  NPLWV =   32768\n")

    def _kpoints(self) -> None:
        task = self.task
        mesh = task.mesh
        if task.fault == "wrongmesh":
            mesh = tuple(max(1, n - 1) if n > 1 else 2 for n in mesh)  # type: ignore[assignment]
        write = self.xml.write
        write(f' <kpoints>\n  <generation param="{task.mesh_style}">\n')
        divisions = " ".join(map(str, mesh))
        write(f'   <v type="int" name="divisions">{divisions}</v>\n   <v name="usershift">0 0 0</v>\n')
        for axis, vector in enumerate(np.diag(1 / np.array(mesh)), 1):
            write(f'   <v name="genvec{axis}">{" ".join(f"{value:.8f}" for value in vector)}</v>\n')
        write('   <v name="shift">0.0 0.0 0.0</v>\n  </generation>\n')
        write(varray("kpointlist", task.kpoints) + varray("weights", task.weights[:, None]) + " </kpoints>\n")

    def _parameters(self) -> dict[str, Any]:
        """Return the parameters in force: VASP's defaults under what INCAR says."""
        task = self.task
        defaults: dict[str, Any] = {
            "PREC": "accura", "ENMAX": float(task.tag("ENCUT", max(header.enmax for header in task.potcars))),
            "NELM": 60, "EDIFF": 1e-4, "NELECT": float(task.n_electrons), "IBRION": -1, "NSW": 0, "ISIF": 2, "ISPIN": 1,
            "ISMEAR": 1, "SIGMA": 0.2, "LORBIT": 0, "EDIFFG": 1e-3, "LEPSILON": False, "LASPH": False,
            "LREAL": False, "ISYM": 2, "SYMPREC": 1e-5, "NUPDOWN": -1.0,
            "LCHIMAG": False, "ADDGRID": False,
        }  # fmt: skip
        asked = {k: v for k, v in task.incar.items() if not isinstance(v, str)}
        shown = defaults | asked | {"NBANDS": self.n_bands}
        return {k: v for k, v in shown.items() if k not in ("ENCUT", "KSPACING", "KGAMMA")}

    def electronic_step(self, number: int, energy: float, change: float, last: bool) -> None:
        """Write one electronic step."""
        time_line = '   <time name="total">    0.01    0.01</time>\n'
        self.xml.write(f"  <scstep>\n{time_line}{energies(energy, last)}  </scstep>\n")
        # the last step mixes no charge density
        residual = "" if last else f"    {min(0.5, abs(change)):.3E}"
        self.oszicar.write(
            f"DAV: {number:3d}    {energy: .12E}   {change: .5E}   {change: .5E}   100   {abs(change):.3E}{residual}\n"
        )
        self.outcar.write(
            f"--------------------------------------- Iteration {self.ionic:6d}({number:4d})  "
            "---------------------------------------\n  eigenvalue-minimisations  :   100\n"
            f"  entropy T*S    EENTRO =        -0.00000000\n  free energy    TOTEN  = {energy:18.8f} eV\n"
            "      LOOP:  cpu time    0.0100: real time    0.0100\n"
        )
        print(f"DAV: {number:3d}    {energy: .12E}", flush=True)
        self.flush()

    def begin_ionic(self) -> None:
        """Open an ionic step."""
        self.ionic += 1
        self.xml.write(" <calculation>\n")
        self.oszicar.write(
            "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
        )
        places = self.task.atoms.get_scaled_positions(wrap=False)
        rows = "\n".join(" ".join(f"{value:13.8f}" for value in row) for row in places)
        self.xdatcar.write(f"Direct configuration= {self.ionic:5d}\n{rows}\n")

    def end_ionic(self, energy: float, forces: Any, stress: Any, *, converged: bool, final: bool) -> None:
        """Close an ionic step with its results."""
        task = self.task
        kbar = stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3) * _KBAR
        self._end_outcar(energy, forces, kbar, converged=converged)
        write = self.xml.write
        write(structure_xml(task.atoms))
        if task.fault != "noforces":
            write(varray("forces", forces))
        if task.fault != "nostress":
            write(varray("stress", kbar))
        if task.tag("LEPSILON", default=False):
            write(varray("epsilon", np.eye(3) * 5.0) + varray("epsilon_rpa", np.eye(3) * 5.0))
            write(varray("epsilon_ion", np.eye(3) * 3.0))
        write(energies(energy))
        if final:
            self._bands()
        write(" </calculation>\n")
        moment = f"  mag= {self._moment():12.4f}" if task.tag("ISPIN", 1) == 2 else ""
        line = f"{self.ionic:4d} F= {energy: .8E} E0= {energy: .8E}  d E ={0.0: .6E}{moment}"
        self.oszicar.write(line + "\n")
        print(line, flush=True)
        self.flush()

    def _moments(self) -> list[float]:
        """Return the moment of each atom: the one the run started from, as a magnet keeps it."""
        return list(self.task.tag("MAGMOM", [])) if self.task.tag("ISPIN", 1) == 2 else []

    def _moment(self) -> float:
        """Return the total moment."""
        return float(sum(self._moments()))

    def _site_moments(self) -> None:
        """Write the table of moments by atom, all of them in the d channel."""
        moments = self._moments()
        if not moments or self.task.tag("LORBIT", 0) < 10:
            return
        rule = " " + "-" * 42 + "\n"
        rows = [f"{number:5d}    {0.0:8.3f}{0.0:8.3f}{m:8.3f}{m:8.3f}\n" for number, m in enumerate(moments, 1)]
        total = f"tot      {0.0:8.3f}{0.0:8.3f}{sum(moments):8.3f}{sum(moments):8.3f}\n"
        heading = "\n magnetization (x)\n \n# of ion       s       p       d       tot\n"
        self.outcar.write("".join([heading, rule, *rows, rule, total if len(moments) > 1 else "", "\n"]))

    def _end_outcar(self, energy: float, forces: Any, kbar: Any, *, converged: bool) -> None:
        task, write = self.task, self.outcar.write
        if converged:
            write(" ------------------------ aborting loop because EDIFF is reached ------------------------\n")
        else:
            write(" ----------------- aborting loop EDIFF was not reached (unconverged)  ------------------\n")
        write(f" E-fermi : {FERMI:9.4f}     XC(G=0):  -9.0     alpha+bet : -9.0\n")
        write(f" number of electron {self.task.n_electrons:16.7f} magnetization {self._moment():16.7f}\n")
        write("      direct lattice vectors                 reciprocal lattice vectors\n")
        for row, back in zip(task.atoms.cell.array, np.linalg.inv(task.atoms.cell.array).T, strict=True):
            write("  " + "".join(f"{value:13.9f}" for value in (*row, *back)) + "\n")
        write("  in kB  " + "".join(f"{value:12.5f}" for value in kbar[[0, 1, 2, 0, 1, 0], [0, 1, 2, 1, 2, 2]]) + "\n")
        write("  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---------------------------------------------------\n")
        write(f"  free  energy   TOTEN  = {energy:18.8f} eV\n\n")
        write(f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}\n")
        write(" POSITION                                       TOTAL-FORCE (eV/Angst)\n " + "-" * 83 + "\n")
        for place, force in zip(self.task.atoms.positions, forces, strict=True):
            write(" " + "".join(f"{v:13.5f}" for v in place) + " " + "".join(f"{v:14.6f}" for v in force) + "\n")
        write("    total drift:                                0.000000      0.000000      0.000000\n")
        self._site_moments()
        write("     LOOP+:  cpu time    0.0800: real time    0.0800\n")

    def _bands(self) -> None:
        """Write flat bands around the gap: enough for parsers that decide between metal and insulator."""
        task = self.task
        gap = float(task.settings["gap"])
        occupied = round(task.n_electrons / 2)
        edge = gap / 2 if gap else -0.5
        levels = np.r_[
            np.linspace(FERMI - 6, FERMI - edge, occupied),
            np.linspace(FERMI + edge, FERMI + 6, self.n_bands - occupied),
        ]
        filled = (np.arange(self.n_bands) < occupied).astype(float)
        rows = "".join(f"       <r>{e:12.4f} {f:8.4f} </r>\n" for e, f in zip(levels, filled, strict=True))
        spins = range(1, task.tag("ISPIN", 1) + 1)
        write = self.xml.write
        write('  <eigenvalues>\n   <array>\n    <dimension dim="1">band</dimension>\n    <field>eigene</field>\n')
        write("    <field>occ</field>\n    <set>\n")
        for spin in spins:
            write(f'     <set comment="spin {spin}">\n')
            for number in range(1, len(task.kpoints) + 1):
                write(f'      <set comment="kpoint {number}">\n{rows}      </set>\n')
            write("     </set>\n")
        write("    </set>\n   </array>\n  </eigenvalues>\n")
        write(f'  <dos>\n   <i name="efermi">{FERMI:16.8f} </i>\n   <total>\n    <array>\n     <field>energy</field>\n')
        write("     <field>total</field>\n     <field>integrated</field>\n     <set>\n")
        grid = zip(np.linspace(-10, 20, 11), np.linspace(0, task.n_electrons / len(spins), 11), strict=True)
        density = "".join(f"       <r>{e:12.4f} {1.0:12.4f} {n:12.4f} </r>\n" for e, n in grid)
        for spin in spins:
            write(f'      <set comment="spin {spin}">\n{density}      </set>\n')
        write("     </set>\n    </array>\n   </total>\n  </dos>\n")

    def born_charges(self) -> None:
        """Write nominal charges of opposite sign that sum to zero."""
        write = self.outcar.write
        write("  LEPSILON= T    determine dielectric tensor\n\n")
        write(
            " BORN EFFECTIVE CHARGES (including local field effects) (in |e|, cummulative output)\n " + "-" * 81 + "\n"
        )
        for number, charge in enumerate(nominal_charges(self.task.atoms.get_chemical_symbols()), 1):
            write(f" ion {number:4d}\n")
            for axis, row in enumerate(np.diag([charge] * 3), 1):
                write(f"    {axis}   " + "".join(f"{value:12.5f}" for value in row) + "\n")
        write(" " + "-" * 81 + "\n")

    def tail(self, seconds: float) -> None:
        """Write what follows the last ionic step."""
        self.xml.write(structure_xml(self.task.atoms, "finalpos") + "</modeling>\n")
        self.outcar.write(
            "\n General timing and accounting informations for this job:\n " + "=" * 56 + "\n\n"
            f"                  Total CPU time used (sec):  {seconds:10.3f}\n"
            f"                            User time (sec):  {seconds:10.3f}\n"
            f"                          System time (sec):  {0.0:10.3f}\n"
            f"                         Elapsed time (sec):  {seconds:10.3f}\n\n"
            "                   Maximum memory used (kb):      100000.\n"
            "                   Average memory used (kb):          N/A\n"
        )

    def contcar(self, scale: float = 1.0) -> None:
        """Write the final structure with 16 digits."""
        task = self.task
        rows = "\n".join("  " + "".join(f"{v:22.16f}" for v in row) for row in task.atoms.cell.array * scale)
        names, counts = zip(*task.groups, strict=True)
        places = "\n".join("".join(f"{v:20.16f}" for v in row) for row in task.atoms.get_scaled_positions(wrap=False))
        text = f"{task.comment}\n   1.0\n{rows}\n{' '.join(names)}\n{' '.join(map(str, counts))}\nDirect\n{places}\n"
        Path("CONTCAR").write_text(text, encoding="utf-8")


def nominal_charges(symbols: Sequence[str]) -> list[float]:
    """Return +1 on the first element and what neutralises it on the others; zeros for an element alone."""
    first = symbols[0]
    positive = sum(symbol == first for symbol in symbols)
    if positive == len(symbols):
        return [0.0] * len(symbols)
    return [1.0 if symbol == first else -positive / (len(symbols) - positive) for symbol in symbols]
