"""e3nn as every model here needs it: its TorchScript off before a model is built, and its sign convention known.

With TorchScript on, the first evaluations of a process differ from later ones in the last bit, and e3nn 0.5 and newer
build models that cannot be copied. Every architecture calls ``import_e3nn`` before it builds anything.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
import sys
from collections import namedtuple
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import PotentialError

if TYPE_CHECKING:
    import torch

SIGNS_CHANGED = (0, 5)
"""e3nn version since which coupling coefficients of unnatural parity (1e, 2o, ...) have the other sign."""
STRAY = re.compile(r"\._tensor_constant\d+$")
"""Compiled constants that some e3nn versions list among a module's tensors: no weights, and never kept."""


@cache
def import_e3nn() -> None:
    """Import e3nn and turn its TorchScript off, also in functions that are compiled when it is imported."""
    import torch

    torch.serialization.add_safe_globals([slice])  # e3nn 0.4 reads its constants as torch 2.6 and newer refuse to
    import e3nn.nn
    import e3nn.o3

    defaults = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(**({"jit_mode": "eager"} if "jit_mode" in defaults else {"jit_script_fx": False}))
    harmonics: Any = sys.modules["e3nn.o3._spherical_harmonics"]
    plain = getattr(harmonics._spherical_harmonics, "_torchdynamo_inline", None)  # noqa: SLF001  # what was compiled
    if plain is not None:
        harmonics._spherical_harmonics = plain  # noqa: SLF001
    _fill_in(harmonics)
    from e3nn.util.codegen import CodeGenMixin

    CodeGenMixin.__deepcopy__ = _copied
    CodeGenMixin.__setstate__ = _restored


def _fill_in(harmonics: Any) -> None:
    """Give e3nn's classes what modules pickled by another of its versions look for or lack."""
    from e3nn.nn import Activation
    from e3nn.o3 import SphericalHarmonics

    if not hasattr(SphericalHarmonics, "sph_func"):
        SphericalHarmonics.sph_func = staticmethod(harmonics._spherical_harmonics)  # noqa: SLF001
    if not hasattr(Activation, "paths"):
        Activation.paths = cached_property(
            lambda part: [(n, (ir.l, ir.p), act) for (n, ir), act in zip(part.irreps_in, part.acts, strict=True)]
        )
        Activation.paths.__set_name__(Activation, "paths")
    linear: Any = sys.modules["e3nn.o3._linear"]
    if not hasattr(linear, "LinearSlices"):
        new_class: Any = namedtuple  # noqa: PYI024  # theirs, of this name and place
        linear.LinearSlices = new_class("LinearSlices", ("slice_1D", "shape_2D"), module=linear.__name__)


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    """Copy a module as it is: e3nn 0.4 compiles what it copies, and torch cannot copy the graphs of optimised code."""
    from torch.fx import GraphModule

    for child in module.children():
        if isinstance(child, GraphModule) and id(child) not in memo:
            memo[id(child)] = _same_graph(child, memo)
    fresh: Any = object.__new__(type(module))
    memo[id(module)] = fresh
    fresh.__dict__ = copy.deepcopy(module.__dict__, memo)
    return fresh


def _same_graph(module: Any, memo: dict[int, Any]) -> Any:
    """Copy the tensors of generated code; the code, which nothing changes, is shared."""
    fresh: Any = object.__new__(type(module))
    memo[id(module)] = fresh
    content = {name: value for name, value in module.__dict__.items() if name != "_graph"}
    fresh.__dict__ = copy.deepcopy(content, memo) | {"_graph": module.__dict__["_graph"]}
    return fresh


def _restored(module: Any, state: dict[str, Any]) -> None:
    """Unpickle a module of a trusted file, with its generated code as e3nn 0.4 (TorchScript) or newer (fx) wrote it."""
    import torch

    state = dict(state)
    generated = state.pop("__codegen__", None)
    torch.nn.Module.__setstate__(module, state)
    for name, kept in (generated or {}).items():
        kind, content = kept if isinstance(kept, tuple) else ("torchscript", kept)
        setattr(module, name, pickle.loads(content) if kind == "fx" else torch.jit.load(io.BytesIO(content)))
    if generated is not None:
        module.__codegen__ = list(generated)


def e3nn_version() -> str:
    """Return the installed version of e3nn."""
    return version("e3nn")


def unnatural(irreps: Iterable[str]) -> bool:
    """Tell whether irreps such as ``16x0e+16x1e`` hold one whose parity is not that of its order."""
    parts = [part for text in irreps for part in re.findall(r"(\d+)([eo])", str(text).replace(" ", ""))]
    return any((int(order) % 2 == 0) != (parity == "e") and int(order) > 0 for order, parity in parts)


def require_signs(irreps: Iterable[str], made_under: str, name: str) -> None:
    """Refuse a model of unnatural parity that was made under the other sign convention, and so needs another e3nn."""
    if unnatural(irreps) and _newer_signs(made_under) != _newer_signs(e3nn_version()):
        raise PotentialError(
            f"{name} was made with e3nn {made_under} and couples irreps of unnatural parity, whose signs differ in the "
            f"installed e3nn {e3nn_version()}.",
            f"Install e3nn {'0.5 or newer (tools/install_architectures.sh)' if _newer_signs(made_under) else '0.4.4'}.",
        )


def _newer_signs(text: str) -> bool:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2]) >= SIGNS_CHANGED


def recast(model: torch.nn.Module, dtype: torch.dtype, device: str = "cpu") -> torch.nn.Module:
    """Return a copy in another precision whose coupling coefficients have the full digits of that precision."""
    from e3nn import o3

    cast = copy.deepcopy(model).to(dtype=dtype, device=device)
    for path, buffer in cast.named_buffers():
        if match := re.search(r"\._w3j_(\d+)_(\d+)_(\d+)$", path):
            buffer.copy_(o3.wigner_3j(*map(int, match.groups()), dtype=dtype, device=device))
    return cast


def product_bytes(model: torch.nn.Module, products: Iterable[Any]) -> float:
    """Return the size of one edge's features, messages and weights over a model's tensor products, bytes."""
    numbers = sum(one.irreps_in1.dim + one.irreps_out.dim + one.weight_numel for one in products)
    return float(next(model.parameters()).element_size() * numbers)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make a precision torch's default inside the block: what modules are built in and constants taken from."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
