"""Compare our phonon metrics with the published table of MACE-MP-0b3 against PBE, material by material.

Run: ``python benchmarks/phonons/published_set.py DATA [--out results.json] [--force-constants symfc]``. DATA holds
``dft/``, ``mace_mp_0b3/`` and ``phonon_properties.csv`` of the benchmark (Zenodo 10.5281/zenodo.15462975).

Every number of the table is matched to 1e-3 relative or listed in ``beyond_tolerance``. The table's ``mean_frequency``
of the potential was taken after its frequencies had been scaled to the maximum of DFT, so it is compared with
``omega_mean_scaled_thz``; our ``omega_mean_thz`` is the mean of the frequencies themselves.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

from phonosmith.core.errors import MismatchError
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.harmonic.files import load_pair

TOLERANCE = 1e-3
SIDE_COLUMNS = {
    "omega_min_thz": "min_frequency",
    "omega_max_thz": "max_frequency",
    "omega_mean_thz": "mean_frequency",
    "heat_capacity": "heat_capacity",
    "entropy": "entropy",
    "free_energy": "free_energy",
    "volume": "volume",
}


def deviations(result, row) -> dict[str, float]:
    """Return |ours / published - 1| of every figure of one material."""
    pairs = {
        "mae_thz": (result.mae_thz, row["phonon_mae"]),
        "rmse_thz": (result.rmse_thz, row["phonon_rmse"]),
        "scaled_rmse_thz": (result.scaled_rmse_thz, row["phonon_scaled_rmse"]),
    }
    for ours, theirs in SIDE_COLUMNS.items():
        pairs[f"reference.{ours}"] = (getattr(result.reference, ours), row[f"benchmark_{theirs}"])
        pairs[f"candidate.{ours}"] = (getattr(result.candidate, ours), row[theirs])
    pairs["candidate.omega_mean_thz"] = (result.omega_mean_scaled_thz, row["mean_frequency"])
    return {name: abs(ours / float(theirs) - 1) for name, (ours, theirs) in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--force-constants", default="auto")
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    materials = []
    for row in csv.DictReader((arguments.data / "phonon_properties.csv").open()):
        name = row["material"]
        if arguments.only and name not in arguments.only:
            continue
        start = time.perf_counter()
        sides = [arguments.data / side / f"{name}.phonopy.yaml.xz" for side in ("dft", "mace_mp_0b3")]
        try:
            result = compare_phonons(*load_pair(*sides, arguments.force_constants))
        except MismatchError as error:
            print(f"{name:12s} refused: {error.message.replace(str(arguments.data) + '/', '')}", flush=True)
            materials.append({"material": name, "refused": error.message.replace(str(arguments.data) + "/", "")})
            continue
        found = deviations(result, row)
        beyond = {key: float(f"{value:.3g}") for key, value in found.items() if value > TOLERANCE}
        seconds = time.perf_counter() - start
        print(
            f"{name:12s} {result.formula:12s} worst {max(found.values()):.1e}  imaginary modes "
            f"{result.reference.n_imaginary_commensurate} and {result.candidate.n_imaginary_commensurate}  "
            f"DOS {result.dos_error_percent:.1f} %  {seconds:.1f} s  {beyond or ''} {result.notes or ''}",
            flush=True,
        )
        materials.append(
            {
                "material": name,
                "formula": result.formula,
                "worst_relative_deviation": float(f"{max(found.values()):.3g}"),
                "beyond_tolerance": beyond,
                "dos_error_percent": round(result.dos_error_percent, 2),
                "reference_imaginary": result.reference.n_imaginary_commensurate,
                "candidate_imaginary": result.candidate.n_imaginary_commensurate,
                "reference_stable": result.reference.stable,
                "candidate_stable": result.candidate.stable,
                "notes": result.notes,
                "seconds": round(seconds, 1),
            }
        )
    if arguments.out:
        arguments.out.write_text(json.dumps({"tolerance": TOLERANCE, "materials": materials}, indent=1) + "\n")


if __name__ == "__main__":
    main()
