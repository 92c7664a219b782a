"""The job store a command reads: a SQLite file or what jobflow.yaml names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from jobflow import JobStore

STORE_OPTION = typer.Option(None, "--store", help="SQLite job store; by default that of your settings.")
JOBFLOW_OPTION = typer.Option(False, "--jobflow", help="Read the job store of jobflow.yaml (MongoDB, ...).")


def open_store(path: Path | None, *, jobflow: bool) -> JobStore:
    """Return an existing job store.

    Parameters
    ----------
    path
        SQLite file; a folder stands for the ``store.sqlite`` in it. The file of the settings when None.
    jobflow
        The store of ``jobflow.yaml`` instead.

    Raises
    ------
    InputError
        For two stores at once, or a file that is not there: reading makes no new store.
    ConfigurationError
        When jobflow.yaml cannot be used.
    """
    if jobflow:
        if path is not None:
            raise InputError("--store and --jobflow name two stores.", "Give one of them.")
        return _configured()
    from phonosmith.settings import get_settings

    file = path or get_settings().database_file
    if file.is_dir():
        file = file / "store.sqlite"
    if not file.is_file():
        raise InputError(
            f"There is no job store {file}.", "Name one with --store, or use --jobflow for that of jobflow.yaml."
        )
    with file.open("rb") as stream:
        start = stream.read(16)
    if start and start != b"SQLite format 3\x00":
        raise InputError(f"{file} is no SQLite file.", "Name the store.sqlite that a run wrote.")
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    return open_embedded_jobstore(file)


def _configured() -> JobStore:
    from maggma.stores import MemoryStore

    from phonosmith.core.errors import ConfigurationError
    from phonosmith.engines.queues.fireworks import configured_store

    store, where = configured_store()
    # exactly MemoryStore: its subclasses keep files
    if type(store.docs_store) is MemoryStore:
        raise ConfigurationError(
            f"jobflow's job store is in memory and forgets everything ({where} names no other).",
            "Write a JOB_STORE into jobflow.yaml ('phonosmith doctor' shows one), or name a SQLite file with --store.",
        )
    return store
