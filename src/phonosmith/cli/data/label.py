"""``phonosmith label``: reference energies, forces and stresses for frames in a file."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phonosmith.cli.common import (
    ATTEMPTS,
    DATA,
    ENGINE_POTENTIAL,
    JSON,
    PROTOCOL,
    REHEARSAL,
    TRUST,
    WORKDIR,
    answer,
    command,
    reference_engine,
)
from phonosmith.core.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.reference.documents import Frame
    from phonosmith.reference.engines import ReferenceEngine

Labelled = tuple[list["Atoms"], list[dict[str, Any]]]
"""Frames with labels, and what is printed about each that was refused."""


def _with_potential(engine: ReferenceEngine, frames: list[Frame], symbols: set[str], *, progress: bool) -> Labelled:
    """Label in batches, in this process."""
    from phonosmith.reference.forcefield import CalculatorSpec
    from phonosmith.reference.labels import label_with_potential

    spec = CalculatorSpec.model_validate(engine.calculator)
    if spec.potential is None:
        from phonosmith.potentials.ase_potential import AsePotential

        loaded: Any = AsePotential(spec.build, sorted(symbols))
    else:
        from phonosmith.potentials.documents import PotentialRef
        from phonosmith.potentials.registry import load

        loaded = load(PotentialRef.model_validate(spec.arguments["potential"]))
    tried = label_with_potential(loaded, frames, name=spec.name, sha256=spec.potential, progress=progress)
    labelled = [atoms for atoms in tried if atoms.calc is not None]
    refused = [
        {"index": index, "split": str(atoms.info["split"]), "reasons": [str(atoms.info["refused"])]}
        for index, atoms in enumerate(tried)
        if atoms.calc is None
    ]
    return labelled, refused


def _with_jobs(engine: ReferenceEngine, frames: list[Frame], material: str, workdir: Path, attempts: int) -> Labelled:
    """Label through jobs run one after the other in a work folder."""
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    from phonosmith.reference.datasets.dataset import get_dataset
    from phonosmith.reference.jobs import LabelMaker
    from phonosmith.reference.labels import INDEX

    flow = LabelMaker(engine=engine, attempts=attempts, fraction=0.0).make(frames, material)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    workdir.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="jobflow")  # one for every job
        responses = run_locally(flow, log=False, store=store, create_folders=True, root_dir=workdir)
    collected = responses.get(flow.jobs[-1].uuid, {}).get(1)
    if collected is None:
        raise LabelError("The labels could not be collected.", f"Look into {workdir}.")
    report = collected.output
    labelled = [atoms for ref in report.datasets.values() for atoms in get_dataset(ref)]
    labelled.sort(key=lambda atoms: int(atoms.info[INDEX]))
    refused = []
    for failure in report.failures:
        reasons = [f"{reason.code}: {reason.message}" for reason in failure.reasons]
        refused.append({"index": failure.index, "split": failure.split, "reasons": reasons})
    return labelled, refused


@command("label", DATA)
def label(
    frames: Annotated[Path, typer.Argument(metavar="FRAMES.xyz", help="Extended XYZ with the configurations.")],
    engine: Annotated[str, typer.Option(help="Who computes: vasp, forcefield or gpaw.")],
    out: Annotated[Path, typer.Option("--out", metavar="LABELLED.xyz", help="Where the labelled frames go.")],
    potential: str | None = ENGINE_POTENTIAL,
    protocol: Path | None = PROTOCOL,
    workdir: Path | None = WORKDIR,
    rehearsal: bool = REHEARSAL,
    attempts: int = ATTEMPTS,
    material: Annotated[str | None, typer.Option(help="Name in job names (the formula).")] = None,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Compute energies, forces and stresses of frames; what the gate refuses is reported, never written.

    Example: phonosmith label frames.xyz --engine forcefield --potential embedded-reference --out labelled.xyz
    """
    from phonosmith.reference.labels import as_frames, material_name
    from phonosmith.structures.extxyz import read_frames, require_writable, write_frames

    require_writable(out)
    asked = as_frames(read_frames(frames))
    symbols = {symbol for frame in asked for symbol in frame.symbols}
    maker = reference_engine(engine, protocol, potential, symbols, rehearsal=rehearsal, trust=trust)
    if engine == "forcefield":
        labelled, refused = _with_potential(maker, asked, symbols, progress=not json_output)
    else:
        with nullcontext(workdir) if workdir else TemporaryDirectory(prefix="phonosmith-label-") as folder:
            name = material or material_name(asked)
            labelled, refused = _with_jobs(maker, asked, name, Path(folder), attempts)
    if labelled:
        write_frames(out, labelled)
    payload = {
        "engine": engine,
        "rehearsal": rehearsal,
        "n_frames": len(asked),
        "n_labelled": len(labelled),
        "n_refused": len(refused),
        "refused": refused,
        "out": str(out) if labelled else None,
    }
    lines = [f"{len(labelled)} of {len(asked)} frames labelled{f' in {out}' if labelled else ''}."]
    lines += [f"  frame {item['index']} ({item['split']}): {'; '.join(item['reasons'])}" for item in refused]
    answer(payload, lambda: typer.echo("\n".join(lines)), json_output=json_output)
    if not labelled:
        raise typer.Exit(1)
