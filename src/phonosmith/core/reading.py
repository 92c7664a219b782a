"""Read a file, compressed or not, and YAML and JSON within bounds: damage and bombs of any kind end with a reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")

COMPRESSED = (".gz", ".xz", ".lzma", ".bz2")
MIB = 1 << 20
DEPTH = 64
"""Lists in lists; libyaml's own recursion ends the whole process at some ten thousand."""
JSON_DEPTH = 200
"""The same for JSON: symfc raises Python's limit of recursion, and json's own then ends the process."""
YAML_NODES = 200_000
"""Values of a document that repeats parts of itself by aliases, repetitions counted."""
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)
"""What reading a damaged compressed file raises."""


@dataclass(frozen=True)
class Limits:
    """How much may be read from one file or archive.

    Attributes
    ----------
    members
        Files, folders and other entries of one source.
    member_bytes, total_bytes
        Size of one decompressed file, and of one decompressed source.
    ratio, ratio_floor
        Decompressed over compressed size, looked at beyond so many bytes.
    """

    members: int = 200_000
    member_bytes: int = 2048 * MIB
    total_bytes: int = 32 * 1024 * MIB
    ratio: float = 1000.0
    ratio_floor: int = 64 * MIB


DEFAULT_LIMITS = Limits()
_OPENERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys((".gz", ".tgz"), gzip.open),
    **dict.fromkeys((".xz", ".lzma", ".txz"), lzma.open),
    **dict.fromkeys((".bz2", ".tbz2"), bz2.open),
}


def decompressor(stream: IO[bytes], suffix: str) -> Any:
    """Return a stream of decompressed bytes by the ending of the file's name."""
    opener = _OPENERS.get(suffix)
    return opener(stream) if opener is not None else stream


def check_size(size: int, compressed: int, allowed: int, limits: Limits, where: str) -> None:
    """Raise InputError when decompressed data exceed what is allowed or unfold suspiciously."""
    if size > allowed:
        raise InputError(
            f"{where} unfolds to more than {allowed / MIB:.0f} MiB.", "Split it, or raise the limits in Python."
        )
    if size > limits.ratio_floor and size > limits.ratio * max(compressed, 1):
        raise InputError(
            f"{where} unfolds to more than {limits.ratio:.0f} times its size: it looks like a decompression bomb.",
            "Unpack it yourself if you trust it.",
        )


def decompress(data: bytes, name: str, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return a file's content, decompressed by the ending of its name, within the limits."""
    suffix = PurePosixPath(name).suffix
    if suffix not in COMPRESSED:
        return data
    parts, total = [], 0
    try:
        with decompressor(io.BytesIO(data), suffix) as stream:
            while piece := stream.read(MIB):
                total += len(piece)
                check_size(total, len(data), limits.member_bytes, limits, name)
                parts.append(piece)
    except DAMAGE as error:
        raise InputError(f"{name} is damaged: {error}.", "Copy it again.") from error
    return b"".join(parts)


def read_bounded(path: Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return a regular file's decompressed content within the limits."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file.", "Give a file.")
        if status.st_size > limits.member_bytes:
            raise InputError(f"{path} has {status.st_size / MIB:.0f} MiB.", "Raise the limits in Python.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.", "Check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    return decompress(data, str(path), limits)


def bare_name(name: str) -> str:
    """Return a name without its compression ending."""
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix in COMPRESSED else name


def check_json(data: bytes, where: str) -> None:
    """Refuse JSON nested too deep to be parsed safely; anything else about it is the parser's business."""
    bare = np.frombuffer(_JSON_TEXT.sub(b"", data), dtype=np.uint8)
    steps = np.isin(bare, [ord("["), ord("{")]).astype(np.int64) - np.isin(bare, [ord("]"), ord("}")])
    depth = np.cumsum(steps)
    if len(depth) and int((depth - np.minimum.accumulate(np.minimum(depth, 0))).max()) > JSON_DEPTH:
        raise InputError(f"{where} is nested more than {JSON_DEPTH} deep.", "No file of ours is.")


_JSON_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def load_json(data: str | bytes, where: str) -> Any:
    """Return what JSON holds; text that is none, or that is nested too deep, is an InputError."""
    try:
        check_json(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"), where)
        return json.loads(data)
    # a number of thousands of digits is a ValueError as well
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}.", "Write it again, or copy it whole.") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file, compressed or not, holds."""
    return load_json(read_bounded(path), str(path))


def read_document(path: Path, model: type[Model], what: str, advice: str) -> Model:
    """Return a document from the JSON file it was written to; a file of something else is no ``what``."""
    from pydantic import ValidationError

    content = read_json(path)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path} is no {what}: {f'{place}: ' if place else ''}{first['msg']}.", advice) from error


def load_yaml(data: str | bytes, where: str) -> Any:
    """Return what safe YAML holds; invalid, endless or bloated text is an InputError that names the file and line."""
    import yaml

    try:
        check_yaml(data, where)
        return yaml.load(data, Loader=yaml_loader())  # noqa: S506  (a safe loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        reason = problem or " ".join(str(error).split())[:200]
        advice = "Look at indentation, colons and quotes there."
        raise InputError(f"{where}{line} is not valid YAML: {reason}.", advice) from error
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # dates and numbers that look like such and are none
        raise InputError(f"{where} is not valid YAML: {error}.", "Put quotes around text.") from error


def yaml_loader() -> Any:
    """Return the safe loader used everywhere: libyaml and PyYAML's own differ in what they take, tabs for instance."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(data: str | bytes, where: str) -> None:
    """Refuse YAML too deep to be read, that holds itself, or that unfolds to very much through aliases."""
    import yaml

    # of every collection that is open: its anchor, values and depth within so far
    open_: list[tuple[str | None, int, int]] = []
    known: dict[str, tuple[int, int]] = {}
    repeated = False
    events: Iterator[Any] = yaml.parse(data, Loader=yaml_loader())
    for event in events:
        kind = type(event).__name__
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            open_.append((event.anchor, 1, 1))
            size, height = 0, 0
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            anchor, size, height = open_.pop()
            if anchor is not None:
                known[anchor] = size, height
        elif kind == "ScalarEvent":
            size, height = 1, 0
            if event.anchor is not None:
                known[event.anchor] = size, height
        elif kind == "AliasEvent":
            if any(anchor == event.anchor for anchor, *_ in open_):
                raise InputError(f"{where} holds itself: *{event.anchor} is within &{event.anchor}.", "Write it out.")
            size, height = known.get(event.anchor, (1, 0))
            repeated = True
        else:
            continue
        if open_:
            anchor, total, deepest = open_[-1]
            open_[-1] = anchor, total + size, max(deepest, height + 1)
            if len(open_) + open_[-1][2] > DEPTH:
                raise InputError(f"{where} is nested more than {DEPTH} deep.", "No file of ours is.")
            if repeated and open_[-1][1] > YAML_NODES:
                raise InputError(
                    f"{where} unfolds to more than {YAML_NODES} values through its aliases.", "Write it out."
                )
