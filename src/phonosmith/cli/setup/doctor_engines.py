"""Checks of ``phonosmith doctor`` for clusters: projects of jobflow-remote, the launchpad of FireWorks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from phonosmith.cli.setup.doctor_checks import Finding
from phonosmith.core.errors import PhonosmithError


def check_jobflow_remote() -> Iterator[Finding]:
    """Open each project of jobflow-remote: databases, blob store, set-up; nothing where there is no project."""
    from jobflow_remote import SETTINGS

    folder = Path(SETTINGS.projects_folder).expanduser()
    names = sorted(path.stem for kind in ("yaml", "json", "toml") for path in folder.glob(f"*.{kind}"))
    if SETTINGS.project and SETTINGS.project not in names:
        advice = (
            f"Put the file of the project there, or change JFREMOTE_PROJECT. There is: {', '.join(names) or 'none'}."
        )
        yield Finding("jobflow-remote", "error", f"{folder} has no project {SETTINGS.project!r}.", advice)
    for name in names:
        yield _project(name)


def _project(name: str) -> Finding:
    from phonosmith.engines.queues.remote import check_databases, open_project

    label = f"jobflow-remote {name}"
    try:
        project = open_project(name)
        check_databases(project)
    except PhonosmithError as error:
        return Finding(label, "error", error.message, error.advice)
    if not project.workers:
        return Finding(label, "warning", "the project has no workers.", "See workflows/jobflow-remote.")
    return Finding(label, "ok", f"databases answer; workers: {', '.join(sorted(project.workers))}")


def check_fireworks() -> Iterator[Finding]:
    """Reach FireWorks' database; nothing where no launchpad is configured."""
    from fireworks.fw_config import LAUNCHPAD_LOC

    if not LAUNCHPAD_LOC:
        return
    from phonosmith.engines.queues.fireworks import known_categories, launchpad_file, open_launchpad

    try:
        path = launchpad_file(None)
        launchpad = open_launchpad(path)
    except PhonosmithError as error:
        yield Finding("FireWorks launchpad", "error", error.message, error.advice)
        return
    count = launchpad.fireworks.estimated_document_count()
    categories = sorted(known_categories(path.parent) or ())
    beside = f"; workers beside it take: {', '.join(categories)}" if categories else ""
    yield Finding("FireWorks launchpad", "ok", f"{path} answers, {count} jobs{beside}")


ENGINE_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (check_jobflow_remote, check_fireworks)
