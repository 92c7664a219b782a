"""``phonosmith qha`` and ``phonosmith kappa``: thermal expansion and conductivity of a crystal by a potential."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import (
    DOCUMENTS,
    EVALUATION,
    JSON,
    POTENTIAL,
    RELAX,
    STRUCTURE,
    SUPERCELL,
    TEMPERATURES,
    TRUST,
    answer,
    asked_supercell,
    asked_temperatures,
    command,
    load_case,
    print_table,
    quiet_libraries,
)
from phonosmith.core.errors import InputError
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from phono3py import Phono3py
    from pymatgen.core import Structure

HIGHEST_TEMPERATURE = 5000.0
"""K; hotter than any crystal melts."""
QHA_TEMPERATURES = typer.Option(["100,200,300,500,700,1000"], "--temperature", help=TEMPERATURES.help)


@command("qha", EVALUATION, formerly={"temperatures": "temperature"})
def qha(
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    temperature: list[str] = QHA_TEMPERATURES,
    supercell: str | None = SUPERCELL,
    min_length: Annotated[
        float | None, typer.Option("--min-length", help="Shortest edge of the phonon supercell, Å (default: 15).")
    ] = None,
    mesh: Annotated[int, typer.Option(min=2, help="q-points along each axis for the free energy.")] = 16,
    relax: bool = RELAX,
    out: Path | None = DOCUMENTS,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Thermal expansion, bulk modulus, C_p and Grüneisen parameter (quasi-harmonic, zero pressure).

    Six volumes from -4 to +6 %, atoms relaxed and phonons computed at each, free energies minimised with phonopy's
    quasi-harmonic fits. Volumes with imaginary modes are left out and named.

    Example: phonosmith qha Si.cif --potential embedded --temperature 100,300,500
    """
    from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell
    from phonosmith.evaluation.thermal.qha import evaluate_qha, temperature_grid

    asked = asked_temperatures(temperature)
    if not all(0 < value <= HIGHEST_TEMPERATURE for value in asked):
        raise InputError(
            f"--temperature {temperature[0]!r}: no temperatures above 0 and up to {HIGHEST_TEMPERATURE:g} K.",
            "Leave the others out.",
        )
    matrix = asked_supercell(supercell, min_length)
    case = load_case(structure, potential, trust=trust)
    with quiet_libraries(), progress_bar("relax") as progress:
        crystal = (case.relaxed() if relax else case).crystal
        if matrix is None:
            matrix = choose_phonon_supercell(crystal, 15.0 if min_length is None else min_length)
        document = evaluate_qha(
            crystal,
            case.potential,
            matrix,
            method=case.ref.name,
            temperatures=temperature_grid(max(asked)),
            mesh=mesh,
            progress=progress,
        )
    points = [document.qha.at(temperature) for temperature in asked]
    if out is not None:
        from phonosmith.core.artefacts import write_atomic

        write_atomic(out / "qha.json", (document.model_dump_json(indent=1) + "\n").encode())

    def show() -> None:
        columns = ("T (K)", "V (Å³)", "α (1e-6/K)", "B (GPa)", "C_p (J/K/mol)", "γ")
        rows = [
            (
                f"{one.temperature:g}", f"{one.volume_angstrom3:.4f}", f"{1e6 * one.thermal_expansion_per_k:.3f}",
                f"{one.bulk_modulus_gpa:.2f}", f"{one.heat_capacity_p:.3f}", f"{one.gruneisen:.3f}",
            )
            for one in points
        ]  # fmt: skip
        print_table(columns, rows, title=f"{document.formula} by {case.ref.name}, per primitive cell", left=0)
        modes = document.gruneisen
        typer.echo(f"mode Grüneisen parameter {modes.mean:.3f} (weighted by heat capacity at {modes.temperature:g} K)")
        for note in [*document.left_out, *document.qha.warnings]:
            typer.secho(f"Warning: {note}", fg="yellow", err=True)

    payload = {
        "formula": document.formula,
        "potential": case.ref.name,
        "supercell_matrix": matrix,
        "volumes": document.volumes,
        "temperatures": [point.model_dump(mode="json") for point in points],
        "mode_gruneisen": document.gruneisen.model_dump(mode="json"),
        "left_out": document.left_out,
        "warnings": document.qha.warnings,
    }
    answer(payload, show, json_output=json_output)


