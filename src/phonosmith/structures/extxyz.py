"""Extended XYZ that gives back every float64 to the last bit and that ASE, mace and Equitrain read unchanged.

ASE writes positions and forces with eight decimals; 1e-8 Å is enough to change a content hash and, through the square
of a vibration, a tight regression test. Here every number is written as the shortest decimal that round-trips, text
that ASE would take for a number is written as JSON, and quotes and backslashes are escaped the way ASE's reader undoes.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.stress import voigt_6_to_full_3x3_stress

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import InputError
from phonosmith.structures.labels import adopt_aliases, check_frames, voigt_stress

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".lzma": lzma.open}
_CONFIG_RESULTS = ("energy", "free_energy", "stress", "magmom", "dipole")
_ATOM_RESULTS = ("forces", "magmoms", "charges")
_RESERVED = frozenset({"Lattice", "Properties", "pbc", *_CONFIG_RESULTS})
_FORBIDDEN_IN_KEY = frozenset(" \t\n\r\"'{}[]=\\,")
_INT32 = 2**31
_SHOW: dict[str, Callable[[Any], str]] = {
    "R": lambda item: repr(float(item)),
    "L": lambda item: "T" if item else "F",
    "I": str,
    "S": str,
}


def format_frames(frames: Sequence[Atoms]) -> str:
    """Return extended XYZ text of configurations with labels and provenance; what it cannot hold is refused by name."""
    parts = []
    for index, atoms in enumerate(frames):
        try:
            parts.append(_format_frame(atoms))
        except InputError as error:
            raise InputError(f"Frame {index} cannot be written: {error.message}", error.advice) from error
    return "".join(parts)


def write_frames(path: str | Path, frames: Sequence[Atoms]) -> Path:
    """Write configurations with labels as extended XYZ (compressed as .gz, .xz); the file is either absent or whole.

    Labels are taken from each frame's calculator, never computed.
    """
    target = Path(path)
    if not frames:
        raise InputError(f"There is no frame to write to {target}.", "Check what was selected.")
    check_frames(frames, str(target))
    data = format_frames(frames).encode()
    if target.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    elif target.suffix in (".xz", ".lzma"):
        data = lzma.compress(data, format=lzma.FORMAT_XZ if target.suffix == ".xz" else lzma.FORMAT_ALONE)
    try:
        write_atomic(target, data)
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}.", "Choose a writable folder.") from error
    return target


def require_writable(path: str | Path) -> None:
    """Check that frames can be written to a path, before the work whose result they are."""
    target = Path(path)
    if target.is_dir():
        raise InputError(f"Cannot write {target}: it is a folder.", "Name a file in it, e.g. labels.xyz.")
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f"Cannot write {target}: {parent} is not a folder, it is a file.", "Choose a writable folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"Cannot write {target}: {parent} is not writable.", "Choose a writable folder.")


def read_frames(path: str | Path, *, require: Sequence[str] = ()) -> list[Atoms]:
    """Read extended XYZ, plain or compressed; labels under ASE's or mace's names end up in each frame's calculator.

    ``require`` names labels every frame must have, of "energy", "forces", "stress"; those present are always checked.

    Raises
    ------
    InputError
        Naming file, frame (from 0) and field when the file is broken or a label is missing or not finite.
    """
    source = Path(path)
    try:
        with _OPENERS.get(source.suffix, open)(source, "rt", encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist.", "Check the path.") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{source} cannot be read as text: {error}.", "Give an extended XYZ file.") from error
    return parse_frames(text, str(source), require=require)


def parse_frames(text: str, where: str, *, require: Sequence[str] = ()) -> list[Atoms]:
    """Read configurations from extended XYZ text; see ``read_frames``."""
    frames = []
    for item in parse_each(text, where):
        if isinstance(item, InputError):
            raise item
        frames.append(item)
    if not frames:
        raise InputError(f"{where} holds no frame.", "Give an extended XYZ file with at least one configuration.")
    check_frames(frames, where, require)
    return frames


def parse_each(text: str, where: str) -> Iterator[Atoms | InputError]:
    """Yield every frame, or the error that names it, so that one bad frame need not cost the others.

    A file whose atom counts do not fit its lines still raises: after such a place nothing can be told apart.
    """
    for index, chunk in enumerate(_chunks(text, where)):
        try:
            _require_announced_columns(chunk)
            atoms = next(iter(read_xyz(io.StringIO(chunk), index=0)))
            _tidy(atoms)
        except InputError as error:
            yield InputError(f"{where}: frame {index}: {error.message}", error.advice)
        except Exception as error:  # noqa: BLE001  (ASE's reader raises whatever the broken text leads to)
            reason = _diagnose(chunk) or str(error)
            yield InputError(f"{where}: frame {index}: {reason}.", "The file is damaged or not extended XYZ.")
        else:
            yield atoms


def _require_announced_columns(chunk: str) -> None:
    """Refuse more columns than the first atom has words: ASE's reader makes room for any number of them."""
    comment, *atoms = chunk.split("\n")[1:3]
    try:
        properties = str(key_val_str_to_dict(comment).get("Properties", "")).split(":")
        announced = sum(map(int, properties[2::3]))
    except Exception:  # noqa: BLE001  (whatever is wrong with the comment line, ASE's reader says it)
        return
    if announced > len("".join(atoms).split()):
        raise InputError(f"it announces {announced} columns, more than its atoms have.", "Write the file again.")


