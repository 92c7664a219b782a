"""Time the embedded store beside maggma's other stores, in one run on one machine.

    python benchmarks/store/run.py [--quick] [--part stores|growth]

Documents look like those jobflow writes (15 kB of JSON: identities, a nested output, arrays of forces) and are
upserted one by one by (uuid, index), as jobflow does. Writes ``results.json`` and ``README.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sqlite3
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from maggma.stores import JSONStore, MemoryStore, MontyStore

from phonosmith.core.artefacts import write_atomic
from phonosmith.engines.store.sqlite import SQLiteStore

HERE = Path(__file__).parent
KEY = ["uuid", "index"]
MATERIALS = ("Si", "Ge", "C", "SiC", "NaCl", "MgO", "TiO2", "GaN")


def uuid(number: int) -> str:
    """Return the uuid of a document."""
    return f"{random.Random(-number).getrandbits(128):032x}"


def document(number: int) -> dict:
    """Return a document of about 15 kB, the same for the same number."""
    draw = random.Random(number)

    def rows(n: int) -> list:
        return [[round(draw.uniform(-1, 1), 12) for _ in range(3)] for _ in range(n)]

    material = MATERIALS[number % len(MATERIALS)]
    return {
        "uuid": uuid(number),
        "index": 1,
        "name": f"static {material.lower()} {number % 40}",
        "metadata": {"material": material, "round": number % 10},
        "completed_at": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)).isoformat(),
        "hosts": [f"{draw.getrandbits(128):032x}" for _ in range(3)],
        "output": {
            "@module": "emmet.core.tasks",
            "@class": "TaskDoc",
            "dir_name": f"host:/scratch/launcher_{number}",
            "state": "successful",
            "nsites": 64,
            "input": {"incar": {f"KEY{i}": i * 0.5 for i in range(25)}, "pseudo_potentials": {"pot_type": "PAW"}},
            "output": {
                "energy": -5.0 + number * 1e-4,
                "bandgap": draw.uniform(0, 5),
                "forces": rows(134),
                "structure": {"lattice": {"matrix": rows(3), "volume": 160.0}, "sites": rows(134)},
            },
            "symmetry": {"number": draw.randrange(1, 231), "crystal_system": "cubic"},
        },
    }


def fill(store, numbers: range, seconds: float) -> list[float]:
    """Upsert documents one by one; return the time of each update, s; stop when the time is used up."""
    times = []
    end = time.perf_counter() + seconds
    for number in numbers:
        made = document(number)
        begin = time.perf_counter()
        store.update(made, key=KEY)
        times.append(time.perf_counter() - begin)
        if begin > end:
            break
    return times


def median_ms(call, repeats: int, clock=time.perf_counter) -> float:
    """Return the median time of a call, ms."""
    times = []
    for _ in range(repeats):
        begin = clock()
        call()
        times.append(clock() - begin)
    return round(1e3 * statistics.median(times), 3)


def reads(store, count: int, repeats: int, clock=time.perf_counter) -> dict:
    """Time typical queries, ms."""
    probes = iter(random.Random(1).choices(range(count), k=10_000))
    # about 1 % of the documents; no index exists on either field
    low = -5.0 + 0.5 * count * 1e-4
    nested = {"output.output.energy": {"$gte": low, "$lt": low + 0.01 * count * 1e-4}}
    found = sum(1 for _ in store.query(nested))
    return {
        "documents": count,
        "uuid_query_ms": median_ms(lambda: store.query_one({"uuid": uuid(next(probes))}), repeats, clock),
        "nested_query_ms": median_ms(lambda: list(store.query(nested)), repeats, clock),
        "nested_query_found": found,
        "nested_fields_ms": median_ms(
            lambda: list(store.query(nested, ["uuid", "output.output.energy"])), repeats, clock
        ),
        "nested_count_ms": median_ms(lambda: store.count({"output.symmetry.number": 227}), repeats, clock),
        "metadata_count_ms": median_ms(
            lambda: store.count({"metadata.material": "GaN", "metadata.round": 3}), repeats, clock
        ),
        "latest_ms": median_ms(
            lambda: list(store.query(sort={"completed_at": -1}, limit=1)), max(repeats // 3, 1), clock
        ),
    }


def stores(folder: Path) -> dict:
    """Return the stores that are compared; for each the seconds it may take to fill."""
    return {
        "SQLiteStore": (SQLiteStore(folder / "embedded.sqlite", key="uuid"), 1e9),
        "SQLiteStore, synchronous=FULL": (SQLiteStore(folder / "full.sqlite", key="uuid", synchronous="FULL"), 1e9),
        "MemoryStore": (MemoryStore(key="uuid"), 1e9),
        "MontyStore (sqlite)": (
            MontyStore(
                "outputs", database_path=str(folder / "monty"), database_name="db", storage="sqlite", key="uuid"
            ),
            None,
        ),
        "JSONStore": (JSONStore(str(folder / "store.json"), read_only=False, key="uuid"), None),
    }


def compare(folder: Path, count: int, slow_seconds: float) -> dict:
    """Fill and read every store."""
    table = {}
    for name, (store, patience) in stores(folder).items():
        store.connect()
        times = fill(store, range(count), patience or slow_seconds)
        done = len(times)
        tenth = max(done // 10, 1)
        table[name] = {
            "written": done,
            "seconds": round(sum(times), 3),
            "first_tenth_ms": round(1e3 * statistics.mean(times[:tenth]), 3),
            "last_tenth_ms": round(1e3 * statistics.mean(times[-tenth:]), 3),
            **reads(store, done, 9 if patience else 3),
        }
        store.close()
        print(name, json.dumps(table[name]), flush=True)
    return table


def growth(folder: Path, count: int, read_at: int) -> dict:
    """Fill one embedded store far and time each stretch, with queries on the way."""
    store = SQLiteStore(folder / "growth.sqlite", key="uuid")
    store.connect()
    stretch = count // 10
    begin = time.process_time()
    for number in range(stretch):
        document(number)
    own = (time.process_time() - begin) / stretch
    per_document, cpu, result = [], [], {}
    for start in range(0, count, stretch):
        begin = time.process_time()
        times = fill(store, range(start, start + stretch), 1e9)
        per_document.append(round(1e3 * statistics.mean(times), 3))
        # processor time is hardly disturbed by other work on the machine; making the documents is taken off
        cpu.append(round(1e3 * ((time.process_time() - begin) / stretch - own), 3))
        print(f"{start + stretch}: {per_document[-1]} ms per document", flush=True)
        if start + stretch in (read_at, count):
            result[f"reads_at_{start + stretch}"] = reads(store, start + stretch, 9, time.process_time)
    store.ensure_index("output.output.energy")
    result["nested_query_with_index_ms"] = reads(store, count, 9, time.process_time)["nested_query_ms"]
    store.close()
    result |= {"documents": count, "ms_per_document_by_tenth": per_document, "cpu_ms_per_document_by_tenth": cpu}
    result["file_MB"] = round((folder / "growth.sqlite").stat().st_size / 1e6, 1)
    return result


def page(results: dict) -> str:
    """Return the page a reader sees."""
    memory = results["stores"]["MemoryStore"]["seconds"]
    rows = []
    for name, row in results["stores"].items():
        complete = row["written"] == results["count"]
        ratio = f"{row['seconds'] / memory:.2f}" if complete else "-"
        rows.append(
            f"| {name} | {row['written']} | {row['seconds']:.1f} | {ratio} | {row['first_tenth_ms']:.1f} → "
            f"{row['last_tenth_ms']:.1f} | {row['uuid_query_ms']:.2f} | {row['nested_query_ms']:.0f} | "
            f"{row['nested_count_ms']:.0f} | {row['latest_ms']:.0f} |"
        )
    grown = results["growth"]
    at = grown[f"reads_at_{results['read_at']}"]
    end = grown[f"reads_at_{grown['documents']}"]
    stretches = ", ".join(f"{value:.2f}" for value in grown["ms_per_document_by_tenth"])
    processor = ", ".join(f"{value:.2f}" for value in grown["cpu_ms_per_document_by_tenth"])
    return f"""# Embedded job store against maggma's other stores

