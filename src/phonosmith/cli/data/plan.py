"""``phonosmith plan``: what a campaign will take, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import JSON, START, TRUST, answer, checked_options, command, listed, print_table
from phonosmith.core.errors import InputError, PhonosmithError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.structures.cost import CostModel
    from phonosmith.structures.preflight import MaterialPlan, Plan, PlanSettings


@command("plan", START, formerly={"phonon-length": "min-length", "frames": "n-frames"})
def plan(
    structures: Annotated[list[Path], typer.Argument(help="Structure files: CIF, POSCAR, ...")],
    cell: Annotated[
        list[str] | None,
        typer.Option(help="Sizes of cells, several as in small,large: primitive, small, large (default: large)."),
    ] = None,
    foundation: Annotated[str, typer.Option(help="Check that this foundation covers every element.")] = "",
    n_frames: Annotated[int, typer.Option(help="DFT statics per cell size.")] = 20,
    kspacing: Annotated[float, typer.Option(help="k-point spacing of the statics, 1/Å; 0: the protocol's.")] = 0.0,
    min_length: Annotated[float, typer.Option(help="Shortest edge of the phonon supercell, Å.")] = 20.0,
    evaluate: Annotated[list[str] | None, typer.Option(help="By the reference as well, as in qha,kappa.")] = None,
    max_atoms: Annotated[int, typer.Option(help="Atom cap of the fine-tuning cells.")] = 500,
    epochs: Annotated[int, typer.Option(help="Training epochs.")] = 200,
    calibration: Annotated[
        Path | None, typer.Option(help="JSON list of structure (file), core_hours, kspacing.")
    ] = None,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Cells, DFT calculations, core-hours, memory and warnings of every material, before anything is submitted.

    Exit code 2 when a structure cannot be used (the others are still planned).

    Example: phonosmith plan Si.cif --foundation embedded
    """
    from phonosmith.evaluation.thermal.qha import FACTORS
    from phonosmith.flows.settings import MaterialSettings
    from phonosmith.reference.protocol import ReferenceProtocol
    from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS
    from phonosmith.structures.preflight import MaterialPlan, PlanSettings, combine, plan_material
    from phonosmith.structures.reading import read_structure

    also = listed("evaluate", evaluate or [])
    if unknown := set(also) - {"qha", "kappa"}:
        raise InputError(f"--evaluate {min(unknown)} cannot be planned.", "Give qha or kappa.")
    protocol = ReferenceProtocol()
    settings = checked_options(
        PlanSettings,
        "plan",
        "planned",
        cells=listed("cell", cell or ["large"]),
        frames_per_cell=n_frames,
        # the protocol keeps one trajectory in five for validation
        training_frames=max(1, n_frames - n_frames // 5),
        kspacing=kspacing or protocol.kspacing,
        encut=protocol.encut,
        phonon_length=min_length,
        gamma_min_length=protocol.gamma_min_length,
        # the relaxed volume has its phonons anyway
        qha_volumes=len(FACTORS) - 1 if "qha" in also else 0,
        kappa_length=MaterialSettings().kappa_min_length if "kappa" in also else None,
        max_atoms=max_atoms,
        epochs=epochs,
    )
    cost = _calibrated(calibration, settings)
    elements, residual = _foundation(foundation, trust=trust)
    planned = partial(plan_material, cost=cost, elements=elements, potcars=PBE_54_SYMBOLS, residual=residual)
    rows: list[MaterialPlan] = []
    usable: list[Structure] = []
    for path in structures:
        try:
            structure = read_structure(path)
            rows.append(planned(structure, str(path), settings))
            usable.append(structure)
        except PhonosmithError as error:
            if len(structures) == 1:
                raise
            rows.append(MaterialPlan(source=str(path), usable=False, error=str(error)))
    result = combine(rows, usable, cost=cost, potcars=PBE_54_SYMBOLS)
    answer(result, lambda: _show(result), json_output=json_output)
    problems = [row.error for row in rows if not row.usable]
    for problem in problems:
        typer.secho(f"Error: {problem}", fg="red", err=True)
    if problems:
        raise typer.Exit(2)


def _foundation(
    name: str, *, trust: bool
) -> tuple[tuple[str, ...] | None, Callable[[Structure], tuple[float, float]] | None]:
    """Return the elements of a foundation and a function that gives force and pressure of a structure under it."""
    if not name:
        return None, None
    from phonosmith.potentials import registry

    reference = registry.resolve(name, trust=trust)
    potential = registry.load(reference)

    def residual(structure: Structure) -> tuple[float, float]:
        import numpy as np
        from pymatgen.io.ase import AseAtomsAdaptor

        from phonosmith.core.units import GPA_PER_EV_PER_A3

        evaluated = potential.evaluate([AseAtomsAdaptor.get_atoms(structure, msonable=False)])[0]
        pressure = -float(np.mean(evaluated.stress[:3])) * GPA_PER_EV_PER_A3
        return float(np.linalg.norm(evaluated.forces, axis=1).max()), pressure

    return tuple(potential.elements), residual


def _calibrated(path: Path | None, settings: PlanSettings) -> CostModel:
    from phonosmith.core.reading import read_json
    from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS
    from phonosmith.structures.cost import CostModel, calibrate, workload
    from phonosmith.structures.reading import read_structure

    if path is None:
        return CostModel()
    try:
        rows = [
            (path.parent / item["structure"], float(item["core_hours"]), float(item.get("kspacing", settings.kspacing)))
            for item in read_json(path)
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} does not list finished calculations: {type(error).__name__} {error}.",
            'Write [{"structure": "Si.vasp", "core_hours": 12.5, "kspacing": 0.1}, ...].',
        ) from error
    known = partial(workload, encut=settings.encut, potcars=PBE_54_SYMBOLS)
    works = [known(read_structure(file), kspacing=spacing or None).work for file, _, spacing in rows]
    return calibrate(works, [hours for _, hours, _ in rows])


def _show(result: Plan) -> None:
    rows = []
    for material in result.materials:
        if not material.usable:
            rows.append((Path(material.source).name, "[red]unusable[/red]", *[""] * 6))
            continue
        cells = material.cells | ({} if material.phonon is None else {"phonon": material.phonon}) | material.thermal
        heads = (material.formula, f"group {material.spacegroup or '?'}", *[""] * len(cells))
        for head, (size, cell) in zip(heads, cells.items(), strict=False):
            edges, mesh = " ".join(f"{edge:.1f}" for edge in cell.lengths), "×".join(map(str, cell.kpoints))
            cost = (f"{cell.core_hours:,.0f}", f"{cell.memory_gb:.1f}")
            rows.append((head, size, str(cell.n_atoms), edges, mesh, str(cell.n_calculations), *cost))
    columns = ("material", "cell", "atoms", "edges / Å", "k-points", "runs", "core-h", "GB")
    print_table(columns, rows, title="Pre-flight", left=2)
    basis = f"calibrated on {result.calibrated_on}" if result.calibrated_on else "not calibrated"
    typer.echo(
        f"{result.n_statics} statics, {result.n_phonon_displacements} phonon displacements, about "
        f"{result.core_hours:,.0f} core-hours (× or ÷ {result.core_hours_spread:.1f}, {basis}), "
        f"{result.training_steps} training steps"
    )
    for material in result.materials:
        if material.recommendation:
            typer.echo(f"{typer.style('→', fg='green')} {Path(material.source).name}: {material.recommendation}.")
    notes = [f"{Path(one.source).name}: {warning}" for one in result.materials for warning in one.warnings]
    for note in [*notes, *result.warnings]:
        typer.echo(f"{typer.style('!', fg='yellow')} {note}")
