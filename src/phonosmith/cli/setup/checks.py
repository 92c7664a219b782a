"""What an installation can do, one check for each part of it, and what to do about what it cannot."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phonosmith.cli.common import quiet_libraries
from phonosmith.core.errors import ConfigurationError, PhonosmithError

if TYPE_CHECKING:
    from phonosmith.settings import Settings

# file systems on which SQLite's locks or its shared memory do not work
_NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "beegfs", "ceph", "afs", "panfs", "glusterfs"}
_POTCAR_FOLDERS = ("POT_GGA_PAW_PBE_64", "POT_GGA_PAW_PBE_54", "POT_GGA_PAW_PBE_52", "POT_GGA_PAW_PBE", "potpaw_PBE")
_JOBSTORE_ADVICE = (
    "Write a jobflow.yaml (JOBFLOW_CONFIG_FILE, default ~/.jobflow.yaml) with JOB_STORE; for one machine: "
    'python -c "import yaml; from phonosmith.engines.store.sqlite import open_embedded_jobstore as o; '
    "print(yaml.safe_dump({'JOB_STORE': o('store.sqlite').as_dict()}))\""
)


@dataclass(frozen=True)
class Finding:
    """What one check found; advice is empty when there is nothing to do."""

    name: str
    status: Literal["ok", "warning", "error"]
    message: str
    advice: str = ""
    essential: bool = False


def _refused(name: str, error: PhonosmithError, *, essential: bool = False) -> Finding:
    return Finding(name, "error", error.message, error.advice, essential)


def _settings() -> Settings | None:
    """Return the settings, or None when they are invalid (which has a finding of its own)."""
    from phonosmith.settings import load_settings

    with contextlib.suppress(PhonosmithError):
        return load_settings()
    return None


def check_settings() -> Iterator[Finding]:
    """Read the settings and say where they come from."""
    from phonosmith.settings import CONFIG_FILE_VARIABLE, ENV_PREFIX, Settings, config_file, load_settings

    settings = load_settings()
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_FILE_VARIABLE}
    given = {name for name in os.environ if name.startswith(ENV_PREFIX)}
    source = f"{config_file()} {'read' if config_file().is_file() else 'absent'}, {len(known & given)} variables"
    yield Finding("settings", "ok", f"home {settings.home_dir} ({source})", essential=True)
    if unknown := sorted(given - known):
        advice = f"Known: {', '.join(sorted(known))}."
        yield Finding("settings", "warning", f"{', '.join(unknown)}: not a setting.", advice)


def check_versions() -> Iterator[Finding]:
    """Compare every package with the versions that work."""
    from packaging.requirements import Requirement

    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    wrong, shown = [], []
    for requirement in map(Requirement, importlib.metadata.requires("phonosmith") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        shown.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{shown[-1]} is not {requirement.specifier}")
    if wrong:
        advice = "Install phonosmith again into a clean environment: python -m pip install -U phonosmith."
        yield Finding("packages", "error", "; ".join(wrong) + ".", advice, essential=True)
    else:
        yield Finding("packages", "ok", ", ".join(shown), essential=True)


def check_torch() -> Iterator[Finding]:
    """Compute something with torch on the device that is asked for."""
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = "Install torch for this machine, see https://pytorch.org/get-started."
        raise ConfigurationError(f"cannot be imported: {error}", advice) from error
    asked = settings.device if (settings := _settings()) else "auto"
    from phonosmith.potentials.device import require_device

    device = "cpu" if require_device(asked) == "cpu" else "cuda"
    has_gpu = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    probe = torch.ones(8, dtype=torch.float64, device=device)
    if float((probe @ probe).cpu()) != 8.0:
        raise ConfigurationError(f"{device} computes wrongly.", "Update the GPU driver.")
    cards = f"GPU: {', '.join(gpus)}" if has_gpu else "no GPU"
    seen = f"asked: {asked}; {cards}; {torch.get_num_threads()} threads"
    yield Finding("torch", "ok", f"{torch.__version__} on {device} ({seen})", essential=True)


def check_gpu() -> Iterator[Finding]:
    """Time an evaluation and a training step on the GPU, launched kernel by kernel and recorded."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", "ok", "no GPU: potentials are evaluated and trained on the CPU")
        return
    if (settings := _settings()) is not None and settings.device == "cpu":
        yield Finding("GPU", "ok", "PHONOSMITH_DEVICE=cpu: the GPU is not used, and was not timed")
        return
    from phonosmith.potentials.registry import load

    yield gpu_finding(load("embedded", device="cuda"), "cuda")


