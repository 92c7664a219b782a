"""A persistent worker process of the local runner: imports once, then runs job after job.

Started by the runner as ``python -m phonosmith.engines.local.worker STORE.json``. It says that it is ready, then reads
one JSON task per line on standard input and answers each with one JSON line on what was its standard output.
What jobs print goes to their folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import PhonosmithError, lacks_room

if TYPE_CHECKING:
    from jobflow import JobStore

RESPONSE_FILE = "response.json"
RESULT = "result"
"""Key of a response: digest of what the job's output says, whatever becomes of its document."""


def attempt(document: str, folder: Path, store: JobStore) -> dict[str, Any]:
    """Run a job (JSON) in its folder.

    Return the ``error`` it ended with, if any, whether there was no room, and whether it ``reused`` a result.
    """
    try:
        reused = run_task(document, folder, store)
    except Exception as error:  # noqa: BLE001 - whatever a job raises is its result
        with contextlib.suppress(OSError):
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        words = str(error) if isinstance(error, PhonosmithError) else f"{type(error).__name__}: {error}"
        return {"error": words, "no_room": lacks_room(error)}
    return {"error": None, "reused": reused}


def run_task(document: str, folder: Path, store: JobStore) -> bool:
    """Run a job (JSON) in its folder; say whether it handed on the result of an equal job.

    Its response is kept there before anybody is told that it is done.
    """
    from monty.json import MontyDecoder, MontyEncoder, jsanitize

    from phonosmith.core.reuse import REUSED
    from phonosmith.core.sealing import result_digest
    from phonosmith.engines.store.sealed import SealedJobStore

    job = MontyDecoder().decode(document)
    response = job.run(store=SealedJobStore.over(store, folder))
    fields = ("replace", "detour", "addition", "stop_children", "stop_jobflow")
    kept = {name: getattr(response, name) for name in fields}
    output = jsanitize(response.output, strict=True, enum_values=True, allow_bson=True)
    kept[RESULT] = result_digest(output)
    write_atomic(folder / RESPONSE_FILE, json.dumps(kept, cls=MontyEncoder).encode())
    return REUSED in job.metadata


def end_with_parent(interval: float = 0.2) -> None:
    """End this process, and every program it has started, soon after its runner is gone, even in the middle of a job.

    A runner that was killed is started again at once by many users: an orphan still at work would then write into the
    folder of the job that is being repeated.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _print_to(descriptor: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def main() -> None:
    """Serve tasks until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    _print_to(2)
    end_with_parent()
    import psutil
    from monty.json import MontyDecoder

    store = MontyDecoder().process_decoded(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    store.connect()
    home = Path.cwd()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        task = json.loads(line)
        folder = Path(task["folder"])
        try:
            with (folder / "job.log").open("a", encoding="utf-8") as log:
                _print_to(log.fileno())
                os.chdir(folder)
                answer = attempt(task["document"], folder, store)
                os.chdir(home)
                sys.stdout.flush()
                sys.stderr.flush()
        except OSError as error:
            answer = {"error": str(error), "no_room": lacks_room(error)}
        answer["memory_gb"] = psutil.Process().memory_info().rss / 1e9
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
