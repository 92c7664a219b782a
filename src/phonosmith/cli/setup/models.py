"""``phonosmith models``: add, list, show, export and verify interatomic potentials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phonosmith.cli.common import (
    JOBFLOW,
    JSON,
    MODELS,
    STORE,
    TRUST,
    answer,
    app,
    command,
    open_store,
    print_json,
    print_table,
    quiet_libraries,
)

models_app = typer.Typer(help="Add, list, show, export and verify interatomic potentials.", no_args_is_help=True)
app.add_typer(models_app, name="models", rich_help_panel=MODELS)

_Ref = Annotated[str, typer.Argument(help="Own name, foundation name, sha256 prefix or file.")]


@command("add", group=models_app)
def add_command(
    file: Annotated[
        Path, typer.Argument(help="Model file: of a known architecture, a phonosmith .safetensors or empirical .json.")
    ],
    name: Annotated[str | None, typer.Option(help="Name to call it by; default the file's name.")] = None,
    trust: bool = TRUST,
    sha256: Annotated[str, typer.Option(help="Digest the file must have, at least its first six digits.")] = "",
    json_output: bool = JSON,
) -> None:
    """Bring a model file into the artefact store and give it a name; it is rebuilt and its energies are checked.

    Example: phonosmith models add model/model.model --name si-tuned
    """
    from phonosmith.potentials.registry import add

    with quiet_libraries():
        ref = add(file, name=name, trust=trust, sha256=sha256)
    cutoff = "" if ref.cutoff is None else f", cutoff {ref.cutoff:.2f} Å"
    words = f"Added {ref.name} as {ref.short}: {ref.architecture} for {_elements(ref.elements)}{cutoff}."
    answer(ref, lambda: typer.echo(words), json_output=json_output)


@command("list", group=models_app)
def list_command(json_output: bool = JSON) -> None:
    """List every potential that has a name here, and the foundations that can be fetched.

    Example: phonosmith models list
    """
    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.potentials.architecture import foundations
    from phonosmith.potentials.registry import damaged_entries, list_named

    with quiet_libraries():
        damaged = damaged_entries()
        rows = [
            {**ref.model_dump(mode="json"), "source": source, "available": default_artefacts().has(ref.artefact)}
            for ref, source in list_named()
        ]
    here = {row["name"] for row in rows}
    fetchable = [{"name": one.name, "note": one.note} for _, one in foundations() if one.name not in here]
    if json_output:
        print_json({"models": rows, "foundations": fetchable, "damaged": damaged})
        return
    lines = []
    for row in rows:
        cutoff = "" if row["cutoff"] is None else f"{row['cutoff']:.2f}"
        source = row["source"] if row["available"] else "missing from the artefact store"
        lines.append((row["name"], row["sha256"][:12], row["architecture"], _elements(row["elements"]), cutoff, source))
    print_table(("name", " sha256", " architecture", " elements", " cutoff (Å)", " source"), lines)
    for problem in damaged.values():
        typer.secho(problem, fg="red")
    for one in fetchable:
        typer.echo(f" {one['name']}: fetched when first used ({one['note']})")


@command("show", group=models_app)
def show_command(reference: _Ref, trust: bool = TRUST, json_output: bool = JSON) -> None:
    """Show what a potential is: identity, elements, cutoff, architecture, parents.

    Example: phonosmith models show embedded
    """
    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.potentials.architecture import architecture
    from phonosmith.potentials.registry import resolve

    with quiet_libraries():
        ref = resolve(reference, trust=trust)
        details = architecture(ref.architecture).details(default_artefacts().get_bytes(ref.artefact))
    if json_output:
        print_json({**ref.model_dump(mode="json"), **details})
        return
    for key, value in {**ref.model_dump(mode="json", exclude={"artefact"}), **details}.items():
        match value:
            case dict():
                typer.echo("\n".join([f"{key}:", *(f"  {field}: {content}" for field, content in value.items())]))
            case list():
                typer.echo(f"{key}: {' '.join(map(str, value))}")
            case _:
                typer.echo(f"{key}: {value}")


@command("export", group=models_app)
def export_command(
    reference: _Ref,
    file: Annotated[
        Path, typer.Argument(help="File to write; a name ending in .safetensors gets the artefact itself.")
    ],
    lammps: Annotated[
        bool, typer.Option("--lammps", help="Write for LAMMPS' pair_style mace (TorchScript) instead.")
    ] = False,
    mliap: Annotated[
        bool, typer.Option("--mliap", help="Write for LAMMPS' pair_style mliap unified (Python, GPUs) instead.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Write a potential as the plain file the rest of the world reads (for MACE a .model), or as a file for LAMMPS.

    Example: phonosmith models export si-tuned si-lammps.pt --lammps
    """
    from phonosmith.core.artefacts import default_artefacts, write_atomic
    from phonosmith.core.errors import InputError
    from phonosmith.core.hashing import digest_file
    from phonosmith.potentials.registry import export_lammps, export_plain, resolve

    if lammps and mliap:
        raise InputError("--lammps and --mliap are two kinds of file.", "Give one of them.")
    if file.exists() and not force:
        raise InputError(f"{file} exists.", "Give another name, or --force to replace it.")
    if not file.parent.is_dir():
        raise InputError(f"There is no folder {file.parent}.", "Create it first.")
    with quiet_libraries():
        ref = resolve(reference, trust=trust)
        if lammps or mliap:
            export_lammps(ref, file, "mliap" if mliap else "torchscript")
        elif file.suffix == ".safetensors":
            write_atomic(file, default_artefacts().get_bytes(ref.artefact))
        else:
            export_plain(ref, file)
    elements = " ".join(ref.elements)
    use = ""
    if lammps:
        use = f"\npair_style mace no_domain_decomposition\npair_coeff * * {file} {elements}"
    elif mliap:
        use = f"\npair_style mliap unified {file} 0\npair_coeff * * {elements}"
    payload = {"file": str(file), "file_sha256": digest_file(file), "potential": ref, "pair_style": use.split("\n")[1:]}
    answer(payload, lambda: typer.echo(f"Wrote {ref.name} ({ref.short}) to {file}.{use}"), json_output=json_output)