def gpu_finding(potential: Any, device: str) -> Finding:
    """Return what an evaluation and a training step of 64 atoms of silicon take on a device."""
    from ase.build import bulk

    from phonosmith.potentials.capture import RECORD_AFTER
    from phonosmith.potentials.device import seconds_per_call
    from phonosmith.potentials.registry import load
    from phonosmith.structures.labels import label_frame
    from phonosmith.training.assemble import assemble
    from phonosmith.training.placement import step_seconds
    from phonosmith.training.spec import make_spec

    cells = [bulk("Si", cubic=True).repeat(2) for _ in range(2)]
    for seed, atoms in enumerate(cells):
        atoms.rattle(0.05, seed=seed)
    recorded, potential.recorded = potential.recorded, None
    found = potential.evaluate_here(cells)
    launched = seconds_per_call(lambda: potential.evaluate_here(cells[:1]), device)
    potential.recorded = recorded
    replayed = seconds_per_call(lambda: potential.evaluate_here(cells[:1]), device, settling=RECORD_AFTER + 1)
    frames = [
        label_frame(atoms, energy=one.energy, forces=one.forces, stress=one.stress)
        for atoms, one in zip(cells, found, strict=True)
    ]
    foundation, steps = load("embedded", dtype="float64", device="cpu"), []
    for how in ("off", "graph"):
        spec = make_spec("transfer", batch_size=1, compile=how)
        steps.append(step_seconds(assemble(foundation, frames, frames, spec, replay=None, seed=0), device))
    message = (
        f"64 atoms, launched and recorded: an evaluation {1000 * launched:.3g} and {1000 * replayed:.3g} ms, a "
        f"training step {1000 * steps[0]:.3g} and {1000 * steps[1]:.3g} ms"
    )
    if recorded.problem:
        advice = "Relaxations will be slow: update torch and the driver."
        return Finding("GPU", "warning", f"{message}; evaluations cannot be recorded: {recorded.problem}.", advice)
    return Finding("GPU", "ok", message)


def _can_be_made(path: Path) -> bool:
    """Tell whether the nearest folder at or above a path can be written to."""
    folder = next(item for item in (path, *path.parents) if item.exists())
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _file_system(path: Path) -> str:
    """Return the type of the file system a path lies on, '' where that is not known."""
    import psutil

    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    around = [point for point in mounts if path.resolve().is_relative_to(point)]
    return str(mounts[max(around, key=len)]) if around else ""


def check_artefact_store() -> Iterator[Finding]:
    """Write to the artefact store."""
    if (settings := _settings()) is None:
        return
    from phonosmith.core.artefacts import MaggmaBackend, open_artefacts, write_atomic

    name, store = "artefact store", open_artefacts(settings)
    if isinstance(store.backend, MaggmaBackend):
        ref = store.put_bytes(b"written by phonosmith doctor", "probe")
        store.backend.read(ref.sha256)
        yield Finding(name, "ok", f"{store.backend.store.name} takes and returns artefacts", essential=True)
        return
    folder = settings.artefacts_dir
    try:
        probe = folder / f".probe-{os.getpid()}"
        write_atomic(probe, b"probe")
        probe.unlink()
    except OSError as error:
        advice = "Make it writable or set PHONOSMITH_ARTEFACTS to another folder."
        raise ConfigurationError(f"{folder}: {error.strerror or error}.", advice) from error
    free = shutil.disk_usage(folder).free / 1e9
    message = f"{folder} is writable, {len(store.backend.keys())} artefacts, {free:.0f} GB free"
    if free >= 1:
        yield Finding(name, "ok", message, essential=True)
    else:
        advice = "Free disk space: models and trajectories need some gigabytes."
        yield Finding(name, "warning", message, advice, essential=True)


def check_embedded_job_store() -> Iterator[Finding]:
    """Open the embedded job store, or see whether it could be made."""
    if (settings := _settings()) is None:
        return
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    name, path = "embedded job store", settings.database_file
    if path.exists():
        with contextlib.closing(open_embedded_jobstore(path)) as store:
            message = f"{path}, {store.count()} documents, SQLite {sqlite3.sqlite_version}"
    elif _can_be_made(path.parent):
        message = f"{path} will be made at first use (SQLite {sqlite3.sqlite_version})"
    else:
        advice = "Set PHONOSMITH_DATABASE to a file in a writable folder on a local disk."
        raise ConfigurationError(f"{path} cannot be made.", advice)
    kind = _file_system(path)
    if kind in _NETWORK or kind.startswith("fuse.ssh"):
        advice = "Set PHONOSMITH_DATABASE to a local disk, or use MongoDB for several machines."
        yield Finding(name, "warning", f"{path} lies on a network file system ({kind}): locks do not hold.", advice)
        return
    yield Finding(name, "ok", message, essential=True)


