"""``phonosmith demo``: the whole pipeline in a few minutes, without DFT, database or GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import INTERRUPTED, JSON, START, answer, command, print_table, result_line, shown

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.harmonic.model import HarmonicModel


@command("demo", START)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for store, artefacts, models, figures.")] = Path("demo-out"),
    material: Annotated[str, typer.Option(help="Embedded material: Si, Ge, C or SiC.")] = "Si",
    strategies: Annotated[str, typer.Option(help="Comma-separated presets; five of them by default.")] = "",
    epochs: Annotated[int, typer.Option(min=1, help="Largest number of epochs per training.")] = 60,
    json_output: bool = JSON,
) -> None:
    """Fine-tune the embedded foundation for one crystal with several strategies and judge each by its phonons.

    A small MACE trained on one published empirical potential is the foundation; another published potential stands in
    for DFT. Everything else is the real pipeline: sampling, labels, audit, training, phonons on both sides, verdict.
    Interrupt it as you like: the same command continues where it stopped.

    Example: phonosmith demo --out demo-out
    """
    from phonosmith.core.errors import PhonosmithError
    from phonosmith.settings import get_settings

    out = out.resolve()
    # the demonstration keeps to its folder unless the user already has an artefact store
    os.environ.setdefault("PHONOSMITH_ARTEFACTS", str(out / "artefacts"))
    get_settings.cache_clear()
    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.core.identity import fix_identities
    from phonosmith.engines.local.runner import LocalRunner
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.flows.demo import DEMO_STRATEGIES, demo_flow

    names = [name.strip() for name in strategies.split(",") if name.strip()] or list(DEMO_STRATEGIES)
    flow = fix_identities(demo_flow(material, names, epochs))
    store = open_embedded_jobstore(out / "store.sqlite")
    store.connect()
    runner = LocalRunner(store, out / "run", progress=not json_output or os.isatty(2))
    runner.retry()
    runner.ask(flow)
    try:
        summary = runner.run()
    except KeyboardInterrupt:
        typer.secho("Stopped; what is done stays done. The same command goes on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    report_job = next(job for job, _ in flow.iterflow() if job.metadata.get("stage") == "report")
    for row in summary.failed:
        typer.secho(f"Failed: {row.name}: {row.error} (see {row.folder})", fg="red", err=True)
    if any(row.uuid == report_job.uuid for row in [*summary.failed, *summary.skipped]):
        raise PhonosmithError("The demonstration did not reach its report.", "Look at the folders named above.")
    report = MaterialReport.model_validate(store.get_output(report_job.uuid, load=True))
    lines = [
        result_line(entry) | {"training_seconds": entry.training_seconds}
        for entry in (report.foundation, *report.strategies)
    ]
    payload = {
        "material": report.material,
        "reference": report.reference,
        "n_train": report.labels.train.n_frames,
        "n_valid": report.labels.valid.n_frames,
        "foundation": lines[0],
        "strategies": lines[1:],
        "failed": report.failed,
        "best": report.best,
        "gain": report.gain,
        "seconds": summary.seconds,
        "jobs_run": summary.executed,
        "files": _write(report, store, flow, out),
    }
    answer(payload, lambda: _show(payload), json_output=json_output)


def _write(report: MaterialReport, store: JobStore, flow: Flow, out: Path) -> list[str]:
    """Write report (JSON and HTML), one figure per potential, the best model as a plain file; return their names."""
    from phonosmith.core.artefacts import default_artefacts, write_atomic
    from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
    from phonosmith.evaluation.phonons.documents import PhononDoc
    from phonosmith.evaluation.phonons.summary import harmonic_from_document
    from phonosmith.potentials.registry import export_plain
    from phonosmith.report.figures.phonons import bands_figure, many_bands_figure, phonon_curves
    from phonosmith.report.figures.style import save_figure
    from phonosmith.report.page.html import write_report

    files = [out / "report.json"]
    write_atomic(files[0], report.model_dump_json(indent=2).encode())
    key = report.material.lower()
    uuids = {job.name: job.uuid for job, _ in flow.iterflow()}

    def model(name: str) -> HarmonicModel:
        document = store.get_output(uuids[f"phonon {key} {name}"], load=True)
        return harmonic_from_document(PhononDoc.model_validate(document), default_artefacts())

    reference = model("reference")
    for entry in [report.foundation, *report.strategies]:
        compared = compare_phonons_in_full(reference, model(entry.strategy), 12)
        figure = bands_figure(compared, ("reference", entry.strategy))
        files.append(save_figure(figure, out / "figures" / f"{key}-{entry.strategy}.png"))
    if report.strategies:
        best = report.strategies[0].strategy
        curves = phonon_curves({"reference": reference, "foundation": model("foundation"), best: model(best)})
        files.append(save_figure(many_bands_figure(curves), out / "figures" / f"{key}-bands.png"))
        files.append(out / f"{key}-{best}.model")
        export_plain(report.strategies[0].potential, files[-1])
    page = write_report([report], out / "report.html", title=f"phonosmith demonstration: {report.material}")
    return [str(path) for path in (*files, page.path)]


def _show(payload: dict[str, Any]) -> None:
    lines = [payload["foundation"], *payload["strategies"]]
    forms = {
        "phonon_mae_thz": ".3f",
        "omega_max_error_percent": "+.2f",
        "valid_force_mae_mev_per_angstrom": ".1f",
        "training_seconds": ".0f",
    }
    print_table(
        ("potential", "phonon MAE\nTHz", "ω_max error\n%", "force MAE\nmeV/Å", "training\ns", " verdict"),
        [
            (line["strategy"], *(shown(line[key], form) for key, form in forms.items()), line["verdict"])
            for line in lines
        ],
        title=f"{payload['material']}: phonons against {payload['reference']} ({payload['seconds']:.0f} s)",
    )
    for line in lines:
        if line["verdict"] != "fit":
            typer.echo(f"{line['strategy']} is not fit: {'; '.join(line['reasons'])}.")
    if payload["gain"] is not None:
        typer.echo(f"{payload['best']}: phonon MAE {payload['gain']:.1f} times below the foundation's.")
    for path in payload["files"]:
        typer.echo(f"  {path}")