@command("kappa", EVALUATION)
def kappa(
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    temperature: Annotated[float, typer.Option(help="Temperature, K.")] = 300.0,
    against: Annotated[
        Path | None,
        typer.Option(help="phono3py YAML with forces (FORCES_FC3 may lie beside it) to judge against (SRME)."),
    ] = None,
    supercell: str | None = SUPERCELL,
    min_length: Annotated[
        float | None, typer.Option("--min-length", help="Shortest edge of the third-order supercell, Å (default: 10).")
    ] = None,
    mesh: Annotated[int, typer.Option(min=2, help="q-points along each axis.")] = 11,
    relax: bool = RELAX,
    out: Path | None = DOCUMENTS,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Lattice thermal conductivity (relaxation-time approximation, phono3py) and its error against a reference.

    With --against, cell, supercells, primitive cell, mesh and Born charges are the reference's, so that SRME compares
    mode with mode. Converge --mesh and the supercell for a number to publish.

    Example: phonosmith kappa Si.cif --potential embedded --against phono3py_params.yaml
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell
    from phonosmith.evaluation.thermal.kappa import (
        conductivity_error,
        phono3py_class,
        read_phono3py,
        relaxation_time_conductivity,
        sre,
        third_order_phonon,
    )

    if not 0 < temperature <= HIGHEST_TEMPERATURE:
        raise InputError(f"--temperature {temperature:g} K cannot be.", "Give e.g. 300.")
    if against is not None and (supercell is not None or min_length is not None):
        raise InputError("With --against the supercell is the reference's.", "Leave out --supercell and --min-length.")
    phono3py_class()
    matrix = asked_supercell(supercell, min_length)
    case = load_case(structure, potential, trust=trust)
    grid = (mesh, mesh, mesh)
    with quiet_libraries(), progress_bar("relax") as progress:
        reference = None
        if against is not None:
            reference = read_phono3py(against)
            case = replace(case, crystal=_same_crystal(case.crystal, reference, against))
            matrix = reference.supercell_matrix.tolist()
        crystal = (case.relaxed() if relax else case).crystal
        if matrix is None:
            matrix = choose_phonon_supercell(crystal, 10.0 if min_length is None else min_length)
        atoms = AseAtomsAdaptor.get_atoms(crystal, msonable=False)
        progress(0, None, "third-order forces")
        phonon = third_order_phonon(atoms, case.potential, matrix, like=reference)
        progress(0, None, "conductivity")
        found = relaxation_time_conductivity(phonon, grid, temperature)
        base = None if reference is None else relaxation_time_conductivity(reference, grid, temperature)
    formula = crystal.composition.reduced_formula
    payload = {
        "formula": formula,
        "potential": case.ref.name,
        "temperature": temperature,
        "mesh": list(grid),
        "supercell_matrix": matrix,
        "kappa_w_per_m_k": found.kappa,
        "tensor": found.tensor,
        "n_imaginary": found.n_imaginary,
        "reference_kappa_w_per_m_k": None if base is None else base.kappa,
        "sre": None if base is None else float(sre(found.kappa, base.kappa)),
        "srme": None if base is None else conductivity_error(found, base),
    }
    if out is not None:
        from phonosmith.core.artefacts import write_atomic

        write_atomic(out / "kappa.json", (found.model_dump_json(indent=1) + "\n").encode())

    def show() -> None:
        typer.echo(f"{formula} by {case.ref.name}: κ = {found.kappa:.3f} W/(m K) at {temperature:g} K, mesh {mesh}³")
        if base is not None:
            typer.echo(f"reference κ = {base.kappa:.3f} W/(m K); SRME {payload['srme']:.3f}, SRE {payload['sre']:+.3f}")
        if found.n_imaginary:
            typer.secho(f"Warning: {found.n_imaginary} imaginary modes were left out.", fg="yellow", err=True)

    answer(payload, show, json_output=json_output)


def _same_crystal(crystal: Structure, reference: Phono3py, where: Path) -> Structure:
    """Return the reference's unit cell; MismatchError unless it is the given crystal."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from phonosmith.core.errors import MismatchError
    from phonosmith.harmonic.model import to_structure

    theirs = to_structure(reference.unitcell)
    if not StructureMatcher().fit(crystal, theirs):
        raise MismatchError(
            f"{where} is of {theirs.composition.reduced_formula}, not of the same crystal as the structure given "
            f"({crystal.composition.reduced_formula}).",
            "Give the reference of this crystal.",
        )
    return theirs