@command("card", group=models_app)
def card_command(
    reference: _Ref,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write (default: print).")] = None,
    training: Annotated[Path | None, typer.Option(help="training.json that 'phonosmith train' wrote.")] = None,
    store: Path | None = STORE,
    jobflow: bool = JOBFLOW,
    trust: bool = TRUST,
    json_output: bool = JSON,
) -> None:
    """Write the card of a fine-tuned potential: data, settings, verdict, limits, licence of its foundation.

    Training and verdict are looked up in the job store, or in a file of 'phonosmith train'.

    Example: phonosmith models card si-tuned --training try/model/training.json
    """
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.potentials.registry import resolve
    from phonosmith.report.card import Evidence, find_evidence, model_card, read_training

    with quiet_libraries():
        ref = resolve(reference, trust=trust)
        evidence = Evidence()
        if store is not None or jobflow:
            opened = open_store(store, jobflow=jobflow)
            opened.connect()
            evidence = find_evidence(opened, ref)
        if training is not None:
            evidence = Evidence(read_training(training), evidence.material)
        card = model_card(ref, evidence)
    if out is not None:
        write_atomic(out, card.encode())
    payload = {
        "file": None if out is None else str(out),
        "potential": ref,
        "card": card,
        "training": evidence.training is not None,
        "judged": evidence.judged(ref) is not None,
    }
    answer(payload, lambda: typer.echo(card if out is None else f"Wrote {out}."), json_output=json_output)


@command("verify", group=models_app)
def verify_command(json_output: bool = JSON) -> None:
    """Check every named potential: present, unaltered, rebuilt by the installed packages, predicting what it did.

    Example: phonosmith models verify
    """
    from phonosmith.potentials.registry import Verification, damaged_entries, list_named, verify_potential

    with quiet_libraries():
        checked = [verify_potential(ref) for ref, _ in list_named()]
    checked += [
        Verification(name=name, sha256="", ok=False, message=words) for name, words in damaged_entries().items()
    ]
    ok = all(one.ok for one in checked)
    lines = [f"{'ok ' if one.ok else 'BAD'} {one.name} {one.sha256[:12]} {one.message}" for one in checked]
    answer({"ok": ok, "models": checked}, lambda: typer.echo("\n".join(lines)), json_output=json_output)
    if not ok:
        raise typer.Exit(1)


def _elements(elements: list[str]) -> str:
    return " ".join(elements) if len(elements) <= 8 else f"{len(elements)} elements"