def _tidy(atoms: Atoms) -> None:
    """Undo what ASE's reader adds: constraints (they zero forces on access) and 32-bit integers."""
    atoms.set_constraint()
    for key in (*atoms.info, *atoms.arrays):
        # a lost quote makes one key of several, and what they said is gone
        _require_plain(key)
    for name, values in list(atoms.arrays.items()):
        if values.dtype == np.int32:
            atoms.arrays[name] = values.astype(np.int64)
    for name, value in getattr(atoms.calc, "results", {}).items():
        if np.asarray(value).dtype.kind not in "fi":
            raise InputError(f"field '{name}' is {str(value)[:40]!r}, not a number.", "Repair that line.")
    adopt_aliases(atoms)


def _chunks(text: str, where: str) -> Iterator[str]:
    """Split a file into frames by their atom counts."""
    # only real line ends: str.splitlines also breaks at characters that may stand in a comment (U+0085, U+2028, ...)
    lines = list(io.StringIO(text))
    position, index = 0, 0
    while position < len(lines):
        if not lines[position].strip():
            position += 1
            continue
        try:
            count = int(lines[position])
        except ValueError as error:
            raise InputError(
                f"{where}: frame {index}: line {position + 1} should hold the number of atoms,"
                f" not {lines[position].strip()[:40]!r}.",
                "The frame before has more or fewer lines than it announces, or this is not extended XYZ.",
            ) from error
        end = position + 2 + count
        if count < 1 or end > len(lines):
            have = max(0, len(lines) - position - 2)
            raise InputError(
                f"{where}: frame {index}: it announces {count} atoms but {have} lines follow.",
                "The file was cut off; write it again.",
            )
        yield "".join(lines[position:end])
        position, index = end, index + 1


def _diagnose(chunk: str) -> str | None:
    """Find the first atom line that does not fit the announced columns and say which field breaks."""
    lines = chunk.rstrip("\n").split("\n")
    try:
        properties = key_val_str_to_dict(lines[1]).get("Properties", "species:S:1:pos:R:3").split(":")
    except Exception:  # noqa: BLE001  (whatever is wrong with the comment line, ASE's own message is shown instead)
        return None
    columns = [
        (name, kind)
        for name, kind, count in zip(properties[::3], properties[1::3], properties[2::3], strict=False)
        for _ in range(int(count) if count.isdecimal() and len(count) < 4 else 0)
    ]
    for number, line in enumerate(lines[2:]):
        values = line.split()
        if len(values) != len(columns):
            return f"atom {number} has {len(values)} columns instead of {len(columns)}"
        for (name, kind), value in zip(columns, values, strict=True):
            if kind in ("R", "I"):
                try:
                    float(value)
                except ValueError:
                    return f"field '{name}' of atom {number} is {value!r}, not a number"
            if name == "species" and kind == "S" and value not in atomic_numbers:
                return f"atom {number} is called {value!r}, which is no element"
    return None


