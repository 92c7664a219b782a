"""How names, formulas, sizes and errors are written on a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count

from phonosmith.core.errors import PhonosmithError

_SUBSCRIPTS = str.maketrans("0123456789.", "₀₁₂₃₄₅₆₇₈₉.")


def formula_text(formula: str) -> str:
    """Return a chemical formula with its numbers as subscripts: Bi2Te3 -> Bi₂Te₃."""
    return re.sub(r"(?<=[A-Za-z)\]])\d+(\.\d+)?", lambda match: match[0].translate(_SUBSCRIPTS), formula)


_LOWERED = {"_max": "ₘₐₓ", "_min": "ₘᵢₙ", "_mean": "ₘₑₐₙ", "_v": "ᵥ"}


def typeset(text: str) -> str:
    """Return text with signs for minus before numbers, and subscripts: ω_max off by -5 % -> ωₘₐₓ off by −5 %."""
    text = re.sub(r"(?<![\w.\-])-(?=\d)", "\N{MINUS SIGN}", text)
    return re.sub(r"(?<=[ωC])_(max|min|mean|v)\b", lambda match: _LOWERED[match[0]], text)


def reason_of(error: Exception) -> str:
    """Return an error in one sentence."""
    if isinstance(error, PhonosmithError):
        return error.message
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def space_group_text(symbol: str) -> str:
    """Return an international symbol with its screw axes as subscripts: P4_2/mnm -> P4₂/mnm."""
    return re.sub(r"_(\d)", lambda match: "₀₁₂₃₄₅₆₇₈₉"[int(match[1])], symbol)


def slug(text: str) -> str:
    """Return a name that is safe in addresses and file names: lower-case letters, digits, dots and hyphens."""
    plain = re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-.")
    return plain[:60] or "material"


def unique_slugs(names: Sequence[str]) -> list[str]:
    """Return one slug per name, numbered where two names give the same."""
    slugs: dict[str, None] = {}
    for name in names:
        base = slug(name)
        free = (text for number in count(1) if (text := base if number == 1 else f"{base}-{number}") not in slugs)
        slugs[next(free)] = None
    return list(slugs)


def file_size(size: int) -> str:
    """Return a size in bytes as a reader would say it."""
    for limit, unit, divisor in ((1e3, "B", 1), (1e6, "kB", 1e3), (1e9, "MB", 1e6)):
        if size < limit:
            return f"{size / divisor:.3g} {unit}"
    return f"{size / 1e9:.3g} GB"
