"""A MACE model evaluated a few atoms at a time: the same derivatives of every order with the memory of one block.

A layer's new features of an atom need the edges that end at it and nothing else, so a layer is a sum over blocks of
atoms. Nothing inside a block is kept for the backward pass: it is computed again there, and so are the backward pass
itself and its own backward pass, which is what force constants as a training target need (three derivatives).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

Tensors = tuple[torch.Tensor, ...]
TensorFunction = Callable[..., Tensors]
STEP_OVER_FORWARD = 7.0
"""Peak memory of an exact curvature step over what one forward pass keeps, both of the same cell (measured 4 to 6)."""
PROBED_ATOMS = 8
"""Atoms of the block from which the memory of a forward pass is told."""


class _Recomputed(torch.autograd.Function):
    """Apply a function that is computed again in each backward pass; differentiable as often as the function is.

    The first ``n_parameters`` tensors are parameters. A backward pass that is itself recorded (forces, Hessian
    columns) leaves their gradients out: only the last one is asked for them, and they would cost as much again.
    """

    @staticmethod
    def forward(ctx: Any, function: TensorFunction, n_parameters: int, *tensors: torch.Tensor) -> Tensors:
        ctx.function, ctx.n_parameters = function, n_parameters
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        tensors = ctx.saved_tensors
        recorded = torch.is_grad_enabled()
        wanted = [
            k for k, needed in enumerate(ctx.needs_input_grad[2:]) if needed and not (recorded and k < ctx.n_parameters)
        ]
        by_input: list[torch.Tensor | None] = [None] * len(tensors)
        if wanted:
            pullback = partial(_pullback, ctx.function, len(tensors), wanted)
            if recorded:
                values = _Recomputed.apply(pullback, ctx.n_parameters, *tensors, *gradients)
            else:
                values = pullback(*tensors, *gradients)
            for k, value in zip(wanted, values, strict=True):
                by_input[k] = value
        return (None, None, *by_input)


def _pullback(function: TensorFunction, count: int, wanted: Sequence[int], *tensors: torch.Tensor) -> Tensors:
    """Return the gradients of a function's outputs, weighted by the last tensors, for the wanted ones of the first."""
    recorded = torch.is_grad_enabled()
    inputs, weights = list(tensors[:count]), tensors[count:]
    for k in range(count):
        if k in wanted and not (recorded and inputs[k].requires_grad):
            inputs[k] = inputs[k].detach().requires_grad_(True)
        elif not recorded:
            inputs[k] = inputs[k].detach()
    sources = [inputs[k] for k in wanted]
    with torch.enable_grad():
        pairs = [(o, w) for o, w in zip(function(*inputs), weights, strict=True) if o.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(one) for one in sources)
        outputs, factors = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, sources, factors, create_graph=recorded, materialize_grads=True)


class _Layer(torch.nn.Module):
    """Interaction and product of one layer for the atoms of one block."""

    def __init__(self, interaction: torch.nn.Module, product: torch.nn.Module) -> None:
        super().__init__()
        self.interaction, self.product = interaction, product

    def forward(self, edges: torch.Tensor, atoms: torch.Tensor, first_layer: bool, *data: torch.Tensor) -> torch.Tensor:
        """Return the new features of ``atoms``; ``edges`` are all that end at them."""
        node_attrs, node_feats, edge_attrs, edge_feats, *cutoff = data
        nodes, places = torch.unique(torch.cat([atoms, edges[0]]), return_inverse=True)
        own = places[: len(atoms)]
        row = torch.full((len(node_feats),), -1, dtype=torch.int64, device=edges.device)
        row[nodes] = torch.arange(len(nodes), device=edges.device)
        message, sc = self.interaction(
            node_attrs=node_attrs[nodes],
            node_feats=node_feats[nodes],
            edge_attrs=edge_attrs,
            edge_feats=edge_feats,
            edge_index=row[edges],
            cutoff=cutoff[0] if cutoff else None,
            first_layer=first_layer,
        )
        features: torch.Tensor = self.product(
            node_feats=message[own], sc=None if sc is None else sc[own], node_attrs=node_attrs[nodes][own]
        )
        return features


