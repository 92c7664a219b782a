"""``phonosmith follow``: imaginary modes of a crystal, followed to new phases with a potential."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    EVALUATION,
    JSON,
    MIN_LENGTH,
    POTENTIAL,
    RELAX,
    STRUCTURE,
    SUPERCELL,
    TRUST,
    asked_supercell,
    command,
    load_case,
    print_json,
)
from phonosmith.core.progress import progress_bar

if TYPE_CHECKING:
    from phonosmith.evaluation.modes.documents import FollowedMode, TransitionDoc


@command("follow", EVALUATION)
def follow(
    out: Annotated[Path, typer.Option(help="Folder for transitions.json, figures and the phases found (CIF).")],
    structure: Path = STRUCTURE,
    potential: str = POTENTIAL,
    phonons: Annotated[Path | None, typer.Option(help="phonopy.yaml or phonons.json (computed here).")] = None,
    max_atoms: Annotated[int, typer.Option(min=1, help="Atom cap of the commensurate supercells.")] = 1000,
    threshold: float = typer.Option(1e-4, min=0.0, help="Follow modes below minus this, THz (0.05: above noise)."),
    at: Annotated[
        list[str] | None, typer.Option("--q", metavar='"0 0 0.35"', help="Follow the modes there besides (repeatable).")
    ] = None,
    supercell: str | None = SUPERCELL,
    min_length: float | None = MIN_LENGTH,
    relax: bool = RELAX,
    coarse: Annotated[bool, typer.Option("--coarse", help="Coarse grids first, refined near minima only.")] = False,
    energies_only: Annotated[bool, typer.Option("--energies-only", help="Do not relax from the minima.")] = False,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Find imaginary modes, map the energy along each, and relax from the minima to new phases.

    Modes are taken at high-symmetry points and band minima; each gets its smallest commensurate supercell. What is not
    followed (incommensurate, too large) is listed with the reason. A stable crystal gives an empty result, exit code 0.

    Example: phonosmith follow GeTe.cif --potential MACE-MP-0b3 --out gete
    """
    from phonosmith.core.errors import InputError
    from phonosmith.evaluation.modes.follow import FollowOptions, follow_with_potential
    from phonosmith.evaluation.modes.grid import GridOptions
    from phonosmith.evaluation.phonons.fastpath import evaluate_phonons
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.harmonic.model import require_same_formula
    from phonosmith.reference.importers.beside import calculations_beside

    if phonons is not None and (supercell is not None or min_length is not None or not relax):
        message = "--supercell, --min-length and --no-relax are for phonons computed here."
        raise InputError(message, "Leave them or --phonons out.")
    matrix = asked_supercell(supercell, min_length)
    options = FollowOptions(
        threshold_thz=threshold,
        max_atoms=max_atoms,
        qpoints=tuple(_wave_vector(text) for text in at or ()),
        grid=GridOptions(coarse=coarse),
    )
    case = load_case(structure, potential, trust=trust)
    if phonons is not None:
        model = load_harmonic(phonons, calculations=calculations_beside)
        require_same_formula(case.crystal.composition.reduced_formula, model.formula, str(structure), str(phonons))
        told = f"Energies count from the crystal in {phonons}, which need not be relaxed with this potential."
        typer.secho(told, err=True)
    else:
        typer.secho("computing phonons", err=True)
        model = evaluate_phonons(
            case.crystal, case.potential, supercell_matrix=matrix, min_length=min_length, relax=relax, mesh=4
        ).model
    with progress_bar("") as show:
        document = follow_with_potential(
            model,
            case.potential,
            ref=case.ref,
            options=options,
            relax=not energies_only,
            on_progress=lambda words, done, total: show(done, total, words),
        )
    files = {name: str(path) for name, path in write_transitions(document, out).items()}
    if json_output:
        print_json(summary(document) | {"files": files})
    else:
        _tell(document)
        typer.echo("\n".join(files.values()))


