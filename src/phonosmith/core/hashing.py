"""Canonical hashes: the same content gives the same sha256 in every process and on every platform."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms


def digest_bytes(data: bytes) -> str:
    """Return the sha256 of raw bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: str | Path) -> str:
    """Return the sha256 of a file's content."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_array(array: Any) -> str:
    """Return the sha256 of an array's kind, shape and values.

    Floats are hashed as little-endian float64, integers as little-endian int64; -0.0 equals 0.0 and every NaN is
    the same NaN, so byte order, width and memory layout of the machine do not matter.
    """
    values = np.asarray(array)
    kind = values.dtype.kind
    if kind == "c":
        return digest_json({"real": digest_array(values.real), "imag": digest_array(values.imag)})
    if kind not in "iubf":
        raise TypeError(f"Cannot hash an array of dtype {values.dtype}.")
    canonical = np.ascontiguousarray(values.astype("<f8" if kind == "f" else "<i8"))
    if kind == "f":
        canonical = canonical + 0.0
        canonical[np.isnan(canonical)] = np.nan
    header = f"{'i' if kind == 'u' else kind}{values.shape}".encode()
    return digest_bytes(header + canonical.tobytes())


def _canonical(value: Any) -> Any:
    """Reduce a value to JSON types with one spelling each."""
    kind = type(value)
    # plain JSON is told first: most values are, and asking for kinds of classes is slow
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return canonical_float(value)
    if kind is list:
        return [_canonical(item) for item in value]
    if kind is dict:
        return _canonical_mapping(value)
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return canonical_float(value)
    if isinstance(value, np.ndarray):
        return {"__array__": digest_array(value)}
    if isinstance(value, bytes):
        return {"__bytes__": digest_bytes(value)}
    if isinstance(value, Path):
        raise TypeError(f"A path has no identity of its own: hash the content of {value} instead.")
    if isinstance(value, Mapping):
        return _canonical_mapping(value)
    if isinstance(value, set | frozenset):
        return {"__set__": sorted(json.dumps(_canonical(item), sort_keys=True) for item in value)}
    if isinstance(value, Sequence):
        return [_canonical(item) for item in value]
    if hasattr(value, "model_dump"):
        return _canonical(value.model_dump())
    raise TypeError(f"Cannot hash a {type(value).__name__} canonically.")


def _canonical_mapping(value: Mapping[str, Any]) -> dict[str, Any]:
    if set(map(type, value)) - {str} and not all(isinstance(key, str) for key in value):
        raise TypeError("Only string keys can be hashed canonically.")
    return {key: _canonical(item) for key, item in value.items()}


def canonical_float(value: Any) -> dict[str, str]:
    """Return the one spelling of a float (or of its text)."""
    # repr is the shortest decimal that round-trips: identical on every IEEE-754 platform
    return {"__float__": repr(float(value) + 0.0)}


def digest_json(value: Any) -> str:
    """Return the sha256 of a JSON-like value, independent of key order, whitespace and number formatting."""
    return digest_canonical(_canonical(value))


def digest_canonical(value: Any) -> str:
    """Return what `digest_json` does of plain JSON whose floats were read as `canonical_float` already."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def digest_atoms(atoms: Atoms) -> str:
    """Return the identity of a configuration: cell, periodicity, species and positions in order (exact floats)."""
    parts = {
        "cell": (atoms.cell.array, float),
        "pbc": (atoms.pbc, bool),
        "numbers": (atoms.numbers, int),
        "positions": (atoms.positions, float),
    }
    return digest_json({name: digest_array(np.asarray(part, dtype=kind)) for name, (part, kind) in parts.items()})


def digest_structure(structure: Any) -> str:
    """Return the identity of a pymatgen Structure, ASE Atoms or any object pymatgen turns into Atoms."""
    from ase import Atoms

    if isinstance(structure, Atoms):
        return digest_atoms(structure)
    from pymatgen.io.ase import AseAtomsAdaptor

    return digest_atoms(AseAtomsAdaptor.get_atoms(structure, msonable=False))
