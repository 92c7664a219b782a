"""Check a built wheel: one top-level name, no test helpers, and it installs and answers in a clean environment.

Usage: ``python tools/check_wheel.py dist``
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

PACKAGE = "phonosmith"
REQUIRED = (
    f"{PACKAGE}/py.typed",
    f"{PACKAGE}/cli/main.py",
    f"{PACKAGE}/potentials/embedded/foundation.safetensors",
    f"{PACKAGE}/report/page/templates/report.html.j2",
)
STANDIN = {f"{PACKAGE}/testing/{name}.py" for name in ("__init__", "vasp_standin")} | {
    f"{PACKAGE}/testing/standin_{part}.py" for part in ("calculators", "faults", "inputs", "writers")
}


def check_content(wheel: Path) -> list[str]:
    """Return what is wrong with the files in a wheel."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    problems = [] if tops == {PACKAGE} else [f"top-level names are {sorted(tops)}, expected only {PACKAGE}"]
    testing = {name for name in names if name.startswith(f"{PACKAGE}/testing/")}
    problems += [f"{name} does not belong into the wheel" for name in sorted(testing - STANDIN)]
    return problems + [f"{name} is missing" for name in (*REQUIRED, *sorted(STANDIN)) if name not in names]


def check_installation(wheel: Path) -> list[str]:
    """Install the wheel with its dependencies into a new environment and run it there."""
    constraints = Path(__file__).resolve().parents[1] / "constraints.txt"
    torch = next(line for line in constraints.read_text().splitlines() if line.startswith("torch=="))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints)]
        subprocess.run([*pip, torch], check=True)
        subprocess.run([*pip, str(wheel.resolve())], check=True)
        run = subprocess.run(
            [str(Path(folder) / "bin" / PACKAGE), "models", "show", "embedded", "--json"],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
        return [] if run.returncode == 0 else [f"the installed command failed: {run.stdout}{run.stderr}"]


def main() -> int:
    """Check the only wheel in the folder given."""
    wheels = list(Path(sys.argv[1]).glob("*.whl"))
    if len(wheels) != 1:
        print(f"expected one wheel in {sys.argv[1]}, found {len(wheels)}")
        return 1
    problems = check_content(wheels[0]) or check_installation(wheels[0])
    print("\n".join(problems) if problems else f"{wheels[0].name}: one top-level name, installs, runs")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
