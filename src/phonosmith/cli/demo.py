"""``phonosmith demo``: the whole pipeline in a few minutes, without DFT, database or GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from phonosmith.cli.common import JSON_OPTION, command, print_json, print_table

if TYPE_CHECKING:
    from phonosmith.analysis.documents import MaterialReport, PotentialReport


OUT = typer.Option("demo-out", "--out", help="Folder for store, artefacts, models, figures.")
MATERIAL = typer.Option("Si", "--material", help="Embedded material: Si, Ge, C or SiC.")
STRATEGIES = typer.Option("", "--strategies", help="Comma-separated presets; five of them by default.")
EPOCHS = typer.Option(60, "--epochs", min=1, help="Largest number of epochs per training.")


@command("demo")
def demo(
    out: Path = OUT,
    material: str = MATERIAL,
    strategies: str = STRATEGIES,
    epochs: int = EPOCHS,
    json_output: bool = JSON_OPTION,
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
    summary = runner.run(flow)
    report_job = next(job for job, _ in flow.iterflow() if job.metadata.get("stage") == "report")
    for row in summary.failed:
        typer.secho(f"Failed: {row.name}: {row.error} (see {row.folder})", fg="red", err=True)
    if any(row.uuid == report_job.uuid for row in [*summary.failed, *summary.skipped]):
        raise PhonosmithError("The demonstration did not reach its report.", "Look at the folders named above.")
    report = MaterialReport.model_validate(store.get_output(report_job.uuid, load=True))
    written = _write(report, store, flow, out)
    if json_output:
        print_json(_summary(report) | {"seconds": summary.seconds, "jobs_run": summary.executed, "files": written})
    else:
        _show(report, written, summary.seconds)


def _line(entry: PotentialReport) -> dict[str, Any]:
    assert entry.phonons is not None  # the demonstration always compares phonons
    return {
        "strategy": entry.strategy,
        "phonon_mae_thz": entry.phonons.mae_thz,
        "omega_max_error_percent": entry.phonons.omega_max_error_percent,
        "valid_force_mae_mev_per_angstrom": entry.valid_force_mae,
        "training_seconds": entry.training_seconds,
        "verdict": "fit" if entry.verdict.fit else "not fit",
        "reasons": entry.verdict.reasons,
        "potential": entry.potential.sha256,
    }


def _summary(report: MaterialReport) -> dict[str, Any]:
    return {
        "material": report.material,
        "reference": report.reference,
        "n_train": report.labels.train.n_frames,
        "n_valid": report.labels.valid.n_frames,
        "foundation": _line(report.foundation),
        "strategies": [_line(entry) for entry in report.strategies],
        "failed": report.failed,
        "best": report.best,
        "gain": report.gain,
    }


def _write(report: MaterialReport, store: Any, flow: Any, out: Path) -> list[str]:
    """Write report (JSON and HTML), one figure per potential, the best model as a plain file; return their names."""
    from phonosmith.core.artefacts import default_artefacts, write_atomic
    from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
    from phonosmith.evaluation.phonons.documents import PhononDoc
    from phonosmith.evaluation.phonons.summary import harmonic_from_document
    from phonosmith.potentials.registry import export_plain
    from phonosmith.report.figures.phonons import bands_figure, many_bands_figure, phonon_curves
    from phonosmith.report.figures.style import save_figure
    from phonosmith.report.page.html import write_report

    write_atomic(out / "report.json", report.model_dump_json(indent=2).encode())
    key = report.material.lower()
    uuids = {job.name: job.uuid for job, _ in flow.iterflow()}

    def model(name: str) -> Any:
        document = store.get_output(uuids[f"phonon {key} {name}"], load=True)
        return harmonic_from_document(PhononDoc.model_validate(document), default_artefacts())

    reference, written = model("reference"), [str(out / "report.json")]
    for entry in [report.foundation, *report.strategies]:
        compared = compare_phonons_in_full(reference, model(entry.strategy), 12)
        figure = bands_figure(compared, ("reference", entry.strategy))
        written.append(str(save_figure(figure, out / "figures" / f"{key}-{entry.strategy}.png")))
    if report.strategies:
        best = report.strategies[0].strategy
        curves = phonon_curves({"reference": reference, "foundation": model("foundation"), best: model(best)})
        written.append(str(save_figure(many_bands_figure(curves), out / "figures" / f"{key}-bands.png")))
        path = out / f"{key}-{report.strategies[0].strategy}.model"
        export_plain(report.strategies[0].potential, path)
        written.append(str(path))
    page = write_report([report], out / "report.html", title=f"phonosmith demonstration: {report.material}")
    return [*written, str(page.path)]


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _show(report: MaterialReport, written: list[str], seconds: float) -> None:
    entries = [report.foundation, *report.strategies]
    print_table(
        ("potential", "phonon MAE\nTHz", "ω_max error\n%", "force MAE\nmeV/Å", "training\ns", " verdict"),
        [
            (
                line["strategy"],
                _text(line["phonon_mae_thz"], ".3f"),
                _text(line["omega_max_error_percent"], "+.2f"),
                _text(line["valid_force_mae_mev_per_angstrom"], ".1f"),
                _text(line["training_seconds"], ".0f"),
                line["verdict"],
            )
            for line in map(_line, entries)
        ],
        title=f"{report.material}: phonons against {report.reference} ({seconds:.0f} s)",
    )
    for entry in entries:
        if not entry.verdict.fit:
            typer.echo(f"{entry.strategy} is not fit: {'; '.join(entry.verdict.reasons)}.")
    if report.gain is not None:
        typer.echo(f"{report.best}: phonon MAE {report.gain:.1f} times below the foundation's.")
    for path in written:
        typer.echo(f"  {path}")
