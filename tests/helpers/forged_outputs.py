# ruff: noqa: E501 - the cases are a table, one a line
"""VASP outputs altered by hand, and what the rule for labels says of each.

A sound calculation comes from the stand-in; a forgery changes the text of one or several of its files. ``BASES`` differ
in what one frame can show: a cell without symmetry, one with, a relaxation, a magnet.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from phonosmith.reference.accept import accept, accept_run
from phonosmith.reference.documents import Frame
from phonosmith.reference.outcome import Asked, Outcome
from phonosmith.reference.protocol import Calculation, ReferenceProtocol
from phonosmith.reference.vasp.folder import read_folder

Files = dict[str, str]
Change = Callable[[Files], Files]
NAMES = ("vasprun.xml", "OUTCAR", "OSZICAR")


@dataclass(frozen=True)
class Base:
    """A sound calculation that is forged."""

    atoms: Atoms
    calculation: Calculation = "static"
    protocol: ReferenceProtocol = field(default_factory=lambda: ReferenceProtocol(kspacing=0.6, nelm=40))


@dataclass(frozen=True)
class Forgery:
    """One altered output.

    Attributes
    ----------
    name : what was done
    change : to the files
    code : reason of the refusal; empty where one calculation cannot show it
    base : which calculation
    why : where it shows instead, if not here
    """

    name: str
    change: Change
    code: str
    base: str = "rattled"
    why: str = ""


def _rattled() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms = atoms[np.argsort(atoms.get_chemical_symbols())[::-1]]
    atoms.rattle(0.05, seed=3)
    return atoms


def _displaced() -> Atoms:
    atoms = _rattled()
    perfect = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.positions = perfect.positions[np.argsort(perfect.get_chemical_symbols())[::-1]]
    atoms.positions[0, 0] += 0.1
    return atoms


BASES = {
    "rattled": Base(_rattled()),
    "displaced": Base(_displaced()),
    "relaxed": Base(bulk("NaCl", "rocksalt", a=5.2), "relax", ReferenceProtocol(kspacing=0.8, nelm=40)),
    "magnetic": Base(
        _rattled(),
        protocol=ReferenceProtocol(kspacing=0.6, nelm=40, spin_polarized=True, magmoms={"Na": 5.0, "Cl": 0.5}),
    ),
}


def make_base(name: str, folder: Path) -> Files:
    """Run the stand-in in a folder, with the inputs the maker writes, and return the text of its files."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.reference.vasp.makers import vasp_input_set, write_inputs
    from phonosmith.reference.vasp.rehearsal import Rehearsal, potcar_library, write_invented_potcars
    from phonosmith.testing import vasp_standin

    base = BASES[name]
    symbols = base.protocol.potcar_map(set(base.atoms.get_chemical_symbols()))
    root = write_invented_potcars(folder / "potcars", symbols, base.protocol.potcar_functional)
    run = folder / "run"
    run.mkdir()
    with contextlib.chdir(run), contextlib.redirect_stdout(io.StringIO()), potcar_library(root):
        write_inputs(AseAtomsAdaptor.get_structure(base.atoms), vasp_input_set(base.protocol, base.calculation))
        Rehearsal().write(run)
        vasp_standin.main()
    return {name: (run / name).read_text(encoding="latin-1") for name in NAMES}


def judge(files: Files, base: str, folder: Path) -> list[str]:
    """Return the codes the rule gives, as a job of the protocol does."""
    asked = BASES[base]
    for name, text in files.items():
        (folder / name).write_text(text, encoding="latin-1")
    run = read_folder(folder)
    assert run is not None
    request = Asked(Frame.from_atoms(asked.atoms), asked.protocol, asked.calculation)
    if not run.steps:
        return sorted({reason.code for reason in accept_run(run, request)})
    return sorted({reason.code for reason in accept(Outcome.of_step(run), request, allow_rehearsal=True)})


def _in(name: str, change: Callable[[str], str]) -> Change:
    def forge(files: Files) -> Files:
        text = change(files[name])
        assert text != files[name], "nothing was changed"
        return files | {name: text}

    return forge