def check_jobflow_store() -> Iterator[Finding]:
    """Reach every part of jobflow's own job store."""
    from phonosmith.engines.queues.submission import unreachable

    name = "jobflow store"
    try:
        from jobflow.settings import JobflowSettings

        settings = JobflowSettings()
    except Exception as error:
        advice = "Repair the file JOBFLOW_CONFIG_FILE names (default ~/.jobflow.yaml)."
        raise ConfigurationError(f"jobflow.yaml cannot be used: {error}", advice) from error
    store = settings.JOB_STORE
    if type(store.docs_store).__name__ == "MemoryStore":
        message = "results of jobflow's own runners live in memory and vanish with the process."
        yield Finding(name, "warning", message, _JOBSTORE_ADVICE)
        return
    for part, kept in {"documents": store.docs_store, **store.additional_stores}.items():
        if problem := unreachable(kept):
            advice = f"Start the server or repair {part} in {settings.CONFIG_FILE}."
            raise ConfigurationError(f"{part} ({_safe_name(kept)}): {problem}", advice)
    if "data" not in store.additional_stores:
        advice = f"Add additional_stores: data: ... in {settings.CONFIG_FILE}; large outputs go there."
        raise ConfigurationError(f"{_safe_name(store.docs_store)} has no store 'data'.", advice)
    message = f"{_safe_name(store.docs_store)} with {', '.join(store.additional_stores)}"
    yield Finding(name, "ok", message, essential=True)


def _safe_name(store: Any) -> str:
    """Return a store's name without the password that a MongoDB address may hold."""
    scheme, mark, rest = str(store.name).partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def check_vasp_command() -> Iterator[Finding]:
    """Look for the programs that atomate2 would start for VASP."""
    from atomate2 import SETTINGS

    name = "VASP command"
    for variable, given in (("VASP_CMD", SETTINGS.VASP_CMD), ("VASP_GAMMA_CMD", SETTINGS.VASP_GAMMA_CMD)):
        try:
            words = shlex.split(os.path.expandvars(str(given)))
        except ValueError as error:
            advice = f"Repair {variable} in {SETTINGS.CONFIG_FILE}."
            yield Finding(name, "warning", f"{variable} = {given}: {error}.", advice)
            continue
        programs = [word for number, word in enumerate(words) if number == 0 or "vasp" in Path(word).name.lower()]
        missing = [word for word in programs if shutil.which(word) is None]
        if programs and not missing:
            yield Finding(name, "ok", f"{variable} = {given!r}")
            continue
        advice = (
            f"Only needed where VASP runs: set {variable} in {SETTINGS.CONFIG_FILE} (or ATOMATE2_{variable}), "
            "e.g. 'srun vasp_std', or label with another engine."
        )
        yield Finding(name, "warning", f"{variable} = {given!r}: {', '.join(missing)} not found.", advice)


def check_potcars() -> Iterator[Finding]:
    """Look for POTCAR files where pymatgen would."""
    from pymatgen.core import SETTINGS

    given = SETTINGS.get("PMG_VASP_PSP_DIR")
    if not given:
        advice = "Only needed where VASP inputs are written: pmg config --add PMG_VASP_PSP_DIR FOLDER."
        yield Finding("POTCAR folder", "warning", "PMG_VASP_PSP_DIR is not set.", advice)
        return
    folder = Path(str(given)).expanduser()
    for name in _POTCAR_FOLDERS:
        if count := sum(1 for pattern in ("POTCAR*", "*/POTCAR*") for _ in (folder / name).glob(pattern)):
            yield Finding("POTCAR folder", "ok", f"{folder / name}: {count} potentials")
            return
    seen = "does not exist" if not folder.is_dir() else f"holds none of {', '.join(_POTCAR_FOLDERS)}"
    advice = "Prepare it with: pmg config -p EXTRACTED_VASP_PSP TARGET; then pmg config --add PMG_VASP_PSP_DIR TARGET."
    yield Finding("POTCAR folder", "warning", f"{folder} {seen}.", advice)


