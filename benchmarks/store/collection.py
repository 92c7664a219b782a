"""Read the results of ten thousand synthetic materials, with and without the flat collection.

    python benchmarks/store/collection.py [--materials 10000] [--store sqlite|mongo] [--out FILE]

The reports are those of the tests (every field of a real one), copied under other names, as jobflow writes them.
``mongo`` is a MongoStore on mongomock in this process: its times say little about a MongoDB, that it works does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]


def filled(store: Any, n_materials: int) -> None:
    """Write reports of so many materials."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.synthetic import store_reports, synthetic_reports

    store_reports(store, synthetic_reports(20, sizes=(5, 10)))
    patterns = list(store.docs_store.query({}))
    chunk = []
    for number in range(n_materials - len(patterns)):
        pattern = patterns[number % len(patterns)]
        name = f"{pattern['output']['material']}x{number}"
        output = pattern["output"] | {"material": name}
        plain = {key: value for key, value in pattern.items() if key != "_id"}
        metadata = plain["metadata"] | {"material": name}
        chunk.append(
            plain | {"uuid": f"copy-{number}", "name": f"report {name}", "output": output, "metadata": metadata}
        )
        if len(chunk) == 500:
            store.docs_store.update(chunk, key=["uuid", "index"])
            chunk = []
    store.docs_store.update(chunk, key=["uuid", "index"])


def seconds(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return processor and wall seconds of an action, and what it returned."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = action()
    return time.process_time() - cpu, time.perf_counter() - wall, found


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--materials", type=int, default=10_000)
    parser.add_argument("--store", choices=("sqlite", "mongo"), default="sqlite")
    parser.add_argument("--folder", type=Path, help="keep the store there, or use the one that is there")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="collection-"))
    os.environ["PHONOSMITH_HOME"] = str(folder / "home")
    from phonosmith.analysis.collection import results_collection
    from phonosmith.analysis.queries import read_results

    if arguments.store == "sqlite":
        from phonosmith.engines.store.sqlite import open_embedded_jobstore

        store = open_embedded_jobstore(folder / "store.sqlite")
    else:
        import mongomock_ng
        from jobflow import JobStore
        from maggma.stores import MongoStore

        store = JobStore(MongoStore.from_collection(mongomock_ng.MongoClient().db.outputs))
        store.connect()
    if not store.query_one({}):
        filled(store, arguments.materials)
    found: dict[str, Any] = {"materials": arguments.materials, "store": arguments.store, "load": os.getloadavg()[0]}
    flat = results_collection(store)

    def lap(name: str, action: Callable[[], Any]) -> Any:
        cpu, wall, result = seconds(action)
        found[name] = {"cpu_s": round(cpu, 3), "wall_s": round(wall, 3)}
        return result

    made = lap("first_read_builds_the_collection", lambda: read_results(store))
    found["rows"] = len(made.potentials)
    again = lap("read_all_again", lambda: read_results(store))
    assert again.potentials.equals(made.potentials)
    assert flat is not None
    name = made.materials["material"].iloc[-1]
    lap("one_material", lambda: list(flat.query({"common.material": name})))
    good = {"potentials": {"$elemMatch": {"strategy": "delta", "phonon_mae_thz": {"$lt": 0.05}}}}
    lap("materials_with_a_good_potential", lambda: [one["common"]["material"] for one in flat.query(good)])
    text = json.dumps(found, indent=2) + "\n"
    if arguments.out is not None:
        arguments.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
