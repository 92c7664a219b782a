"""``phonosmith relax``: cell and atoms of a crystal at rest, by a potential or by the reference."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    ATTEMPTS,
    EVALUATION,
    JSON,
    PROTOCOL,
    REHEARSAL,
    STRUCTURE,
    TRUST,
    WORKDIR,
    answer,
    command,
    load_case,
    reference_engine,
)
from phonosmith.core.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine

FORMATS = {".cif": "cif", ".vasp": "poscar", ".poscar": "poscar", ".json": "json"}
"""How relaxed crystals are written, by the suffix of the file (POSCAR and CONTCAR by their names)."""


@command("relax", EVALUATION)
def relax(
    out: Annotated[Path, typer.Option(help="Relaxed crystal: .cif, .vasp (or POSCAR), .json.")],
    structure: Path = STRUCTURE,
    potential: str | None = typer.Option(None, help="Potential, alone or of --engine forcefield: name, file, sha256."),
    engine: str | None = typer.Option(None, help="Who computes in its place: vasp, gpaw or forcefield."),
    protocol: Path | None = PROTOCOL,
    workdir: Path | None = WORKDIR,
    rehearsal: bool = REHEARSAL,
    attempts: int = ATTEMPTS,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Relax cell and atoms; what did not converge is refused, never written.

    With a potential alone the symmetry is kept and forces fall below 0.01 meV/Å. With an engine the protocol's
    settings hold (forces below 0.5 meV/Å); VASP relaxes twice, the second time with the plane waves of the relaxed
    cell. Campaigns do the same first with 'relax: true'.

    Example: phonosmith relax Si.cif --potential embedded --out Si-relaxed.cif
    """
    from phonosmith.structures.extxyz import require_writable
    from phonosmith.structures.reading import read_structure

    layout = FORMATS.get(out.suffix.lower()) or ("poscar" if out.name.startswith(("POSCAR", "CONTCAR")) else None)
    if layout is None:
        raise InputError(f"{out} names no kind of file that crystals are written to.", f"Use {', '.join(FORMATS)}.")
    require_writable(out)
    if engine is None:
        if potential is None:
            raise ConfigurationError("Nobody is named to relax the crystal.", "Give --potential REF or --engine vasp.")
        relaxed, found = _by_potential(structure, potential, trust=trust)
    else:
        crystal = read_structure(structure)
        symbols = {site.specie.symbol for site in crystal}
        computing = reference_engine(engine, protocol, potential, symbols, rehearsal=rehearsal, trust=trust)
        with nullcontext(workdir) if workdir else TemporaryDirectory(prefix="phonosmith-relax-") as folder:
            relaxed, found = _by_engine(crystal, computing, Path(folder), attempts)
    _write(relaxed, out, layout)
    before = read_structure(structure)
    found |= {
        "formula": relaxed.composition.reduced_formula,
        "n_atoms": len(relaxed),
        "volume_before_angstrom3": before.volume,
        "volume_angstrom3": relaxed.volume,
        "lengths_angstrom": list(relaxed.lattice.abc),
        "angles_degrees": list(relaxed.lattice.angles),
        "space_group_before": _space_group(before),
        "space_group": _space_group(relaxed),
        "out": str(out),
    }
    answer(found, lambda: _tell(found), json_output=json_output)


def _by_potential(structure: Path, name: str, *, trust: bool) -> tuple[Structure, dict[str, Any]]:
    from phonosmith.evaluation.relax import relax_atoms

    case = load_case(structure, name, trust=trust)
    end = relax_atoms(case.crystal.to_ase_atoms(msonable=False), case.potential)
    found = {
        "method": case.ref.name,
        "engine": None,
        "rehearsal": False,
        "energy_ev_per_atom": end.energy / len(end.atoms),
        "max_force_ev_per_angstrom": end.fmax,
        "max_stress_gpa": end.smax,
        "n_steps": end.steps,
    }
    return case.crystal.from_ase_atoms(end.atoms), found


def _by_engine(
    crystal: Structure, engine: ReferenceEngine, folder: Path, attempts: int
) -> tuple[Structure, dict[str, Any]]:
    import numpy as np

    from phonosmith.core.units import GPA_PER_EV_PER_A3
    from phonosmith.flows.reference import relax_in_folder

    record = relax_in_folder(crystal, engine, folder, attempts)
    ended = record.to_atoms()
    found = {
        "method": engine.functional,
        "engine": engine.name,
        "rehearsal": engine.rehearsal is not None,
        "energy_ev_per_atom": ended.get_potential_energy() / len(ended),
        "max_force_ev_per_angstrom": float(np.linalg.norm(ended.get_forces(), axis=1).max()),
        "max_stress_gpa": float(np.abs(ended.get_stress()).max()) * GPA_PER_EV_PER_A3,
        "n_steps": record.ionic_steps,
    }
    return crystal.from_ase_atoms(ended), found


def _write(crystal: Structure, out: Path, layout: str) -> None:
    from phonosmith.core.artefacts import write_atomic

    plain = crystal.copy(site_properties={})
    plain.properties = {}
    plain.calc = None
    write_atomic(out, (plain.to(fmt=layout) + ("\n" if layout == "json" else "")).encode())


def _space_group(crystal: Structure) -> str:
    from phonosmith.evaluation.relax import SYMPREC

    return str(crystal.get_space_group_info(symprec=SYMPREC)[0])


def _tell(found: dict[str, Any]) -> None:
    change = 100 * (found["volume_angstrom3"] / found["volume_before_angstrom3"] - 1)
    typer.echo(
        f"{found['formula']} by {found['method']}: {found['energy_ev_per_atom']:.5f} eV/atom, "
        f"{found['volume_angstrom3']:.4f} Å³ ({change:+.2f} %), {found['space_group']}"
    )
    typer.echo(
        f"largest force {1000 * found['max_force_ev_per_angstrom']:.3g} meV/Å, stress {found['max_stress_gpa']:.2g} GPa"
    )
    if found["space_group"] != found["space_group_before"]:
        typer.secho(f"Warning: the space group was {found['space_group_before']}.", fg="yellow", err=True)
    typer.echo(found["out"])
