"""``phonosmith demo``: the whole pipeline in minutes, without licence, database or GPU; with real DFT where asked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import INTERRUPTED, JSON, START, answer, command, listed, print_table, result_line, shown

if TYPE_CHECKING:
    from jobflow import Flow, JobStore

    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.engines.local.state import JobRow
    from phonosmith.harmonic.model import HarmonicModel


@command("demo", START, formerly={"strategies": "strategy"})
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for store, artefacts, models, figures. (default: demo-out)")
    ] = None,
    material: Annotated[
        str, typer.Option(help="Si, Ge, C or SiC (default: Si); with --real Si,AlAs or one of them.")
    ] = "",
    strategy: Annotated[
        str | None, typer.Option(help="Preset of training; several as in transfer,delta (default: five of them).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Largest number of epochs per training. (default: 60)")
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="SevenNet-0, a published foundation, on real DFT (PBE by GPAW).")
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="With --real: primitive cells, to test the installation in a minute.")
    ] = False,
    json_output: bool = JSON,
) -> None:
    """Fine-tune a foundation for one crystal with several strategies and judge each by its phonons.

    A small MACE trained on one published empirical potential is the foundation; another published potential stands in
    for DFT. Everything else is the real pipeline: sampling, labels, audit, training, phonons on both sides, verdict.
    Interrupt it as you like: the same command continues where it stopped.

    With --real nothing stands in for anything: SevenNet-0 is fine-tuned on PBE calculations by GPAW, and GPAW's phonons
    are the truth. What GPAW has calculated is kept (PHONOSMITH_REFERENCE_CACHE), so that a second demonstration, in
    another folder too, takes minutes.

    Example: phonosmith demo --out demo-out
    """
    from phonosmith.core.errors import InputError, PhonosmithError
    from phonosmith.settings import get_settings

    if small and not real:
        raise InputError("--small is for the demonstration with real DFT.", "Add --real, or leave it out.")
    out = (out or Path("demo-real-out" if real else "demo-out")).resolve()
    # the demonstration keeps to its folder unless the user already has an artefact store
    os.environ.setdefault("PHONOSMITH_ARTEFACTS", str(out / "artefacts"))
    get_settings.cache_clear()
    if real and get_settings().reference_cache is None:
        os.environ["PHONOSMITH_REFERENCE_CACHE"] = str(get_settings().home_dir / "reference")
        get_settings.cache_clear()
    from phonosmith.analysis.documents import MaterialReport
    from phonosmith.core.identity import fix_identities
    from phonosmith.engines.local.session import carry_out, open_folder_store, prepare_folder
    from phonosmith.flows import demo as flows

    names = [] if strategy is None else listed("strategy", [strategy])
    if real:
        crystals = listed("material", [material]) if material else list(flows.REAL_CRYSTALS)
        flow = flows.real_demo_flow(crystals, names or flows.REAL_STRATEGIES, epochs or flows.REAL_EPOCHS, small=small)
    else:
        flow = flows.demo_flow(material or "Si", names or flows.DEMO_STRATEGIES, epochs or flows.DEMO_EPOCHS)
    flow = fix_identities(flow)
    prepare_folder(out)
    before = {row.uuid for row in _label_rows(out)}
    outcome = carry_out(out, flow, progress=not json_output or os.isatty(2), again=lambda _: None, say=_say)
    if outcome.interrupted:
        _say("Stopped; what is done stays done. The same command goes on.")
        raise typer.Exit(INTERRUPTED)
    summary = outcome.summary
    for row in summary.failed:
        typer.secho(f"Failed: {row.name}: {row.error} (see {row.folder})", fg="red", err=True)
    unfinished = {row.uuid for row in [*summary.failed, *summary.skipped]}
    wanted = [job.uuid for job, _ in flow.iterflow() if job.metadata.get("stage") == "report"]
    if unfinished & set(wanted) or outcome.lost:
        raise PhonosmithError("The demonstration did not reach its report.", "Look at the folders named above.")
    store = open_folder_store(out)
    reports = [MaterialReport.model_validate(store.get_output(uuid, load=True)) for uuid in wanted]
    materials = [_entry(report) for report in reports]
    payload = materials[0] | {
        "seconds": summary.seconds,
        "jobs_run": summary.executed,
        "files": _write(reports, store, flow, out),
    }
    if real:
        computed, kept = _label_origins(out, store, before)
        payload |= {"labels_computed": computed, "labels_cached": kept, "materials": materials}
    answer(payload, lambda: _show(materials, payload), json_output=json_output)


def _entry(report: MaterialReport) -> dict[str, Any]:
    """Return what is printed about one material."""
    lines = [
        result_line(entry) | {"training_seconds": entry.training_seconds}
        for entry in (report.foundation, *report.strategies)
    ]
    return {
        "material": report.material,
        "reference": report.reference,
        "foundation_name": report.foundation.potential.name,
        "n_train": report.labels.train.n_frames,
        "n_valid": report.labels.valid.n_frames,
        "foundation": lines[0],
        "strategies": lines[1:],
        "failed": report.failed,
        "best": report.best,
        "gain": report.gain,
    }


def _say(words: str) -> None:
    typer.secho(words, err=True)


def _label_rows(folder: Path) -> list[JobRow]:
    """Return the label jobs of a folder that are done, without those that start or collect them."""
    from phonosmith.core.metadata import stage_of, step_of
    from phonosmith.engines.local.session import RUN
    from phonosmith.engines.local.state import RunState

    with contextlib.closing(RunState(folder / RUN / "run.sqlite")) as state:
        done = state.rows("done", asked=True)
    return [row for row in done if stage_of(row.name, row.metadata) == "label" and not step_of(row.name, row.metadata)]


def _label_origins(folder: Path, store: JobStore, before: set[str]) -> tuple[int, int]:
    """Return how many labels were calculated now, and how many there were."""
    uuids = [row.uuid for row in _label_rows(folder)]
    fields = ["uuid", "output.kept", "metadata.reused"]
    computed = 0
    for document in store.query({"uuid": {"$in": uuids}}, properties=fields):
        found = document["output"].get("kept") or (document.get("metadata") or {}).get("reused")
        computed += document["uuid"] not in before and not found
    return computed, len(uuids) - computed


def _write(reports: list[MaterialReport], store: JobStore, flow: Flow, out: Path) -> list[str]:
    """Write reports (JSON and HTML), one figure per potential, best models as plain files; return their names."""
    from phonosmith.core.artefacts import default_artefacts, write_atomic
    from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
    from phonosmith.evaluation.phonons.documents import PhononDoc
    from phonosmith.evaluation.phonons.summary import harmonic_from_document
    from phonosmith.potentials.registry import export_plain
    from phonosmith.report.figures.phonons import bands_figure, many_bands_figure, phonon_curves
    from phonosmith.report.figures.style import save_figure
    from phonosmith.report.page.html import write_report

    files = []
    uuids = {job.name: job.uuid for job, _ in flow.iterflow()}
    for report in reports:
        key = report.material.lower()

        def model(name: str, key: str = key) -> HarmonicModel:
            document = store.get_output(uuids[f"phonon {key} {name}"], load=True)
            return harmonic_from_document(PhononDoc.model_validate(document), default_artefacts())

        files.append(out / ("report.json" if len(reports) == 1 else f"{key}-report.json"))
        write_atomic(files[-1], report.model_dump_json(indent=2).encode())
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
    title = f"phonosmith demonstration: {', '.join(report.material for report in reports)}"
    page = write_report(reports, out / "report.html", title=title)
    return [str(path) for path in (*files, page.path)]


def _show(materials: list[dict[str, Any]], payload: dict[str, Any]) -> None:
    forms = {
        "phonon_mae_thz": ".3f",
        "omega_max_error_percent": "+.2f",
        "valid_force_mae_mev_per_angstrom": ".1f",
        "training_seconds": ".0f",
    }
    for material in materials:
        lines = [material["foundation"] | {"strategy": material["foundation_name"]}, *material["strategies"]]
        print_table(
            ("potential", "phonon MAE\nTHz", "ω_max error\n%", "force MAE\nmeV/Å", "training\ns", " verdict"),
            [
                (line["strategy"], *(shown(line[key], form) for key, form in forms.items()), line["verdict"])
                for line in lines
            ],
            title=f"{material['material']}: phonons against {material['reference']} ({payload['seconds']:.0f} s)",
        )
        for line in lines:
            if line["verdict"] != "fit":
                typer.echo(f"{line['strategy']} is not fit: {'; '.join(line['reasons'])}.")
        if material["gain"] is not None:
            typer.echo(f"{material['best']}: phonon MAE {material['gain']:.1f} times below the foundation's.")
    if "labels_computed" in payload:
        typer.echo(f"Labels: {payload['labels_computed']} calculated, {payload['labels_cached']} found.")
    for path in payload["files"]:
        typer.echo(f"  {path}")
