"""Work spread over the GPUs of a node: one process for each card, which sees no other.

CUDA is bound to its cards when it begins, and one process would launch the kernels of all of them in turn.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, cast

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import PhonosmithError, mask_secrets
from phonosmith.potentials.device import CARDS_VARIABLE


def shares(weights: Sequence[float], cards: int) -> list[list[int]]:
    """Return which work each card gets, by number: the heaviest first, always to the card with the least so far."""
    loads, parts = [0.0] * cards, [list[int]() for _ in range(cards)]
    for number in sorted(range(len(weights)), key=lambda one: -weights[one]):
        lightest = min(range(cards), key=lambda card: (loads[card], len(parts[card])))
        loads[lightest] += weights[number]
        parts[lightest].append(number)
    return [sorted(part) for part in parts]


def on_each_card(function: str, work: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Call a function in a process of its own for each card, all at the same time.

    Parameters
    ----------
    function
        ``module:name``.
    work
        Keyword arguments by card, as JSON can carry them (monty's).
    folder
        Where the processes leave what they print and answer, in ``card_N``; they work in the current folder.

    Returns
    -------
    Answers by card; an exception where a process ended without one.
    """
    from monty.json import MontyDecoder, MontyEncoder

    answers: dict[str, Any] = {}
    with ExitStack() as stack:
        processes = {}
        for number, (card, arguments) in enumerate(work.items()):
            place = folder / f"card_{number}"
            place.mkdir(parents=True, exist_ok=True)
            (place / _ANSWER).unlink(missing_ok=True)
            task = {"function": function, "arguments": arguments, "answer": str(place / _ANSWER)}
            log = stack.enter_context((place / "log").open("ab"))
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, CARDS_VARIABLE: card},
            )
            # left early, as by Ctrl-C: the processes end when what they read does
            tasks = stack.enter_context(cast("IO[bytes]", process.stdin))
            # one that is dead already is seen below
            with suppress(BrokenPipeError):
                tasks.write(json.dumps(task, cls=MontyEncoder).encode() + b"\n")
                tasks.flush()
            processes[card] = process, place
        for card, (process, place) in processes.items():
            code = process.wait()
            try:
                answers[card] = MontyDecoder().decode((place / _ANSWER).read_text(encoding="utf-8"))
            except FileNotFoundError:
                tail = (place / "log").read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2][-300:]
                answers[card] = RuntimeError(f"the process of GPU {card} ended with code {code}: {tail}")
    return answers


_ANSWER = "answer.json"


def _end_with_parent() -> None:
    """Wait until the parent is gone: nobody would take the answer, and a repeated job writes into the same folders."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Do what the first line of standard input says; end when it closes."""
    from monty.json import MontyDecoder, MontyEncoder

    task = MontyDecoder().decode(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, name = task["function"].partition(":")
    try:
        answer = getattr(importlib.import_module(module), name)(**task["arguments"])
    except PhonosmithError as error:
        sys.exit(mask_secrets(str(error)))
    write_atomic(Path(task["answer"]), json.dumps(answer, cls=MontyEncoder).encode())


if __name__ == "__main__":
    main()
