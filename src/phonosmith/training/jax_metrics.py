"""Errors of a JAX model on labelled graphs, in the words used for MACE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from phonosmith.potentials.nequix.functions import compiled
from phonosmith.potentials.nequix.graphs import Shape
from phonosmith.training.jax_data import LabelledGraph, labelled_batch
from phonosmith.training.jax_losses import efs_loss
from phonosmith.training.losses import LossTerms
from phonosmith.training.metrics import Errors
from phonosmith.training.spec import TrainSpec

_VOIGT = [0, 4, 8, 5, 2, 1]
"""Places of xx yy zz yz xz xy in a flattened 3x3 tensor."""


def split_errors(
    key: str,
    leaves: Sequence[Any],
    graphs: Sequence[LabelledGraph],
    terms: LossTerms,
    spec: TrainSpec,
    shape: Shape,
    dtype: str = "",
) -> Errors:
    """Return mean absolute errors and loss of a split, in the precision in force (call inside ``precision``).

    Parameters
    ----------
    key, leaves
        Architecture and weights.
    graphs
        The split.
    terms, spec
        Loss and batch size.
    shape
        Of a batch; the training's own, so that nothing is compiled for the occasion.
    dtype
        Precision of the batches; default that of training.
    """
    evaluate = compiled(key).evaluate
    loss = energy = force = tension = 0.0
    components = tensors = 0
    for start in range(0, len(graphs), spec.batch_size):
        chosen = graphs[start : start + spec.batch_size]
        batch = labelled_batch(chosen, shape, dtype or spec.dtype)
        outputs = evaluate(leaves, batch)
        loss += float(efs_loss(outputs, batch, terms)) * len(chosen)
        energies, forces, stresses = (np.asarray(part, dtype=float) for part in outputs)
        sizes = np.array([one.graph.n_atoms for one in chosen])
        energy += float(np.abs((energies - batch["energy"])[: len(chosen)] / sizes).sum())
        force += float(np.abs(forces - batch["forces"])[: sizes.sum()].sum())
        components += 3 * int(sizes.sum())
        for place, one in enumerate(chosen):
            if one.stress is not None:
                tension += float(np.abs(stresses[place] - one.stress).reshape(9)[_VOIGT].sum())
                tensors += 1
    return Errors(
        loss=loss / len(graphs),
        n_structures=len(graphs),
        mae_energy_mev_per_atom=1000 * energy / len(graphs),
        mae_forces_mev_per_angstrom=1000 * force / components,
        mae_stress_mev_per_angstrom3=1000 * tension / (6 * tensors) if tensors else None,
    )


def energy_residuals(
    key: str, leaves: Sequence[Any], graphs: Sequence[LabelledGraph], spec: TrainSpec, shape: Shape
) -> np.ndarray:
    """Return label minus predicted energy of every graph, eV, in float64 (call inside ``precision``)."""
    found: list[float] = []
    for start in range(0, len(graphs), spec.batch_size):
        chosen = graphs[start : start + spec.batch_size]
        energies, _, _ = compiled(key).evaluate(leaves, labelled_batch(chosen, shape, "float64"))
        found += [one.energy - float(energy) for one, energy in zip(chosen, energies, strict=False)]
    return np.array(found)
