"""Run every command the README shows, in an environment of its own.

    python tools/run_readme.py [--python PYTHON | --venv FOLDER]

Blocks marked ``sh`` are run line by line in the repository's folder. Without ``--python`` a fresh virtual environment
is made first, and blocks marked ``python`` are run in it as scripts; in one that is there tests/test_readme.py does.
``demo-out``, which the README's first command leaves, is used when it is there; lines that need it are listed as
skipped otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(text: str, kind: str) -> list[str]:
    """Return the fenced blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """Return the command lines of all shell blocks, comments removed."""
    lines = [line.split("  #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def main() -> int:
    """Run everything; return the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of an environment that is there already")
    parser.add_argument("--venv", type=Path, help="where to make the fresh environment; a temporary folder by default")
    arguments = parser.parse_args()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        if arguments.python is None:
            folder = arguments.venv or work / "venv"
            venv.create(folder, with_pip=True, clear=True)
            binaries = folder / "bin"
        else:
            binaries = arguments.python.absolute().parent
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PHONOSMITH_")} | {
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PHONOSMITH_HOME": str(work / "home"),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        failed = 0
        for line in commands(text):
            if line.startswith("pip ") and arguments.python is not None:
                continue
            if "demo-out" in line and not (ROOT / "demo-out").is_dir():
                print(f"skipped (make demo first): {line}")
                continue
            failed += run(["bash", "-c", line], line, ROOT, environment)
        for number, code in enumerate(blocks(text, "python") if arguments.python is None else ()):
            script = work / f"example{number}.py"
            script.write_text(code, encoding="utf-8")
            failed += run([str(binaries / "python"), str(script)], f"python example {number}", work, environment)
    shutil.rmtree(ROOT / "try", ignore_errors=True)
    print(f"{failed} failed" if failed else "every command ran")
    return failed


def run(command: list[str], name: str, folder: Path, environment: dict[str, str]) -> int:
    """Run one command; return 1 and show its output when it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    ok = done.returncode == 0 or (name == "phonosmith doctor" and done.returncode == 1)
    print(f"{'ok ' if ok else 'NO '} {time.perf_counter() - start:5.0f} s  {name}", flush=True)
    if not ok:
        print(done.stdout[-2000:], done.stderr[-3000:], flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
