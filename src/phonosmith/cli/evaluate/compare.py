"""``phonosmith compare``: candidate phonons against reference phonons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import EVALUATION, JSON, answer, command, print_table

if TYPE_CHECKING:
    from phonosmith.evaluation.phonons.documents import PhononComparison


_ROWS = {
    "ω_min (THz)": "omega_min_thz",
    "ω_max (THz)": "omega_max_thz",
    "ω_mean (THz)": "omega_mean_thz",
    "C_v (J/K/mol)": "heat_capacity",
    "S (J/K/mol)": "entropy",
    "F (kJ/mol)": "free_energy",
    "volume (Å³)": "volume",
}


def _show(result: PhononComparison) -> None:
    typer.echo(f"{result.formula}  mesh {'x'.join(map(str, result.mesh))}, {result.temperature:g} K")
    typer.echo(
        f"MAE {result.mae_thz:.4f} THz   RMSE {result.rmse_thz:.4f} THz   "
        f"scaled RMSE {result.scaled_rmse_thz:.4f} THz   ΔDOS {result.dos_error_percent:.1f} %"
    )
    sides = (result.reference, result.candidate)
    quantities = _ROWS | ({"LO-TO at Γ (THz)": "lo_to_splitting_thz"} if result.reference.lo_to_splitting_thz else {})
    values = {label: [float(getattr(side, name)) for side in sides] for label, name in quantities.items()}
    rows: list[tuple[str, ...]] = [(label, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}") for label, (a, b) in values.items()]
    rows.append(("imaginary modes", *(str(side.n_imaginary_commensurate) for side in sides), ""))
    rows.append(("stable", *("yes" if side.stable else "no" for side in sides), ""))
    rows.append(("space group", *(f"{side.space_group} ({side.space_group_number})" for side in sides), ""))
    print_table(("", " reference", " candidate", " difference"), rows)
    for note in result.notes:
        typer.echo(f"note: {note}")


@command("compare", EVALUATION)
def compare(
    reference: Annotated[Path, typer.Argument(help="phonopy.yaml (plain or .xz, FORCE_SETS beside) or phonons.json")],
    candidate: Annotated[Path, typer.Argument(help="the same of the potential")],
    mesh: Annotated[int, typer.Option(help="q-points along each axis")] = 20,
    temperature: Annotated[float, typer.Option(help="K, for C_v, S and F")] = 300.0,
    force_constants: str = typer.Option("auto", help="auto, traditional (as published) or symfc (sum rule imposed)"),
    figure: Annotated[Path | None, typer.Option(help="write bands, DOS, parity and C_v, S, F to this image")] = None,
    nac: Annotated[
        bool, typer.Option("--nac", help="non-analytic term (LO-TO) on both sides, by the reference's Born charges")
    ] = False,
    born: Annotated[
        Path | None,
        typer.Option(help="Born charges for --nac: phonopy's BORN, or a phonopy YAML [default: the reference's own]"),
    ] = None,
    json_output: bool = JSON,
) -> None:
    """Compare candidate phonons with reference phonons on one q-mesh.

    Example: phonosmith compare reference/phonopy.yaml tuned/phonopy.yaml --figure bands.png
    """
    from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
    from phonosmith.harmonic.files import add_charges, load_pair
    from phonosmith.reference.importers.beside import calculations_beside
    from phonosmith.settings import get_settings

    pair = load_pair(reference, candidate, force_constants, calculations_beside, nac=nac and born is None)
    if born is not None:
        add_charges(pair[0].phonon, born)
    compared = compare_phonons_in_full(
        *pair, mesh, temperature=temperature, practical_thz=get_settings().stability_threshold_thz
    )
    if figure is not None:
        from phonosmith.report.figures.phonons import full_figure
        from phonosmith.report.figures.style import save_figure

        save_figure(full_figure(compared), figure)
    answer(compared.result, lambda: _show(compared.result), json_output=json_output)