def _format_frame(atoms: Atoms) -> str:
    results = getattr(atoms.calc, "results", {})
    per_atom = atoms.arrays | {name: results[name] for name in _ATOM_RESULTS if results.get(name) is not None}
    columns = [
        ("species", "S", np.array(atoms.get_chemical_symbols(), dtype=object).reshape(-1, 1)),
        ("pos", "R", atoms.positions),
        *(
            _column(name, np.asarray(values), len(atoms))
            for name, values in per_atom.items()
            if name not in ("numbers", "positions")
        ),
    ]
    header = []
    if atoms.cell.any():
        header.append(_pair("Lattice", atoms.cell.array.ravel()))
    header.append("Properties=" + ":".join(f"{name}:{kind}:{values.shape[1]}" for name, kind, values in columns))
    for name in _CONFIG_RESULTS:
        value = results.get(name)
        if value is not None:
            full = voigt_6_to_full_3x3_stress(voigt_stress(value)).ravel() if name == "stress" else value
            header.append(_pair(name, full))
    for key, value in atoms.info.items():
        if key in _RESERVED and key in results:
            raise InputError(f"info['{key}'] hides the label of the same name.", "Remove it from atoms.info.")
        if key in ("Lattice", "Properties", "pbc"):
            raise InputError(f"info['{key}'] has a meaning of its own in extended XYZ.", "Rename it.")
        # labels in info of a frame without calculator are labels
        header.append(_pair(key, np.asarray(value).ravel() if key == "stress" else value))
    header.append('pbc="' + " ".join("T" if flag else "F" for flag in atoms.pbc) + '"')
    # columns of arrays side by side, each number as the shortest decimal that round-trips
    cells = [[_SHOW[kind](item) for item in part] for _, kind, values in columns for part in values.T.tolist()]
    rows = [" ".join(row) for row in zip(*cells, strict=True)]
    return f"{len(atoms)}\n{' '.join(header)}\n" + "\n".join(rows) + "\n"


def _column(name: str, values: np.ndarray[Any, Any], count: int) -> tuple[str, str, np.ndarray[Any, Any]]:
    table = values.reshape(count, -1)
    if any(char in _FORBIDDEN_IN_KEY or char == ":" for char in name):
        raise InputError(f"array name {name!r} holds a blank, quote or colon.", "Rename it.")
    kind = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S", "O": "S"}.get(values.dtype.kind)
    if kind is None:
        raise InputError(f"array '{name}' of type {values.dtype} has no place in extended XYZ.", "Remove it.")
    if kind == "I" and np.any(np.abs(table.astype(np.int64)) >= _INT32):
        raise InputError(f"array '{name}' holds integers beyond 32 bit.", "Store them as text or floats.")
    if kind == "S" and any(not str(item) or any(c.isspace() for c in str(item)) for item in table.ravel()):
        raise InputError(f"array '{name}' holds text with blanks.", "Replace blanks by underscores.")
    return name, kind, table


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache(maxsize=4096)
def _string_pair(key: str, value: str) -> str:
    """Write text so that ASE's reader returns the same text, not a number, a flag or a list."""
    for candidate in (value, "_JSON " + json.dumps(value)):
        pair = f"{key}={_quoted(candidate)}"
        if "\n" not in pair and "\r" not in pair:
            parsed = key_val_str_to_dict(pair).get(key)
            if isinstance(parsed, str) and parsed == value:
                return pair
    raise InputError(f"info['{key}'] = {value[:40]!r} cannot be written.", "Rename the key or shorten the text.")


def _require_plain(key: str) -> None:
    if not key or any(char in _FORBIDDEN_IN_KEY for char in key):
        raise InputError(f"info key {key!r} holds a blank, quote, comma or equals sign.", "Rename it.")


def _pair(key: str, value: Any) -> str:
    """Write one entry of the comment line."""
    _require_plain(key)
    if isinstance(value, str):
        return _string_pair(key, value)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.size > 1 and value.dtype.kind in "fi":
        return f'{key}="{" ".join(map(repr, value.tolist()))}"'
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(plain, bool):
        return f"{key}={'T' if plain else 'F'}"
    if isinstance(plain, int | float) and not isinstance(value, np.ndarray):
        return f"{key}={plain!r}"
    try:
        pair = f"{key}={_quoted('_JSON ' + json.dumps(plain))}"
        key_val_str_to_dict(pair)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"info['{key}'] of type {type(value).__name__} cannot be written.", "Keep numbers, text or JSON there."
        ) from error
    return pair
