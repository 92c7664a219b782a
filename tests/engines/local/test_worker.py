import os
import subprocess
import sys
import time

CHILD = """
import time
from phonosmith.engines.local.worker import end_with_parent
end_with_parent(0.05)
print(flush=True)
time.sleep(120)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(120)
"""


def runs(pid):
    """Say whether a process runs: gone, or a zombie nobody collects, is not."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_ends_when_its_runner_is_killed():
    if not os.path.isdir("/proc/self"):
        import pytest

        pytest.skip("needs /proc")
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.stdout.readline()  # the child watches now
    assert runs(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(child)
