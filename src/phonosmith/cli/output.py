"""What every command does the same way: one JSON object, friendly tables, advice on errors."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer

from phonosmith.core.errors import InputError, PhonosmithError

P = ParamSpec("P")
R = TypeVar("R")

JSON_OPTION = typer.Option(
    False, "--json", help="Print one JSON object on standard output; everything else on standard error."
)


def print_json(payload: Any) -> None:
    """Print one JSON object on standard output (not-a-number becomes null: JSON has no NaN)."""
    sys.stdout.write(json.dumps(_plain(payload), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one line with advice and the right exit code; anything else keeps its traceback.

    With ``--json`` the object ``{"error": ..., "advice": ...}`` is printed as well, so that scripts see the reason. A
    file the system refuses (no permission, no space, a file where a folder should be) is the user's to mend, too.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PhonosmithError as error:
            problem: PhonosmithError = error
        except OSError as error:
            if error.filename is None or error.strerror is None:
                raise
            problem = InputError(
                f"Cannot use {error.filename}: {error.strerror}.", "Check the path, its permissions and the disk space."
            )
            problem.__cause__ = error
        if kwargs.get("json_output"):
            print_json({"error": problem.message, "advice": problem.advice})
        typer.secho(f"Error: {problem.message}", fg="red", err=True)
        if problem.advice:
            typer.secho(f"  -> {problem.advice}", err=True)
        raise typer.Exit(problem.exit_code) from problem

    return wrapper
