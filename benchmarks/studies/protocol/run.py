"""The whole protocol on several crystals, with a stand-in for the reference method: a campaign and its page.

Run, in an environment with ``tools/install_nequix.sh``::

    OMP_NUM_THREADS=1 python benchmarks/studies/protocol/run.py TABLE.json --materials GaAs SnTe ... \
        --foundation foundation.model --reference nequix-oam-1-pft.nqx --work FOLDER

with TABLE.json a table of prototypes (space group, Wyckoff sites). Instead of ``--foundation`` give ``--teacher
nequix-mp-1.nqx``: one MACE is then distilled from it for all crystals (`distil.py`). The reference is a machine-learned
potential that plays DFT: nothing here is a first-principles result.

What runs is an ordinary campaign of the package (``FOLDER/campaign.yaml``, ``phonosmith run``): sampling by the
published protocol, labels, one fine-tuning for each strategy, phonons of reference, foundation and every fine-tuned
potential. A second call goes on where the first one stopped and adds cells, strategies, seeds and materials not asked
before. Written at the end: ``results.json`` and ``README.md`` in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from distil import distil, known, prototype

STRATEGIES = ("scratch", "transfer", "freeze1", "multihead", "delta", "delta+pft")
KEPT = (
    "material", "strategy", "n_train", "cell", "seed", "phonon_mae_thz", "omega_max_error_percent",
    "omega_mean_scaled_error_percent", "dos_error_percent", "heat_capacity_error_percent", "entropy_error_percent",
    "volume_error_percent", "stable_practical", "reference_stable_practical", "valid_force_mae_mev_per_angstrom",
    "valid_energy_mae_mev_per_atom", "training_seconds", "improved", "fit",
)  # fmt: skip


def campaign(arguments, foundation, names):
    """Return the content of the campaign file."""
    return {
        "name": "protocol study",
        "materials": [{"structure": f"crystals/{name}.vasp", "name": name} for name in names],
        "foundations": [foundation],
        "strategies": arguments.strategies,
        "cells": arguments.cells,
        "seeds": arguments.seeds,
        "sampling_seed": 0,
        "engine": {"name": "forcefield", "potential": str(arguments.reference.resolve())},
        "sampling": {"max_steps": arguments.max_steps, "fmax": 1e-3},
        "training": {
            "epochs": arguments.epochs, "batch_size": 1, "scheduler_patience": 5, "patience": None,
            **({"multihead": {"replay_size": arguments.replay_size}} if "multihead" in arguments.strategies else {}),
        },
        **({"replay": str(arguments.replay.resolve())} if arguments.replay else {}),
        "evaluate": ["phonons"],
        "min_length": arguments.min_length,
        "curvature_min_length": arguments.curvature_min_length,
        "mesh": arguments.mesh,
    }  # fmt: skip


def run(arguments):
    """Write and run the campaign; return its folder."""
    table = json.loads(arguments.table.read_text())
    names = arguments.materials or list(table)
    unknown = [name for name in names if name not in table]
    if unknown:
        raise SystemExit(f"{arguments.table} has no {', '.join(unknown)}; it holds {', '.join(table)}.")
    work = arguments.work
    (work / "crystals").mkdir(parents=True, exist_ok=True)
    structures = {name: prototype(table[name]) for name in names}
    for name, structure in structures.items():
        path = work / "crystals" / f"{name}.vasp"
        if not path.exists():
            structure.to(filename=str(path), fmt="poscar")
    if arguments.teacher is not None:
        distil(work / "foundation", arguments.teacher, structures)
        arguments.replay = arguments.replay or work / "foundation" / "teaching.xyz"
    foundation, _ = known(arguments.foundation)
    path = work / "campaign.yaml"
    path.write_text(yaml.safe_dump(campaign(arguments, foundation.sha256, names), sort_keys=False))
    program = [sys.executable, "-c", "from phonosmith.cli.main import main; main()"]
    command = [*program, "run", str(path), "--out", str(work / "run"), "--workers", str(arguments.workers)]
    code = subprocess.run(command, check=False).returncode
    if code:
        print("Some jobs failed; the page is made of the others.", file=sys.stderr)
    return work / "run"


def results(folder, arguments):
    """Return what the store says, as plain data, and the tables."""
    from phonosmith.analysis.queries import read_results
    from phonosmith.analysis.tables import campaign_tables
    from phonosmith.engines.store.sqlite import open_embedded_jobstore

    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    found = read_results(store)
    rows = json.loads(found.potentials[list(KEPT)].to_json(orient="records"))
    systems = json.loads(found.materials[["material", "formula", "space_group", "n_atoms"]].to_json(orient="records"))
    costs = found.costs.groupby(["stage"])[["wall_seconds", "n_calculations"]].sum()
    cells = sorted(set(found.potentials["cell"]) - {""})
    tables = {cell: campaign_tables(store, cell=cell).tables for cell in cells}
    _, described = known(arguments.foundation)
    settings = yaml.safe_load((arguments.work / "campaign.yaml").read_text())
    settings["training"].setdefault("multihead", {"replay_size": arguments.replay_size})
    document = {
        "reference": arguments.reference.stem,
        "foundation": described,
        "foundation_identity": str(found.potentials["foundation"].iloc[0]),
        "settings": settings
        # the file holds what was asked last, the rows everything that was asked
        | dict.fromkeys(("materials", "replay", "engine", "strategies", "cells", "seeds"))
        | {"foundations": [Path(arguments.foundation).name]},
        "materials": {row["material"]: row for row in systems},
        "rows": rows,
        "failures": json.loads(found.failures.to_json(orient="records")),
        "wall_seconds_by_stage": costs["wall_seconds"].to_dict(),
        "calculations_by_stage": {key: int(value) for key, value in costs["n_calculations"].items()},
    }
    return document, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="table of prototypes (JSON)")
    parser.add_argument("--materials", nargs="*", default=[], help="entries of the table; all by default")
    parser.add_argument("--reference", type=Path, required=True, help="potential that plays DFT")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--foundation", help="name or file of the potential to fine-tune; a .json beside it is quoted")
    either.add_argument("--teacher", type=Path, help="nequix-*.nqx to distil a foundation from")
    parser.add_argument("--replay", type=Path, help="replay structures (extended XYZ)")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="where results.json and README.md go (default: the work folder)")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--cells", nargs="*", default=["small"], choices=["primitive", "small", "large"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--replay-size", type=int, default=16)
    parser.add_argument("--max-steps", type=int, default=200, help="step cap of the protocol's relaxations")
    parser.add_argument("--min-length", type=float, default=10.0, help="shortest edge of the phonon supercell, Å")
    parser.add_argument("--curvature-min-length", type=float, default=5.0)
    parser.add_argument("--mesh", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page-only", action="store_true", help="write results and page of what is finished")
    arguments = parser.parse_args()
    from page import page

    if arguments.teacher is not None:
        arguments.foundation = arguments.work / "foundation" / "foundation.model"
    folder = arguments.work / "run" if arguments.page_only else run(arguments)
    document, tables = results(folder, arguments)
    out = arguments.out or arguments.work
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "README.md").write_text(page(document, tables))
    print(f"wrote {out / 'README.md'}")


if __name__ == "__main__":
    main()
