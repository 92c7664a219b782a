"""What attacks have found, as small examples that stay mended; each was a traceback, a crash or for ever before."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from attack.readers import READERS, SEEDS, refuses_or_is_right

BELOW_A_POSCAR = b"x\n1\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n"
CAMPAIGN_WITH_TAB = b"name: x\ntraining:\n  ---: 3\n  del \tat:{lr: 0.002}\n"
LOST_QUOTE = b'1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3:f:R0 0 0" pbc="T T T"\nCu 0 0 0 0 0 0\n'
PHONOPY = b"""\
phonopy: {version: 2.0}
unit_cell:
  lattice: [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
  points: [{symbol: Po, coordinates: [0, 0, 0]}]
supercell_matrix: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
"""
EMPIRICAL = READERS["empirical"].seeds()[0]
FOUND = {
    # a YAML library that takes a tab and another that does not
    "tab": ("campaign", CAMPAIGN_WITH_TAB),
    # keys that are no text, where names of settings are expected
    "truth": (
        "campaign",
        b"materials: [x]\nfoundations: [y]\nn_train: x\ntraining: {delta: {true: 1}}\nstrategies: [delta]\n",
    ),
    "depth": ("campaign", b"name: " + b"[" * 100_000),
    "phonopy depth": ("phonopy", b"{a: " * 100_000),
    "phases depth": ("phases", b"[" * 100_000),
    # a lost quote makes one key of three, which can never be written again
    "quote": ("extxyz", LOST_QUOTE),
    "column name": ("extxyz", b'1\nProperties=species:S:1:pos:R:3:Properties=species:S:1 pbc="F F F"\nCu 0 0 0 x\n'),
    "column count": ("extxyz", "1\nProperties=species:S:²:pos:R:3 pbc=T\nCu 0 0 0\n".encode()),
    "column counts": ("extxyz", b"1\nProperties=species:S:x:pos:R:99999999999 pbc=T\nCu 0 0 0\n"),
    # separators that strip takes for blanks and int does not
    "count of a sample": ("replay", b"\x1f2\nx\nSi 0 0 0\nSi 1 1 1\n"),
    # integers no array holds
    "phonopy integer": ("phonopy", PHONOPY.replace(b"[1, 0, 0]", b"[99999999999999999999, 0, 0]")),
    "phonopy multiple": ("phonopy", PHONOPY.replace(b"[1, 0, 0]", b"[9999999999999, 0, 0]")),
    "phonopy infinite": ("phonopy", PHONOPY.replace(b"[1, 0, 0]", b"[.inf, 0, 0]")),
    # masses and positions that are no numbers
    "phonopy mass": ("phonopy", PHONOPY.replace(b"[0, 0, 0]}", b"[0, 0, 0], mass: .nan}")),
    "phonopy place": ("phonopy", PHONOPY.replace(b"[0, 0, 0]}", b"[0, .inf, 0]}")),
    # numbers of atoms that are believed
    "xyz count": ("xyz", b"222222222222"),
    "extxyz count": ("extxyz", b"222222222222"),
    "columns": ("extxyz", b"1\nProperties=species:S:1:pos:R:99999999999999999999 pbc=T\nCu 0 0 0\n"),
    "poscar count": ("poscar", BELOW_A_POSCAR + b"4000000000 1\nDirect\n0 0 0\n"),
    # cells that fill the memory with a grid, and coordinates that end the interpreter
    "huge cell": ("poscar", BELOW_A_POSCAR.replace(b"4", b"1000000") + b"1 1\nDirect\n0 0 0\n.5 .5 .5\n"),
    "tiny cell": ("poscar", BELOW_A_POSCAR.replace(b"4", b".001") + b"1 1\nDirect\n0 0 0\n.5 .5 .5\n"),
    "nan": ("poscar", BELOW_A_POSCAR + b"1 1\nDirect\n0 0 nan\n.5 .5 .5\n"),
    "flat": ("xyz", b'1\nLattice="0 0 0 0 5 0 0 0 5" pbc="T T T"\nCu 0 0 0\n'),
    "no block": ("cif", b"not a cif"),
    # parameters whose roots are no numbers
    "root": ("empirical", EMPIRICAL.replace(b'"S": 2.', b'"S": -2.', 1)),
    # records that are none
    "records": ("expectations", b'["a", "b"]'),
    "record": ("expectations", b'"ab"'),
}
OUTCAR = (SEEDS / "OUTCAR").read_bytes()
IN_ITS_OWN_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from attack.readers import READERS, refuses_or_is_right
content = sys.stdin.buffer.read()
for name in sys.argv[2:]:
    assert not refuses_or_is_right(READERS[name], content), name
"""
OF_JSON = ("json", "empirical", "phonon document", "equation of state", "expectations", "import")


def test_deep_json_is_refused_whatever_the_limit_of_recursion_is():
    # with the limit raised, as symfc does, json's own recursion ended the interpreter
    code = IN_ITS_OWN_PROCESS.replace("import sys\n", "import sys\nsys.setrecursionlimit(10**7)\n", 1)
    content = b'{"a":' * 300_000
    command = [sys.executable, "-c", code, os.path.dirname(os.path.dirname(__file__)), *OF_JSON]
    done = subprocess.run(command, input=content, timeout=120, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-600:]


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused(name):
    reader, content = FOUND[name]
    assert not refuses_or_is_right(READERS[reader], content)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_needs_neither_time_nor_memory(name):
    reader, content = FOUND[name]
    limit = 6 << 30  # torch alone maps more than two
    done = subprocess.run(
        [sys.executable, "-c", IN_ITS_OWN_PROCESS, os.path.dirname(os.path.dirname(__file__)), reader],
        input=content,
        timeout=120,
        check=False,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr.decode()[-600:]


@pytest.mark.parametrize("number", [b"inf", b"nan", b"1e999"])
def test_an_outcar_with_a_number_that_is_none_gives_no_label(tmp_path, number):
    damaged = OUTCAR.replace(b"ISMEAR =     0;", b"ISMEAR =   " + number + b";")
    assert damaged != OUTCAR
    path = tmp_path / "OUTCAR"
    path.write_bytes(damaged)
    frames, refused = READERS["outcar"].read(path)
    assert not frames
    assert "cannot be read" in refused[0].reason