`python benchmarks/store/run.py` wrote this page on {results["date"]}: Python {results["python"]},
SQLite {results["sqlite"]}, maggma {results["maggma"]}, {results["cpu"]}. The machine was shared with other work:
compare rows, not clocks.

Documents of {results["document_kB"]:.1f} kB (JSON), upserted one by one by (uuid, index) as jobflow does; times are
those of the store alone. A store that needed more than {results["slow_seconds"]:g} s was stopped; its queries ran on
what it had by then.

| store | written | s | × MemoryStore | ms per write, first → last tenth | by uuid, ms | nested range (1 %), ms \
| nested count, ms | newest one, ms |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

**Growth to {grown["documents"]} documents** (SQLiteStore, {grown["file_MB"]:.0f} MB), ms per document in each tenth:
by the clock {stretches};
of the processor {processor}.

Processor time of queries (little else is spent on a quiet machine, where the file stays in memory):

| query on SQLiteStore | at {results["read_at"]} | at {grown["documents"]} |
|---|---|---|
| one document by uuid, ms | {at["uuid_query_ms"]:.2f} | {end["uuid_query_ms"]:.2f} |
| range of a nested field, no index, ms \
| {at["nested_query_ms"]:.0f} ({at["nested_query_found"]} found) | {end["nested_query_ms"]:.0f} \
({end["nested_query_found"]} found) |
| the same, two fields of each, ms | {at["nested_fields_ms"]:.0f} | {end["nested_fields_ms"]:.0f} |
| count by a nested field, no index, ms | {at["nested_count_ms"]:.0f} | {end["nested_count_ms"]:.0f} |
| count by two metadata keys (indexed by themselves), ms \
| {at["metadata_count_ms"]:.1f} | {end["metadata_count_ms"]:.1f} |
| newest one (sort, no index), ms | {at["latest_ms"]:.0f} | {end["latest_ms"]:.0f} |
| range of the nested field after `ensure_index`, ms | | {grown["nested_query_with_index_ms"]:.1f} |
""".replace("\\\n", "")


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description="Time the embedded store beside maggma's other stores.")
    parser.add_argument("--quick", action="store_true", help="small numbers, nothing written: does it run?")
    parser.add_argument("--part", choices=("stores", "growth"), help="run one part, keep the other from results.json")
    arguments = parser.parse_args()
    quick = arguments.quick
    count, far, read_at, slow_seconds = (60, 200, 40, 2.0) if quick else (2000, 50_000, 10_000, 45.0)
    results = json.loads((HERE / "results.json").read_text()) if arguments.part else {}
    results |= {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "maggma": version("maggma"),
        "cpu": platform.machine(),
        "count": count,
        "read_at": read_at,
        "slow_seconds": slow_seconds,
        "document_kB": len(json.dumps(document(0))) / 1e3,
    }
    with tempfile.TemporaryDirectory() as folder:
        if arguments.part != "growth":
            results["stores"] = compare(Path(folder), count, slow_seconds)
        if arguments.part != "stores":
            results["growth"] = growth(Path(folder), far, read_at)
    text = page(results)
    print(text)
    if not quick:
        write_atomic(HERE / "results.json", (json.dumps(results, indent=2) + "\n").encode())
        write_atomic(HERE / "README.md", text.encode())


if __name__ == "__main__":
    main()
