"""Materials of a study side by side: each in a process of its own, on processor cores or sharing a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def add_options(parser):
    """Add what :func:`side_by_side` reads."""
    parser.add_argument("--workers", type=int, default=1, help="materials at once, each in a process of its own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to train and evaluate")


def side_by_side(arguments, names):
    """Run the study once for each material; the call that follows finds their results in the work folder.

    A material that fails stops none of the others: the call that follows meets its error again.
    """
    os.environ["PHONOSMITH_DEVICE"] = arguments.device
    if arguments.workers == 1 or len(names) == 1:
        return

    def alone(name):
        # the last of repeated options counts
        again = [*sys.argv, "--materials", name, "--workers", "1", "--out", os.devnull]
        subprocess.run([sys.executable, *again], check=False)

    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(alone, names))