class _Blocked(torch.nn.Module):
    """A layer in blocks of atoms, called as mace calls an interaction; its product is part of it."""

    def __init__(self, interaction: torch.nn.Module, product: torch.nn.Module, size: int) -> None:
        super().__init__()
        self.layer, self.size = _Layer(interaction, product), size

    def forward(
        self,
        *,
        node_attrs: torch.Tensor,
        node_feats: torch.Tensor,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
        edge_index: torch.Tensor,
        cutoff: torch.Tensor | None = None,
        first_layer: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the layer's new features and nothing left for the product."""
        order = torch.argsort(edge_index[1], stable=True)
        index = edge_index[:, order]
        per_edge = [one[order] for one in (edge_attrs, edge_feats, *([] if cutoff is None else [cutoff]))]
        names, parameters = zip(*self.layer.named_parameters(), strict=True)
        rows = []
        for begin in range(0, len(node_attrs), self.size):
            atoms = torch.arange(begin, min(begin + self.size, len(node_attrs)), device=edge_index.device)
            low, high = torch.searchsorted(index[1], torch.stack([atoms[0], atoms[-1] + 1])).tolist()

            def block(
                *tensors: torch.Tensor, edges: torch.Tensor = index[:, low:high], atoms: torch.Tensor = atoms
            ) -> Tensors:
                weights = dict(zip(names, tensors[: len(names)], strict=True))
                data = tensors[len(names) :]
                return (torch.func.functional_call(self.layer, weights, (edges, atoms, first_layer, *data)),)

            edge_parts = [one[low:high] for one in per_edge]
            rows.append(_Recomputed.apply(block, len(names), *parameters, node_attrs, node_feats, *edge_parts)[0])
        return torch.cat(rows), None


class _Passed(torch.nn.Module):
    """A product already applied inside a blocked layer."""

    def forward(self, *, node_feats: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the features as they are."""
        return node_feats


@contextmanager
def in_blocks(model: torch.nn.Module, size: int | None) -> Iterator[None]:
    """Evaluate a model's layers ``size`` atoms at a time inside the block (None: as usual).

    Predictions and derivatives of every order are the same to rounding. Inside, a recorded backward pass
    (``create_graph=True``) carries derivatives with respect to the data only; the parameters' gradients come from the
    last, unrecorded one.
    """
    if size is None:
        yield
        return
    interactions, products = model.interactions, model.products
    layers = [_Blocked(i, p, size) for i, p in zip(interactions, products, strict=True)]
    model.interactions = torch.nn.ModuleList(layers)
    model.products = torch.nn.ModuleList(_Passed() for _ in layers)
    try:
        yield
    finally:
        model.interactions, model.products = interactions, products


def step_bytes_per_atom(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Estimate the memory an exact curvature step needs per atom of a block, bytes.

    Measured is what the layers keep of a forward pass over a few atoms; nothing of the whole cell's size is kept.
    """
    kept: dict[int, int] = {}
    probed = min(PROBED_ATOMS, len(batch["positions"]))

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    outputs: dict[_Layer, torch.Tensor] = {}  # alive until the end, so that no address is used twice

    def first_block(layer: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(layer, _Layer) and layer not in outputs:
            leaves = [
                one.detach().requires_grad_(one.is_floating_point()) if torch.is_tensor(one) else one
                for one in arguments
            ]
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                outputs[layer] = layer.forward(*leaves)

    try:
        with torch.no_grad(), in_blocks(model, probed):
            for blocked in model.interactions:  # put away after the block, with their hooks
                blocked.layer.register_forward_pre_hook(first_block)
            model({**batch, "positions": batch["positions"].detach().clone()}, training=False, compute_force=False)
    finally:
        # hook and layer hold each other, and an autograd graph that is left over ties the parameters to the stream it
        # was made on: no step could be recorded on another one
        outputs.clear()
    return STEP_OVER_FORWARD * sum(kept.values()) / probed


def block_size(model: torch.nn.Module, batch: dict[str, torch.Tensor], memory_gb: float) -> int | None:
    """Return how many atoms a block may hold for a curvature step to stay within so much memory; None: all of them."""
    n_atoms = len(batch["positions"])
    fit = int(memory_gb * 1e9 / step_bytes_per_atom(model, batch))
    return None if fit >= n_atoms else max(1, fit)
