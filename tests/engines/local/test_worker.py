import subprocess
import sys

from helpers.processes import ended

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


def test_a_worker_ends_when_its_runner_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.stdout.readline()  # the child watches now
    assert not ended(child)
    parent.kill()
    parent.wait()
    assert ended(child, seconds=60)
