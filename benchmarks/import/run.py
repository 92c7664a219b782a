"""Time the light vasprun.xml reader beside pymatgen's Vasprun and ASE's reader, in one run on one machine.

    python benchmarks/import/run.py VASPRUNS [--sample 12]

VASPRUNS is a folder or archive of vasprun.xml files, e.g. ``vasprun_xmls.tar.lzma`` of phono3py's Si-PBE example (111
cells of 64 atoms). The archive is decompressed once beforehand, so that all readers start from the same bytes; the time
of a whole import (archive, reading, checks, report) is given beside them. Every number of the sample is compared. Writes
``results.json`` and ``README.md`` beside this file.
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
from phonosmith.reference.audit import audit
from phonosmith.reference.frame_labels import labels_of
from phonosmith.reference.importers.archives import iter_entries
from phonosmith.reference.importers.collect import import_source
from phonosmith.reference.importers.vasprun import frames_of, parse_vasprun

HERE = Path(__file__).parent


def timed(function, items) -> tuple[float, list]:
    """Return seconds of processor time and results of a function over items."""
    start = time.process_time()
    results = [function(item) for item in items]
    return time.process_time() - start, results


def with_pymatgen(path: Path) -> Vasprun:
    """Read a file as pymatgen does when asked for as little as it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)


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


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vaspruns", type=Path)
    parser.add_argument("--sample", type=int, default=12)
    options = parser.parse_args()

    data = [e for e in iter_entries(options.vaspruns, lambda name: name.endswith(".xml")) if e.data is not None]
    size = sum(len(entry.data) for entry in data)
    ours_cpu, ours = timed(lambda entry: frames_of(parse_vasprun(entry.data, entry.name), entry.name), data)
    start = time.process_time()
    frames, report = import_source(options.vaspruns)
    whole_cpu = time.process_time() - start
    start = time.process_time()
    verdict = audit(frames).verdict
    audit_cpu = time.process_time() - start
    sample = data[:: max(1, len(data) // options.sample)][: options.sample]
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, entry in enumerate(sample):
            path = Path(folder) / f"{index}.xml"
            path.write_bytes(entry.data)
            paths.append(path)
        pymatgen_cpu, theirs = timed(with_pymatgen, paths)
        ase_cpu, _ = timed(lambda path: ase_read(path, -1, format="vasp-xml"), paths)
    by_name = {entry.name: found[0][-1] for entry, found in zip(data, ours, strict=True)}
    worst = max(difference(by_name[e.name], other) for e, other in zip(sample, theirs, strict=True))
    results = {
        "files": len(data),
        "megabytes": round(size / 1e6, 2),
        "frames": len(frames),
        "refused": report.n_refused,
        "functional": report.functional,
        "audit": verdict,
        "files_per_cpu_second": {
            "phonosmith_reader": round(len(data) / ours_cpu, 1),
            "phonosmith_whole_import": round(len(data) / whole_cpu, 1),
            "pymatgen_Vasprun": round(len(sample) / pymatgen_cpu, 2),
            "ase": round(len(sample) / ase_cpu, 2),
        },
        "audit_cpu_seconds": round(audit_cpu, 2),
        "times_faster_than_pymatgen": round(pymatgen_cpu / len(sample) / (ours_cpu / len(data)), 1),
        "sample": len(sample),
        "largest_difference_to_pymatgen": float(worst),
        "versions": {name: version(name) for name in ("pymatgen", "ase")} | {"python": platform.python_version()},
    }
    write_atomic(HERE / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    write_atomic(HERE / "README.md", page(results).encode())
    print(json.dumps(results, indent=2))


def page(results: dict) -> str:
    """Return the page."""
    speed = results["files_per_cpu_second"]
    return f"""# Import of vasprun.xml

`python benchmarks/import/run.py VASPRUNS` wrote this page (Python {results["versions"]["python"]}, pymatgen
{results["versions"]["pymatgen"]}, ASE {results["versions"]["ase"]}; one core). The machine was shared with other work: compare rows.

{results["files"]} files, {results["megabytes"]} MB: {results["frames"]} frames taken, {results["refused"]} refused, functional {results["functional"]}, audit: {results["audit"]}
({results["audit_cpu_seconds"]} s).

| reader | files per second of processor time |
|---|---|
| phonosmith, reading and checks | {speed["phonosmith_reader"]} |
| phonosmith, whole import from the compressed archive | {speed["phonosmith_whole_import"]} |
| pymatgen `Vasprun` without DOS and eigenvalues ({results["sample"]} files) | {speed["pymatgen_Vasprun"]} |
| ASE `vasp-xml` ({results["sample"]} files) | {speed["ase"]} |

{results["times_faster_than_pymatgen"]} times faster than pymatgen. Largest difference of energies, forces, cells and positions over the
sample: {results["largest_difference_to_pymatgen"]:.1e}.
"""


if __name__ == "__main__":
    main()
