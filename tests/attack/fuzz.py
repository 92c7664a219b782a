"""Coverage-guided fuzzing of the readers, one process for each: ``make fuzz``, or by hand

    python tests/attack/fuzz.py CORPUS --minutes 60 [--reader vasprun ...]

libFuzzer (through atheris) keeps inputs that reach new code in CORPUS/<reader> and goes on from there the next time.
What a reader neither refuses clearly nor reads rightly, what takes longer than 30 s or more than 4 GB ends that
reader's process; the input is kept in CORPUS/found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
INSTRUMENTED = ("phonosmith", "ase.io.extxyz", "pymatgen.io.cif", "pymatgen.io.vasp.inputs", "phonopy.interface")


def fuzz_one(name: str, corpus: Path, seconds: int) -> None:
    """Fuzz one reader in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from attack.mutations import damaged
        from attack.readers import READERS, refuses_or_is_right

        reader = READERS[name]
        seeds = reader.seeds()
        # imports what the readers import within functions
        for seed in seeds:
            refuses_or_is_right(reader, seed)
    folder = corpus / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    (corpus / "found").mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        # half libFuzzer's own small changes, half words that are known to hurt
        if seed % 2:
            return bytes(atheris.Mutate(data, largest))
        state = seed

        def draw(below: int) -> int:
            nonlocal state
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            return (state >> 33) % below

        return damaged(data, draw)[:largest]

    def once(data: bytes) -> None:
        refuses_or_is_right(reader, data)

    options = [
        *("-timeout=30", "-rss_limit_mb=4096", f"-max_total_time={seconds}", "-max_len=65536", "-print_final_stats=1"),
        f"-artifact_prefix={corpus / 'found'}/{name.replace(' ', '-')}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], once, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    """Fuzz the readers asked for, each for the same share of the time, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--reader", action="append")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    corpus = asked.corpus.resolve()
    sys.path.insert(0, str(TESTS))
    if asked.here:
        fuzz_one(asked.reader[0], corpus, round(60 * asked.minutes))
        return 0
    from attack.readers import READERS

    names = asked.reader or list(READERS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PHONOSMITH_HOME": str(corpus / "home")}
    corpus.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        start = time.monotonic()
        command = [sys.executable, __file__, str(corpus), "--here", "--reader", name]
        command += ["--minutes", str(asked.minutes / len(names))]
        log = corpus / f"{name.replace(' ', '-')}.log"
        with log.open("w") as stream:
            code = subprocess.run(command, stdout=stream, stderr=stream, env=environment, check=False).returncode
        lines = log.read_text(errors="replace").splitlines()
        runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
        print(
            f"{name}: {runs} inputs in {time.monotonic() - start:.0f} s, {'ok' if code == 0 else f'FOUND, see {log}'}",
            flush=True,
        )
        failed += [name] * (code != 0)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
