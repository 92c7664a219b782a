"""Restrict a MACE model to some elements: the same predictions from far fewer parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.mace.description import build, describe


def prune_model(model: Any, numbers: Sequence[int]) -> Any:
    """Return a new module that knows only these atomic numbers, in the original's precision and on its device.

    e3nn normalises a sum over element channels by the root of their number, so the kept weights are scaled to make up
    for the smaller number; predictions then agree with the original's to rounding. An element unknown to the model, or
    a tensor that depends on the elements in a way not known here, is a PotentialError.
    """
    import torch
    from ase.data import chemical_symbols

    table, wanted = [int(number) for number in model.atomic_numbers], sorted(set(numbers))
    if not wanted or not set(wanted) <= set(table):
        symbols = {number: chemical_symbols[number] if number > 0 else "an unknown symbol" for number in wanted}
        missing = ", ".join(symbols[number] for number in wanted if number not in table)
        raise PotentialError(
            f"The model cannot be restricted to {' '.join(symbols.values()) or 'no element'}: "
            f"unknown are {missing or 'none'}.",
            "Choose elements the model covers.",
        )
    rows = [table.index(number) for number in wanted]
    description, count = describe(model), len(wanted)
    energies = [*description["atomic_energies_shape"][:-1], count]
    description |= {"num_elements": count, "atomic_numbers": wanted, "atomic_energies_shape": energies}
    parameter = next(model.parameters())
    pruned: Any = build(description, parameter.dtype)
    old, new = model.state_dict(), pruned.state_dict()
    with torch.no_grad():
        for name, target in new.items():
            kept = _kept(model, name, old[name], rows) if name in old else None
            if kept is None or kept.shape != target.shape:
                raise PotentialError(f"It is not known how {name} depends on the elements.", "Use the model unpruned.")
            target.copy_(kept)
    return pruned.to(parameter.device)


def _kept(model: Any, name: str, old: Any, rows: list[int]) -> Any:
    """Return the kept elements' part of one tensor, rescaled where e3nn normalises by the number of elements."""
    count = len(model.atomic_numbers)
    scale = (len(rows) / count) ** 0.5
    *owner, last = name.split(".")
    if last in ("atomic_numbers", "atomic_energies"):
        return old[..., rows]
    if owner[:1] == ["products"] and (last == "weights_max" or owner[-1] == "weights"):
        # an agnostic product has one set of weights for all elements
        return old if old.shape[0] != count else old[rows]
    if last != "weight":
        return old
    if not {"node_embedding", "source_embedding", "target_embedding"}.isdisjoint(owner):
        return old.reshape(count, -1)[rows].flatten() * scale
    product = model.get_submodule(".".join(owner))
    return _selector(product, old, rows) * scale if type(product).__name__ == "FullyConnectedTensorProduct" else old


def _selector(product: Any, old: Any, rows: list[int]) -> Any:
    """Slice the weights of a tensor product with the element channels as second input, path by path."""
    import torch

    shapes = [tuple(path.path_shape) for path in product.instructions]
    parts = old.split([math.prod(shape) for shape in shapes])
    return torch.cat([part.reshape(shape)[:, rows].flatten() for part, shape in zip(parts, shapes, strict=True)])
