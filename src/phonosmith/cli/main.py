"""The ``phonosmith`` command: every subcommand lives in its own module and imports heavy libraries only when run."""

# importing a module adds its commands, in the order of --help
# ruff: noqa: F401, I001

from __future__ import annotations

import typer

from phonosmith.cli.common import app
from phonosmith.cli import tune, demo
from phonosmith.cli.setup import doctor, config
from phonosmith.cli.data import plan, sample, label, dataset, from_phonons
from phonosmith.cli import replay, train, pft, adapt
from phonosmith.cli.evaluate import relax, phonons, compare, follow, score_phases, forgetting, elastic, thermal
from phonosmith.cli.campaign import run, retry, status, report, tables, submit
from phonosmith.cli.setup import cluster
from phonosmith.cli.setup import models


def _version(show: bool) -> None:
    if show:
        from phonosmith import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version, exit."),
) -> None:
    """Root command."""


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
