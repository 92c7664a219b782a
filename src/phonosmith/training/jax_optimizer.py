"""AdamW for JAX models with what our strategies add: clipping, the pull to the foundation, the moving average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from phonosmith.training.spec import TrainSpec


@dataclass(frozen=True)
class Moved:
    """Which arrays of a model change.

    Attributes
    ----------
    trained
        One flag per array.
    decayed
        One flag per array: weight decay towards zero acts on it (matrices of linear layers, as in nequix itself).
    """

    trained: tuple[bool, ...]
    decayed: tuple[bool, ...]


def make_update(
    spec: TrainSpec, leaves: Sequence[Any], moved: Moved, reference: Sequence[Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return one compiled optimizer step and its initial state.

    The step is clip by global norm, pull ``p += min(1, lr*pull)*(p0-p)`` (which before the Adam update equals AdamW's
    decay of an additive update, see ``trainable.attach_pull``), AdamW with torch's constants, moving average with
    warm-up.

    Parameters
    ----------
    spec
        Strategy.
    leaves
        Weights to start from.
    moved
        Which of them change.
    reference
        Foundation weights of the pull.

    Returns
    -------
    callable, dict
        (weights, state, gradient, learning rate, step number from 1) to (weights, state, gradient norm).
    """
    import jax
    import jax.numpy as jnp
    import optax

    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    chosen = [place for place, flag in enumerate(moved.trained) if flag]
    state = {"adam": adam.init([leaves[place] for place in chosen]), "ema": list(leaves)}

    def update(weights: list[Any], state: dict[str, Any], gradient: list[Any], rate: Any, count: Any) -> Any:
        parts = [gradient[place] for place in chosen]
        norm = optax.global_norm(parts)
        if spec.clip_norm is not None:
            parts = [part * jnp.minimum(1.0, spec.clip_norm / (norm + 1e-6)) for part in parts]
        direction, adam_state = adam.update(parts, state["adam"])
        found = list(weights)
        for place, step in zip(chosen, direction, strict=True):
            value = weights[place]
            if spec.anchor == "pull":
                value = value + jnp.minimum(1.0, rate * spec.pull) * (reference[place] - value)
            if moved.decayed[place]:
                value = value * (1 - rate * spec.weight_decay)
            found[place] = value - rate * step
        average = found
        if spec.ema is not None:
            decay = jnp.minimum(spec.ema, (1 + count) / (10 + count))
            # what is not trained keeps every bit
            average = list(state["ema"])
            for place in chosen:
                average[place] = average[place] * decay + found[place] * (1 - decay)
        return found, {"adam": adam_state, "ema": average}, norm

    return jax.jit(update), state
