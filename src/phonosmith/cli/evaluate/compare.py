"""``phonosmith compare``: candidate phonons against reference phonons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phonosmith.cli.common import EVALUATION, JSON, answer, command, print_table
from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from phonosmith.evaluation.phonons.committee import Committee
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
    reference: Annotated[Path, typer.Argument(help="phonopy.yaml (plain or .xz, FORCE_SETS beside) or phonons.json.")],
    candidates: Annotated[
        list[Path], typer.Argument(metavar="CANDIDATE...", help="The same of the potential; several are a committee.")
    ],
    mesh: Annotated[int, typer.Option(help="q-points along each axis.")] = 20,
    temperature: Annotated[float, typer.Option(help="Temperature of C_v, S and F, K.")] = 300.0,
    force_constants: str = typer.Option("auto", help="auto, traditional (as published) or symfc (sum rule imposed)."),
    figure: Annotated[
        Path | None, typer.Option(help="Image of bands, DOS, parity and C_v, S, F (.png, .svg, .pdf).")
    ] = None,
    nac: Annotated[
        bool, typer.Option("--nac", help="Non-analytic term (LO-TO) on both sides, by the reference's Born charges.")
    ] = False,
    born: Annotated[
        Path | None,
        typer.Option(help="Born charges for --nac: phonopy's BORN, or a phonopy YAML (default: the reference's own)."),
    ] = None,
    json_output: bool = JSON,
) -> None:
    """Compare candidate phonons with reference phonons on one q-mesh.

    Several candidates, such as one training with several seeds, are compared one by one and as a committee: how far
    they are apart, and where one more of their kind would fall in four of five cases.

    Example: phonosmith compare reference/phonopy.yaml tuned/phonopy.yaml --figure bands.png
    """
    from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
    from phonosmith.harmonic.files import add_charges, load_pair
    from phonosmith.reference.importers.beside import calculations_beside
    from phonosmith.settings import get_settings

    if len(candidates) > 1 and figure is not None:
        raise InputError("--figure draws one candidate.", "Compare them one at a time, or leave --figure out.")
    pairs = [
        load_pair(reference, candidate, force_constants, calculations_beside, nac=nac and born is None)
        for candidate in candidates
    ]
    if born is not None:
        for truth, _ in pairs:
            add_charges(truth.phonon, born)
    limit = get_settings().stability_threshold_thz
    compared = [compare_phonons_in_full(*pair, mesh, temperature=temperature, practical_thz=limit) for pair in pairs]
    if figure is not None:
        from phonosmith.report.figures.phonons import full_figure
        from phonosmith.report.figures.style import save_figure

        save_figure(full_figure(compared[0]), figure)
    if len(candidates) == 1:
        answer(compared[0].result, lambda: _show(compared[0].result), json_output=json_output)
        return
    from phonosmith.evaluation.phonons.committee import committee_in_full

    named = {str(candidate): model for candidate, (_, model) in zip(candidates, pairs, strict=True)}
    if len(named) < len(candidates):
        raise InputError("A candidate is given twice.", "A committee has different members.")
    committee = committee_in_full(named, pairs[0][0], mesh, temperature=temperature).result
    results = dict(zip(named, (one.result for one in compared), strict=True))
    payload = {
        "comparisons": [{"file": name} | one.model_dump() for name, one in results.items()],
        "committee": committee.model_dump(),
    }
    answer(payload, lambda: _show_committee(results, committee), json_output=json_output)


def _show_committee(results: dict[str, PhononComparison], committee: Committee) -> None:
    rows: list[tuple[str, ...]] = [
        (Path(name).name, f"{one.mae_thz:.4f}", f"{one.candidate.omega_max_thz:.4f}", f"{one.candidate.entropy:.4f}")
        for name, one in results.items()
    ]
    intervals = (committee.mae_thz, committee.omega_max_thz, committee.entropy)
    rows.append(("one more of their kind", *(f"{one.low:.4f} to {one.high:.4f}" for one in intervals)))
    truth = next(iter(results.values())).reference
    rows.append(("reference", "", f"{truth.omega_max_thz:.4f}", f"{truth.entropy:.4f}"))
    columns = ("", "MAE, THz", "ω_max, THz", "S, J/K/mol")
    mesh = "x".join(map(str, committee.mesh))
    print_table(columns, rows, title=f"{committee.formula}  mesh {mesh}, {committee.temperature:g} K")
    q = ", ".join(f"{value:.3f}" for value in committee.largest_at)
    typer.echo(
        f"They are {committee.disagreement_thz:.4f} THz apart (mean phonon MAE between pairs); a frequency has a "
        f"standard deviation of {committee.std_thz:.4f} THz, at most {committee.largest_std_thz:.4f} THz (branch "
        f"{committee.largest_branch} at q = {q}). 'One more' holds in {100 * committee.coverage:.0f} % of cases."
    )
