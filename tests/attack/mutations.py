"""Ways to damage a file: the same ones for hypothesis and for the fuzzer, driven by a source of small numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

Draw = Callable[[int], int]
"""Returns a number from 0 up to, but not including, its argument."""

WORDS = [
    *(b"nan", b"-inf", b"1e999", b"-1", b"0", b"1e-320", b"1e17", b"99999999999999999999", b"0x10", b"1_0", b"1d0"),
    *(
        b"",
        b" ",
        b"\n",
        b"\x00",
        b"\xff\xfe",
        "\u2028".encode(),
        "\u0661".encode(),
        b"\x85",
        b"\t",
        b"'",
        b'"',
        b"{",
        b"]",
    ),
    *(
        b"true",
        b"null",
        b"~",
        b"{}",
        b"[]",
        b"[[]]",
        b"a: b",
        b"&x",
        b"*x",
        b"!!python/name:os.system",
        b"<<: *x",
        b"---",
    ),
    *(b"<x>", b"</modeling>", b"<!DOCTYPE x>", b"&amp;", b"]]>", b"#", b";", b"loop_", b"data_", b"_atom_site_label"),
    *(b"Og", b"D", b"Xx", b"Va", b"H+", b"Fe3+", b"energy=", b"pbc=", b"Lattice=", b"Properties=species:S:1", b"T T F"),
    *(b"-0", b"1e5", b"1 1 1", b"2147483648", b"-9223372036854775809", b"1.5", b"NaN", b"Infinity", b"no", b"1:30:00"),
]
"""What files of other programs, people and YAML are known to trip over."""
_PART = re.compile(rb"[\w.+-]+|\s+|.", re.DOTALL)


def damaged(data: bytes, draw: Draw) -> bytes:
    """Return a file with one to four things wrong."""
    for _ in range(1 + draw(4)):
        data = _ACTIONS[draw(len(_ACTIONS))](data, draw)
    return data[: 1 << 20]


def _span(data: bytes, draw: Draw) -> tuple[int, int]:
    """Return begin and end of a word, or of several together."""
    parts = [part.span() for part in _PART.finditer(data)]
    if not parts:
        return 0, 0
    first = draw(len(parts))
    last = min(len(parts) - 1, first + (0 if draw(3) else draw(12)))
    return parts[first][0], parts[last][1]


def _replace(data: bytes, draw: Draw) -> bytes:
    begin, end = _span(data, draw)
    return data[:begin] + WORDS[draw(len(WORDS))] + data[end:]


def _insert(data: bytes, draw: Draw) -> bytes:
    begin, _ = _span(data, draw)
    return data[:begin] + WORDS[draw(len(WORDS))] + data[begin:]


def _remove(data: bytes, draw: Draw) -> bytes:
    begin, end = _span(data, draw)
    return data[:begin] + data[end:]


def _copy(data: bytes, draw: Draw) -> bytes:
    begin, end = _span(data, draw)
    place, _ = _span(data, draw)
    return data[:place] + data[begin:end] * (1 + draw(3)) + data[place:]


def _cut(data: bytes, draw: Draw) -> bytes:
    return data[: _span(data, draw)[0]]


def _byte(data: bytes, draw: Draw) -> bytes:
    place = draw(len(data) + 1)
    return data[:place] + bytes([draw(256)]) + data[place + 1 :]


def _swap_lines(data: bytes, draw: Draw) -> bytes:
    lines = data.split(b"\n")
    one, other = draw(len(lines)), draw(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _drop_line(data: bytes, draw: Draw) -> bytes:
    lines = data.split(b"\n")
    del lines[draw(len(lines))]
    return b"\n".join(lines)


_ACTIONS = (_replace, _replace, _replace, _insert, _remove, _copy, _cut, _byte, _swap_lines, _drop_line)