def _wave_vector(text: str) -> tuple[float, float, float]:
    """Read three fractions of the primitive reciprocal vectors, as in "0 0 0.35" or "1/3 1/3 0"."""
    from fractions import Fraction

    from phonosmith.core.errors import InputError

    try:
        first, second, third = (float(Fraction(word)) for word in text.replace(",", " ").split())
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"--q {text!r} is no wave vector.", 'Give three fractions, as in "0 0 0.35".') from error
    return first, second, third


def write_transitions(document: TransitionDoc, out: Path) -> dict[str, Path]:
    """Write transitions.json, figures (PNG and SVG) and the initial and final phases as CIF; return paths by name."""
    from pymatgen.core import Structure

    from phonosmith.core.artefacts import write_atomic
    from phonosmith.report.figures.modes import mode_energies_figure, pathways_figure
    from phonosmith.report.figures.style import save_figure

    files = {"document": out / "transitions.json"}
    write_atomic(files["document"], (document.model_dump_json(indent=1) + "\n").encode())
    if any(mode.energies for mode in document.modes):
        for name, draw in (("modes", mode_energies_figure), ("pathways", pathways_figure)):
            figure = draw({document.method: document})
            for kind in ("png", "svg"):
                files[f"{name}_{kind}"] = save_figure(figure, out / f"{name}.{kind}")
    for number, phase in enumerate([document.initial, *document.phases]):
        if phase.structure is not None:
            symbol = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in phase.space_group)
            name = "initial" if number == 0 else f"phase_{number:02d}"
            files[name] = out / f"{name}_{symbol}.cif"
            write_atomic(files[name], Structure.from_dict(phase.structure).to(fmt="cif").encode())
    return files


def summary(document: TransitionDoc) -> dict[str, Any]:
    """Return what ``--json`` prints: the document without crystal structures, the phases of each mode beside it."""
    from phonosmith.evaluation.modes.phases import distinct_phases

    crystal, every = {"structure": True}, "__all__"
    pathways = {every: {"displaced": crystal, "final": crystal}}
    left_out: dict[str, Any] = {
        "initial": crystal,
        "phases": {every: crystal},
        "modes": {every: {"pathways": pathways}},
    }
    content = document.model_dump(mode="json", exclude=left_out)
    for mode, plain in zip(document.modes, content["modes"], strict=True):
        ends = distinct_phases(mode.pathways, document.initial)
        plain["supercell"] = mode.supercell_matrix
        plain["grid"] = {"shape": mode.grid_shape, "amplitudes": mode.amplitudes, "energies": mode.energies}
        plain["phases"] = [phase.model_dump(mode="json", exclude={"structure"}) for phase in ends]
    return content


def _tell(document: TransitionDoc) -> None:
    """Print one line per mode and per phase."""
    initial = document.initial
    head = f"{document.formula} {initial.space_group} ({initial.n_atoms_primitive} atoms) by {document.method}"
    if not document.modes:
        typer.echo(f"{head}: no imaginary modes")
        return
    typer.echo(f"{head}: {document.n_energies} energies, {document.seconds:.1f} s")
    for mode in document.modes:
        typer.echo(f"  {_line(mode)}")
    if not document.phases:
        typer.echo("No other phase was found.")
    for phase in document.phases:
        deeper = f"{1000 * phase.energy_difference_ev_per_atom:+.2f} meV/atom"
        typer.echo(f"{phase.space_group} with {phase.n_atoms_primitive} atoms: {deeper}")


def _line(mode: FollowedMode) -> str:
    from phonosmith.evaluation.modes.follow import describe

    words = describe(mode) + ("" if mode.exact else ", interpolated")
    if mode.skipped:
        return f"{words}: not followed: {mode.skipped}"
    if mode.single_minimum:
        fit = "" if mode.fit_r2 is None else f" (parabola R² {mode.fit_r2:.3f})"
        return f"{words}: single minimum{fit}"
    deepest = min((one.energy_ev_per_atom for one in mode.minima), default=0.0)
    ends = [
        pathway.note if pathway.final is None else f"{pathway.final.space_group} ({pathway.final.n_atoms_primitive})"
        for pathway in mode.pathways
    ]
    return f"{words}: {len(mode.minima)} minima, deepest {1000 * deepest:.2f} meV/atom -> {', '.join(ends) or '-'}"
