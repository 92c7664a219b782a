"""The losses of fine-tuning for JAX models: the same formulas as for MACE, on padded batches.

Gradient functions take the weights as an argument and are kept per architecture, so that every training in a process
shares one compilation per shape and loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from phonosmith.potentials.nequix.backend import skeleton
from phonosmith.potentials.nequix.functions import energies_forces_stresses
from phonosmith.training.losses import LossTerms

Batch = Mapping[str, Any]


def huber(difference: Any, delta: float) -> Any:
    """Return the Huber function of a difference: quadratic below ``delta``, linear above."""
    import jax.numpy as jnp

    size = jnp.abs(difference)
    return jnp.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def efs_loss(outputs: tuple[Any, Any, Any], batch: Batch, terms: LossTerms) -> Any:
    """Return the loss of one padded batch: means over structures, force components and labelled stress tensors.

    Parameters
    ----------
    outputs
        Energies (eV), forces (eV/Å) and stress tensors (eV/Å³) of the batch.
    batch
        With labels and masks, see :func:`phonosmith.training.jax_data.labelled_batch`.
    terms
        Weights and conventions.
    """
    import jax.numpy as jnp

    energies, forces, stresses = outputs
    graphs, atoms = batch["is_graph"], batch["is_atom"]
    sizes = jnp.maximum(batch["n_node"], 1).astype(energies.dtype)
    factor = 1.0 + (terms.replay - 1.0) * batch["is_replay"]
    difference = energies - batch["energy"]
    if terms.convention == "per_atom":
        energy = huber(difference / sizes, terms.delta)
    else:
        energy = huber(difference, terms.delta) / sizes
    loss = terms.energy * jnp.sum(energy * factor * graphs) / jnp.sum(graphs)
    of_atom = jnp.repeat(factor, batch["n_node"], total_repeat_length=atoms.shape[0]) * atoms
    force = huber(forces - batch["forces"], terms.delta) * of_atom[:, None]
    loss = loss + terms.forces * jnp.sum(force) / (3 * jnp.sum(atoms))
    tension = jnp.mean(huber(stresses - batch["stress"], terms.delta), axis=(1, 2)) * factor * batch["has_stress"]
    return loss + terms.stress * jnp.sum(tension) / jnp.maximum(jnp.sum(batch["has_stress"]), 1.0)


def perfect_cell_response(model: Any, batch: Batch) -> tuple[Any, Any, Any]:
    """Return forces, stress tensors and one Hessian column per graph: a single forward pass over the gradient."""
    import jax
    import jax.numpy as jnp

    n_atoms, n_edges = batch["species"].shape[0], batch["senders"].shape[0]

    def energy(positions: Any, strain: Any) -> Any:
        symmetric = (strain + strain.swapaxes(1, 2)) / 2
        of_atom = jnp.repeat(symmetric, batch["n_node"], axis=0, total_repeat_length=n_atoms)
        moved = positions + jnp.einsum("ik,ikj->ij", positions, of_atom)
        cell = batch["cell"] + jnp.einsum("bij,bjk->bik", batch["cell"], symmetric)
        of_edge = jnp.repeat(cell, batch["n_edge"], axis=0, total_repeat_length=n_edges)
        arrows = moved[batch["senders"]] - moved[batch["receivers"]]
        arrows = arrows + jnp.einsum("ij,ijk->ik", batch["shifts"], of_edge)
        return jnp.sum(model.node_energies(arrows, batch["species"], batch["senders"], batch["receivers"]))

    unstrained = jnp.zeros_like(batch["cell"])
    gradient = jax.grad(energy, argnums=(0, 1))
    (slope, virial), (column, _) = jax.jvp(
        lambda positions: gradient(positions, unstrained), (batch["positions"],), (batch["probe"],)
    )
    volume = jnp.abs(jnp.linalg.det(batch["cell"]))
    return -slope, virial / volume[:, None, None], column


def column_errors(model: Any, batch: Batch) -> Any:
    """Return the mean |dΦ| of every graph's column, eV/Å² (zero for padding graphs)."""
    import jax
    import jax.numpy as jnp

    _, _, column = perfect_cell_response(model, batch)
    return _per_graph(jax, jnp, jnp.abs(column - batch["column"]).mean(axis=1), batch)


def curvature_loss(model: Any, batch: Batch, weight: float, forces_weight: float, stress_weight: float) -> Any:
    """Return the weighted column MAE plus mean force norm and mean |stress| of the perfect cells, over graphs."""
    import jax
    import jax.numpy as jnp

    forces, stresses, column = perfect_cell_response(model, batch)
    count = jnp.sum(batch["is_graph"])
    errors = _per_graph(jax, jnp, jnp.abs(column - batch["column"]).mean(axis=1), batch)
    loss = weight * jnp.sum(errors * batch["column_weight"] * batch["is_graph"]) / count
    if forces_weight:
        square = jnp.sum(forces**2, axis=1)
        # the norm has no derivative at zero, where symmetry puts many forces
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        loss = loss + forces_weight * jnp.sum(_per_graph(jax, jnp, norm, batch)) / count
    if stress_weight:
        loss = loss + stress_weight * jnp.sum(jnp.abs(stresses).mean(axis=(1, 2)) * batch["is_graph"]) / count
    return loss


def _per_graph(jax: Any, jnp: Any, of_atom: Any, batch: Batch) -> Any:
    """Return the mean over every graph's atoms; zero for padding graphs."""
    count = batch["n_node"].shape[0]
    owner = jnp.repeat(jnp.arange(count), batch["n_node"], total_repeat_length=of_atom.shape[0])
    total = jax.ops.segment_sum(of_atom * batch["is_atom"], owner, num_segments=count)
    return total / jnp.maximum(batch["n_node"], 1)


@lru_cache(maxsize=32)
def efs_gradient(key: str, terms: LossTerms) -> Callable[..., Any]:
    """Return the compiled (weights, batch) to (loss, gradient) of the energy, force and stress loss."""
    import jax

    frame = skeleton(key)

    def loss(leaves: Sequence[Any], batch: Batch) -> Any:
        return efs_loss(energies_forces_stresses(frame.model(leaves), batch), batch, terms)

    return jax.jit(jax.value_and_grad(loss))


@lru_cache(maxsize=32)
def curvature_gradient(key: str, weight: float, forces_weight: float, stress_weight: float) -> Callable[..., Any]:
    """Return the compiled (weights, batch) to (loss, gradient) of the curvature loss."""
    import jax

    frame = skeleton(key)

    def loss(leaves: Sequence[Any], batch: Batch) -> Any:
        return curvature_loss(frame.model(leaves), batch, weight, forces_weight, stress_weight)

    return jax.jit(jax.value_and_grad(loss))


@lru_cache(maxsize=16)
def column_error_function(key: str) -> Callable[..., Any]:
    """Return the compiled (weights, batch) to mean |dΦ| per graph."""
    import jax

    frame = skeleton(key)
    return jax.jit(lambda leaves, batch: column_errors(frame.model(leaves), batch))
