"""Compiled functions of a Nequix model: energy with its first derivatives, and Hessian columns.

They take the weights as an argument and are kept per architecture, so that a foundation and all models fine-tuned from
it share one compilation per shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from phonosmith.potentials.nequix.backend import Skeleton, skeleton

COLUMNS = 48
"""Hessian columns per compiled call; the loop inside runs only as often as there are columns."""


@dataclass(frozen=True)
class Compiled:
    """The functions of one architecture.

    Attributes
    ----------
    evaluate
        (weights, padded batch) to energies, forces and stresses.
    columns
        (weights, padded batch of one graph, column numbers, how many of them) to Hessian columns.
    """

    skeleton: Skeleton
    evaluate: Callable[..., Any]
    columns: Callable[..., Any]


@lru_cache(maxsize=16)
def compiled(key: str) -> Compiled:
    """Return the functions of an architecture (``nequix_backend.architecture_key``)."""
    import jax

    frame = skeleton(key)

    def evaluate(leaves: Sequence[Any], batch: Mapping[str, Any]) -> Any:
        return energies_forces_stresses(frame.model(leaves), batch)

    def columns(leaves: Sequence[Any], batch: Mapping[str, Any], numbers: Any, count: Any) -> Any:
        return hessian_columns(frame.model(leaves), batch, numbers, count)

    return Compiled(frame, jax.jit(evaluate), jax.jit(columns))


def as_graphs(batch: Mapping[str, Any]) -> Any:
    """Return a padded batch as the jraph tuple a Nequix model takes."""
    import jraph

    return jraph.GraphsTuple(
        n_node=batch["n_node"],
        n_edge=batch["n_edge"],
        nodes={"species": batch["species"], "positions": batch["positions"]},
        edges={"shifts": batch["shifts"]},
        senders=batch["senders"],
        receivers=batch["receivers"],
        globals={"cell": batch["cell"]},
    )


def energies_forces_stresses(model: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return energies (eV), forces (eV/Å) and stress tensors (eV/Å³) of a padded batch, as the model defines them."""
    energies, forces, stresses = model(as_graphs(batch))
    return energies, forces, stresses


def energy_of(model: Any, batch: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return the total energy of a padded batch as a function of positions."""
    import jax.numpy as jnp

    cells = jnp.repeat(batch["cell"], batch["n_edge"], axis=0, total_repeat_length=batch["shifts"].shape[0])
    offsets = jnp.einsum("ij,ijk->ik", batch["shifts"], cells)

    def energy(positions: Any) -> Any:
        arrows = positions[batch["senders"]] - positions[batch["receivers"]] + offsets
        return jnp.sum(model.node_energies(arrows, batch["species"], batch["senders"], batch["receivers"]))

    return energy


def hessian_columns(model: Any, batch: Mapping[str, Any], numbers: Any, count: Any) -> Any:
    """Return columns of d²E/dx², eV/Å², by forward over reverse differentiation; the forces are linearised once.

    Parameters
    ----------
    model, batch
        Model and padded batch.
    numbers
        Column numbers, padded; only the first ``count`` are computed, the rest stay zero.
    """
    import jax
    import jax.numpy as jnp

    positions = batch["positions"]
    _, response = jax.linearize(jax.grad(energy_of(model, batch)), positions)

    def one(place: Any, found: Any) -> Any:
        column = numbers[place]
        probe = jnp.zeros_like(positions).at[column // 3, column % 3].set(1.0)
        return found.at[place].set(response(probe))

    return jax.lax.fori_loop(0, count, one, jnp.zeros((len(numbers), *positions.shape), positions.dtype))
