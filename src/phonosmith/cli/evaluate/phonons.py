"""``phonosmith phonons``: harmonic phonons of a structure with a potential."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phonosmith.cli.output import JSON_OPTION, explained, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    @explained
    def phonons(
        structure: Annotated[Path, typer.Argument(help="CIF, POSCAR or other structure file")],
        potential: Annotated[
            str, typer.Option(help="foundation name, embedded, own name, sha256 prefix or model file")
        ],
        out: Annotated[Path, typer.Option(help="folder for phonopy.yaml (with forces) and phonons.json")],
        supercell: Annotated[
            str | None, typer.Option(help='"4 4 4" or nine integers (phonopy\'s matrix); default by --min-length')
        ] = None,
        min_length: Annotated[float | None, typer.Option(help="shortest supercell edge, Å [default: 20]")] = None,
        no_relax: Annotated[bool, typer.Option("--no-relax", help="take cell and positions as they are")] = False,
        mesh: Annotated[int, typer.Option(help="q-points along each axis for thermodynamics")] = 20,
        temperature: Annotated[list[float] | None, typer.Option(help="K; repeat for several [default: 300]")] = None,
        force_constants: Annotated[str, typer.Option(help="symfc or traditional")] = "symfc",
        displacement: Annotated[float, typer.Option(help="Å")] = 0.01,
        trust: Annotated[bool, typer.Option("--trust", help="open a foreign model file that could run code")] = False,
        json_output: bool = JSON_OPTION,
    ) -> None:
        """Relax a crystal with a potential and compute its phonons in one go."""
        from phonosmith.core.errors import InputError
        from phonosmith.evaluation.phonons.fastpath import evaluate_phonons, parse_supercell
        from phonosmith.evaluation.phonons.summary import write_phonons
        from phonosmith.potentials.registry import load, resolve
        from phonosmith.structures.reading import read_structure

        if force_constants not in {"symfc", "traditional"}:
            raise InputError(f"Unknown --force-constants {force_constants!r}.", "Choose symfc or traditional.")
        if displacement <= 0:
            raise InputError(f"--displacement {displacement} is not positive.", "Give e.g. 0.01.")
        if supercell is not None and min_length is not None:
            raise InputError("--supercell and --min-length exclude each other.", "Give one of them.")
        matrix = None if supercell is None else parse_supercell(supercell)
        crystal = read_structure(structure)
        ref = resolve(potential, trust=trust)
        result = evaluate_phonons(
            crystal,
            load(ref),
            supercell_matrix=matrix,
            min_length=min_length,
            relax=not no_relax,
            mesh=mesh,
            temperatures=temperature or [300.0],
            displacement=displacement,
            fc_calculator="symfc" if force_constants == "symfc" else "traditional",
            ref=ref,
            progress=not json_output,
        )
        files = write_phonons(result.model, result.document, out)
        document = result.document
        if json_output:
            kept = document.model_dump(mode="json", exclude={"structure"})
            print_json({**kept, "files": {name: str(path) for name, path in files.items()}})
            return
        typer.echo(
            f"{document.formula} {document.space_group}: "
            f"ω {document.omega_min_thz:.3f} to {document.omega_max_thz:.3f} THz, "
            f"mean {document.omega_mean_thz:.3f} THz; "
            + ("stable" if document.stability.stable else f"{document.stability.n_imaginary} imaginary modes")
        )
        heat = document.thermal
        for kelvin, c, s, f in zip(heat.temperatures, heat.heat_capacity, heat.entropy, heat.free_energy, strict=True):
            typer.echo(f"{kelvin:g} K: C_v {c:.3f} J/K/mol, S {s:.3f} J/K/mol, F {f:.4f} kJ/mol")
        for path in files.values():
            typer.echo(str(path))
