"""Time the light vasprun.xml reader beside pymatgen's Vasprun and ASE's reader, in one run on one machine.

    python benchmarks/import/run.py VASPRUNS... [--sample 12]

VASPRUNS are folders or archives of vasprun.xml files, e.g. ``vasprun_xmls.tar.lzma`` of phono3py's Si-PBE example (111
cells of 64 atoms). An archive is decompressed once beforehand, so that all readers start from the same bytes; the time
of a whole import (archive, reading, checks, report) is given beside them. Every number of the sample is compared.
Writes ``results.json`` and ``README.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase.io import read as ase_read
from pymatgen.io.vasp import Vasprun

from phonosmith.core.artefacts import write_atomic
from phonosmith.reference.audit.audit import audit
from phonosmith.reference.importers.archives import iter_entries
from phonosmith.reference.importers.collect import import_source
from phonosmith.reference.importers.frames import frames_of
from phonosmith.reference.vasp.vasprun import parse_vasprun
from phonosmith.structures.labels import labels_of

HERE = Path(__file__).parent


def timed(function, items) -> tuple[float, list]:
    """Return seconds of processor time and results of a function over items."""
    start = time.process_time()
    results = [function(item) for item in items]
    return time.process_time() - start, results


def with_pymatgen(path: Path, *, parse_dos: bool = False, parse_eigen: bool = False) -> Vasprun:
    """Read a file with pymatgen; without DOS and eigenvalues that is as little as it can do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Vasprun(path, parse_dos=parse_dos, parse_eigen=parse_eigen, parse_potcar_file=False)


def difference(frame, theirs: Vasprun) -> float:
    """Return the largest difference of energy, forces, cell and fractional positions."""
    step = theirs.ionic_steps[-1]
    labels = labels_of(frame)
    scaled = frame.get_scaled_positions(wrap=False) - np.array(step["structure"].frac_coords)
    return max(
        abs(labels.energy - step["e_fr_energy"]),
        np.abs(labels.forces - np.array(step["forces"])).max(),
        np.abs(frame.cell.array - step["structure"].lattice.matrix).max(),
        np.abs(scaled - np.round(scaled)).max(),
    )


def measure(source: Path, count: int) -> dict:
    """Return counts, speeds and agreement for one folder or archive."""
    data = [e for e in iter_entries(source, lambda name: name.endswith(".xml")) if e.data is not None]
    size = sum(len(entry.data) for entry in data)
    ours_cpu, ours = timed(lambda entry: frames_of(parse_vasprun(entry.data, entry.name), entry.name), data)
    start = time.process_time()
    frames, report = import_source(source)
    whole_cpu = time.process_time() - start
    sample = data[:: max(1, len(data) // count)][:count]
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, entry in enumerate(sample):
            path = Path(folder) / f"{index}.xml"
            path.write_bytes(entry.data)
            paths.append(path)
        with_pymatgen(paths[0])
        pymatgen_cpu, theirs = timed(with_pymatgen, paths)
        default_cpu, _ = timed(lambda path: with_pymatgen(path, parse_dos=True, parse_eigen=True), paths)
        ase_cpu, _ = timed(lambda path: ase_read(path, -1, format="vasp-xml"), paths)
    by_name = {entry.name: found[0][-1] for entry, found in zip(data, ours, strict=True)}
    speed = {
        "phonosmith, reading and checks": len(data) / ours_cpu,
        "phonosmith, whole import from the archive": len(data) / whole_cpu,
        "pymatgen Vasprun without DOS and eigenvalues": len(sample) / pymatgen_cpu,
        "pymatgen Vasprun, defaults": len(sample) / default_cpu,
        "ASE vasp-xml": len(sample) / ase_cpu,
    }
    return {
        "name": f"{source.parent.name}/{source.name}",
        "files": len(data),
        "kilobytes_per_file": round(size / len(data) / 1e3),
        "frames": len(frames),
        "refused": report.n_refused,
        "functional": report.functional,
        "audit": audit(frames).verdict,
        "files_per_cpu_second": {key: round(value, 1) for key, value in speed.items()},
        "compared": len(sample),
        "largest_difference_to_pymatgen": float(
            max(difference(by_name[e.name], other) for e, other in zip(sample, theirs, strict=True))
        ),
    }


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vaspruns", type=Path, nargs="+")
    parser.add_argument("--sample", type=int, default=12)
    options = parser.parse_args()
    results = {
        "versions": {name: version(name) for name in ("pymatgen", "ase")} | {"python": platform.python_version()},
        "sets": [measure(source, options.sample) for source in options.vaspruns],
    }
    write_atomic(HERE / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    write_atomic(HERE / "README.md", page(results).encode())
    print(json.dumps(results, indent=2))


def page(results: dict) -> str:
    """Return the page."""
    versions, sets = results["versions"], results["sets"]
    lines = [
        "# Import of vasprun.xml",
        "",
        f"`python benchmarks/import/run.py VASPRUNS...` wrote this page (Python {versions['python']}, pymatgen",
        f"{versions['pymatgen']}, ASE {versions['ase']}; one core). The machine was shared: compare rows, not clocks.",
        "",
        "| | " + " | ".join(f"{s['name']}, {s['files']} × {s['kilobytes_per_file']} kB" for s in sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    lines += [
        f"| {row}, files/s | " + " | ".join(str(s["files_per_cpu_second"][row]) for s in sets) + " |"
        for row in sets[0]["files_per_cpu_second"]
    ]
    lines += [
        f"| {row} | " + " | ".join(str(s[row]) for s in sets) + " |"
        for row in ("frames", "refused", "functional", "audit", "compared")
    ]
    worst = " | ".join(f"{s['largest_difference_to_pymatgen']:.0e}" for s in sets)
    lines.append(f"| largest difference to pymatgen (eV, eV/Å, Å) | {worst} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