def check_model_cache() -> Iterator[Finding]:
    """List the published foundations that are here already, for every architecture that is installed."""
    from phonosmith.potentials.architecture import architectures

    for owner in architectures():
        if not owner.foundations or not owner.installed():
            continue
        places = {one.name: owner.cached_file(one)[0] for one in owner.foundations}
        here = [name for name, path in places.items() if path.is_file()]
        folder = next(iter(places.values())).parent
        if here:
            yield Finding("model cache", "ok", f"{folder}: {', '.join(here)}")
        elif _can_be_made(folder):
            advice = "Downloaded when first named; without a network copy one there, or: phonosmith models add FILE."
            yield Finding("model cache", "warning", f"{folder}: none of {', '.join(places)} yet.", advice)
        else:
            advice = "Make it writable or set XDG_CACHE_HOME; without it no foundation can be fetched."
            yield Finding("model cache", "warning", f"{folder} is not writable.", advice)


def check_embedded_potentials() -> Iterator[Finding]:
    """Open the potentials that come with the package."""
    from phonosmith.potentials.registry import EMBEDDED, EMBEDDED_REFERENCE, resolve

    for name in (EMBEDDED, EMBEDDED_REFERENCE):
        try:
            ref = resolve(name)
        except PhonosmithError as error:
            yield _refused(name, error, essential=True)
        else:
            message = f"{ref.architecture}, {', '.join(ref.elements)}, sha256 {ref.short}"
            yield Finding(name, "ok", message, essential=True)


def check_jobflow_remote() -> Iterator[Finding]:
    """Open each project of jobflow-remote: databases, blob store, set-up; nothing where there is no project."""
    if find_spec("jobflow_remote") is None:
        return
    from jobflow_remote import SETTINGS

    from phonosmith.engines.queues.remote import check_databases, open_project

    folder = Path(SETTINGS.projects_folder).expanduser()
    names = sorted(path.stem for kind in ("yaml", "json", "toml") for path in folder.glob(f"*.{kind}"))
    if SETTINGS.project and SETTINGS.project not in names:
        there = ", ".join(names) or "none"
        advice = f"Put the file of the project there, or change JFREMOTE_PROJECT. There is: {there}."
        yield Finding("jobflow-remote", "error", f"{folder} has no project {SETTINGS.project!r}.", advice)
    for label, name in ((f"jobflow-remote {name}", name) for name in names):
        try:
            project = open_project(name)
            check_databases(project)
        except PhonosmithError as error:
            yield _refused(label, error)
        else:
            if project.workers:
                yield Finding(label, "ok", f"databases answer; workers: {', '.join(sorted(project.workers))}")
            else:
                yield Finding(label, "warning", "the project has no workers.", "See 'phonosmith init-cluster'.")


def check_fireworks() -> Iterator[Finding]:
    """Reach FireWorks' database; nothing where no launchpad is configured."""
    if find_spec("fireworks") is None:
        return
    from fireworks.fw_config import LAUNCHPAD_LOC

    if not LAUNCHPAD_LOC:
        return
    from phonosmith.engines.queues.fireworks import known_categories, launchpad_file, open_launchpad

    try:
        path = launchpad_file(None)
        launchpad = open_launchpad(path)
    except PhonosmithError as error:
        yield _refused("FireWorks launchpad", error)
        return
    count = launchpad.fireworks.estimated_document_count()
    categories = sorted(known_categories(path.parent) or ())
    beside = f"; workers beside it take: {', '.join(categories)}" if categories else ""
    yield Finding("FireWorks launchpad", "ok", f"{path} answers, {count} jobs{beside}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_settings,
    check_versions,
    check_torch,
    check_gpu,
    check_artefact_store,
    check_embedded_job_store,
    check_jobflow_store,
    check_vasp_command,
    check_potcars,
    check_model_cache,
    check_embedded_potentials,
    check_jobflow_remote,
    check_fireworks,
)


WORKER_CHECKS = (check_settings, check_versions, check_torch, check_gpu, check_artefact_store)
"""What matters on a machine that runs jobs; where the reference program runs, VASP's checks come on top."""


def run_check(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run one check with libraries kept quiet; an error it raises, and a check that breaks, are findings themselves."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    with quiet_libraries():
        try:
            return list(check())
        except PhonosmithError as error:
            return [_refused(name, error, essential=True)]
        except Exception as error:  # noqa: BLE001 a doctor reports what breaks instead of breaking
            message = f"The check itself failed: {type(error).__name__}: {error}"
            advice = "Report this with the output of 'phonosmith doctor --json'."
            return [Finding(name, "error", message, advice, essential=True)]
