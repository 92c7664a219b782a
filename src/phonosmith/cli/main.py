"""The ``phonosmith`` command: every subcommand lives in its own module and imports heavy libraries only when run."""

from __future__ import annotations

import importlib

import typer

from phonosmith.cli.common import app

# importing a module adds its commands; modules stay light at import so that --help is instant
COMMAND_MODULES = (
    "setup.doctor",
    "setup.models",
    "data.plan",
    "data.sample",
    "data.label",
    "data.dataset",
    "data.from_phonons",
    "train",
    "evaluate.phonons",
    "evaluate.compare",
    "evaluate.follow",
    "evaluate.score_phases",
    "evaluate.forgetting",
    "evaluate.elastic",
    "campaign.report",
    "campaign.tables",
    "campaign.status",
    "setup.config",
    "campaign.run",
    "demo",
    "campaign.submit",
)


def _version(show: bool) -> None:
    if show:
        from phonosmith import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Root command."""


for _module in COMMAND_MODULES:
    importlib.import_module(f"phonosmith.cli.{_module}")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
