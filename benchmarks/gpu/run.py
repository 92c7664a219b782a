"""What a GPU gives: steps, epochs, whole trainings, packs, curvature, inference, memory; goals as ratios of one run.

Run: ``python benchmarks/gpu/run.py [--quick] [--out FILE]`` on a machine with a CUDA device; under ten minutes with
``--quick``. Results go to FILE (default results.json beside this script) and, as a page, to FILE with the ending .md.
Without a GPU it says so and ends; ``--cpu`` runs everything tiny on the CPU, which shows that the script works, and its
times mean nothing.

Every section is a process of its own: one that fails, or takes longer than ``--limit`` seconds, leaves the others
alone and what it had measured. Run again, the script goes on with the sections that are not done; ``--again NAME ...``
repeats some. mace and Equitrain run in processes that never import phonosmith (peers.py). Models have random weights
and train on rattled SnTe with Lennard-Jones labels: times do not depend on what is learnt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from sections import SECTIONS, Plan, Results, write

from report import goals, judged, page

HERE = Path(__file__).parent
QUICK_LIMITS = {"training": 190, "process": 110, "packs": 60, "curvature": 80, "inference": 100, "choices": 50}
"""Seconds."""


def machine(plan):
    """Return what was measured on."""
    import torch

    card = {"gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda} if plan.device == "cuda" else {}
    return {
        "device": plan.device,
        **card,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "plan": plan.pick("full", "quick", "tiny"),
        "date": time.strftime("%Y-%m-%d"),
    }


def run_section(name, arguments, limit):
    """Run one section in a process of its own and return what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows.json", Path(folder) / "log.txt"
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--section",
            name,
            "--rows",
            str(rows),
            "--limit",
            str(limit),
        ]
        command += ["--quick"] * arguments.quick + ["--cpu"] * arguments.cpu
        start, error = time.perf_counter(), ""
        with log.open("w") as stream:
            try:
                # a group of its own: programs that a section runs must not go on holding the GPU
                process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
                process.wait(timeout=limit)
                if process.returncode:
                    last = [
                        line
                        for line in log.read_text().splitlines()
                        if re.match(r"\w[\w.]*(Error|Exception|Interrupt)", line)
                    ]
                    error = last[-1][:300] if last else f"its process ended with {process.returncode}"
            except subprocess.TimeoutExpired:
                error = f"stopped after {limit:g} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        found = json.loads(rows.read_text()) if rows.exists() else []
    status = "failed" if error else "some rows failed" if any("error" in row for row in found) else "done"
    return {"status": status, "error": error, "seconds": time.perf_counter() - start, "rows": found}


def parsed(arguments=None):
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer settings and epochs: under ten minutes")
    parser.add_argument("--cpu", action="store_true", help="tiny, on the CPU: shows that the script works")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), help="sections to run (default: all)")
    parser.add_argument("--again", nargs="*", choices=list(SECTIONS), default=[], help="sections to repeat")
    parser.add_argument(
        "--limit", type=float, help="seconds a section may take (default 1200, with --quick together 590)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(given=None) -> int:
    """Run the sections that are not done; return the exit code."""
    import torch

    arguments = parsed(given)
    if not arguments.cpu and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} sees no CUDA device here: nothing is measured.\n"
            "Run this on a machine with a GPU, or with --cpu to see that the script works (its times mean nothing).",
            file=sys.stderr,
        )
        return 2
    plan = Plan("cpu" if arguments.cpu else "cuda", arguments.quick, arguments.cpu)
    if arguments.section:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        SECTIONS[arguments.section](plan, Results(arguments.rows), arguments.limit)
        return 0
    content = {"machine": machine(plan), "sections": {}}
    if arguments.out.exists():
        earlier = json.loads(arguments.out.read_text())
        same = {key: value for key, value in content["machine"].items() if key != "date"}
        if {key: value for key, value in earlier["machine"].items() if key != "date"} == same:
            content = earlier
        else:
            print(f"{arguments.out} is of another machine or plan and is replaced.", file=sys.stderr)
    for name in arguments.only or SECTIONS:
        known = content["sections"].get(name)
        if known is not None and known["status"] != "failed" and name not in arguments.again:
            print(f"{name}: {known['status']} before", flush=True)
            continue
        limit = arguments.limit or (QUICK_LIMITS[name] if arguments.quick else 1200.0)
        content["sections"][name] = run_section(name, arguments, limit)
        content["sections"] = {key: content["sections"][key] for key in SECTIONS if key in content["sections"]}
        done = content["sections"][name]
        print(f"{name}: {done['status']} in {done['seconds']:.0f} s {done['error']}", flush=True)
        content["goals"] = [
            {
                "goal": goal[0],
                "kind": goal[1],
                "limit": goal[2],
                "measured": goal[3],
                "verdict": judged(goal, plan.device == "cuda"),
            }
            for goal in goals(content["sections"])
        ]
        write(arguments.out, content)
        arguments.out.with_suffix(".md").write_text(page(content))
    for goal in content.get("goals", []):
        value = "-" if goal["measured"] is None else f"{goal['measured']:.3g}"
        print(f"{goal['verdict']:13s} {goal['goal']}: {value} ({goal['kind']} {goal['limit']:g})")
    return 1 if any(section["status"] == "failed" for section in content["sections"].values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