def replaced(name: str, pattern: str, by: str, count: int = 0) -> Change:
    """Replace a pattern in one file."""
    return _in(name, lambda text: re.sub(pattern, by, text, count=count, flags=re.DOTALL))


def parameter(name: str, value: str) -> Change:
    """Let VASP have used another value than it was given."""

    def change(text: str) -> str:
        head, mark, rest = text.partition("<parameters>")
        return head + mark + re.sub(rf'(name="{name}">)[^<]*<', rf"\g<1> {value} <", rest, count=1)

    return _in("vasprun.xml", change)


def forces(change: Callable[[np.ndarray], np.ndarray], everywhere: bool = True) -> Change:
    """Alter the forces, in vasprun.xml alone or in OUTCAR as well."""

    def forge(files: Files) -> Files:
        text, outcar = files["vasprun.xml"], files["OUTCAR"]
        start = text.rindex('<varray name="forces" >')
        end = text.index("</varray>", start)
        old = np.array([row.split() for row in re.findall(r"<v>(.*?)</v>", text[start:end])], dtype=float)
        new = change(old.copy())
        rows = "".join(f"   <v>{' '.join(f'{v:16.8f}' for v in row)} </v>\n" for row in new)
        text = text[:start] + f'<varray name="forces" >\n{rows}  ' + text[end:]
        if everywhere:
            head, mark, tail = outcar.rpartition("TOTAL-FORCE (eV/Angst)")
            lines = tail.split("\n")
            for number, row in enumerate(new, 2):
                lines[number] = lines[number][:40] + "".join(f"{v:14.6f}" for v in row)
            outcar = head + mark + "\n".join(lines)
        return files | {"vasprun.xml": text, "OUTCAR": outcar}

    return forge


