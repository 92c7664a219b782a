"""``phonosmith config``: every setting, its value and where that comes from."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import typer

from phonosmith.cli.common import JSON, START, answer, command, print_table, read_yaml
from phonosmith.core.errors import mask_secrets

if TYPE_CHECKING:
    from pathlib import Path


@command("config", START)
def config(
    init: bool = typer.Option(False, "--init", help="Write a settings file, all commented out; never overwrites."),
    json_output: bool = JSON,
) -> None:
    """Show every setting, its value and its source: environment, settings file or default.

    The settings file is ~/.phonosmith.yaml, or what PHONOSMITH_CONFIG_FILE names.

    Example: phonosmith config --init
    """
    from phonosmith.settings import config_file

    path = config_file()
    if init:
        _write_template(path)
    rows = setting_rows()
    payload = {"file": str(path), "file_exists": path.is_file(), "written": init, "settings": rows}
    if init and not json_output:
        typer.echo(f"Wrote {path}.")
    answer(payload, lambda: _show(rows, path), json_output=json_output)


def setting_rows() -> list[dict[str, Any]]:
    """Return every setting with value, source (environment, file, default), variable and description."""
    from phonosmith.settings import ENV_PREFIX, Settings, config_file, load_settings

    settings = load_settings()
    path = config_file()
    # load_settings has just read it
    written = (read_yaml(path) or {}) if path.is_file() else {}
    # pydantic-settings reads variables in any case
    variables = {name.upper() for name in os.environ}
    effective = {"artefacts": "artefacts_dir", "cache": "cache_dir", "database": "database_file"}
    rows = []
    for name, field in Settings.model_fields.items():
        variable = f"{ENV_PREFIX}{name.upper()}"
        source = "environment" if variable in variables else "file" if name in written else "default"
        value = _plain(getattr(settings, effective.get(name, name)))
        description = field.description or ""
        rows.append({"name": name, "value": value, "source": source, "variable": variable, "description": description})
    return rows


def _plain(value: Any) -> Any:
    return mask_secrets(value if isinstance(value, bool | int | float | dict) or value is None else str(value))


def template() -> str:
    """Return a settings file that changes nothing: every setting commented out, with its default."""
    import yaml

    from phonosmith.settings import ENV_PREFIX, Settings

    lines = [
        "# Settings of phonosmith. Remove the leading '# ' of a line 'name: value' to change it.",
        f"# A variable {ENV_PREFIX}NAME in the environment wins over this file. 'phonosmith config' shows what holds.",
    ]
    for name, field in Settings.model_fields.items():
        text = yaml.safe_dump({name: _plain(field.default)}, default_flow_style=False).strip()
        lines += ["", f"# {field.description}", f"# {text}"]
    return "\n".join(lines) + "\n"


def _write_template(path: Path) -> None:
    """Write the template where no file is; whoever writes first wins, and the file is whole or absent."""
    from phonosmith.core.artefacts import write_atomic
    from phonosmith.core.errors import ConfigurationError, InputError

    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_atomic(fresh, template().encode())
        # a hard link, unlike a rename, fails where the file is already, even when somebody has just written it
        os.link(fresh, path)
    except OSError as error:
        if path.exists():
            raise InputError(f"{path} exists and is left as it is.", "Edit it, or move it away first.") from error
        advice = "Make the folder writable or name another file with PHONOSMITH_CONFIG_FILE."
        raise ConfigurationError(f"Cannot write {path}: {error.strerror or error}.", advice) from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()


def _show(rows: list[dict[str, Any]], path: Path) -> None:
    from rich.text import Text

    lines = []
    for row in rows:
        value = "" if row["value"] is None else str(row["value"])
        source = row["variable"] if row["source"] == "environment" else row["source"]
        style = "" if row["source"] == "default" else "bold"
        lines.append([Text(cell, style) for cell in (row["name"], value, source, row["description"])])
    print_table(("setting", "value", "source", "meaning"), lines, left=4)
    there = "" if path.is_file() else " (not there: 'phonosmith config --init' writes it)"
    typer.echo(f"settings file: {path}{there}")
