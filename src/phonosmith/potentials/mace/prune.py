"""Restrict a MACE model to some elements: the same predictions from far fewer parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.mace.description import build, describe


def prune_model(model: Any, elements: Sequence[str]) -> Any:
    """Return a new module that knows only ``elements``, in the original's precision and on its device.

    e3nn normalises a sum over element channels by the root of their number, so the kept weights are scaled to make up
    for the smaller number; predictions then agree with the original's to rounding.

    Raises
    ------
    PotentialError
        When an element is unknown to the model, or a tensor depends on the elements in a way that is not known here.
    """
    import torch
    from ase.data import atomic_numbers, chemical_symbols

    table = [int(number) for number in model.atomic_numbers]
    wanted = sorted({atomic_numbers.get(symbol, -1) for symbol in elements})
    missing = [number for number in wanted if number not in table]
    if missing or not wanted:
        names = ", ".join(chemical_symbols[number] if number > 0 else "an unknown symbol" for number in missing)
        raise PotentialError(
            f"The model cannot be restricted to {' '.join(elements) or 'no element'}: unknown are {names or 'none'}.",
            "Choose elements the model covers.",
        )
    rows = [table.index(number) for number in wanted]
    description = describe(model)
    description["num_elements"] = len(wanted)
    description["atomic_numbers"] = wanted
    description["atomic_energies_shape"] = [*description["atomic_energies_shape"][:-1], len(wanted)]
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


def _kept(model: Any, name: str, old: Any, rows: Sequence[int]) -> Any:
    """Return the kept elements' part of one tensor, rescaled where e3nn normalises by the number of elements."""
    count = len(model.atomic_numbers)
    scale = (len(rows) / count) ** 0.5
    *owner, last = name.split(".")
    chosen = list(rows)
    if name == "atomic_numbers":
        return old[chosen]
    if last == "atomic_energies":
        return old[..., chosen]
    if owner[:1] == ["products"] and (last == "weights_max" or owner[-1] == "weights"):
        # an agnostic product has one set of weights for all elements
        return old if old.shape[0] != count else old[chosen]
    if last == "weight" and any(part in ("node_embedding", "source_embedding", "target_embedding") for part in owner):
        return old.reshape(count, -1)[chosen].flatten() * scale
    if last == "weight" and type(model.get_submodule(".".join(owner))).__name__ == "FullyConnectedTensorProduct":
        return _selector(model.get_submodule(".".join(owner)), old, chosen) * scale
    return old


def _selector(product: Any, old: Any, rows: list[int]) -> Any:
    """Slice the weights of a tensor product with the element channels as second input, path by path."""
    import torch

    kept, start = [], 0
    for path in product.instructions:
        shape = tuple(path.path_shape)
        size = shape[0] * shape[1] * shape[2]
        kept.append(old[start : start + size].reshape(shape)[:, rows, :].flatten())
        start += size
    return torch.cat(kept)
