"""The loss of energies, forces and stresses, and errors of a model on labelled graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import huber_loss

from phonosmith.potentials.backend import Backend, Predictions
from phonosmith.potentials.graphs import frozen
from phonosmith.training.documents import Errors
from phonosmith.training.graphs import LabelledBatch
from phonosmith.training.spec import TrainSpec

_VOIGT = [0, 4, 8, 5, 2, 1]
"""Places of xx yy zz yz xz xy in a flattened 3x3 tensor."""


def efs_loss(predictions: Predictions, batch: LabelledBatch, spec: TrainSpec) -> torch.Tensor:
    """Return the loss of one batch: means over structures (energy), components (forces) and tensors (stress).

    Structures without a stress label are left out of the stress mean. Energies are compared without their atomic
    references, which cancel.
    """

    def huber(predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return huber_loss(predicted, label, reduction="none", delta=spec.huber_delta)

    if spec.energy_convention == "per_atom":
        energy = huber(predictions.interaction / batch.sizes, batch.energy / batch.sizes)
    else:
        energy = huber(predictions.interaction, batch.energy) / batch.sizes
    factor = 1.0 + (spec.replay_weight - 1.0) * batch.replay
    forces = huber(predictions.forces, batch.forces) * factor[batch.inputs["batch"]].unsqueeze(-1)
    loss = spec.energy_weight * (energy * factor).mean() + spec.forces_weight * forces.mean()
    if spec.stress_weight > 0 and predictions.stress is not None:
        stress = huber(predictions.stress, batch.stress).mean(dim=(1, 2)) * factor * batch.has_stress
        loss = loss + spec.stress_weight * stress.sum() / batch.has_stress.sum().clamp(min=1.0)
    return loss


def errors(backend: Backend, model: torch.nn.Module, batches: Sequence[LabelledBatch], spec: TrainSpec) -> Errors:
    """Evaluate a model on batches."""

    def predict(batch: LabelledBatch) -> tuple[Predictions, LabelledBatch]:
        return backend.predict(model, batch.inputs, stress=True, create_graph=False), batch

    with frozen(model):
        return mean_errors(map(predict, batches), spec)


def mean_errors(predictions: Iterable[tuple[Predictions, LabelledBatch]], spec: TrainSpec) -> Errors:
    """Return the errors of predictions for batches, stresses included.

    The loss is a mean over structures, so that it does not depend on how they are batched beyond the force mean
    inside a batch of unequal sizes.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    graphs = components = 0
    for found, batch in predictions:
        assert found.stress is not None  # it was asked for
        stress = (found.stress - batch.stress).abs().flatten(1)[:, _VOIGT].sum(dim=1)
        values = [
            efs_loss(found, batch, spec) * len(batch.energy),
            ((found.interaction - batch.energy) / batch.sizes).abs().sum(),
            (found.forces - batch.forces).abs().sum(),
            (stress * batch.has_stress).sum(),
            batch.has_stress.sum(),
        ]
        sums += torch.stack(values).detach().double().cpu()
        graphs, components = graphs + len(batch.energy), components + batch.forces.numel()
    loss, energy, forces, tension, tensors = sums.tolist()
    return Errors(
        loss=loss / graphs,
        n_structures=graphs,
        mae_energy_mev_per_atom=1000 * energy / graphs,
        mae_forces_mev_per_angstrom=1000 * forces / components,
        mae_stress_mev_per_angstrom3=1000 * tension / (6 * tensors) if tensors else None,
    )