def stress(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Alter the stress in vasprun.xml and OUTCAR."""

    def forge(files: Files) -> Files:
        text = files["vasprun.xml"]
        start = text.rindex('<varray name="stress" >')
        end = text.index("</varray>", start)
        old = np.array([row.split() for row in re.findall(r"<v>(.*?)</v>", text[start:end])], dtype=float)
        new = change(old.copy())
        rows = "".join(f"   <v>{' '.join(f'{v:16.8f}' for v in row)} </v>\n" for row in new)
        line = "  in kB  " + "".join(f"{v:12.5f}" for v in new[[0, 1, 2, 0, 1, 0], [0, 1, 2, 1, 2, 2]])
        outcar = re.sub(r"  in kB  [^\n]*(?=\n(?:(?!in kB).)*$)", line, files["OUTCAR"], flags=re.DOTALL)
        return files | {
            "vasprun.xml": text[:start] + f'<varray name="stress" >\n{rows}  ' + text[end:],
            "OUTCAR": outcar,
        }

    return forge


def energies(change: Callable[[float], float], *, cycle: bool, final: bool = True) -> Change:
    """Alter the energies of the electronic cycle, the final ones, or both, in every file."""

    def number(match: re.Match[str], width: str) -> str:
        return match[1] + format(change(float(match[2])), width) + match[3]

    def forge(files: Files) -> Files:
        xml, outcar, oszicar = (files[name] for name in NAMES)
        parts = re.split(r"(<scstep>.*?</scstep>)", xml, flags=re.DOTALL)
        entry = r'(name="e_(?:fr_energy|wo_entrp|0_energy)">)([^<]*)(<)'
        parts = [
            re.sub(entry, lambda m: number(m, "20.8f"), part)
            if (cycle if part.startswith("<scstep>") else final)
            else part
            for part in parts
        ]
        if cycle:
            outcar = re.sub(r"(free energy    TOTEN  = )(\s*\S+)( eV)", lambda m: number(m, "18.8f"), outcar)
        if final:
            outcar = re.sub(r"(free  energy   TOTEN  = )(\s*\S+)( eV)", lambda m: number(m, "18.8f"), outcar)
            oszicar = re.sub(r"(F= )(\s*\S+)( )", lambda m: number(m, ".8E"), oszicar)
        return files | {"vasprun.xml": "".join(parts), "OUTCAR": outcar, "OSZICAR": oszicar}

    return forge


def _oscillating(text: str) -> str:
    """Let all but the last two steps of the cycle swing by half an electron volt."""
    steps = list(re.finditer(r"<scstep>.*?</scstep>", text, re.DOTALL))
    for number, step in reversed(list(enumerate(steps[:-2]))):
        swung = re.sub(
            r'(e_fr_energy">)([^<]*)<',
            lambda m, sign=(-1) ** number: f"{m[1]}{float(m[2]) + 0.5 * sign:20.8f}<",  # type: ignore[misc]
            step[0],
        )
        text = text[: step.start()] + swung + text[step.end() :]
    return text


def _twice(text: str) -> str:
    whole = re.search(r" <calculation>.*?</calculation>\n", text, re.DOTALL)
    assert whole is not None
    return text[: whole.end()] + whole[0] + text[whole.end() :]


def _gamma_list(text: str) -> str:
    start, end = text.index('<varray name="kpointlist"'), text.index("</kpoints>")
    lists = '<varray name="kpointlist" ><v> 0 0 0 </v></varray><varray name="weights" ><v> 1.0 </v></varray> '
    return text[:start] + lists + text[end:]


def _shifted_list(text: str) -> str:
    start, end = text.index('<varray name="kpointlist"'), text.index('<varray name="weights"')
    mesh = [int(value) for value in re.search(r'name="divisions">([^<]*)<', text)[1].split()]  # type: ignore[index]
    moved = re.sub(
        r"<v>([^<]*)</v>",
        lambda m: (
            "<v>" + " ".join(f"{float(v) + 0.5 / n:.8f}" for v, n in zip(m[1].split(), mesh, strict=True)) + "</v>"
        ),
        text[start:end],
    )
    return text[:start] + moved + text[end:]


def _permuted(values: np.ndarray) -> np.ndarray:
    return np.roll(values, 1, axis=0)


def _exchanged(values: np.ndarray) -> np.ndarray:
    values[[1, 0], [2, 1]], values[[2, 1], [1, 0]] = values[[0, 1], [1, 2]].copy(), values[[0, 1], [1, 2]].copy()
    return values


SET = "the audit sees it in the set: energies and work, or the foundation"

FORGERIES: tuple[Forgery, ...] = (
    Forgery("nothing (control)", dict, "", why="a sound label"),
    # forces
    Forgery("forces of other atoms, vasprun.xml alone", forces(_permuted, everywhere=False), "disagreement"),
    Forgery("forces of other atoms, every file", forces(_permuted), "", why=SET),
    Forgery("forces of other atoms, a cell with symmetry", forces(lambda f: np.roll(f, 2, axis=0)), "forces_symmetry", "displaced"),
    Forgery("x and y of the forces exchanged, with symmetry", forces(lambda f: f[:, [1, 0, 2]]), "forces_symmetry", "displaced"),
    Forgery("forces rounded to 0.1 eV/Å", forces(lambda f: np.round(f, 1)), "forces_rounded"),
    Forgery("forces rounded to 0.01 eV/Å", forces(lambda f: np.round(f, 2)), "forces_rounded"),
    Forgery("forces divided by 25.7 (Ry/bohr)", forces(lambda f: f / 25.7), "", why=SET),
    Forgery("forces times 0.9", forces(lambda f: 0.9 * f), "", why=SET),
    Forgery("forces times 1e5", forces(lambda f: 1e5 * f), "net_force"),
    Forgery("all forces zero", forces(np.zeros_like), "forces_zero"),
    Forgery("net force of 0.5 eV/Å", forces(lambda f: f + 0.5 / len(f)), "net_force"),
    Forgery("one force turned round", forces(lambda f: f * np.r_[-1, np.ones(len(f) - 1)][:, None]), "net_force"),
    Forgery("forces of another number of atoms", forces(lambda f: f[:-1], everywhere=False), "forces_shape"),
    # stress
    Forgery("stress zero", stress(np.zeros_like), "stress_zero"),
    Forgery("stress not symmetric", stress(lambda s: s + np.triu(np.ones((3, 3)), 1) * 5), "stress_asymmetric"),
    Forgery("stress with the sign turned", stress(lambda s: -s), "", why=SET),
    Forgery("stress divided by 10", stress(lambda s: s / 10), "", why=SET),
    Forgery("xx and yy of the stress exchanged, with symmetry", stress(lambda s: s + np.diag([0, 60, 0])), "stress_symmetry", "displaced"),
    Forgery("yz and xy of the stress exchanged", stress(_exchanged), "", why=SET),
    # energy
    Forgery("final energy 10 eV off the last electronic step", energies(lambda e: e - 10, cycle=False), "energy_scf"),
    Forgery("every energy 10 eV lower", energies(lambda e: e - 10, cycle=True), "", why=SET),
    Forgery("every energy in Ry", energies(lambda e: e / 13.605693, cycle=True), "", why=SET),
    Forgery("every energy -1e6 eV", energies(lambda e: e - 1e6, cycle=True), "energy_scale"),
    Forgery("every energy positive", energies(lambda e: e + 100, cycle=True), "energy_positive"),
    Forgery("energy for zero smearing 5 eV off", replaced("vasprun.xml", r'(e_0_energy">)\s*-?[\d.]+', r"\g<1> -31.0"), "energy_sigma0"),
    Forgery("energy for zero smearing 0.5 meV off its entropy", _in("vasprun.xml", lambda text: re.sub(
        r'(e_0_energy">)([^<]*)<', lambda m: f"{m[1]}{float(m[2]) + 5e-4:20.8f}<", text)), "energy_sigma0"),
    # electronic cycle
    Forgery("cycle swings by 0.5 eV and ends in agreement", _in("vasprun.xml", _oscillating), "scf"),
    Forgery("the first two electronic steps alone", _in("vasprun.xml", lambda text: re.sub(
        r"(<calculation>\s*(?:<scstep>.*?</scstep>\s*){2})(?:<scstep>.*?</scstep>\s*)*", r"\1", text, flags=re.DOTALL)), "scf"),
    Forgery("OUTCAR says EDIFF was not reached", replaced("OUTCAR", "aborting loop because EDIFF is reached", "aborting loop EDIFF was not reached (unconverged)"), "scf"),
    Forgery("OSZICAR ends with a change of 1 meV", replaced("OSZICAR", r"(DAV:\s+8\s+\S+\s+)\S+", r"\g<1>-1.0E-03"), "scf"),
    Forgery("OSZICAR ends with rms(c) of 50", replaced("OSZICAR", r"(DAV:\s+7\s[^\n]*)\s\S+\n", r"\g<1> 5.0E+01\n"), "scf"),
    Forgery("Fermi energy NaN", replaced("vasprun.xml", r'(name="efermi">)[^<]*', r"\g<1> NaN "), "fermi"),
    Forgery("Fermi energy overflows in OUTCAR", replaced("OUTCAR", r"E-fermi :\s*\S+", "E-fermi : ********"), "fermi"),
    Forgery("OUTCAR holds VERY BAD NEWS", _in("OUTCAR", lambda text: text.replace(" E-fermi", " VERY BAD NEWS! internal error in subroutine\n E-fermi", 1)), "complaint"),
    # what was used
    *(
        Forgery(f"<parameters> with {name} = {value} against INCAR", parameter(name, value), "used")
        for name, value in (
            ("ENMAX", "300.0"), ("ISPIN", "2"), ("ISMEAR", "1"), ("SIGMA", "0.2"), ("EDIFF", "1.0E-04"),
            ("PREC", "normal"), ("LREAL", "T"), ("SYMPREC", "0.1"), ("LASPH", "F"), ("LMAXMIX", "2"), ("NSW", "5"),
        )
    ),
    Forgery("<parameters> with two electrons more", parameter("NELECT", "66.0"), "charge"),
    Forgery("ENCUT lower in INCAR and <parameters>", _in("vasprun.xml", lambda text: text.replace("5.20000000E+02", "4.00000000E+02")), "incar"),
    Forgery("LDA POTCARs", replaced("vasprun.xml", "PAW_PBE", "PAW"), "potcar"),
    Forgery("one PW91 POTCAR", replaced("vasprun.xml", "PAW_PBE Cl", "PAW_GGA Cl"), "potcar"),
    Forgery("LEXCH of LDA under a title of PBE", replaced("OUTCAR", r"LEXCH  = PE", "LEXCH  = CA", 1), "potcar"),
    # k-points
    Forgery("mesh shifted off Γ", _in("vasprun.xml", _shifted_list), "kpoints"),
    Forgery("list of Γ alone under the mesh", _in("vasprun.xml", _gamma_list), "kpoint_list"),
    Forgery("one k-point missing", replaced("vasprun.xml", r'(<varray name="kpointlist" >\s*<v>[^<]*</v>\s*)<v>[^<]*</v>', r"\1", 1), "kpoint_list"),
    Forgery("k-points of another mesh", replaced("vasprun.xml", r'(<varray name="kpointlist" >\s*<v>[^<]*</v>\s*<v>)[^<]*', r"\1 0.11 0.0 0.0 ", 1), "kpoint_list"),
    Forgery("weights that do not sum to one", replaced("vasprun.xml", r'(<varray name="weights" >\s*<v>)[^<]*', r"\1 0.9 ", 1), "kpoint_list"),
    Forgery("divisions of another mesh", replaced("vasprun.xml", r'(name="divisions">)[^<]*', r"\1 1 1 1 "), "kpoints"),
    # structure and whole
    Forgery("two calculations in a static", _in("vasprun.xml", _twice), "steps"),
    Forgery("broken off", _in("vasprun.xml", lambda text: text[: int(0.9 * len(text))]), "unfinished"),
    Forgery("an atom moved by 0.01 Å", replaced("vasprun.xml", r'(<varray name="positions" >\s*<v>\s*)(-?\d+\.\d)(\d)', r"\g<1>\g<2>9"), "positions"),
    Forgery("two atoms of different elements exchanged", _in("vasprun.xml", lambda text: text.replace("<rc><c>Na</c><c>   1</c></rc>", "<rc><c>Cl</c><c>   2</c></rc>", 1)), "species"),
    Forgery("the cell 1 % longer", replaced("vasprun.xml", r'(<varray name="basis" >\s*<v>\s*)5\.6', r"\g<1>5.656"), "cell"),
    # files that disagree
    Forgery("OUTCAR with another energy", replaced("OUTCAR", r"(free  energy   TOTEN  = +)-\d", r"\g<1>-9"), "disagreement"),
    Forgery("OSZICAR with another energy", replaced("OSZICAR", r"(F= )\S+", r"\g<1>-.99E+02"), "disagreement"),
    Forgery("OUTCAR with a drift of 1 eV/Å", replaced("OUTCAR", r"(total drift:\s+)0\.000000", r"\g<1>1.000000"), "drift"),
    # relaxations and magnets
    Forgery("300 kbar left after a relaxation", stress(lambda s: s + 300 * np.eye(3)), "pressure", "relaxed"),
    Forgery("forces left after a relaxation", forces(lambda f: f + np.array([[0.01], [-0.01]])), "not_relaxed", "relaxed"),
    Forgery("moments gone from 22 to 0 μB", replaced("OUTCAR", r"(electron\s+\S+\s+magnetization\s+)\S+", r"\g<1>0.0000000"), "moments", "magnetic"),
    Forgery("moments of atoms gone, the total left", replaced("OUTCAR", r"(?m)^( +\d+ +0\.000 +0\.000) +\S+ +\S+$", r"\g<1>   0.010   0.010"), "moments", "magnetic"),
    Forgery("the moment of one atom turned", replaced("OUTCAR", r"(?m)^( +2 +0\.000 +0\.000) +5\.000 +5\.000$", r"\g<1>  -5.000  -5.000"), "moments", "magnetic"),
)  # fmt: skip
