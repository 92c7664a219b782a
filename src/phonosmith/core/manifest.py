"""The provenance record every document carries."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.hashing import digest_json

TRACKED_PACKAGES = (
    "phonosmith", "numpy", "scipy", "torch", "mace-torch", "e3nn", "ase", "phonopy", "symfc", "spglib", "seekpath",
    "hiphive", "pymatgen", "atomate2", "jobflow", "custodian", "maggma",
)  # fmt: skip


def package_versions(names: tuple[str, ...] = TRACKED_PACKAGES) -> dict[str, str]:
    """Return the installed versions of the packages that can change a number."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Manifest(Document):
    """What went in, with which settings and software, where and for how long."""

    schema_version: int = Field(1, description="version of this record's layout")
    inputs: dict[str, str] = Field(default_factory=dict, description="sha256 of every input by role")
    settings: dict[str, Any] = Field(default_factory=dict, description="every setting that can change the result")
    settings_digest: str = Field("", description="canonical sha256 of settings")
    seed: int | None = Field(None, description="seed of every random draw")
    packages: dict[str, str] = Field(default_factory=dict, description="versions of numerical packages")
    host: dict[str, Any] = Field(default_factory=dict, description="kind of machine (no host name)")
    started: str = Field("", description="UTC time the work started, ISO 8601")
    wall_seconds: float = Field(0.0, description="wall time in s")


def host_kind() -> dict[str, Any]:
    """Describe the machine without naming it: system, processor architecture, cores available to this process."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": available_cores(),
    }


_RECORDING: ContextVar[tuple[Manifest, ...]] = ContextVar("recording", default=())
"""Records of the work that is being done now, the innermost last."""


def note_device(device: str, reason: str, *, deterministic: bool) -> None:
    """Write into every record being made on which device (cpu, cuda) its work is done, and why there.

    Work on several devices names each once. ``deterministic``: every sum was taken in the same order each time, so that
    the numbers are those of another run to the bit; once it is not, the record says so.
    """
    for manifest in _RECORDING.get():
        host = manifest.host
        for key, value in (("device", device), ("device_reason", f"{device}: {reason}")):
            known = str(host.get(key, ""))
            if value not in known.split("; "):
                host[key] = "; ".join(filter(None, [known, value]))
        host["deterministic"] = bool(host.get("deterministic", True)) and deterministic


def available_cores() -> int:
    """Return the cores a calculation started here may use: those of the SLURM job, else of this process."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    if tasks.isdigit():
        each = os.environ.get("SLURM_CPUS_PER_TASK", "")
        return int(tasks) * (int(each) if each.isdigit() else 1)
    return process_cores()


def process_cores() -> int:
    """Return the cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_in_use() -> int:
    """Return 1 when this process has touched a GPU through torch, else 0; torch is never imported for it."""
    torch = sys.modules.get("torch")
    return int(torch is not None and bool(torch.cuda.is_initialized()))


def thread_cores() -> int:
    """Return the cores the libraries of this one process may use: as many as it has threads, where that is limited."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return min(process_cores(), int(threads)) if threads.isdigit() and int(threads) > 0 else process_cores()


@contextmanager
def recorded(
    inputs: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None, seed: int | None = None
) -> Iterator[Manifest]:
    """Yield a manifest that is complete, wall time included, when the block ends."""
    chosen = dict(settings or {})
    manifest = Manifest(
        inputs=dict(inputs or {}),
        settings=chosen,
        settings_digest=digest_json(chosen),
        seed=seed,
        packages=package_versions(),
        host=host_kind(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    start = time.perf_counter()
    _RECORDING.set((*_RECORDING.get(), manifest))
    try:
        yield manifest
    finally:
        # not by a token: trainings that take turns end in any order
        _RECORDING.set(tuple(one for one in _RECORDING.get() if one is not manifest))
        manifest.wall_seconds = time.perf_counter() - start
        manifest.host["gpus"] = gpus_in_use()
