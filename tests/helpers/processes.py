"""Whether a process has ended."""

import time

import psutil


def ended(pid, seconds=0):
    """Say whether a process ends within a time: gone, or a zombie that nobody has collected yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
