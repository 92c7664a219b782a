"""MACE modules taken apart and put together: keep some elements, add and remove heads, start afresh."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from phonosmith.core.errors import ConfigurationError, PotentialError
from phonosmith.potentials.mace.prune import prune_model

REPLAY_HEAD = "pt_head"
MAIN_HEAD = "Default"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's global default dtype for a block and restore it (mace builds modules in the default dtype)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Take a model's parameters out of the autograd graph for a block: evaluation costs half."""
    required = [parameter.requires_grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(model.parameters(), required, strict=True):
            parameter.requires_grad_(flag)


def resolve_device(name: str) -> torch.device:
    """Return the torch device asked for.

    Raises
    ------
    ConfigurationError
        When a GPU is asked for and torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            f"device=cuda was asked for, but torch {torch.__version__} sees no GPU.",
            "Use device=cpu (or auto), or run on a machine with a GPU and a CUDA build of torch.",
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def torch_module(source: Any) -> torch.nn.Module:
    """Return the MACE torch module of a loaded potential or the module itself.

    Raises
    ------
    PotentialError
        When it is not a ScaleShiftMACE, the only architecture this loop trains.
    """
    module = source if isinstance(source, torch.nn.Module) else getattr(source, "model", None)
    if module is None or module.__class__.__name__ != "ScaleShiftMACE":
        kind = type(source).__name__ if module is None else module.__class__.__name__
        raise PotentialError(
            f"{kind} cannot be fine-tuned: training needs a ScaleShiftMACE model.",
            "Use a MACE foundation (all MACE-MP, MPA, OMAT and MatPES models are).",
        )
    if hasattr(module, "embedding_readout"):
        raise PotentialError(
            "This MACE model has an embedding readout (charge or spin input), which training does not handle.",
            "Use a foundation without it.",
        )
    return module


def model_numbers(model: torch.nn.Module) -> list[int]:
    """Return the atomic numbers a model covers, in its own order."""
    return [int(z) for z in model.atomic_numbers]


def model_heads(model: torch.nn.Module) -> list[str]:
    """Return the names of a model's heads."""
    return list(getattr(model, "heads", None) or [MAIN_HEAD])


def model_e0(model: torch.nn.Module) -> np.ndarray:
    """Return atomic reference energies in eV, shape (heads, elements)."""
    return np.atleast_2d(model.atomic_energies_fn.atomic_energies.detach().cpu().double().numpy())


def set_e0(model: torch.nn.Module, head: int, values: np.ndarray) -> None:
    """Overwrite the atomic reference energies of one head, eV."""
    block = model.atomic_energies_fn
    energies = torch.atleast_2d(block.atomic_energies.detach().clone())
    energies[head] = torch.as_tensor(values, dtype=energies.dtype, device=energies.device)
    block.atomic_energies = energies.reshape(block.atomic_energies.shape)


def cast(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """Return a copy of a model in another precision."""
    return copy.deepcopy(model).to(getattr(torch, dtype))


def rebuild(
    model: torch.nn.Module, numbers: Sequence[int], heads: Sequence[str] = (MAIN_HEAD,), *, fresh: bool = False
) -> torch.nn.Module:
    """Build the same architecture for some elements and heads, with the model's weights or with random ones.

    Parameters
    ----------
    model
        Single-head ScaleShiftMACE.
    numbers
        Atomic numbers to keep, all known to the model.
    heads
        Names of the heads of the result; every head starts as a copy of the model's readout.
    fresh
        Keep the random initial weights (drawn from torch's generator) instead of copying.
    """
    from mace.modules import ScaleShiftMACE
    from mace.tools import AtomicNumberTable
    from mace.tools.finetuning_utils import load_foundations_elements
    from mace.tools.scripts_utils import extract_config_mace_model

    known = model_numbers(model)
    chosen = sorted(numbers)
    columns = [known.index(z) for z in chosen]
    dtype = next(model.parameters()).dtype
    count = len(heads)
    with default_dtype(dtype):
        config = extract_config_mace_model(model)
        config.update(
            atomic_numbers=chosen,
            num_elements=len(chosen),
            atomic_energies=np.repeat(model_e0(model)[:1, columns], count, axis=0),
            heads=list(heads),
            atomic_inter_scale=[1.0] * count,
            atomic_inter_shift=[0.0] * count,
            distance_transform=config["distance_transform"] or "None",
        )
        built = ScaleShiftMACE(**config)
        if fresh:
            return built.to(dtype)
        built = load_foundations_elements(
            built,
            model,
            AtomicNumberTable(chosen),
            load_readout=True,
            max_L=config["hidden_irreps"].lmax,
            default_dtype=dtype,
        )
    basis = built.radial_embedding.bessel_fn
    if isinstance(getattr(basis, "bessel_weights", None), torch.nn.Parameter) and not isinstance(
        getattr(model.radial_embedding.bessel_fn, "bessel_weights", None), torch.nn.Parameter
    ):
        # loading turned the fixed basis into a parameter: a buffer again, so that it is not trained
        values = basis.bessel_weights.detach().clone()
        del basis.bessel_weights
        basis.register_buffer("bessel_weights", values)
    return built.to(next(model.parameters()).device)


def single_head(model: torch.nn.Module, head: str) -> torch.nn.Module:
    """Return a plain single-head model with the predictions of one head."""
    if len(model_heads(model)) == 1:
        return model
    from mace.tools.scripts_utils import remove_pt_head

    dtype = next(model.parameters()).dtype
    with default_dtype(dtype):
        plain = remove_pt_head(model, head)
    return plain.to(dtype)


def prune(model: torch.nn.Module, numbers: Sequence[int]) -> torch.nn.Module:
    """Return a copy of a single-head model restricted to some elements, with identical predictions."""
    if sorted(numbers) == sorted(model_numbers(model)):
        return copy.deepcopy(model)
    pruned: torch.nn.Module = prune_model(model, [chemical_symbols[z] for z in numbers])
    return pruned


def block_names(model: torch.nn.Module) -> list[str]:
    """Return the model's blocks in forward order: embedding, interaction and product per layer, readouts."""
    names = ["node_embedding"]
    for layer in range(len(model.interactions)):
        names += [f"interactions.{layer}", f"products.{layer}"]
    return [*names, "readouts"]


def parameter_block(model: torch.nn.Module, name: str) -> int | None:
    """Return the index of the block a parameter belongs to, None for one outside every block (never trained)."""
    for index, block in enumerate(block_names(model)):
        if name == block or name.startswith(f"{block}."):
            return index
    return None
